//! What a check found, in one line. Pure.

use std::fmt;

use serde_json::{Value, json};

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStatus {
    /// As it should be.
    Good,
    /// Something to know or to do, which stops nobody.
    Note,
    /// Visitors will feel it.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// How it stands.
    pub state: CheckStatus,
    /// What kind of thing: `account`, `store`, `upstream`, `dns`, `clock`, `console`.
    pub check: &'static str,
    /// Which of them.
    pub of: String,
    /// What was seen.
    pub says: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl CheckResult {
    /// All is well.
    pub fn ok(check: &'static str, of: impl AsRef<str>, says: impl Into<String>) -> Self {
        Self {
            state: CheckStatus::Good,
            check,
            of: of.as_ref().to_owned(),
            says: says.into(),
            remedy: None,
        }
    }

    /// Worth knowing.
    pub fn notice(check: &'static str, of: impl AsRef<str>, says: impl Into<String>) -> Self {
        Self { state: CheckStatus::Note, ..Self::ok(check, of, says) }
    }

    /// Not as it should be.
    pub fn error(check: &'static str, of: impl AsRef<str>, says: impl Into<String>) -> Self {
        Self { state: CheckStatus::Bad, ..Self::ok(check, of, says) }
    }

    /// And what to do.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let Self { check, of, says, remedy, .. } = self;
        let state = self.state.word();
        json!({ "state": state, "check": check, "of": of, "says": says, "remedy": remedy })
    }
}

impl CheckStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "bad",
        }
    }
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, of, says, .. } = self;
        // What comes from elsewhere must not end the line or reach the terminal.
        let says: String = says.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "{:<5} {check:<9} {of}: {says}", self.state.word())?;
        match &self.remedy {
            Some(remedy) => write!(f, " → {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        let bad = CheckResult::error("store", "Redis at 10.0.0.1:6379", "no\nanswer\u{1b}[31m");
        let rows = [
            (
                CheckResult::ok("dns", "h5.example.com", "203.0.113.5"),
                "ok    dns       h5.example.com: 203.0.113.5",
            ),
            (bad.clone(), "bad   store     Redis at 10.0.0.1:6379: no answer [31m"),
            (
                bad.remedy("start it"),
                "bad   store     Redis at 10.0.0.1:6379: no answer [31m → start it",
            ),
        ];
        for (finding, line) in rows {
            assert_eq!(finding.to_string(), line);
        }
    }

    #[test]
    fn serialized_result() {
        let note = CheckResult::notice("dns", "h5.example.com", "says").remedy("do");
        let rows = [
            (CheckResult::ok("dns", "h5.example.com", "says"), "ok", "null"),
            (note, "note", "\"do\""),
            (CheckResult::error("dns", "h5.example.com", "says"), "bad", "null"),
        ];
        for (result, state, remedy) in rows {
            let recorded = format!(
                r#"{{"check":"dns","of":"h5.example.com","remedy":{remedy},"says":"says","state":"{state}"}}"#
            );
            assert_eq!(result.to_json(), serde_json::from_str::<Value>(&recorded).unwrap());
        }
    }
}
