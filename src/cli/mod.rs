//! The commands.
use std::process::ExitCode;

pub mod check;
pub mod explain;
pub mod keygen;

/// Runs the command and reports how it went.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
