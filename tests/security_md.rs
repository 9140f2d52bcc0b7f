//! `deploy/SECURITY.md` says which test holds which requirement, and this says whether that is true.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// How many requirements each letter has.
const LETTERS: [(char, usize); 7] =
    [('A', 5), ('B', 8), ('C', 7), ('D', 4), ('E', 7), ('F', 6), ('G', 7)];

/// The rows that say "not yet", of all or of some of it. Take one out when it is met.
const NOT_YET: [&str; 0] = [];

/// The subjects of the issues that a "not yet" may point to.
const ISSUES: [&str; 4] = [
    "Nothing gets past it",
    "Many replicas, one gateway",
    "The code broker, and the gatekeeper of other proxies",
    "What operators see",
];

#[test]
fn each_requirement_has_a_row_and_each_row_has_tests_that_exist() {
    let rows = rows();
    let ids: Vec<String> = LETTERS
        .iter()
        .flat_map(|(letter, last)| (1..=*last).map(move |n| format!("{letter}{n}")))
        .collect();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), ids, "the ids of the table");
    let tests = tests();
    assert!(tests.len() > 200, "found only {} tests: this test has gone blind", tests.len());
    let mut not_yet = Vec::new();
    for (id, (what, held)) in &rows {
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        for name in &names {
            assert!(tests.contains(*name), "{id}: there is no test called {name}");
        }
        if what.to_lowercase().contains("not yet") {
            not_yet.push(id.as_str());
            let issue = ISSUES.iter().find(|issue| what.contains(&format!("(*{issue}*)")));
            assert!(issue.is_some(), "{id}: not yet, but which issue brings it?");
        } else {
            assert!(!names.is_empty(), "{id}: no test holds it");
        }
    }
    assert_eq!(not_yet, NOT_YET, "rows that are not met");
}

#[test]
fn the_other_names_in_the_text_exist_too() {
    let text = fs::read_to_string("deploy/SECURITY.md").unwrap();
    let tests = tests();
    let mut seen = 0;
    // Whatever looks like the name of a test: words joined by four underscores or more.
    for name in text.split('`').skip(1).step_by(2).filter(|it| it.matches('_').count() >= 4) {
        seen += 1;
        assert!(tests.contains(name), "there is no test called {name}");
    }
    assert!(seen > 50, "only {seen} names");
    let cargo = fs::read_to_string("fuzz/Cargo.toml").unwrap();
    let mut targets = 0;
    for name in cargo.lines().filter_map(|line| line.strip_prefix("name = \"")) {
        let name = name.trim_end_matches('"');
        if name == "wxgate-fuzz" {
            continue;
        }
        targets += 1;
        assert!(text.contains(&format!("\n| `{name}` | ")), "no row for the fuzz target {name}");
        let seeds = fs::read_dir(format!("fuzz/seeds/{name}")).unwrap().count();
        assert!(seeds >= 5, "{name} has {seeds} seeds");
        assert!(Path::new(&format!("fuzz/targets/{name}.rs")).exists(), "{name}");
    }
    assert_eq!(targets, 9);
}

#[test]
fn f6_codes_are_compared_in_one_place_and_luck_comes_from_the_system() {
    let token = fs::read_to_string("src/auth/token.rs").unwrap();
    assert!(token.contains("constant_time::verify_slices_are_equal(expected, code)"));
    let mut lucky = 0;
    for path in files("src") {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        // Codes are made and compared by `Keys` alone: nobody else has an HMAC to compare.
        let has_hmac = code.contains("hmac::sign") || code.contains("hmac::verify");
        let may = path.ends_with("auth/token.rs") || path.ends_with("src/fuzzing.rs");
        assert!(!has_hmac || may, "{} makes codes of its own", path.display());
        // `rand::random` and `rand::rng` are seeded by the system and unpredictable; others are not.
        for odd in ["SmallRng", "StdRng", "seed_from_u64", "from_seed", "Xoshiro", "fastrand"] {
            assert!(!code.contains(odd), "{} throws its own dice: {odd}", path.display());
        }
        lucky += code.matches("rand::random").count();
    }
    assert!(lucky >= 4, "only {lucky} random values");
}

/// Id → what we do, what holds it.
fn rows() -> BTreeMap<String, (String, String)> {
    let text = fs::read_to_string("deploy/SECURITY.md").unwrap();
    let (_, table) = text.split_once("\n## The table\n").unwrap();
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, what, held] = cells[..] else { panic!("not three cells: {line}") };
        let row = (what.to_owned(), held.to_owned());
        assert!(rows.insert(id.to_owned(), row).is_none(), "{id} twice");
    }
    rows
}

/// The names of all tests: functions below `#[test]`, `#[tokio::test]` or in `proptest!`.
fn tests() -> HashSet<String> {
    let mut names = HashSet::new();
    for path in files("src").into_iter().chain(files("tests")) {
        let text = fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.insert(rest.split(['(', '<']).next().unwrap().to_owned());
                is_test = false;
            }
        }
    }
    names
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }
    found
}
