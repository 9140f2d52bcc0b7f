//! What the outside tells a running process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes when someone asks us to stop: Ctrl-C at a desk, SIGTERM from a service manager.
pub async fn stop() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot install signal handlers, stopping");
        }
    }
}

/// SIGHUP: read the configuration again.
pub fn hangup() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
