//! What is written down: lines on stdout and their levels, and the trail of what was decided.

use std::{
    fmt,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload};

mod audit;

pub use audit::{AuditEvent, AuditKind, AuditLog, OpenidLogging};

/// Lines that may wait for a slow reader. What comes after them is dropped. The places are allocated
/// at once, so a large number costs memory.
const LINES: usize = 8 * 1024;
/// The same for access lines, each of which comes alone to somebody who reads along.
const ACCESS_LINES: usize = 1024;
/// And for machines, who get some 64 KiB at once.
const BATCHES: usize = 256;

/// What is written, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which lines, in the words of `RUST_LOG`: `info`, or `info,wxgate=debug`. Checked.
    pub level: String,
    /// How a line looks; without it, as whoever reads needs it.
    pub form: Option<LogFormat>,
    /// How much of an openid an audit line says.
    pub openids: OpenidLogging,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".to_owned(), form: None, openids: OpenidLogging::Full }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object, for machines.
    Json,
    /// For somebody at a terminal.
    Text,
}

/// A log that has been started.
pub struct LogHandles {
    /// Chooses levels from now on.
    pub levels: LevelControl,
    /// How access lines look.
    pub form: LogFormat,
    /// Where access lines go.
    pub access: NonBlocking,
    /// They write the last lines when they are dropped.
    pub guards: [WorkerGuard; 2],
}

/// Starts logging to stdout: JSON, or text where somebody reads along. Lines are written by a
/// thread of its own, so a slow reader holds up nobody. `RUST_LOG`, where it is set, chooses the
/// levels in place of the settings.
pub fn start(settings: &Settings) -> LogHandles {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stdout());
    let given = EnvFilter::try_from_default_env().ok().map(|filter| filter.to_string());
    let level = given.clone().unwrap_or_else(|| settings.level.clone());
    let (filter, handle) = reload::Layer::new(filter(&level).unwrap_or_else(|_| info()));
    let form = settings.form.unwrap_or_else(|| {
        if std::io::stdout().is_terminal() { LogFormat::Text } else { LogFormat::Json }
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let colour = std::io::stdout().is_terminal();
    let house = tracing_subscriber::registry().with(filter);
    // One subscriber serves a process; a second one would have been a mistake of ours.
    let _ = match form {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(house.with(lines.with_ansi(colour)))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_ansi(false);
            tracing::subscriber::set_global_default(house.with(lines))
        }
    };
    let most = match form {
        LogFormat::Text => ACCESS_LINES,
        LogFormat::Json => BATCHES,
    };
    let access = NonBlockingBuilder::default().buffered_lines_limit(most);
    let (access, access_guard) = access.finish(std::io::stdout());
    let levels = LevelControl { handle: Some(handle), given, now: Arc::new(Mutex::new(level)) };
    LogHandles { levels, form, access, guards: [guard, access_guard] }
}

/// Chooses levels while the program runs.
#[derive(Clone, Default)]
pub struct LevelControl {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    /// What the environment said, which comes before the file.
    given: Option<String>,
    now: Arc<Mutex<String>>,
}

/// Words that name no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLevel(String);

impl LevelControl {
    /// Which lines are written.
    pub fn get(&self) -> String {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes these lines from now on.
    pub fn set(&self, level: &str) -> Result<(), InvalidLevel> {
        let filter = filter(level)?;
        if let Some(handle) = &self.handle {
            handle.reload(filter).map_err(|error| InvalidLevel(error.to_string()))?;
        }
        level.clone_into(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Goes back to what the environment says, or else the file.
    pub fn settle(&self, settings: &Settings) {
        // The file was checked, and so was the environment.
        let _ = self.set(self.given.as_deref().unwrap_or(&settings.level));
    }
}

impl fmt::Debug for LevelControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Levels").field(&self.get()).finish()
    }
}

/// Whether these words choose levels, or what is wrong with them.
pub fn check(level: &str) -> Result<(), InvalidLevel> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, InvalidLevel> {
    // A filter by the fields of spans would be looked up for every line, and we have none.
    if level.is_empty() || level.len() > 256 || level.contains(['[', '{']) {
        return Err(InvalidLevel("one of error, warn, info, debug and trace".to_owned()));
    }
    let parsed = EnvFilter::builder().parse(level);
    parsed.map(careful).map_err(|error| InvalidLevel(error.to_string()))
}

fn info() -> EnvFilter {
    careful(EnvFilter::new("info"))
}

/// Below `info`, h2 quotes a malformed path with its query, where a code may be: not unless one of
/// its modules is asked for by name (G4).
fn careful(filter: EnvFilter) -> EnvFilter {
    match "h2=info".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g4_h2_never_quotes_a_path() {
        for asked in ["info", "debug", "trace", "h2=trace", "wxgate=debug,h2=debug"] {
            let filter = filter(asked).unwrap().to_string();
            let of_h2: Vec<&str> = filter.split(',').filter(|it| it.starts_with("h2")).collect();
            assert_eq!(of_h2, ["h2=info"], "{asked}: {filter}");
        }
    }

    #[test]
    fn levels_are_words_that_can_be_changed() {
        let levels = LevelControl { given: None, ..LevelControl::default() };
        for (words, good) in [
            ("debug", true),
            ("info,wxgate::gateway=trace", true),
            ("", false),
            ("loud", true), // a target of that name, as RUST_LOG has it
            ("wxgate=loud", false),
            ("[span{field=1}]=debug", false),
        ] {
            assert_eq!(levels.set(words).is_ok(), good, "{words}");
        }
        assert_eq!(levels.get(), "loud");
        levels.settle(&Settings::default());
        assert_eq!(levels.get(), "info");
        let forced = LevelControl { given: Some("warn".to_owned()), ..LevelControl::default() };
        forced.settle(&Settings::default());
        assert_eq!(forced.get(), "warn", "the environment comes first");
    }
}
