//! `wxgate explain`: what a URL would meet, and why. Reads no secret and asks nobody.

use std::{io, path::Path};

use http::Method;

use crate::{
    config::{Config, Environment, ReferencedFile},
    httputil::{self, Host},
    site::{Access, AmbiguousPathPolicy, Site},
};

mod explanation;
mod broker;
mod visitors;

pub use explanation::Explanation;

/// What somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub struct ExplainRequest<'a> {
    /// `GET`, unless they say otherwise.
    pub method: &'a str,
    /// A URL as a visitor would type it.
    pub url: &'a str,
}

/// What became of a question.
pub enum Outcome {
    /// An answer.
    Answer(String),
    /// The question is none.
    Usage(String),
    /// The configuration cannot be used.
    Configuration(String),
}

/// Explains a URL: what to print.
pub fn explain(path: &Path, question: ExplainRequest<'_>, json: bool) -> Outcome {
    let config = match Config::load_with(path, &PlaceholderEnvironment) {
        Ok(config) => config,
        Err(complaints) if json => {
            let complaints = serde_json::json!({ "complaints": complaints.to_json() });
            return Outcome::Configuration(format!("{complaints:#}"));
        }
        Err(complaints) => return Outcome::Configuration(complaints.to_string()),
    };
    match (answer(&config, question), json) {
        (Ok(answer), true) => Outcome::Answer(format!("{:#}", answer.to_json())),
        (Ok(answer), false) => Outcome::Answer(answer.to_string()),
        (Err(error), true) => {
            Outcome::Usage(format!("{:#}", serde_json::json!({ "error": error })))
        }
        (Err(error), false) => Outcome::Usage(error),
    }
}

/// Explains a URL under a configuration, or says why it is none.
pub fn answer(config: &Config, question: ExplainRequest<'_>) -> Result<Explanation, String> {
    let target = UrlParts::read(question)?;
    let sites = &config.gateway.sites;
    if let Some(answer) = broker::answer(config, &target) {
        return Ok(answer);
    }
    let Some(site) = sites.find(target.host.as_str()) else {
        let mut answer = Explanation::unknown_host(&target, sites);
        let callback = format!("{}/callback", config.gateway.prefix);
        let relays = sites.has_callback(target.host.as_str()) && target.path == callback;
        match proof(config, &target) {
            Some(proof) => answer.says("answer", &proof),
            None if relays => {
                answer.says(
                    "answer",
                    "the way back from WeChat, handed on to the visitor's own site",
                );
            }
            None => answer.says("answer", "421"),
        }
        return Ok(answer);
    };
    let mut answer = Explanation::of_site(&target, site);
    if target.origin() != site.public_url.as_str() {
        answer.note(format!(
            "Visitors type {} to reach this site, and come back to it from WeChat.",
            site.public_url
        ));
    }
    if let Some(own) = proof(config, &target).or_else(|| own_path(config, &target.path)) {
        answer.says("answer", &own);
        return Ok(answer);
    }
    judge(&mut answer, site, &target);
    Ok(answer)
}

fn judge(answer: &mut Explanation, site: &Site, target: &UrlParts) {
    let path = httputil::Path::parse_with(&target.path, site.windows_names);
    let route = path.ok().and_then(|path| site.route(path, &target.method));
    if let Some(route) = route {
        answer.route(route, std::ptr::eq(route, site.routes.default_access()));
        answer.visitors(visitors::on_route(site, route.access, &target.method));
        answer.headers(site, route.access != Access::None);
        return;
    }
    let why = match path {
        Err(error) => error.to_string(),
        Ok(_) => "with and without its ;parameter it falls on different routes".to_owned(),
    };
    answer.ambiguous(site, &why);
    match site.ambiguous_paths {
        AmbiguousPathPolicy::Refuse => answer.visitors(visitors::on_refused()),
        AmbiguousPathPolicy::Protect => {
            let access = site.strictest_access(&target.path, &target.method);
            answer.visitors(visitors::on_route(site, access, &target.method));
            answer.headers(site, access != Access::None);
        }
    }
}

/// The file that proves a domain to WeChat: to anybody, on whatever host.
fn proof(config: &Config, target: &UrlParts) -> Option<String> {
    let text = config.gateway.sites.verify_file(target.path.strip_prefix('/')?)?;
    let get = matches!(target.method, Method::GET | Method::HEAD);
    get.then(|| format!("the gateway itself: the proof file for WeChat, \"{text}\", to anybody"))
}

/// What the gateway answers on a path of its own.
fn own_path(config: &Config, path: &str) -> Option<String> {
    let rest = path.strip_prefix(config.gateway.prefix.as_str())?;
    let what = match rest {
        "/login" => "starts a login, then back to `rd`",
        "/callback" => "the way back from WeChat",
        "/accept" => "the way back from WeChat over the account's own callback host",
        "/client.js" => "the script that turns a 401 into a login",
        "/logout" => "GET shows a button, POST ends the session",
        "/session" => "the visitor's own identity as JSON",
        _ if rest.is_empty() || rest.starts_with('/') => "404, it has no such path",
        _ => return None,
    };
    Some(format!("the gateway itself: {what}"))
}

/// A URL, taken apart without repairing anything: a URL library would hide what we ask about.
#[derive(Clone, Debug)]
pub struct UrlParts {
    method: Method,
    scheme: String,
    authority: String,
    host: Host,
    path: String,
    query: String,
}

impl UrlParts {
    fn read(question: ExplainRequest<'_>) -> Result<Self, String> {
        let url = question.url;
        let method = question.method.to_ascii_uppercase();
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("\"{}\" is no method", question.method))?;
        let example = "write it as a visitor types it, such as https://h5.example.com/member";
        let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else {
            return Err(format!("\"{url}\" is no http or https URL: {example}"));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let host = Host::parse(authority)
            .ok_or_else(|| format!("\"{authority}\" is no host name: {example}"))?;
        let (target, _) = target.split_once('#').unwrap_or((target, ""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = if path.is_empty() { "/".to_owned() } else { as_sent(path) };
        let (scheme, authority) = (scheme.to_owned(), authority.to_ascii_lowercase());
        Ok(Self { method, scheme, authority, host, path, query: query.to_owned() })
    }

    /// A field of the query.
    fn field(&self, name: &str) -> Option<String> {
        let mut fields = url::form_urlencoded::parse(self.query.as_bytes());
        fields.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    }

    fn origin(&self) -> String {
        let text = format!("{}://{}", self.scheme, self.authority);
        httputil::Origin::parse(&text).map_or(text, |origin| origin.as_str().to_owned())
    }
}

/// A browser escapes what is not ASCII before it sends it.
fn as_sent(path: &str) -> String {
    percent_encoding::utf8_percent_encode(path, percent_encoding::CONTROLS).to_string()
}

/// Stands in for the secrets, which have no part in the answer.
pub(super) struct PlaceholderEnvironment;

impl Environment for PlaceholderEnvironment {
    fn variable(&self, name: &str) -> Result<String, String> {
        Ok(stand_in(name))
    }

    fn file(&self, path: &Path) -> io::Result<ReferencedFile> {
        let content = stand_in(&path.display().to_string());
        Ok(ReferencedFile { content: content.into_bytes().into(), open_to_all: false })
    }

    fn is_folder(&self, _: &Path) -> bool {
        true
    }
}

/// As long as a secret has to be, and made of what one may be made of.
fn stand_in(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' });
    format!("{}-stands-for-a-secret-of-32-bytes", plain.collect::<String>())
}

#[cfg(test)]
mod tests;
