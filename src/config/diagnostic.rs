//! What is wrong with a configuration: where, what, and what to write instead. Pure.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::redact;

/// Whether a complaint stops us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but the operator should know.
    Warning,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stops us.
    pub severity: Severity,
    /// The bytes of the file that are wrong; nothing when something is missing altogether.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Another place that has to do with it, and how.
    pub related: Option<(Range<usize>, String)>,
}

impl Diagnostic {
    /// A complaint that stops us, without help so far.
    pub fn error(span: impl Into<Option<Range<usize>>>, message: impl Into<String>) -> Self {
        let (span, message) = (span.into(), message.into());
        Self { severity: Severity::Error, span, message, help: None, related: None }
    }

    /// A complaint that does not.
    pub fn warning(span: impl Into<Option<Range<usize>>>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same with a second place.
    #[must_use]
    pub fn related(self, span: Range<usize>, why: impl Into<String>) -> Self {
        Self { related: Some((span, why.into())), ..self }
    }
}

/// Every complaint about one file, in the order of the file.
///
/// `Display` shows them the way rustc does. The text they quote has its secrets covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    text: String,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Complaints about `file`, whose secrets are covered in `text`. Each is said once.
    pub fn new(file: &str, text: String, mut list: Vec<Diagnostic>) -> Self {
        for complaint in &mut list {
            complaint.message = redact::credentials_in(&complaint.message);
        }
        list.sort_by_key(|complaint| complaint.span.as_ref().map(|span| span.start));
        list.dedup();
        Self { file: file.to_owned(), text, list }
    }

    /// Adds one about something that is not in the file.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are of this kind.
    pub fn count(&self, severity: Severity) -> usize {
        self.iter().filter(|complaint| complaint.severity == severity).count()
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Line and column of a complaint, both counted from one, the column in characters.
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let before = self.text.get(..diagnostic.span.as_ref()?.start)?;
        // Many complaints about a long file are no reason to be slow: a reload waits for this.
        let line = memchr::memchr_iter(b'\n', before.as_bytes()).count().saturating_add(1);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        Some((line, column.saturating_add(1)))
    }

    /// The text that a complaint is about, secrets covered.
    pub fn source_line(&self, diagnostic: &Diagnostic) -> Option<&str> {
        self.text.get(diagnostic.span.clone()?)
    }

    /// One complaint on one line, for a log.
    pub fn line(&self, diagnostic: &Diagnostic) -> String {
        let place = match self.position(diagnostic) {
            Some((line, column)) => format!("{}:{line}:{column}", self.file),
            None => self.file.clone(),
        };
        let help = diagnostic.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{place}: {}: {}{help}", diagnostic.severity.as_str(), diagnostic.message)
    }

    /// The complaints as rustc would show them, in colour or not.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let each = self.iter().map(|complaint| renderer.render(&[self.report(complaint)]));
        each.collect::<Vec<_>>().join("\n\n")
    }

    /// For scripts: `[{severity, file, line, column, text, message, help}]`.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |diagnostic: &Diagnostic| {
            let (line, column) = self.position(diagnostic).unzip();
            serde_json::json!({
                "severity": diagnostic.severity.as_str(),
                "file": self.file,
                "line": line,
                "column": column,
                "text": self.source_line(diagnostic),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        };
        self.iter().map(one).collect()
    }

    fn report<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let group = match &diagnostic.span {
            None => title.element(Origin::path(self.file.as_str())),
            Some(span) => {
                let primary = AnnotationKind::Primary.span(span.clone());
                let mut snippet = Snippet::source(self.text.as_str())
                    .path(self.file.as_str())
                    .annotation(primary);
                if let Some((span, why)) = &diagnostic.related {
                    let context = AnnotationKind::Context.span(span.clone());
                    snippet = snippet.annotation(context.label(why.as_str()));
                }
                title.element(snippet)
            }
        };
        match &diagnostic.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_diagnostic() {
        let list = vec![
            Diagnostic::error(4..9, "wrong").help("write"),
            Diagnostic::warning(None, "missing"),
        ];
        let json = Diagnostics::new("config.toml", "a = wrong".to_owned(), list).to_json();
        assert_eq!(
            json.to_string(),
            r#"[{"column":null,"file":"config.toml","help":null,"line":null,"message":"missing","severity":"warning","text":null},{"column":5,"file":"config.toml","help":"write","line":1,"message":"wrong","severity":"error","text":"wrong"}]"#
        );
    }
}
