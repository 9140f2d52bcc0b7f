//! `wxgate generate DIR`: man pages and shell completions, for whoever makes a package. They are
//! written from the same description as `--help`, so they cannot say anything else.

use std::{fs, io, path::Path, process::ExitCode};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, print_stderr};

/// Writes `man1/` and `completions/` below `folder`.
pub fn generate(folder: &Path) -> ExitCode {
    match write(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("wxgate: {}: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man1"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "wxgate", &completions)?;
    }
    // `wxgate help check` is what check(1) is for.
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &pages)
}
