//! The configuration as a table: each key that was written, and what goes for the others. Pure.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::schema::{ACME, ALL, BROKER, FILE, HEALTH, SERVER, SESSION, TableSchema};
use crate::admin::{ConfigViewEntry, ConfigViewTable};

/// What goes where nothing is written, by table and key: a test parses each of them and sees that
/// it changes nothing. Where the default depends on something else, or is that there is nothing,
/// there is none.
const DEFAULTS: [(&str, &str, &str); 62] = [
    ("[server]", "listen", r#"["0.0.0.0:8080"]"#),
    ("[server]", "workers", "0"),
    ("[server]", "reuse_port", "false"),
    ("[server]", "trusted_proxies", "[]"),
    ("[server]", "proxy_protocol", "false"),
    ("[server]", "prefix", r#""/_wx""#),
    ("[server]", "drain", r#""30s""#),
    ("[server.acme]", "directory", r#""https://acme-v02.api.letsencrypt.org/directory""#),
    ("[server.acme]", "storage", r#""/var/lib/wxgate/acme""#),
    ("[server.limits]", "header_bytes", r#""32KiB""#),
    ("[server.limits]", "header_count", "100"),
    ("[server.limits]", "header_time", r#""10s""#),
    ("[server.limits]", "idle_time", r#""75s""#),
    ("[server.limits]", "body_time", r#""10s""#),
    ("[server.limits]", "send_time", r#""60s""#),
    ("[server.limits]", "connections", "10000"),
    ("[server.limits]", "streams", "250"),
    ("[server.limits]", "connections_per_client", "0"),
    ("[server.limits]", "logins_per_minute", "600"),
    ("[server.limits]", "body_size", "0"),
    ("[server.limits]", "upstream_idle", "2000"),
    ("[admin]", "listen", r#""127.0.0.1:9090""#),
    ("[admin]", "hosts", "[]"),
    ("[log]", "level", r#""info""#),
    ("[log]", "format", r#""auto""#),
    ("[log]", "openid", r#""full""#),
    ("[trace]", "sample", r#""100%""#),
    ("[session]", "cookie", r#""wxgate""#),
    ("[session]", "idle", r#""12h""#),
    ("[session]", "max", r#""7d""#),
    ("[session]", "verified_cache", r#""64MiB""#),
    ("[store]", "kind", r#""memory""#),
    ("[[account]]", "kind", r#""official""#),
    ("[[account]]", "authorize_url", r#""https://open.weixin.qq.com""#),
    ("[[account]]", "api_urls", r#"["https://api.weixin.qq.com", "https://api2.weixin.qq.com"]"#),
    ("[[site]]", "balance", r#""round_robin""#),
    ("[[site]]", "slow_start", r#""10s""#),
    ("[[site]]", "upstream_connections", "0"),
    ("[[site]]", "upstream_queue", "1000"),
    ("[[site]]", "upstream_queue_time", r#""5s""#),
    ("[site.health]", "interval", r#""5s""#),
    ("[site.health]", "timeout", r#""2s""#),
    ("[site.health]", "expect", r#"["200-399"]"#),
    ("[site.health]", "rise", "2"),
    ("[site.health]", "fall", "3"),
    ("[[site]]", "scope", r#""snsapi_base""#),
    ("[[site]]", "outside_wechat", r#""page""#),
    ("[[site]]", "snapshot", r#""page""#),
    ("[[site]]", "fragment", r#""drop""#),
    ("[[site]]", "connect_timeout", r#""3s""#),
    ("[[site]]", "response_timeout", r#""60s""#),
    ("[[site]]", "upstream_http", r#""1.1""#),
    ("[[site]]", "ambiguous_paths", r#""refuse""#),
    ("[[site]]", "windows_names", r#""ambiguous""#),
    ("[[site]]", "underscores", r#""drop""#),
    ("[[site]]", "revocation", r#""bounded:30s""#),
    ("[site.headers]", "assertion", "false"),
    ("[[site.route]]", "auth", r#""required""#),
    ("[broker]", "prefix", r#""/api/wechat""#),
    ("[[broker.client]]", "result", r#""params""#),
    ("[[broker.client]]", "outside_wechat", r#""page""#),
    ("[[broker.client]]", "jssdk", "false"),
];

/// Tables without which there is no such thing: of those that are not written nothing goes.
const NOTHING: [&str; 3] = [ACME.title, BROKER.title, HEALTH.title];

/// What stands in the file, whose text with its secrets covered is `covered`, byte for byte as long
/// as it was.
pub fn effective(file: &DeTable<'_>, covered: &str) -> Vec<ConfigViewTable> {
    let mut groups = Vec::new();
    tables(&FILE, Some(file), covered, &mut groups);
    groups
}

/// The tables inside this one.
fn tables(
    section: &TableSchema,
    table: Option<&DeTable<'_>>,
    covered: &str,
    groups: &mut Vec<ConfigViewTable>,
) {
    for (key, example) in section.keys {
        let Some(inner) = ALL.iter().find(|it| it.title == *example) else { continue };
        let value = table.and_then(|table| table.get(*key)).map(Spanned::get_ref);
        match value {
            Some(DeValue::Array(several)) => {
                for one in several.iter().filter_map(|it| it.get_ref().as_table()) {
                    group(inner, Some(one), covered, groups);
                }
            }
            Some(value) => group(inner, value.as_table(), covered, groups),
            None if example.starts_with("[[") || NOTHING.contains(example) => (),
            None => group(inner, None, covered, groups),
        }
    }
}

fn group(
    section: &TableSchema,
    table: Option<&DeTable<'_>>,
    covered: &str,
    groups: &mut Vec<ConfigViewTable>,
) {
    let names_a_table = |example: &str| ALL.iter().any(|it| it.title == example);
    let keys = section.keys.iter().filter(|(_, example)| !names_a_table(example));
    let keys: Vec<ConfigViewEntry> = keys
        .filter_map(|(key, _)| {
            if let Some(value) = table.and_then(|table| table.get(*key)) {
                let value = shown(covered, value.span());
                return Some(ConfigViewEntry { key, value, written: true });
            }
            let value = default_of(section, key, table)?.to_owned();
            Some(ConfigViewEntry { key, value, written: false })
        })
        .collect();
    if !keys.is_empty() {
        let name = table.and_then(name_of);
        let title = name.map_or(section.title.to_owned(), |it| format!("{} {it}", section.title));
        groups.push(ConfigViewTable { title, keys });
    }
    tables(section, table, covered, groups);
}

/// What one of several is known by.
fn name_of(table: &DeTable<'_>) -> Option<String> {
    let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
    ["name", "path", "hosts"].iter().find_map(|key| {
        let value = table.get(*key)?.get_ref();
        let first = value.as_array().and_then(|several| several.iter().next());
        text(first.map_or(value, Spanned::get_ref))
    })
}

fn default_of(
    section: &TableSchema,
    key: &str,
    table: Option<&DeTable<'_>>,
) -> Option<&'static str> {
    // A session that ends earlier anyway is idle no longer than that, and who asks for TLS and
    // nothing else gets nothing else.
    let depends = [(SESSION.title, "idle", "max"), (SERVER.title, "listen", "tls")];
    let depends = depends.iter().find(|(title, name, _)| (*title, *name) == (section.title, key));
    if let (Some((.., other)), Some(table)) = (depends, table)
        && table.contains_key(*other)
    {
        return None;
    }
    let mut known = DEFAULTS.iter().filter(|(title, ..)| *title == section.title);
    known.find(|(_, name, _)| *name == key).map(|(.., value)| *value)
}

/// A value as it stands in the file: lines and comments of a long list, too.
fn shown(covered: &str, place: Range<usize>) -> String {
    let text = covered.get(place).unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        tests::{MINIMAL, parse},
    };

    /// Keys without a default: what has to be written, what means nothing when it is not, and what
    /// depends on other keys.
    const NONE: [(&str, &[&str]); 19] = [
        ("[server]", &["client_address_header"]),
        ("[admin]", &["metrics_listen", "token"]),
        ("[server.tls]", &["listen", "certificates"]),
        ("[server.acme]", &["terms_agreed", "domains", "contact", "ca", "eab_kid", "eab_hmac_key"]),
        ("[site.health]", &["path", "host"]),
        ("[trace]", &["otlp"]),
        ("[session]", &["keys"]),
        (
            "[store]",
            &[
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
            ],
        ),
        ("[pages]", &["dir"]),
        ("[[account]]", &["name", "app_id", "app_secret", "callback_host", "verify_files"]),
        ("[[site]]", &["hosts", "public_url", "account", "upstream", "also", "profile_refresh"]),
        ("[site.upstream_tls]", &["ca", "cert", "key", "server_name"]),
        ("[site.cors]", &["origins"]),
        ("[site.headers]", &["aliases", "extra"]),
        ("[[site.route]]", &["path", "methods", "scope", "prompt"]),
        ("[broker]", &["host", "public_url"]),
        ("[[broker.client]]", &["name", "account", "return_to", "secret"]),
        ("the top of the file", &[]),
        ("a secret", &["env", "file"]),
    ];

    #[test]
    fn every_key_has_a_default_or_is_known_to_have_none() {
        for section in ALL.iter().filter(|it| it.title.starts_with('[')) {
            for (key, example) in section.keys {
                let table = ALL.iter().any(|it| it.title == *example);
                let default = DEFAULTS
                    .iter()
                    .any(|(title, name, _)| (*title, *name) == (section.title, *key));
                let none =
                    NONE.iter().any(|(title, keys)| *title == section.title && keys.contains(key));
                assert!(
                    [table, default, none].iter().filter(|it| **it).count() == 1,
                    "`{key}` of {}: say its default in src/config/effective.rs, or in NONE there",
                    section.title
                );
            }
        }
        for (title, key, _) in DEFAULTS {
            let section = ALL.iter().find(|it| it.title == title).unwrap();
            assert!(section.example(key).is_some(), "{title} has no {key}");
        }
    }

    const CODES: &str = "[broker]
host = \"auth.example.com\"
[[broker.client]]
name = \"shop\"
account = \"main\"
return_to = [\"https://shop.example.com/\"]
secret = { env = \"SHOP_SECRET\" }
";

    #[test]
    fn what_is_shown_as_a_default_is_one() {
        let settings = |config: Config| {
            let Config { server, admin, gateway, log, accounts, .. } = config;
            format!("{server:?} {admin:?} {gateway:?} {log:?} {accounts:?}")
        };
        let (head, site) = MINIMAL.split_once("[[site]]").unwrap();
        for (title, key, value) in &DEFAULTS {
            let line = format!("{key} = {value}\n");
            let text = match *title {
                "[session]" => MINIMAL.replace("[session]\n", &format!("[session]\n{line}")),
                "[[account]]" => format!("{head}{line}[[site]]{site}"),
                "[[site]]" => format!("{MINIMAL}{line}"),
                "[[site.route]]" => format!("{MINIMAL}[[site.route]]\npath = \"/a\"\n{line}"),
                "[broker]" => {
                    format!("{MINIMAL}{}", CODES.replacen('\n', &format!("\n{line}"), 1))
                }
                "[[broker.client]]" => format!("{MINIMAL}{CODES}{line}"),
                "[site.health]" => format!("{MINIMAL}[site.health]\npath = \"/a\"\n{line}"),
                "[server.acme]" => {
                    let tls = "[server.tls]\n[server.acme]\nterms_agreed = true\n";
                    format!("{MINIMAL}{tls}{line}")
                }
                title => format!("{MINIMAL}{title}\n{line}"),
            };
            let without = text.replacen(&line, "", 1);
            assert_eq!(settings(parse(&text)), settings(parse(&without)), "{title} {line}");
        }
    }

    #[test]
    fn what_is_in_force_is_shown_as_tables_without_secrets() {
        let text = MINIMAL
            .replace("{ env = \"WXGATE_APP_SECRET\" }", "\"hunter2hunter2hunter2hunter2hu\"")
            + "response_timeout = \"5s\" # slow\n[site.headers]\naliases = [\n  \"X-WX-OPENID\",\n]\n\
               [[site.route]]\npath = \"/static/*\"\nauth = \"none\"\n\
               [store]\nkind = \"redis\"\nurl = \"redis://:hunter2@10.0.0.1\"\n";
        let groups = parse(&text).shown.groups;
        let titles: Vec<&str> = groups.iter().map(|it| it.title.as_str()).collect();
        let expected = [
            "[server]",
            "[server.limits]",
            "[admin]",
            "[session]",
            "[store]",
            "[log]",
            "[trace]",
            "[[account]] main",
            "[[site]] h5.example.com",
            "[site.headers]",
            "[[site.route]] /static/*",
        ];
        assert_eq!(titles, expected);
        let of = |title: &str, key: &str| {
            let group = groups.iter().find(|it| it.title == title).unwrap();
            let key = group.keys.iter().find(|it| it.key == key);
            key.map(|it| (it.value.as_str(), it.written))
        };
        let cases = [
            ("[server]", "drain", Some(("\"30s\"", false))),
            ("[[site]] h5.example.com", "response_timeout", Some(("\"5s\"", true))),
            ("[[site]] h5.example.com", "connect_timeout", Some(("\"3s\"", false))),
            ("[[site.route]] /static/*", "auth", Some(("\"none\"", true))),
            ("[site.headers]", "aliases", Some(("[\n\"X-WX-OPENID\",\n]", true))),
            ("[store]", "kind", Some(("\"redis\"", true))),
            ("[store]", "path", None),
        ];
        for (title, key, expected) in cases {
            assert_eq!(of(title, key), expected, "{title} {key}");
        }
        assert!(!format!("{groups:?}").contains("hunter2"), "{groups:?}");
    }
}
