//! Everything that other programs read of `wxgate` and that no unit test holds: JSON of commands, exit
//! codes, names of log fields. The unit tests called `serialized_…` hold the rest.
//!
//! The golden files in `tests/formats` have one entry a line. A difference is a change that other
//! programs see: look at it, and when it is meant, run
//!
//! ```text
//! BLESS_FORMATS=1 cargo test --lib --test formats --test it -- serialized_
//! ```
//!
//! and read the difference before you commit it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "formats/golden.rs"]
mod golden;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use golden::assert_golden;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The exit code, and what was printed.
fn run(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    let command = command.args(arguments).env("KEY", KEY).env("APP_SECRET", KEY);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn serialized_json_of_commands() {
    for (golden, code, arguments) in [
        ("check.json", 0, &["check", "--json", "--config", "tests/formats/good.toml"][..]),
        ("check-bad.json", 78, &["check", "--json", "--config", "tests/formats/bad.toml"]),
        (
            "explain.json",
            0,
            &[
                "explain",
                "--json",
                "--config",
                "tests/formats/good.toml",
                "https://h5.example.com/member/a",
            ],
        ),
        (
            "explain-broker.json",
            0,
            &[
                "explain",
                "--json",
                "--config",
                "tests/formats/good.toml",
                "https://auth.example.com/api/wechat/auth?url=https://shop.example.com/a",
            ],
        ),
    ] {
        let (ended, text) = run(arguments);
        assert_eq!(ended, code, "{golden}: {text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let lines: Vec<String> = format!("{json:#}").lines().map(str::to_owned).collect();
        assert_golden(golden, &lines);
    }
}

#[test]
fn serialized_exit_codes() {
    let nobody = "127.0.0.1:1";
    for (code, arguments) in [
        (0, &["--help"][..]),
        (0, &["--version"]),
        (0, &["keygen"]),
        (0, &["check", "--config", "tests/formats/good.toml"]),
        (78, &["check", "--config", "tests/formats/bad.toml"]),
        (78, &["check", "--config", "tests/formats/missing.toml"]),
        (78, &["serve", "--config", "tests/formats/bad.toml"]),
        (78, &["explain", "--config", "tests/formats/bad.toml", "https://h5.example.com/"]),
        (78, &["revoke", "--all", "--config", "tests/formats/bad.toml"]),
        (64, &["no-such-command"]),
        (64, &["check", "--no-such-option"]),
        (64, &["explain", "--config", "tests/formats/good.toml", "not a URL"]),
        (64, &["revoke", "--config", "tests/formats/good.toml"]),
        (64, &["revoke", "--account", "nobody", "--config", "tests/formats/good.toml"]),
        (1, &["revoke", "--all", "--config", "tests/formats/good.toml"]),
        (64, &["probe", "not a URL"]),
        (69, &["probe", "--connect", nobody, "http://h5.example.com/member/"]),
    ] {
        assert_eq!(run(arguments).0, code, "{arguments:?}");
    }
}

/// A field without a value of its own is named after a variable, and a rename would rename it.
#[test]
fn serialized_log_fields() {
    let mut lines = BTreeSet::new();
    for path in sources(Path::new("src")) {
        let text = fs::read_to_string(&path).unwrap();
        for level in ["trace", "debug", "info", "warn", "error"] {
            for call in text.split(&format!("tracing::{level}!(")).skip(1) {
                let arguments = arguments(call);
                let at = arguments.iter().position(|it| it.starts_with('"')).unwrap();
                let message = arguments[at].trim_matches('"');
                let fields: Vec<String> =
                    arguments[..at].iter().map(|field| name_of(field)).collect();
                let fields = fields.join(" ");
                lines.insert(format!("{message} | {level} | {fields}").trim_end().to_owned());
            }
        }
    }
    assert!(lines.len() > 60, "found only {} lines: this test has gone blind", lines.len());
    let lines: Vec<String> = lines.into_iter().collect();
    assert_golden("log_fields.txt", &lines);
}

/// The name under which `%error`, `endpoint = %pool.endpoint` or `account.name` is logged.
fn name_of(field: &str) -> String {
    let (name, _) = field.split_once('=').unwrap_or((field, ""));
    name.trim().trim_start_matches(['%', '?']).to_owned()
}

/// The arguments of a call, up to its closing parenthesis, each on one line.
fn arguments(call: &str) -> Vec<String> {
    let (mut arguments, mut current) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for c in call.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => (),
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(std::mem::take(&mut current));
                continue;
            }
            _ => (),
        }
        current.push(c);
    }
    arguments.push(current);
    let arguments = arguments.into_iter().map(|argument| {
        let words: Vec<&str> = argument.split_whitespace().filter(|word| *word != "\\").collect();
        words.join(" ")
    });
    arguments.filter(|argument| !argument.is_empty()).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
    found
}
