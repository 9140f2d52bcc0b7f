//! What got through, in lines. Pure.

use std::fmt;

use serde_json::{Value, json};

use super::{
    attempt::{Attempt, ProbeTarget},
    verdict::{Baseline, Verdict},
};

/// Everything that was tried.
pub struct Report {
    url: String,
    echo: Option<String>,
    notes: Vec<String>,
    rows: Vec<ReportRow>,
}

struct ReportRow {
    kind: &'static str,
    what: String,
    verdict: Verdict,
    remedy: &'static str,
}

const NO_CACHE: &str = "no cache may stand before wxgate, and Cache-Control must reach the visitor";

impl Report {
    /// Nothing tried yet.
    pub fn new(aim: &ProbeTarget, baseline: &Baseline) -> Self {
        let scheme = if aim.https { "https" } else { "http" };
        let mut notes = Vec::new();
        if !baseline.refuses() {
            notes.push(format!(
                "{} answered a stranger with {}: tricks are seen best at a page that needs a login",
                aim.path, baseline.status
            ));
        }
        match (&aim.echo, baseline.echoes) {
            (None, _) => notes.push(
                "what public pages are told cannot be seen: name one that prints its headers with --echo PATH"
                    .to_owned(),
            ),
            (Some(echo), Some(false)) => notes.push(format!(
                "{echo} does not print the headers it received: forged ones cannot be seen there"
            )),
            (Some(_), _) => (),
        }
        let url = format!("{scheme}://{}{}", aim.authority, aim.path);
        Self { url, echo: aim.echo.clone(), notes, rows: Vec::new() }
    }

    /// One trick and what became of it.
    pub fn add(&mut self, attempt: &Attempt, verdict: Verdict) {
        let at = match &self.echo {
            Some(echo) if attempt.at_echo => format!(" at {echo}"),
            Some(_) | None => String::new(),
        };
        let (kind, what) = (attempt.kind.word(), format!("{}{at}", attempt.what));
        self.rows.push(ReportRow { kind, what, verdict, remedy: attempt.kind.remedy() });
    }

    /// The way to the login.
    pub fn login(&mut self, verdict: Verdict) {
        let what = "the start of a login, asked for twice".to_owned();
        self.rows.push(ReportRow { kind: "login", what, verdict, remedy: NO_CACHE });
    }

    /// Whether the site answers at the end as it did at the start.
    pub fn end(&mut self, unchanged: bool) {
        if !unchanged {
            self.notes.push(
                "the site answers us differently now: something may have shut us out on the way, and \"held\" says less"
                    .to_owned(),
            );
        }
    }

    /// How many tricks worked.
    pub fn through(&self) -> usize {
        self.rows.iter().filter(|row| matches!(row.verdict, Verdict::Succeeded(_))).count()
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let row = |row: &ReportRow| {
            let (verdict, why) = match &row.verdict {
                Verdict::Blocked => ("held", None),
                Verdict::Succeeded(why) => ("through", Some(why)),
                Verdict::Inconclusive(why) => ("unseen", Some(why)),
            };
            let remedy = matches!(row.verdict, Verdict::Succeeded(_)).then_some(row.remedy);
            json!({ "kind": row.kind, "what": row.what, "verdict": verdict, "why": why, "remedy": remedy })
        };
        let tricks: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "url": self.url, "through": self.through(), "notes": self.notes, "tricks": tricks })
    }

    /// Kinds in the order they were tried.
    fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&'static str> = Vec::new();
        for row in &self.rows {
            if !kinds.contains(&row.kind) {
                kinds.push(row.kind);
            }
        }
        kinds
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} tricks\n", self.url, self.rows.len())?;
        for kind in self.kinds() {
            let rows = || self.rows.iter().filter(move |row| row.kind == kind);
            let held = rows().filter(|row| row.verdict == Verdict::Blocked).count();
            if held > 0 {
                writeln!(f, "held     {kind:<10} {held} of {}", rows().count())?;
            }
            for row in rows() {
                if let Verdict::Succeeded(why) = &row.verdict {
                    writeln!(
                        f,
                        "THROUGH  {kind:<10} {}: {} → {}",
                        row.what,
                        brief(why),
                        row.remedy
                    )?;
                }
            }
            let unseen = |row: &&ReportRow| matches!(row.verdict, Verdict::Inconclusive(_));
            if let Some(ReportRow { verdict: Verdict::Inconclusive(why), .. }) = rows().find(unseen)
            {
                let count = rows().filter(unseen).count();
                writeln!(f, "unseen   {kind:<10} {count} of {}: {why}", rows().count())?;
            }
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "Note: {note}.")?;
        }
        match self.through() {
            0 => writeln!(f, "Nothing got through."),
            1 => writeln!(f, "One trick got through."),
            count => writeln!(f, "{count} tricks got through."),
        }
    }
}

/// A line stays a line.
fn brief(text: &str) -> String {
    const MAX_LINE_LEN: usize = 160;
    let short: String = text.chars().take(MAX_LINE_LEN).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_report() {
        let row = |verdict| ReportRow { kind: "path", what: "a".to_owned(), verdict, remedy: "do" };
        let report = Report {
            url: "https://h5.example.com/a".to_owned(),
            echo: None,
            notes: vec!["note".to_owned()],
            rows: vec![
                row(Verdict::Blocked),
                row(Verdict::Succeeded("why".to_owned())),
                row(Verdict::Inconclusive("why".to_owned())),
            ],
        };
        let recorded = json!({
            "url": "https://h5.example.com/a",
            "through": 1,
            "notes": ["note"],
            "tricks": [
                { "kind": "path", "what": "a", "verdict": "held", "why": null, "remedy": null },
                { "kind": "path", "what": "a", "verdict": "through", "why": "why", "remedy": "do" },
                { "kind": "path", "what": "a", "verdict": "unseen", "why": "why", "remedy": null },
            ],
        });
        assert_eq!(report.to_json(), recorded);
    }
}
