//! `[store]`: what replicas share, and where. Pure.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{paths, secret::secret};
use crate::{
    config::{
        reader::{StrValue, TableReader},
        values,
    },
    secret::Secret,
    store::{RedisAddress, RedisSettings, Settings},
};

/// Every key but `kind`.
const KEYS: [&str; 11] = [
    "path",
    "url",
    "sentinels",
    "master",
    "sentinel_username",
    "sentinel_password",
    "cluster",
    "username",
    "password",
    "tls",
    "ca",
];

/// Reads `[store]`. What cannot be used is complained about and taken for the default.
pub fn settings(store: &TableReader<'_>) -> Settings {
    let Some(kind) = store.word("kind") else {
        foreign(store, "memory", &[]);
        return Settings::Memory;
    };
    match kind.text {
        "memory" => foreign(store, "memory", &[]),
        "redis" if cfg!(feature = "redis") => {
            foreign(store, "redis", KEYS.split_first().map_or(&[], |(_path, others)| others));
            if let Some(remote) = redis(store, &kind) {
                return Settings::Redis(Box::new(remote));
            }
        }
        "redis" => {
            let message = "this wxgate was built without Redis";
            store.context.error(kind.at, message, "build it with `--features redis`");
        }
        "file" => {
            foreign(store, "file", &["path"]);
            if let Some(path) = path(store) {
                return Settings::File(path);
            }
        }
        _ => store.not_one_of("kind", &kind, &["memory", "file", "redis"]),
    }
    Settings::Memory
}

/// Complains of keys that a store of this kind does not know.
fn foreign(store: &TableReader<'_>, kind: &str, known: &[&str]) {
    for key in KEYS.iter().filter(|key| !known.contains(key)) {
        if let Some(at) = store.place(key) {
            let message = format!("`{key}` means nothing to a store of kind \"{kind}\"");
            let help = match (kind, *key) {
                ("memory", "path") => "remove it, or write `kind = \"file\"`",
                ("memory", _) => "remove it, or write `kind = \"redis\"`",
                (_, _) => "remove it",
            };
            store.context.error(at, message, help);
        }
    }
}

fn path(store: &TableReader<'_>) -> Option<PathBuf> {
    let word = store.required("path")?;
    let path = store.context.resolve(word.text);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if word.text.ends_with('/') || path.file_name().is_none() {
        store.context.error(
            word.at,
            "`path` is no file",
            "add a name, as in \"/var/lib/wxgate/store\"",
        );
        return None;
    }
    if !store.context.sources.is_folder(folder) {
        let help = "make it, and give it to the user that runs wxgate";
        store.context.error(word.at, format!("there is no folder {}", folder.display()), help);
    }
    Some(path)
}

fn redis(store: &TableReader<'_>, kind: &StrValue<'_>) -> Option<RedisSettings> {
    let ways: Vec<&str> = ["url", "sentinels", "cluster"]
        .into_iter()
        .filter(|key| store.value(key).is_some())
        .collect();
    let place = match ways.as_slice() {
        ["url"] => url(store).map(RedisAddress::Url),
        ["sentinels"] => sentinels(store),
        ["cluster"] => Some(RedisAddress::Cluster(nodes(store, "cluster", 6_379))),
        [] => {
            let message = "a store of kind \"redis\" does not say where it is";
            let help = "add one of `url`, `sentinels` and `cluster`, as in \
                        `url = \"redis://127.0.0.1:6379\"`";
            store.context.error(kind.at.clone(), message, help);
            None
        }
        [first, .., last] => {
            let message = format!(
                "{} and {} exclude each other",
                values::list(&[first]),
                values::list(&[last])
            );
            store.context.error(store.place(last), message, "keep one of them");
            None
        }
        [_] => None,
    };
    for key in ["master", "sentinel_username", "sentinel_password"] {
        if let (Some(at), false) = (store.place(key), ways.contains(&"sentinels")) {
            store.context.error(at, format!("`{key}` is for `sentinels`"), "remove it");
        }
    }
    if let (Some(at), true) = (store.place("tls"), ways.contains(&"url")) {
        store.context.error(at, "the URL says whether to speak TLS", "write \"rediss://…\" there");
    }
    let username = store.word("username").map(|word| word.text.to_owned());
    let password = optional_secret(store, "password");
    let tls = store.boolean("tls", false);
    let ca = store.word("ca").and_then(|word| authority(store, &word));
    Some(RedisSettings { place: place?, username, password, tls, ca })
}

fn optional_secret(store: &TableReader<'_>, key: &'static str) -> Option<Secret> {
    let found = store.value(key).and_then(|_| secret(store, key));
    found.map(|found| found.secret)
}

/// A URL may hold a password, and then it is a secret like any other.
fn url(store: &TableReader<'_>) -> Option<Secret> {
    let value = store.value("url")?;
    let (url, at): (Secret, Range<usize>) = match value.get_ref().as_str() {
        Some(text) if has_password(text) => {
            let found = secret(store, "url")?;
            (found.secret, found.at)
        }
        Some(text) => (Secret::new(text), value.span()),
        None => {
            let found = secret(store, "url")?;
            (found.secret, found.at)
        }
    };
    let good = ["redis://", "rediss://", "unix:///", "redis+unix:///"];
    let parsed = url::Url::parse(url.expose()).ok();
    let placed = parsed.is_some_and(|url| {
        url.host_str().is_some_and(|it| !it.is_empty()) || url.scheme().ends_with("unix")
    });
    if !placed || !good.iter().any(|start| url.expose().starts_with(start)) {
        let help = "write \"redis://10.0.0.1:6379\", or \"rediss://…\" for TLS; a user and a \
                    password go before an `@`, percent-encoded";
        store.context.error(at, "`url` is no address of a Redis", help);
        return None;
    }
    Some(url)
}

fn has_password(url: &str) -> bool {
    url::Url::parse(url).map_or_else(|_| url.contains('@'), |url| url.password().is_some())
}

fn sentinels(store: &TableReader<'_>) -> Option<RedisAddress> {
    let addresses = nodes(store, "sentinels", 26_379);
    let master = store.required("master")?.text.to_owned();
    let username = store.word("sentinel_username").map(|word| word.text.to_owned());
    let password = optional_secret(store, "sentinel_password");
    Some(RedisAddress::Sentinels { addresses, master, username, password })
}

/// Hosts with ports.
fn nodes(store: &TableReader<'_>, key: &str, port: u16) -> Vec<(String, u16)> {
    if store.empty_array(key).is_some() {
        store.missing(key);
    }
    let read = |word: StrValue<'_>| {
        let url = url::Url::parse(&format!("redis://{}", word.text)).ok();
        let plain = |url: &url::Url| {
            url.username().is_empty() && matches!(url.path(), "" | "/") && url.query().is_none()
        };
        let node = url.filter(plain).and_then(|url| {
            let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
            Some((host, url.port().unwrap_or(port)))
        });
        if node.is_none() {
            if word.text.contains('@') {
                store.context.redact(word.at.clone());
            }
            let help = format!(
                "write a host and a port, as in \"10.0.0.1:{port}\"; who we are is said by \
                 `username` and `password`"
            );
            store.context.error(word.at, format!("an entry of `{key}` is no host"), help);
        }
        node
    };
    store.words(key).unwrap_or_default().into_iter().filter_map(read).collect()
}

fn authority(store: &TableReader<'_>, word: &StrValue<'_>) -> Option<Vec<u8>> {
    let path = paths::file(store, word, false);
    Some(store.context.sources.file(&path).ok()?.content.to_vec())
}
