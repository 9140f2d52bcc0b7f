//! Secrets in the text of a configuration are covered before anybody is shown a line of it. Pure.
//!
//! A complaint quotes the line it is about, on a terminal or in a log. This looks at the text and
//! not at the parsed document, because a file with a syntax error has none.

use std::ops::Range;

/// `text` with `known` places and whatever looks like a secret replaced by asterisks, byte for
/// byte, so that every position in it stays what it was.
pub fn redact(text: &str, known: &[Range<usize>]) -> String {
    let guessed = assignments(text).chain(credentials(text));
    replace(text, known.iter().cloned().chain(guessed))
}

/// `text` with the user and password of each URL replaced by asterisks.
pub fn credentials_in(text: &str) -> String {
    replace(text, credentials(text))
}

fn replace(text: &str, places: impl Iterator<Item = Range<usize>>) -> String {
    let mut covered = text.as_bytes().to_vec();
    for range in places {
        let secret = covered.get_mut(range).unwrap_or_default();
        for byte in secret.iter_mut().filter(|byte| !matches!(**byte, b'\n' | b'\r' | b'"' | b'\''))
        {
            *byte = b'*';
        }
    }
    // Whole characters were replaced, or what is left is replaced here: never a panic.
    String::from_utf8_lossy(&covered).into_owned()
}

/// The values of keys that speak of a secret: `app_secret = "…"`.
fn assignments(text: &str) -> impl Iterator<Item = Range<usize>> {
    let words = ["secret", "password", "token"];
    text.match_indices('=').filter_map(move |(equals, _)| {
        let key = text.get(..equals)?.trim_end_matches([' ', '\t', '"', '\'']);
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = key.get(key.trim_end_matches(is_key).len()..)?.to_ascii_lowercase();
        words.iter().any(|word| name.contains(word)).then_some(())?;
        let after = text.get(equals.saturating_add(1)..)?;
        let value = after.trim_start_matches([' ', '\t']);
        let start = text.len().saturating_sub(value.len());
        let length = value_length(value)?;
        Some(start..start.saturating_add(length))
    })
}

/// How long the value is that `text` begins with; nothing for a table, which names a place.
fn value_length(text: &str) -> Option<usize> {
    if text.starts_with('{') {
        return None;
    }
    for quote in ["\"\"\"", "'''"] {
        if let Some(rest) = text.strip_prefix(quote) {
            return Some(rest.find(quote).map_or(text.len(), |end| end.saturating_add(3)));
        }
    }
    let line = text.split('\n').next().unwrap_or_default();
    let ends: &[char] = match text.chars().next()? {
        '"' => &['"'],
        '\'' => &['\''],
        _ => &[',', '}', ']', '#'],
    };
    let escaped = |at: usize| line.get(..at).is_some_and(|before| before.ends_with('\\'));
    let mut found = line.match_indices(ends).map(|(at, _)| at).filter(|at| *at > 0);
    let end = found.find(|at| !escaped(*at)).unwrap_or(line.len());
    Some(line.get(..end)?.trim_end().len())
}

/// `user:password` in `scheme://user:password@host`.
fn credentials(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, slashes)| {
        let start = at.saturating_add(slashes.len());
        let rest = text.get(start..)?;
        let authority = rest.split(['/', '"', '\'', '\n', ' ', '?', '#']).next()?;
        let end = start.saturating_add(authority.rfind('@')?);
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g4_secrets_are_covered_and_nothing_moves() {
        let cases = [
            (r#"app_secret = "abc" # x"#, r#"app_secret = "***" # x"#),
            (r#"secret='abc', id = "a""#, r#"secret='***', id = "a""#),
            (r#"secret = { env = "NAME" }"#, r#"secret = { env = "NAME" }"#),
            (r#"secret.env = "NAME""#, r#"secret.env = "NAME""#),
            ("secret = 12345 # x", "secret = ***** # x"),
            ("app_secret = \"abc\nnext = 1", "app_secret = \"***\nnext = 1"),
            ("app_secret = \"a\\\"bc\" # x", "app_secret = \"**\"**\" # x"),
            ("secret = \"\"\"\nab\ncd\"\"\"\nx = 1", "secret = \"\"\"\n**\n**\"\"\"\nx = 1"),
            (r#""app_secret" = "密x""#, r#""app_secret" = "****""#),
            (r#"Redis_Password = "abc""#, r#"Redis_Password = "***""#),
            (r#"url = "redis://me:pw@host/0""#, r#"url = "redis://*****@host/0""#),
            (r#"url = "https://host/a@b""#, r#"url = "https://host/a@b""#),
            (r#"cookie = "wxgate""#, r#"cookie = "wxgate""#),
            ("secret =", "secret ="),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text, &[]), expected, "{text}");
            assert_eq!(redact(text, &[]).len(), text.len(), "{text}");
        }
        assert_eq!(redact("key = \"abc\"", std::slice::from_ref(&(6..11))), "key = \"***\"");
    }
}
