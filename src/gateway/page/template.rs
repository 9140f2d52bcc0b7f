//! The templates: ours, and the operator's in place of some of them. Pure.

use std::{collections::HashMap, error::Error};

use minijinja::{Environment, UndefinedBehavior, Value};

/// Our templates, by the name that an operator replaces them under. Values are escaped where
/// the name ends in `.html`.
const OURS: [(&str, &str); 11] = [
    ("layout.html", include_str!("templates/layout.html")),
    ("style.css", include_str!("templates/style.css")),
    ("icon.html", include_str!("templates/icon.html")),
    ("open_in_wechat.html", include_str!("templates/open_in_wechat.html")),
    ("prompt.html", include_str!("templates/prompt.html")),
    ("remember.html", include_str!("templates/remember.html")),
    ("onward.js", include_str!("templates/onward.js")),
    ("snapshot.html", include_str!("templates/snapshot.html")),
    ("logout.html", include_str!("templates/logout.html")),
    ("goodbye.html", include_str!("templates/goodbye.html")),
    ("notice.html", include_str!("templates/notice.html")),
];

/// The names of our templates.
pub(super) const NAMES: [&str; 11] = {
    let [(a, _), (b, _), (c, _), (d, _), (e, _), (f, _), (g, _), (h, _), (i, _), (j, _), (k, _)] =
        OURS;
    [a, b, c, d, e, f, g, h, i, j, k]
};

/// Steps that a template may take; ours take a few hundred.
const FUEL: u64 = 100_000;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{template}{}: {reason}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TemplateError {
    /// Its name.
    pub template: String,
    /// The line, where it is known.
    pub line: Option<usize>,
    /// What is wrong there.
    pub reason: String,
}

/// Ours, with `overrides` in place of those of the same name.
pub(super) fn compile(
    overrides: &HashMap<String, String>,
) -> Result<Environment<'static>, TemplateError> {
    // A misspelt name would otherwise be a page that silently never appears.
    if let Some(name) = overrides.keys().filter(|name| !NAMES.contains(&name.as_str())).min() {
        let reason = format!("no such template; there are {}", NAMES.join(", "));
        return Err(TemplateError { template: name.clone(), line: None, reason });
    }
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_fuel(Some(FUEL));
    for (name, ours) in OURS {
        let added = match overrides.get(name) {
            Some(theirs) => templates.add_template_owned(name, theirs.clone()),
            None => templates.add_template(name, ours),
        };
        added.map_err(|error| fault(name, &error))?;
    }
    Ok(templates)
}

/// Renders one template.
pub(super) fn fill(
    templates: &Environment<'_>,
    name: &str,
    data: &Value,
) -> Result<String, TemplateError> {
    let filled = templates.get_template(name).and_then(|template| template.render(data));
    filled.map_err(|error| fault(name, &error))
}

/// The innermost error is the one in the operator's own line; the others say "could not include".
fn fault(name: &str, error: &minijinja::Error) -> TemplateError {
    let mut inner = error;
    while let Some(deeper) = inner.source().and_then(|it| it.downcast_ref()) {
        inner = deeper;
    }
    let reason = match inner.detail() {
        Some(detail) => format!("{}: {detail}", inner.kind()),
        None => inner.kind().to_string(),
    };
    TemplateError { template: inner.name().unwrap_or(name).to_owned(), line: inner.line(), reason }
}
