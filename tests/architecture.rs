//! The house rules that a compiler does not check.
//!
//! The order of the `mod` lines in `src/lib.rs` is the order of the floors: a room may use the
//! rooms below it and never one above. Rooms that promise to be pure do no I/O.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

const PURE: [&str; 25] = [
    "src/acme/certificate_info.rs",
    "src/acme/schedule.rs",
    "src/auth/",
    "src/site/",
    "src/httputil/",
    "src/config/check/",
    "src/config/schema.rs",
    "src/config/reader.rs",
    "src/config/redact.rs",
    "src/config/effective.rs",
    "src/config/values.rs",
    "src/config/diagnostic.rs",
    "src/gateway/page/",
    "src/gateway/reply.rs",
    "src/gateway/broker/openapi.rs",
    "src/cli/explain/explanation.rs",
    "src/cli/explain/broker.rs",
    "src/store/unavailable.rs",
    "src/upstream/balance.rs",
    "src/upstream/backoff.rs",
    "src/http1/head.rs",
    "src/http1/decoder.rs",
    "src/http1/chunk.rs",
    "src/upstream/http2/head.rs",
    "src/wechat/protocol",
];

const NOT_PURE: [&str; 9] = [
    "async fn",
    ".await",
    "tokio::",
    "hyper::",
    "reqwest",
    "tracing::",
    "std::fs",
    "::now()",
    "std::env",
];

#[test]
fn imports_point_down() {
    let floors = floors();
    let mut seen = 0;
    for (path, text) in sources() {
        let Some(from) = floor_of(&path, &floors) else {
            continue;
        };
        for line in code(&text) {
            for to in rooms_named_in(line, &floors) {
                seen += 1;
                assert!(from <= to, "{} reaches up:\n    {line}", path.display());
            }
        }
    }
    assert!(seen > 20, "found only {seen} imports: this test has gone blind");
}

#[test]
fn pure_rooms_do_no_io() {
    let pure = |path: &Path| PURE.iter().any(|room| path.to_string_lossy().contains(room));
    let mut seen = 0;
    for (path, text) in sources().into_iter().filter(|(path, _)| pure(path)) {
        seen += 1;
        for line in code(&text) {
            let word = NOT_PURE.iter().find(|word| line.contains(**word));
            assert_eq!(word, None, "{} is not pure:\n    {line}", path.display());
        }
    }
    assert!(seen >= PURE.len(), "found only {seen} pure files");
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no first line of documentation", path.display());
    }
}

fn floors() -> Vec<String> {
    let map = fs::read_to_string("src/lib.rs").unwrap();
    let rooms = map.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    rooms.map(str::to_owned).collect()
}

fn floor_of(path: &Path, floors: &[String]) -> Option<usize> {
    let room = path.strip_prefix("src").unwrap().components().next()?.as_os_str().to_str()?;
    floors.iter().position(|floor| floor == room.trim_end_matches(".rs"))
}

/// Floors that a line names, in `crate::room` or in the lines of a `use crate::{room, ...}`.
fn rooms_named_in(line: &str, floors: &[String]) -> Vec<usize> {
    let names = |room: &String| {
        line.contains(&format!("crate::{room}::"))
            || line.contains(&format!("crate::{room};"))
            || (line.starts_with("    ") && line.trim_start().starts_with(&format!("{room}::")))
            || (line.contains("crate::{")
                && line
                    .split(['{', ',', '}', ' ', ';'])
                    .any(|it| it.split("::").next() == Some(room)))
    };
    floors.iter().enumerate().filter(|(_, room)| names(room)).map(|(floor, _)| floor).collect()
}

/// The lines of a file that are code, without its tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut rooms = vec![PathBuf::from("src")];
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(room).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rooms.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// Whoever adds a line to the log, a reason or an error page also says what helps against it.
#[test]
fn every_word_to_an_operator_has_its_remedy() {
    let page = fs::read_to_string("docs/troubleshooting.md").unwrap();
    let quiet = ["src/emulator/", "src/demo", "src/fuzzing.rs", "src/cli/probe/"];
    let mut words = Vec::new();
    for (path, text) in sources() {
        let path = path.to_string_lossy().into_owned();
        if quiet.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        let text = code(&text).collect::<Vec<_>>().join("\n");
        words.extend(log_lines(&text));
        words.extend(audit_lines(&text));
        if ["src/gateway/error.rs", "src/upstream/mod.rs", "src/wechat/mod.rs"].contains(&&*path) {
            words.extend(after(&text, "#[error(\""));
        }
        match &*path {
            "src/gateway/page/error_page.rs" => words.extend(arms(&text, "fn word(")),
            "src/gateway/broker/api_error.rs" => words.extend(arms(&text, "fn word(")),
            "src/auth/session.rs" => words.extend(arms(&text, "fn reason(")),
            "src/wechat/protocol.rs" => words.extend(known_errcodes(&text)),
            _ => (),
        }
    }
    assert!(words.len() > 120, "found only {} words: this test has gone blind", words.len());
    for word in words {
        // Up to what is filled in.
        let start = word.split(['{', '}']).next().unwrap_or_default().trim_end_matches([' ', ':']);
        assert!(
            page.contains(start),
            "docs/troubleshooting.md says nothing of {word:?}: what helps?"
        );
    }
}

/// The titles of the pages there are those of the pages.
#[test]
fn error_pages_are_called_by_their_titles() {
    let page = fs::read_to_string("docs/troubleshooting.md").unwrap();
    let texts = ["zh", "en"].map(|lang| {
        let text = fs::read_to_string(format!("src/gateway/page/texts/{lang}.toml")).unwrap();
        toml::from_str::<toml::Table>(&text).unwrap()
    });
    let [zh, en] = texts.each_ref().map(|text| text["notice"].as_table().unwrap());
    assert!(zh.len() > 20);
    for (word, text) in zh.iter().filter(|(_, text)| text.is_table()) {
        let (zh, en) = (text["title"].as_str().unwrap(), en[word]["title"].as_str().unwrap());
        let row = format!("| `{word}` | {zh} / {en} |");
        assert!(page.contains(&row), "docs/troubleshooting.md has no row {row}");
    }
}

/// What is logged as a warning, as an error, or for the audit.
fn log_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (level, rest) in text.split("tracing::").skip(1).filter_map(|rest| rest.split_once("!(")) {
        let call = rest.split(");\n").next().unwrap_or_default();
        let told = matches!(level, "warn" | "error") || call.contains("\"audit\"");
        let strings: Vec<&str> = call.split('"').collect();
        let last = strings.iter().rev().nth(1).copied().unwrap_or_default();
        // A line that only repeats what it is given has no words of its own.
        if told && strings.len() % 2 == 1 && !last.starts_with('{') {
            lines.push(last.to_owned());
        }
    }
    lines
}

/// What the audit trail says happened.
fn audit_lines(text: &str) -> Vec<String> {
    let calls = ["AuditEvent::ok(AuditKind::", "AuditEvent::failed(AuditKind::"]
        .into_iter()
        .flat_map(|it| text.split(it).skip(1));
    let first = calls.filter_map(|rest| rest.split(')').next()?.split('"').nth(1));
    first.map(str::to_owned).collect()
}

fn after(text: &str, mark: &str) -> Vec<String> {
    let found = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
    found.map(str::to_owned).collect()
}

/// The strings that the first `match` of a function says.
fn arms(text: &str, function: &str) -> Vec<String> {
    let body = text.split(function).nth(1).and_then(|rest| rest.split("\n    }\n").next());
    let found = body.unwrap().split('"').skip(1).step_by(2);
    found.map(|word| format!("`{word}`")).collect()
}

fn known_errcodes(text: &str) -> Vec<String> {
    let list = text.split("const KNOWN").nth(1).and_then(|rest| rest.split("];").next());
    let numbers = list.unwrap_or_default().split('=').nth(1).unwrap_or_default();
    let numbers = numbers.split(|c: char| c != '-' && !c.is_ascii_digit());
    numbers.filter(|number| !number.is_empty()).map(str::to_owned).collect()
}
