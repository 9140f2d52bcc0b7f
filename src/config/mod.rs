//! `config.toml` → the settings each room declares, or every complaint about it at once.
//!
//! Each room owns the type of its own settings and knows nothing of files. This room knows the
//! file, and nobody below knows this room. It works in three steps:
//!
//! 1. [`toml`] parses the text into a document in which every key and value knows its place. A
//!    syntax error ends here: one complaint.
//! 2. [`schema`] lists the tables and their keys, word for word. [`reader`] walks the document with
//!    that list. Serde would stop at the first thing it cannot read; the reader notes a complaint
//!    with its place and goes on, because an operator wants to mend the file once.
//! 3. [`check`] asks the reader for one key after another and turns words into settings that no
//!    room has to doubt again.
//!
//! The reader and the checks are pure: environment variables and files are asked for through
//! [`Environment`], which is the machine for `serve` and a few fixed values for a test.
//!
//! Relative paths in the file begin at the folder of the file, so that a configuration can be
//! checked from anywhere and moved as a whole.

use std::{fs, io, path::Path, sync::Arc};

use zeroize::Zeroizing;

use crate::{admin, gateway, logs, server, site::Account};

mod check;
mod diagnostic;
mod redact;
mod effective;
mod schema;
mod reader;
mod values;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};

/// A configuration that has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to listen.
    pub server: server::Settings,
    /// Where the other listener is.
    pub admin: admin::Settings,
    /// How to answer.
    pub gateway: gateway::Settings,
    /// What is written down.
    pub log: logs::Settings,
    /// What stands in the file, for people: its secrets are covered.
    pub shown: admin::ConfigView,
    /// Every account, in the order of the file.
    pub accounts: Vec<Arc<Account>>,
    /// What the operator should know, though nothing stops us.
    pub warnings: Diagnostics,
}

impl Config {
    /// Reads and checks a file, with the secrets it names.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        Self::load_with(path, &SystemEnvironment)
    }

    /// Reads and checks a file, with secrets from somewhere else.
    pub fn load_with(path: &Path, sources: &dyn Environment) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text, sources),
            Err(error) => Err(unreadable(&name, &error)),
        }
    }

    /// Checks a text. `name` is the path it is known by.
    pub fn parse(name: &str, text: &str, sources: &dyn Environment) -> Result<Self, Diagnostics> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let document = match toml::de::DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => return Err(syntax(name, text, &error)),
        };
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        let desk = reader::LoadContext::new(sources, folder);
        let checked = check::check(document.get_ref(), &desk);
        let (list, hidden) = desk.close();
        let covered = redact::redact(text, &hidden);
        let complaints = Diagnostics::new(name, covered.clone(), list);
        match checked {
            Some(checked) if complaints.count(Severity::Error) == 0 => {
                let check::CheckedConfig { server, admin, gateway, log, accounts } = checked;
                let groups = effective::effective(document.get_ref(), &covered);
                let (shown, warnings) = (admin::ConfigView { text: covered, groups }, complaints);
                Ok(Self { server, admin, gateway, log, shown, accounts, warnings })
            }
            Some(_) | None => Err(complaints),
        }
    }
}

/// What a configuration may ask of the world around it.
pub trait Environment {
    /// An environment variable, or why there is none: `is not set`.
    fn variable(&self, name: &str) -> Result<String, String>;

    /// A file.
    fn file(&self, path: &Path) -> io::Result<ReferencedFile>;

    /// Whether there is a folder of this name.
    fn is_folder(&self, path: &Path) -> bool;
}

/// A file that the configuration names.
#[derive(Debug)]
pub struct ReferencedFile {
    /// Its bytes.
    pub content: Zeroizing<Vec<u8>>,
    /// Whether every user of the machine may read it.
    pub open_to_all: bool,
}

/// The machine we run on.
#[derive(Clone, Copy, Debug)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads secrets")]
    fn variable(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => "is not set".to_owned(),
            std::env::VarError::NotUnicode(_) => "is not UTF-8".to_owned(),
        })
    }

    fn file(&self, path: &Path) -> io::Result<ReferencedFile> {
        use std::os::unix::fs::PermissionsExt as _;
        let content = Zeroizing::new(fs::read(path)?);
        let open_to_all = fs::metadata(path)?.permissions().mode() & 0o004 != 0;
        Ok(ReferencedFile { content, open_to_all })
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

fn unreadable(name: &str, error: &io::Error) -> Diagnostics {
    let message = format!("the configuration cannot be read: {}", plain(error));
    let help = if error.kind() == io::ErrorKind::PermissionDenied {
        "let the user that runs wxgate read it"
    } else if error.kind() == io::ErrorKind::InvalidData {
        "save it as UTF-8"
    } else {
        "give the path of a TOML file with `--config FILE`"
    };
    Diagnostics::new(name, String::new(), vec![Diagnostic::error(None, message).help(help)])
}

fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Diagnostics {
    let said = error.message();
    let unquoted = ["float", "integer", "datetime", "quoted", "expected nothing", "leading zero"];
    let help = if unquoted.iter().any(|word| said.contains(word)) {
        "text stands in quotes, as in \"0.0.0.0:8080\" or \"30s\""
    } else if said.contains("duplicate") {
        "a key, or a table in single brackets, may stand only once"
    } else {
        "the rest of the file is checked once this is mended"
    };
    let complaint = Diagnostic::error(error.span(), format!("this is not TOML: {said}")).help(help);
    Diagnostics::new(name, redact::redact(text, &[]), vec![complaint])
}

/// An error of the operating system without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
