//! `[[site.route]]`: what each path asks. Pure.

use http::Method;
use percent_encoding::{CONTROLS, utf8_percent_encode};

use crate::{
    config::{
        diagnostic::Diagnostic,
        reader::{StrValue, TableReader},
        schema, values,
    },
    httputil::{PathError, WindowsNames},
    site::{Access, Pattern, PatternError, Prompt, Route, Routes, Scope},
};

/// The words for a scope.
pub const SCOPES: [(&str, Scope); 2] =
    [("snsapi_base", Scope::Base), ("snsapi_userinfo", Scope::UserInfo)];

#[derive(Clone, Copy)]
enum AccessKeyword {
    Required,
    Optional,
    None,
}

/// Reads the routes of a site that asks for `scope` where nothing else is said.
pub fn routes(site: &TableReader<'_>, scope: Scope, prefix: &str, names: WindowsNames) -> Routes {
    let tables = site.tables("route", &schema::ROUTE);
    let mut read: Vec<(Route, StrValue<'_>)> = Vec::new();
    for table in &tables {
        let path = table.required("path");
        let methods = methods(table);
        let access = access(table, scope);
        let Some(path) = path else { continue };
        let Some(pattern) = pattern(table, &path, prefix, names) else { continue };
        let route = Route { pattern, methods, access };
        if let Some((_, first)) = read.iter().find(|(other, _)| overlap(other, &route)) {
            let complaint = Diagnostic::error(path.at.clone(), "this route can never match")
                .help("an earlier one has the same path and methods: merge the two")
                .related(first.at.clone(), "the earlier one");
            table.context.report(complaint);
        }
        read.push((route, path));
    }
    let routes = read.into_iter().map(|(route, _)| route).collect();
    Routes::new(routes, Access::Required(scope, usual_prompt(scope)))
}

fn pattern(
    table: &TableReader<'_>,
    path: &StrValue<'_>,
    prefix: &str,
    names: WindowsNames,
) -> Option<Pattern> {
    match Pattern::parse(path.text, names) {
        Ok(pattern) => {
            let sent = as_sent(path.text);
            if sent != path.text {
                let message = format!("no browser sends \"{}\" like that", path.text);
                table.context.error(path.at.clone(), message, format!("write \"{sent}\""));
            }
            let rest = path.text.strip_prefix(prefix);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                let message = format!("the gateway answers {prefix}/* itself");
                let help = "remove this route, or move the gateway with `prefix` in [server]";
                table.context.error(path.at.clone(), message, help);
            }
            Some(pattern)
        }
        Err(error) => {
            let help = match error {
                PatternError::NotCanonical(PathError::TrimmedEnd | PathError::FileStream) => {
                    "Windows opens another file. If the site has such paths and does not run on \
                      Windows, write `windows_names = \"plain\"` in its [[site]]"
                        .to_owned()
                }
                PatternError::NotCanonical(_) | PatternError::NoSlash | PatternError::Star => {
                    pattern_help(path.text)
                }
            };
            let why = if path.text.contains(['?', '#']) {
                "it has a query or a fragment".to_owned()
            } else {
                error.to_string()
            };
            let message = format!("\"{}\" is no path of a route: {why}", path.text);
            table.context.error(path.at.clone(), message, help);
            None
        }
    }
}

/// How a browser sends a path: UTF-8 in escapes, escapes in capitals. Paths are compared byte for
/// byte, so a pattern in another spelling would match nothing.
fn as_sent(path: &str) -> String {
    let escaped = utf8_percent_encode(path, CONTROLS).to_string();
    let mut pieces = escaped.split('%');
    let mut sent = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        sent.extend(["%", &code.to_ascii_uppercase(), rest]);
    }
    sent
}

fn pattern_help(path: &str) -> String {
    if !path.starts_with('/') {
        return format!("write \"/{path}\"");
    }
    if path.contains(['?', '#']) {
        return "routes see the path alone: leave out the query and the fragment".to_owned();
    }
    match path.strip_suffix("/*").unwrap_or(path).split_once('*') {
        None => "write the path as a browser sends it, without detours and escapes".to_owned(),
        Some((head, _)) => {
            let folder = head.trim_end_matches('/');
            let what = if folder.is_empty() { "/" } else { folder };
            format!("\"{folder}/*\" is {what} and everything below it")
        }
    }
}

fn methods(table: &TableReader<'_>) -> Vec<Method> {
    const USUAL: [&str; 8] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];
    if let Some(at) = table.empty_array("methods") {
        let help = "leave `methods` out for all of them, or name some";
        table.context.error(at, "`methods` names no method", help);
    }
    let read = |word: StrValue<'_>| {
        let upper = word.text.to_ascii_uppercase();
        let shape = !upper.is_empty() && upper.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        let near = values::suggest(&upper, USUAL.into_iter()).filter(|near| *near != word.text);
        if shape && upper == word.text && near.is_none() {
            return Method::from_bytes(word.text.as_bytes()).ok();
        }
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if shape => format!("write \"{upper}\": methods are in capitals"),
            None => "write a method of HTTP in capitals, as in \"GET\"".to_owned(),
        };
        table.context.error(word.at, format!("\"{}\" is no method", word.text), help);
        None
    };
    table.words("methods").unwrap_or_default().into_iter().filter_map(read).collect()
}

fn access(table: &TableReader<'_>, site_scope: Scope) -> Access {
    let auth = [
        ("required", AccessKeyword::Required),
        ("optional", AccessKeyword::Optional),
        ("none", AccessKeyword::None),
    ];
    let auth = table.one_of("auth", &auth).unwrap_or(AccessKeyword::Required);
    let scope = table.one_of("scope", &SCOPES).unwrap_or(site_scope);
    let prompt = table.one_of("prompt", &[("button", Prompt::Button), ("direct", Prompt::Direct)]);
    let (access, word) = match auth {
        AccessKeyword::Required => {
            return Access::Required(scope, prompt.unwrap_or_else(|| usual_prompt(scope)));
        }
        AccessKeyword::Optional => (Access::Optional, "optional"),
        AccessKeyword::None => (Access::None, "none"),
    };
    for key in ["scope", "prompt"] {
        if let Some(at) = table.place(key) {
            let message = format!("`{key}` means nothing where `auth` is \"{word}\"");
            let help = "remove it, or write `auth = \"required\"`: only that starts a login";
            table.context.error(at, message, help);
        }
    }
    access
}

/// WeChat wants consent asked after an act of the visitor's; the openid alone needs none.
fn usual_prompt(scope: Scope) -> Prompt {
    match scope {
        Scope::Base => Prompt::Direct,
        Scope::UserInfo => Prompt::Button,
    }
}

/// Whether some request falls on both, with nothing to say which comes first. A route for some
/// methods comes before one for all.
fn overlap(a: &Route, b: &Route) -> bool {
    let both = |route: &Route| {
        let head = route.methods.contains(&Method::GET).then_some(Method::HEAD);
        route.methods.iter().cloned().chain(head).collect::<Vec<_>>()
    };
    let shared = both(a).iter().any(|method| both(b).contains(method));
    a.pattern == b.pattern && (shared || (a.methods.is_empty() && b.methods.is_empty()))
}
