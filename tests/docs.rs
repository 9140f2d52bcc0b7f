//! Every command in `docs/` is run, with the real programs, and says what the page says it says.
//!
//! A block ```` ```sh ```` is run; the ```` ```text ```` right after it is what it has to print, line
//! by line, in this order, where `…` stands for anything. A block whose first line names a file, as in
//! ```` ```toml config.toml ````, is that file. ```` ```sh by-hand ```` is for commands that change a
//! machine for good; there are only so many. A page is one shell from its first block to its last, in
//! a folder and on a network of its own, so its ports are everybody's favourites.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A fenced block: what stands behind the fence, and the lines.
#[derive(Debug)]
struct Block {
    info: String,
    text: String,
}

/// Something to do, in order.
#[derive(Debug)]
enum Step {
    File(String, String),
    Run(String),
    Expect(String),
}

/// As long as the slowest page may take.
const PATIENCE: &str = "120";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block { info: info.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => (),
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for Block { info, text } in blocks(page) {
        match info.split_once(' ').unwrap_or((&info, "")) {
            ("sh", "") => steps.push(Step::Run(text)),
            ("sh", "by-hand") => (),
            ("sh", more) => panic!("a block of commands says {more:?}"),
            ("text", _) if matches!(steps.last(), Some(Step::Run(_))) => {
                steps.push(Step::Expect(text));
            }
            (_, "") => (),
            (_, name) => steps.push(Step::File(name.to_owned(), text)),
        }
    }
    steps
}

/// One script of all the blocks, which says where each begins and ends.
fn script(steps: &[Step]) -> String {
    let mut script = "set -euo pipefail\nexec 2>&1\n".to_owned();
    for (number, step) in steps.iter().enumerate() {
        let text = match step {
            Step::File(name, text) => format!(
                "mkdir -p \"$(dirname '{name}')\"\ncat > '{name}' <<'END OF FILE'\n{text}END OF FILE\n"
            ),
            Step::Run(text) => format!("echo '=== {number}'\n{text}echo; echo '=== end'\n"),
            Step::Expect(_) => String::new(),
        };
        script.push_str(&text);
    }
    script
}

/// What a block printed.
fn printed(output: &str, number: usize) -> Option<&str> {
    let (_, rest) = output.split_once(&format!("=== {number}\n"))?;
    rest.split_once("=== end\n").map(|(text, _)| text)
}

/// Whether a line is as expected, `…` standing for anything.
fn fits(line: &str, expected: &str) -> bool {
    let (starts, ends) = (expected.starts_with('…'), expected.ends_with('…'));
    let parts: Vec<&str> = expected.split('…').filter(|part| !part.is_empty()).collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return true };
    let mut rest = line;
    for part in &parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    (starts || line.starts_with(first)) && (ends || line.ends_with(last))
}

/// Runs a page, and compares.
fn run(page: &str) {
    let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
    let steps = steps(&text);
    let folder = tempfile::tempdir().unwrap();
    // curl waits for what is just being started.
    let curl =
        "retry = 40\nretry-connrefused\nretry-delay = 1\nretry-max-time = 30\nmax-time = 30\n";
    fs::write(folder.path().join(".curlrc"), curl).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_wxgate")).parent().unwrap();
    let tools = root().join("tests/packages/venv/bin");
    let path =
        format!("{}:{}:{}", program.display(), std::env::var("PATH").unwrap(), tools.display());
    fs::write(folder.path().join(".page"), script(&steps)).unwrap();
    // A process namespace too: whatever a page starts ends with it. Root needs no user namespace, in
    // which nginx could not give its folders to its own user.
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let output = Command::new("unshare")
        .args(if is_root { None } else { Some("--map-root-user") })
        .args(["--net", "--pid", "--fork", "--kill-child", "timeout", PATIENCE])
        .args(["bash", "-c", "ip link set lo up && bash .page; code=$?; exit $code"])
        .current_dir(folder.path())
        .env("PATH", path)
        .env("HOME", folder.path())
        .env("REPO", root())
        .env_remove("SSL_CERT_FILE")
        .output()
        .expect("unshare is missing: it is in util-linux");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docs/{page} fails with {}:\n{said}\n{why}", output.status);
    for (number, step) in steps.iter().enumerate() {
        let Step::Expect(expected) = step else { continue };
        let printed = printed(&said, number - 1).unwrap();
        let mut lines = printed.lines();
        for line in expected.lines().filter(|line| !line.trim().is_empty()) {
            let found = lines.any(|it| fits(it.trim_end(), line));
            assert!(found, "docs/{page}: no {line:?} (or not in this order) in\n{printed}");
        }
    }
}

#[test]
fn protect_a_php_site() {
    run("protect-a-php-site.md");
}

#[test]
fn behind_nginx() {
    run("behind-nginx.md");
}

#[test]
fn several_sites() {
    run("several-sites.md");
}

#[test]
fn several_servers() {
    run("several-servers.md");
}

#[test]
fn rotate_keys() {
    run("rotate-keys.md");
}

#[test]
fn upgrade() {
    run("upgrade.md");
}

#[test]
fn check_and_probe() {
    run("check-and-probe.md");
}

#[test]
fn login_loop() {
    run("login-loop.md");
}

#[test]
fn kubernetes() {
    run("kubernetes.md");
}

fn pages() -> Vec<(String, String)> {
    let files = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let named = pages.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    named.collect()
}

#[test]
fn no_page_with_commands_is_forgotten_and_few_are_by_hand() {
    let me = fs::read_to_string(root().join("tests/docs.rs")).unwrap();
    let (mut run, mut by_hand) = (0, 0);
    for (name, text) in pages() {
        let infos: Vec<String> = blocks(&text).into_iter().map(|block| block.info).collect();
        by_hand += infos.iter().filter(|info| *info == "sh by-hand").count();
        // Its commands are those of the English page, which are run.
        if infos.iter().any(|info| info == "sh") && !name.ends_with(CHINESE) {
            run += 1;
            assert!(me.contains(&format!("run(\"{name}\")")), "nobody runs docs/{name}");
        }
        for other in ["bash", "shell", "console"] {
            assert!(!infos.iter().any(|it| it == other), "docs/{name}: say sh, so that it is run");
        }
    }
    assert!(run >= 8, "{run} pages");
    assert!(by_hand <= 6, "{by_hand} blocks are run by nobody");
}

const CHINESE: &str = ".zh-CN.md";
/// Pages in Chinese that tell less than the English ones, and say so.
const DIGESTS: [&str; 1] = ["broker.zh-CN.md"];

/// What no language changes: blocks, commands that stand indented, how many headings and rows there
/// are, and the words and numbers that the tables explain.
fn skeleton(page: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if fenced || fence || line.starts_with("    ") {
            kept.push(line.to_owned());
        } else if line.starts_with('#') {
            kept.push(line.split(' ').next().unwrap().to_owned());
        } else if line.starts_with('|') {
            let first = line.split('|').nth(1).unwrap();
            let code = first.split('`').skip(1).step_by(2).map(str::to_owned);
            let numbers = first.split(|c: char| !c.is_ascii_digit()).filter(|it| it.len() > 3);
            kept.push("|".to_owned());
            kept.extend(code.chain(numbers.map(str::to_owned)));
        }
    }
    kept
}

#[test]
fn a_page_in_chinese_says_and_does_what_the_english_one_does() {
    let pages = pages();
    let (mut seen, mut digests) = (0, 0);
    for (name, text) in pages.iter().filter(|(name, _)| name.ends_with(CHINESE)) {
        let english = name.replace(CHINESE, ".md");
        let (_, original) = pages.iter().find(|(name, _)| *name == english).unwrap();
        assert!(text.contains(&format!("]({english})")), "{name} does not lead to {english}");
        assert!(original.contains(&format!("]({name})")), "{english} does not lead to {name}");
        if DIGESTS.contains(&name.as_str()) {
            digests += 1;
            continue;
        }
        seen += 1;
        let (ours, theirs) = (skeleton(text), skeleton(original));
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        assert_eq!(differs, None, "{name} and {english} part here");
        assert_eq!(ours.len(), theirs.len(), "{name} and {english}: one is longer");
    }
    assert!(seen >= 7 && digests == DIGESTS.len(), "{seen} pages");
}

#[test]
fn every_page_is_in_the_index_and_every_link_leads_somewhere() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let mut seen = 0;
    for (name, text) in pages() {
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "{name} is in no index"
        );
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            seen += 1;
            assert!(root().join("docs").join(file).exists(), "docs/{name} links to {file}");
        }
    }
    assert!(seen > 30, "{seen} links");
}

#[test]
fn expectations_are_read_as_they_are_meant() {
    for (line, expected, fit) in [
        ("Hello, oABC.", "Hello, o….", true),
        ("Hello, stranger", "Hello, o….", false),
        ("ok", "ok", true),
        ("not ok", "ok", false),
        ("  must hold: a", "…must hold: a", true),
        ("held     path       27 of 27", "held     path…", true),
        ("anything", "…", true),
    ] {
        assert_eq!(fits(line, expected), fit, "{line} / {expected}");
    }
}
