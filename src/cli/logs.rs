//! Logs: JSON on stdout, or text where somebody reads along.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Starts logging. Lines are written by a thread of its own, so a slow reader holds up nobody;
/// the guard writes the last of them when it is dropped.
///
/// `RUST_LOG` chooses levels, by default `info`.
pub fn start() -> WorkerGuard {
    let (writer, guard) = NonBlocking::new(std::io::stdout());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if std::io::stdout().is_terminal() {
        lines.init();
    } else {
        lines.json().flatten_event(true).with_ansi(false).init();
    }
    guard
}
