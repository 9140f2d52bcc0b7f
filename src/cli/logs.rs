//! Logs: JSON on stdout, or text where somebody reads along.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::gateway::{AccessLog, Form};

/// Lines, and batches of access lines of some 16 KiB, that may wait for a slow reader. What comes
/// after them is dropped. The places are allocated at once, so a large number costs memory.
const WAITING: usize = 1024;

/// Starts logging. Lines are written by a thread of its own, so a slow reader holds up nobody;
/// the guards write the last of them when they are dropped.
///
/// `RUST_LOG` chooses levels, by default `info`.
pub fn start() -> (AccessLog, [WorkerGuard; 2]) {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(8 * WAITING).finish(std::io::stdout());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(careful(filter)).with_writer(writer);
    if std::io::stdout().is_terminal() {
        lines.init();
    } else {
        lines.json().flatten_event(true).with_ansi(false).init();
    }
    let form = if std::io::stdout().is_terminal() { Form::Text } else { Form::Json };
    let access = NonBlockingBuilder::default().buffered_lines_limit(WAITING);
    let (access, access_guard) = access.finish(std::io::stdout());
    (AccessLog::new(form, access), [guard, access_guard])
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
            let filter = careful(EnvFilter::new(asked)).to_string();
            let of_h2: Vec<&str> = filter.split(',').filter(|it| it.starts_with("h2")).collect();
            assert_eq!(of_h2, ["h2=info"], "{asked}: {filter}");
        }
    }
}
