//! Configurations that load, and configurations that do not with every word we say about them.
//!
//! Each `tests/config/valid/*.toml` loads. Each `tests/config/invalid/*.toml` is answered with
//! exactly the text of the `.stderr` file beside it, warnings included. To bless new wording, look
//! at what the test prints, and when it reads well to somebody at three in the morning, run
//!
//! ```text
//! BLESS=1 cargo test --test config
//! ```
//!
//! and read the difference before you commit it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use wxgate::config::{Config, Environment, ReferencedFile};

/// A world with a few secrets and files in it.
struct World {
    variables: HashMap<&'static str, &'static str>,
    files: HashMap<&'static str, Content>,
}

/// The bytes of a file, and whether everybody may read it.
type Content = (&'static [u8], bool);

const SESSION_KEY: &str = "4f1c9a5be03d7628d1f0a97b3c5e8642";

fn world() -> World {
    let variables = [
        ("WXGATE_SESSION_KEY", SESSION_KEY),
        ("OLD_KEY", "9d0e7b1f46c2a8534f1c9a5be03d7628\n"),
        ("WXGATE_APP_SECRET", "0123456789abcdef0123456789abcdef"),
        ("REDIS_PASSWORD", "hunter2"),
        ("REDIS_URL", "redis://wxgate:hunter2@10.0.0.1:6379"),
        ("SHORT", "too short"),
        ("EMPTY", ""),
        ("PASTED", "WXGATE_SESSION_KEY=9d0e7b1f46c2a8534f1c9a5be03d7628\n# The line above\n"),
        ("PADDED", "9d0e7b1f46c2a8534f1c9a5be03d7628 \n"),
    ];
    let files: [(&str, Content); 8] = [
        ("secrets/app", (b"0123456789abcdef0123456789abcdef\r\n", false)),
        ("secrets/open", (b"0123456789abcdef0123456789abcdef\n", true)),
        ("secrets/binary", (b"\xff\xfe", false)),
        ("secrets/empty", (b"\n", false)),
        ("tls/cert.pem", (b"-----BEGIN CERTIFICATE-----", true)),
        ("tls/key.pem", (b"-----BEGIN PRIVATE KEY-----", false)),
        ("tls/open.pem", (b"-----BEGIN PRIVATE KEY-----", true)),
        ("tls/empty.pem", (b"", false)),
    ];
    World { variables: variables.into(), files: files.into() }
}

impl Environment for World {
    fn variable(&self, name: &str) -> Result<String, String> {
        let found = self.variables.get(name).map(|text| (*text).to_owned());
        found.ok_or_else(|| "is not set".to_owned())
    }

    fn file(&self, path: &Path) -> io::Result<ReferencedFile> {
        if path.ends_with("secrets/closed") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (content, open_to_all) =
            self.files.get(path.to_str().unwrap()).ok_or(io::Error::from_raw_os_error(2))?;
        Ok(ReferencedFile { content: content.to_vec().into(), open_to_all: *open_to_all })
    }

    fn is_folder(&self, path: &Path) -> bool {
        path == Path::new("pages")
    }
}

fn load(path: &Path) -> Result<Config, String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    Config::parse(name, &text, &world()).map_err(|complaints| format!("{complaints}\n"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|it| it == "toml"));
    found.sort();
    found
}

#[test]
fn valid_ones_load() {
    let files = files("tests/config/valid");
    assert_eq!(files.len(), VALID, "the count in this test is out of date");
    for path in files {
        match load(&path) {
            Ok(config) => assert!(
                config.warnings.is_empty() || path.to_str().unwrap().contains("warning"),
                "{}: {}",
                path.display(),
                config.warnings
            ),
            Err(complaints) => panic!("{}:\n{complaints}", path.display()),
        }
    }
}

#[test]
fn invalid_ones_are_answered_word_for_word() {
    let files = files("tests/config/invalid");
    assert_eq!(files.len(), INVALID, "the count in this test is out of date");
    for path in files {
        let expected = fs::read_to_string(path.with_extension("stderr")).unwrap_or_default();
        let said = load(&path).expect_err(&path.display().to_string());
        if std::env::var_os("BLESS").is_some() {
            fs::write(path.with_extension("stderr"), &said).unwrap();
            continue;
        }
        assert!(said == expected, "{} is now answered:\n{said}", path.display());
    }
}

const VALID: usize = 16;
const INVALID: usize = 71;
