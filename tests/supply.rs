//! Where our code comes from, as far as Cargo can tell by itself. `make deny` looks closer: licences,
//! and faults that have been published.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::HashSet, fs, process::Command};

/// Crates that must never be built in, and why.
const BANNED: [(&str, &str); 4] = [
    ("openssl-sys", "rustls is the one TLS library"),
    ("native-tls", "rustls is the one TLS library"),
    ("ring", "aws-lc-rs is the one cryptography library"),
    ("rsa", "RUSTSEC-2023-0071: timing"),
];

/// By the features that are on: the lock file also names what somebody could turn on.
#[test]
fn nothing_banned_is_built_in() {
    let deny = fs::read_to_string("deny.toml").unwrap();
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--all-features", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: HashSet<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.len() > 100 && crates.contains("rustls"), "{} crates", crates.len());
    for (name, why) in BANNED {
        assert!(!crates.contains(name), "{name} is built in, but {why}");
        assert!(deny.contains(&format!("crate = \"{name}\"")), "deny.toml does not ban {name}");
    }
}

#[test]
fn everything_comes_from_the_one_registry() {
    let mut registry: Option<String> = None;
    for file in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let lock: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        assert!(packages.len() > 100, "{file}: only {} packages", packages.len());
        for package in packages {
            let text = |key: &str| package.get(key).and_then(toml::Value::as_str);
            let name = text("name").unwrap();
            let ours = name.starts_with("wxgate");
            let source = text("source").map(str::to_owned);
            if ours {
                assert_eq!(source, None, "{file}: {name} is in this repository");
            } else {
                let source = source.unwrap();
                assert!(source.starts_with("registry+"), "{file}: {name} comes from {source}");
                let first = registry.get_or_insert_with(|| source.clone());
                assert_eq!(*first, source, "{file}: {name} comes from elsewhere");
            }
            assert_eq!(text("checksum").is_some(), !ours, "{file}: {name} has no checksum");
        }
    }
}
