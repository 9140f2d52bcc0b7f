//! The answer to a question about a URL, for people and for scripts. Pure.

use std::fmt;

use serde_json::{Value, json};

use super::{UrlParts, visitors::VisitorOutcome};
use crate::{
    cli::check::from,
    site::{ASSERTION, Access, AmbiguousPathPolicy, IdentityField, Prompt, Route, Site, Sites},
};

/// Everything there is to say about a URL.
#[derive(Clone, Debug)]
pub struct Explanation {
    request: String,
    facts: Vec<(&'static str, String)>,
    visitors: Vec<VisitorOutcome>,
    headers: Option<HeaderSummary>,
    notes: Vec<String>,
}

/// What the site sees of a request's headers.
#[derive(Clone, Debug)]
struct HeaderSummary {
    introduced: Vec<(String, &'static str)>,
    rebuilt: Vec<&'static str>,
    removed: Vec<String>,
}

impl Explanation {
    /// Nothing but the request yet.
    pub fn new(target: &UrlParts) -> Self {
        let request = format!("{} {}{}", target.method, target.origin(), target.path);
        let (facts, visitors, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self { request, facts, visitors, headers: None, notes }
    }

    /// The answer for a host that no site has.
    pub fn unknown_host(target: &UrlParts, sites: &Sites) -> Self {
        let mut answer = Self::new(target);
        answer.says("site", &format!("none: no site has the host {}", target.host));
        let hosts = sites.all().iter().flat_map(|site| &site.hosts).map(ToString::to_string);
        answer.says("hosts", &hosts.collect::<Vec<_>>().join(", "));
        answer
    }

    /// The beginning of an answer about a site.
    pub fn of_site(target: &UrlParts, site: &Site) -> Self {
        let mut answer = Self::new(target);
        answer.says("site", site.public_url.as_str());
        answer.says("account", &site.account.name);
        answer.says("app_id", &site.account.app_id);
        answer
    }

    /// Adds a fact.
    pub fn says(&mut self, what: &'static str, it: &str) {
        self.facts.push((what, it.to_owned()));
    }

    /// Adds a remark.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Adds the route a request falls on.
    pub fn route(&mut self, route: &Route, is_fallback: bool) {
        let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
        let methods =
            if methods.is_empty() { "every method".to_owned() } else { methods.join(", ") };
        let pattern = if is_fallback {
            "none matches: what the site asks everywhere else".to_owned()
        } else {
            format!("{} ({methods})", route.pattern)
        };
        self.says("route", &pattern);
        let asks = match route.access {
            Access::None => "nothing".to_owned(),
            Access::Optional => "nothing, but visitors with a session are introduced".to_owned(),
            Access::Required(scope, Prompt::Direct) => format!("a login, {}", scope.as_str()),
            Access::Required(scope, Prompt::Button) => {
                format!("a login, {}, with our page before it", scope.as_str())
            }
        };
        self.says("asks", &asks);
    }

    /// Adds why no route applies.
    pub fn ambiguous(&mut self, site: &Site, why: &str) {
        self.says("route", &format!("none: {why}"));
        let note = match site.ambiguous_paths {
            AmbiguousPathPolicy::Refuse => {
                "The site could read such a path as another one than the gateway does, and a login \
                 would be missed. If the site needs it, `ambiguous_paths = \"protect\"` passes it \
                 on, and asks for what the strictest of its readings asks for."
            }
            AmbiguousPathPolicy::Protect => {
                "The site could read such a path as another one than the gateway does, so it asks \
                 for what the strictest of its readings asks for. It is passed on as it is."
            }
        };
        self.note(note.to_owned());
    }

    /// Adds what each kind of visitor meets.
    pub fn visitors(&mut self, rows: Vec<VisitorOutcome>) {
        self.visitors = rows;
    }

    /// Adds what the site sees of a request; where nobody is introduced, that is no identity.
    pub fn headers(&mut self, site: &Site, introduces: bool) {
        self.says("from", &from(site));
        let own =
            IdentityField::ALL.into_iter().map(|(_, name, word)| (shown(name.as_str()), word));
        let word = |fact: IdentityField| {
            let known = IdentityField::ALL.into_iter().find(|(other, _, _)| *other == fact);
            known.map_or("", |(_, _, word)| word)
        };
        let extra =
            site.extra_headers.iter().map(|(name, fact)| (shown(name.as_str()), word(*fact)));
        let also = site.also.iter();
        let also = also.map(|it| (format!("X-WeChat-OpenId-{}", shown(&it.name)), "openid"));
        let proof = site.assertion.then(|| (shown(ASSERTION.as_str()), "all of it, signed"));
        let mut removed =
            vec!["X-WeChat-* in any spelling".to_owned(), "X-WX-* in any spelling".to_owned()];
        removed.extend(site.extra_headers.iter().map(|(name, _)| shown(name.as_str())));
        removed.sort();
        removed.dedup();
        removed.push("other forwarded headers".to_owned());
        removed.push("other names for the client's address".to_owned());
        removed.push("headers that name another path".to_owned());
        if site.routes.depend_on_method() {
            removed.push("headers that override the method".to_owned());
        }
        removed.push("the gateway's cookies".to_owned());
        removed.push("hop-by-hop headers".to_owned());
        self.headers = Some(HeaderSummary {
            introduced: own.chain(extra).chain(also).chain(proof).filter(|_| introduces).collect(),
            rebuilt: vec![
                "Host",
                "X-Forwarded-For",
                "X-Forwarded-Proto",
                "X-Forwarded-Host",
                "X-Real-IP",
                "X-Request-Id",
            ],
            removed,
        });
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let mut json = serde_json::Map::new();
        json.insert("request".to_owned(), self.request.clone().into());
        for (what, it) in &self.facts {
            json.insert((*what).to_owned(), it.clone().into());
        }
        let row = |(who, what): &VisitorOutcome| json!({ "who": who, "meets": what });
        json.insert("visitors".to_owned(), self.visitors.iter().map(row).collect());
        let headers = self.headers.as_ref().map(|headers| {
            let one = |(name, fact): &(String, &str)| json!({ "name": name, "fact": fact });
            json!({
                "introduced": headers.introduced.iter().map(one).collect::<Vec<_>>(),
                "rebuilt": headers.rebuilt,
                "removed": headers.removed,
            })
        });
        json.insert("headers".to_owned(), headers.unwrap_or(Value::Null));
        json.insert("notes".to_owned(), self.notes.clone().into());
        Value::Object(json)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.request)?;
        for (what, it) in &self.facts {
            writeln!(f, "{what:<8} {it}")?;
        }
        if !self.visitors.is_empty() {
            writeln!(f, "\nA visitor …")?;
        }
        let width = self.visitors.iter().map(|(who, _)| columns(who)).max().unwrap_or_default();
        for (who, what) in &self.visitors {
            let gap = " ".repeat(width.saturating_sub(columns(who)));
            writeln!(f, "  {who}{gap}   {what}")?;
        }
        if let Some(headers) = &self.headers {
            let known: Vec<String> =
                headers.introduced.iter().map(|(name, fact)| format!("{name} ({fact})")).collect();
            if known.is_empty() {
                writeln!(f, "\nThe site reads nobody's identity.")?;
            } else {
                writeln!(f, "\nThe site reads of visitors who are introduced, as far as known:")?;
                wrap(f, &known)?;
            }
            writeln!(f, "The gateway writes anew:")?;
            wrap(f, &headers.rebuilt)?;
            writeln!(f, "It removes from what visitors send:")?;
            wrap(f, &headers.removed)?;
        }
        for note in &self.notes {
            writeln!(f)?;
            wrap_words(f, note)?;
        }
        Ok(())
    }
}

/// `X-Wechat-Openid` is how HTTP/1 would have it; the product writes `X-WeChat-OpenId`.
fn shown(name: &str) -> String {
    const WORDS: [(&str, &str); 9] = [
        ("wechat", "WeChat"),
        ("openid", "OpenId"),
        ("unionid", "UnionId"),
        ("appid", "AppId"),
        ("wx", "WX"),
        ("x", "X"),
        ("id", "Id"),
        ("ip", "IP"),
        ("auth", "Auth"),
    ];
    if IdentityField::TENCENT.iter().any(|(_, other)| other.as_str() == name) {
        return name.to_ascii_uppercase();
    }
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect()
    };
    let word = |word: &str| {
        let known = WORDS.iter().find(|(plain, _)| *plain == word);
        known.map_or_else(|| capital(word), |(_, shown)| (*shown).to_owned())
    };
    name.split('-').map(word).collect::<Vec<String>>().join("-")
}

/// Columns on a terminal: a Chinese character takes two.
fn columns(text: &str) -> usize {
    text.chars().map(|c| if c >= '\u{1100}' { 2 } else { 1 }).sum()
}

/// Writes a list on lines of readable length.
fn wrap<T: AsRef<str>>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    let mut line = String::new();
    for (at, item) in items.iter().enumerate() {
        let comma = if at.saturating_add(1) < items.len() { "," } else { "" };
        if !line.is_empty() && columns(&line) + columns(item.as_ref()) > 92 {
            writeln!(f, " {line}")?;
            line.clear();
        }
        line = format!("{line} {}{comma}", item.as_ref());
    }
    writeln!(f, " {line}")
}

fn wrap_words(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && columns(&line) + columns(word) > 92 {
            writeln!(f, "{line}")?;
            line.clear();
        }
        let gap = if line.is_empty() { "" } else { " " };
        line = format!("{line}{gap}{word}");
    }
    writeln!(f, "{line}")
}
