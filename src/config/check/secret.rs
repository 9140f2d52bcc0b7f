//! Secrets: `{ env = "NAME" }`, `{ file = "PATH" }`, or the text itself with a warning. Pure.

use std::ops::Range;

use super::paths;
use crate::{
    config::{
        reader::{StrValue, TableReader},
        schema, values,
    },
    secret::Secret,
};

/// A secret and the place of whatever names it.
pub struct ResolvedSecret {
    /// Its text, without a trailing newline.
    pub secret: Secret,
    /// Where the file speaks of it.
    pub at: Range<usize>,
}

/// The secret under `key`, which must be there and not be empty.
pub fn secret(table: &TableReader<'_>, key: &str) -> Option<ResolvedSecret> {
    let Some(value) = table.value(key) else {
        table.missing(key);
        return None;
    };
    if !value.get_ref().is_table() {
        table.context.redact(value.span());
        let Some(text) = value.get_ref().as_str() else {
            let kind = values::indefinite_article(value.get_ref().type_str());
            let message = format!("`{key}` must be a secret, not {kind}");
            table.context.error(value.span(), message, SOURCES);
            return None;
        };
        return literal(table, key, &StrValue { text, at: value.span() });
    }
    let source = table.table(key, &schema::SECRET);
    let (text, word) = match (source.word("env"), source.word("file")) {
        (Some(env), None) => (variable(&source, &env)?, env),
        (None, Some(file)) => (contents(&source, &file)?, file),
        (Some(_), Some(file)) => {
            let message = format!("`{key}` names both a variable and a file");
            table.context.error(file.at, message, "keep one of them");
            return None;
        }
        (None, None) => {
            if !source.has_keys() {
                let message = format!("`{key}` does not say where the secret is");
                table.context.error(value.span(), message, SOURCES);
            }
            return None;
        }
    };
    found(table, key, &text, word.at)
}

fn literal(table: &TableReader<'_>, key: &str, word: &StrValue<'_>) -> Option<ResolvedSecret> {
    let message = format!("`{key}` stands in this file for everybody to read");
    table.context.warn(word.at.clone(), message, format!("better {SOURCES}"));
    found(table, key, &Secret::new(word.text), word.at.clone())
}

const SOURCES: &str = "write { env = \"NAME\" } or { file = \"/path\" }";

fn variable(source: &TableReader<'_>, name: &StrValue<'_>) -> Option<Secret> {
    match source.context.sources.variable(name.text) {
        Ok(text) => Some(Secret::new(text)),
        Err(why) => {
            let message = format!("the environment variable {} {why}", name.text);
            let help = "set it wherever wxgate runs, in this shell too: `export` here, \
                        `EnvironmentFile=` in a systemd unit, `env` in a container";
            source.context.error(name.at.clone(), message, help);
            None
        }
    }
}

fn contents(source: &TableReader<'_>, word: &StrValue<'_>) -> Option<Secret> {
    let path = source.context.resolve(word.text);
    let file = match source.context.sources.file(&path) {
        Ok(file) => file,
        Err(error) => {
            paths::unreadable(source, word, &path, &error);
            return None;
        }
    };
    if file.open_to_all {
        paths::warn_if_world_readable(source, word, &path);
    }
    let text = std::str::from_utf8(&file.content);
    if text.is_err() {
        let message = format!("{} is not text", path.display());
        let help = "a secret is UTF-8 text; `wxgate keygen` prints a good one";
        source.context.error(word.at.clone(), message, help);
    }
    text.ok().map(Secret::new)
}

fn found(
    table: &TableReader<'_>,
    key: &str,
    secret: &Secret,
    at: Range<usize>,
) -> Option<ResolvedSecret> {
    let text = secret.expose();
    let trimmed = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
    let secret = trimmed.map_or_else(|| secret.clone(), Secret::new);
    if secret.expose().trim().is_empty() {
        table.context.error(at, format!("`{key}` is empty"), "put the secret there");
        return None;
    }
    if secret.expose().contains('\n') {
        let help = "leave the key and nothing else: all of it counts, names and comments too";
        table.context.warn(at.clone(), format!("`{key}` has several lines"), help);
    } else if secret.expose().trim().len() < secret.expose().len() {
        let help = "remove it, unless it belongs there: a secret is taken as it stands";
        table.context.warn(at.clone(), format!("`{key}` has white space around it"), help);
    }
    Some(ResolvedSecret { secret, at })
}
