//! `[site.headers]`: identity headers under further names. Pure.

use http::HeaderName;

use crate::{
    config::{
        reader::{StrValue, TableReader},
        values,
    },
    site::IdentityField,
};

/// What a site gets beyond `X-WeChat-…`: further identity headers, and whether the assertion.
pub fn headers(table: &TableReader<'_>) -> (Vec<(HeaderName, IdentityField)>, bool) {
    (extras(table), table.boolean("assertion", false))
}

/// Further identity headers, aliases first.
fn extras(table: &TableReader<'_>) -> Vec<(HeaderName, IdentityField)> {
    let mut found: Vec<(HeaderName, IdentityField)> = Vec::new();
    for word in table.words("aliases").unwrap_or_default() {
        let known = |(_, name): &&(IdentityField, HeaderName)| {
            word.text.eq_ignore_ascii_case(name.as_str())
        };
        match IdentityField::TENCENT.iter().find(known) {
            Some((fact, name)) => add(table, &word, (name.clone(), *fact), &mut found),
            None => no_alias(table, &word),
        }
    }
    for (name, fact) in table.pairs("extra") {
        let header = header(table, &name);
        let fact = self::fact(table, &fact);
        if let (Some(header), Some(fact)) = (header, fact) {
            add(table, &name, (header, fact), &mut found);
        }
    }
    found
}

fn add(
    table: &TableReader<'_>,
    word: &StrValue<'_>,
    extra: (HeaderName, IdentityField),
    found: &mut Vec<(HeaderName, IdentityField)>,
) {
    if found.iter().any(|(other, _)| fold(other.as_str()) == fold(extra.0.as_str())) {
        let message = format!("{} is named twice", word.text);
        let help = "keep one: many sites cannot tell case, `-` and `_` apart";
        table.context.error(word.at.clone(), message, help);
        return;
    }
    found.push(extra);
}

fn no_alias(table: &TableReader<'_>, word: &StrValue<'_>) {
    let names = ["X-WX-OPENID", "X-WX-UNIONID", "X-WX-APPID"];
    let message = format!("{} is no alias we know", word.text);
    let other = || {
        let example = format!("extra = {{ \"{}\" = \"openid\" }}", word.text);
        format!("{}; other names go into `{example}`", values::choices(&names))
    };
    let help = values::suggest(word.text, names.into_iter())
        .map_or_else(other, |near| format!("did you mean \"{near}\"?"));
    table.context.error(word.at.clone(), message, help);
}

fn fact(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<IdentityField> {
    let known = IdentityField::ALL.into_iter().find(|(_, _, name)| *name == word.text);
    if known.is_none() {
        let names: Vec<&str> = IdentityField::ALL.iter().map(|(_, _, name)| *name).collect();
        let help = match values::suggest(word.text, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? {}", values::choices(&names)),
            None => values::choices(&names),
        };
        let message = format!("\"{}\" is nothing we know of a visitor", word.text);
        table.context.error(word.at.clone(), message, help);
    }
    known.map(|(fact, _, _)| fact)
}

fn header(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(word.text.as_bytes()) else {
        let message = format!("\"{}\" cannot be the name of a header", word.text);
        table.context.error(word.at.clone(), message, "use letters, digits and `-`");
        return None;
    };
    if IdentityField::TENCENT.iter().any(|(_, other)| *other == name) {
        let message = format!("{} is an alias", word.text);
        let help = format!("write `aliases = [\"{}\"]`", word.text.to_ascii_uppercase());
        table.context.error(word.at.clone(), message, help);
        return None;
    }
    let Some(why) = needed(&fold(name.as_str())) else { return Some(name) };
    let message = format!("{} cannot carry an identity: {why}", word.text);
    let help = "choose a name that only your site knows, such as \"Remote-User\"";
    table.context.error(word.at.clone(), message, help);
    None
}

/// Why a header has a job already.
fn needed(folded: &str) -> Option<&'static str> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| folded.starts_with(prefix));
    match folded {
        _ if begins(&["x_wechat_", "x_wx_"]) => Some("the gateway sets this family itself"),
        "forwarded" | "x_real_ip" | "x_request_id" => Some("the gateway rebuilds it"),
        _ if begins(&["x_forwarded_", "x_original_", "x_rewrite_"]) => {
            Some("it speaks of the way the request took")
        }
        "host" | "cookie" | "connection" | "te" | "trailer" | "upgrade" | "keep_alive"
        | "transfer_encoding" | "expect" | "via" | "date" | "range" | "origin" | "referer"
        | "user_agent" | "cache_control" | "set_cookie" => Some("HTTP needs it"),
        _ if begins(&["content_", "proxy_", "accept", "sec_", "if_", "access_control_"]) => {
            Some("HTTP needs it")
        }
        _ => None,
    }
}

fn fold(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(fold).collect()
}
