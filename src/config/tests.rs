//! The file that explains every key, the defaults, and what settings a file becomes.

use std::{collections::HashMap, time::Duration};

use http::Method;

use super::*;
use crate::{
    httputil,
    server::ListenAddress,
    site::{
        Access, AmbiguousPathPolicy, Balance, Endpoint, IdentityField, OutsideWeChat, Prompt,
        Scope, SnapshotPolicy, UpstreamServer,
    },
};

/// A world with three variables and nothing else.
struct Variables;

impl Environment for Variables {
    fn variable(&self, name: &str) -> Result<String, String> {
        let known = HashMap::from([
            ("WXGATE_SESSION_KEY", "4f1c9a5be03d7628d1f0a97b3c5e8642"),
            ("OLD_KEY", "9d0e7b1f46c2a8534f1c9a5be03d7628\n"),
            ("SHOP_SECRET", "53e1c9a5be03d76284f1c9a5be03d762"),
            ("WXGATE_APP_SECRET", "0123456789abcdef0123456789abcdef\r\n"),
        ]);
        known.get(name).map(|text| (*text).to_owned()).ok_or_else(|| "is not set".to_owned())
    }

    fn file(&self, _: &Path) -> io::Result<ReferencedFile> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }
}

mod orders;

pub const MINIMAL: &str = r#"
[session]
keys = [{ id = "2026-11", secret = { env = "WXGATE_SESSION_KEY" } }]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = { env = "WXGATE_APP_SECRET" }
[[site]]
hosts = ["h5.example.com"]
public_url = "https://h5.example.com"
account = "main"
upstream = ["http://10.0.0.5:8000"]
"#;

pub fn parse(text: &str) -> Config {
    Config::parse("config.toml", text, &Variables).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_file_at_the_root_loads_and_explains_every_key() {
    let text = include_str!("../../config.toml");
    let config = parse(text);
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    let mut seen = 0;
    for section in schema::ALL {
        for (key, example) in section.keys {
            seen += 1;
            let stands = |shape: String| text.contains(&shape);
            let explained = stands(format!("\n{key} = "))
                || stands(format!("\n# {key} = "))
                || stands(format!("{{ {key} = "))
                || stands(format!(", {key} = "))
                || stands(format!("`{key}`"))
                || (example.starts_with('[') && stands((*example).to_owned()));
            assert!(explained, "config.toml says nothing of `{key}` in {}", section.title);
        }
    }
    assert!(seen > 130, "found only {seen} keys");
}

/// Keys that `config.toml` shows an example of, commented out, and no default.
const EXAMPLES: &[&str] = &[
    "client_address_header",
    "metrics_listen",
    "token",
    "dir",
    "extra",
    "aliases",
    "verify_files",
    "callback_host",
    "certificates",
    // Of a table that is a comment as a whole.
    "terms_agreed",
    "domains",
    "contact",
    "eab_kid",
    "eab_hmac_key",
    "directory",
    "storage",
    "profile_refresh",
    "otlp",
    "origins",
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
    "cert",
    "key",
    "server_name",
    "host",
    "interval",
    "timeout",
    "expect",
    "rise",
    "fall",
];

#[test]
fn the_defaults_it_shows_are_the_defaults() {
    let text = include_str!("../../config.toml");
    let shown = |text: &str| {
        let config = parse(text);
        let Config { server, admin, gateway, log, .. } = config;
        format!("{server:#?} {admin:#?} {gateway:#?} {log:#?}")
    };
    // Uncommenting a default changes nothing. The broker's table is a comment as a whole.
    let mut seen = 0;
    for line in text.split("# [broker]").next().unwrap().lines() {
        let Some((key, _)) = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")) else {
            continue;
        };
        let is_key = schema::ALL.iter().any(|section| section.example(key).is_some());
        if !is_key || EXAMPLES.contains(&key) || line.contains("0.0.0.0:8443") {
            continue;
        }
        seen += 1;
        let uncommented = line.strip_prefix("# ").unwrap();
        // The limits stand below a table header that is a comment too.
        let limits = schema::LIMITS.example(key).is_some();
        let tabled = if limits {
            format!("[server.limits]\n{uncommented}\n")
        } else {
            uncommented.to_owned()
        };
        let tabled = if key == "kind" && line.contains("memory") {
            format!("[store]\n{tabled}")
        } else if key == "assertion" {
            format!("[site.headers]\n{tabled}")
        } else {
            tabled
        };
        assert_eq!(shown(&text.replacen(line, &tabled, 1)), shown(text), "{line}");
    }
    assert!(seen > 45, "found only {seen} defaults");
}

#[test]
fn the_broker_it_shows_loads_and_shows_the_defaults() {
    let text = include_str!("../../config.toml");
    let (before, broker) = text.split_once("# [broker]").unwrap();
    let shown = |text: &str| format!("{:#?}", parse(text).gateway.broker);
    let line = |line: &str| {
        let line = line.strip_prefix("# ")?;
        let key = line.split(" = ").next().unwrap();
        let known = schema::BROKER.example(key).or(schema::CLIENT.example(key)).is_some();
        (known || line.starts_with('[')).then(|| format!("{line}\n"))
    };
    let lines: Vec<String> = broker.lines().filter_map(line).collect();
    assert_eq!(lines.len(), 11, "{lines:?}");
    let all = format!("{before}[broker]\n{}", lines.concat());
    assert!(shown(&all).contains("https://auth.example.com/api/wechat"), "{}", shown(&all));
    for default in ["public_url", "prefix", "result", "outside_wechat", "jssdk", "secret"] {
        let line = lines.iter().find(|line| line.starts_with(default)).unwrap();
        let same = shown(&all.replacen(line.as_str(), "", 1)) == shown(&all);
        // There is no default for a secret, and a ticket would need one.
        assert_eq!(same, default != "secret", "{line}");
    }
}

#[test]
fn the_health_check_it_shows_loads_and_shows_the_defaults() {
    let text = include_str!("../../config.toml");
    let (_, rest) = text.split_once("# [site.health]\n").unwrap();
    let (table, _) = rest.split_once("\n\n").unwrap();
    let lines = table.lines().filter_map(|line| line.strip_prefix("# "));
    let lines: Vec<&str> = lines
        .filter(|line| {
            line.split_once(" = ").is_some_and(|(key, _)| schema::HEALTH.example(key).is_some())
        })
        .collect();
    assert_eq!(lines.len(), schema::HEALTH.keys.len(), "{lines:?}");
    let shown = |lines: &[&str]| {
        let config = parse(&format!("{MINIMAL}[site.health]\n{}\n", lines.join("\n")));
        format!("{:?}", config.gateway.sites.all()[0].upstream.checkup)
    };
    let path: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("path")).collect();
    let all = shown(&lines).replace("Some(\"h5.example.com\")", "None");
    assert_eq!(all, shown(&path));
    assert!(all.contains("expect: [200..=399], rise: 2, fall: 3"), "{all}");
}

#[test]
fn every_key_is_read() {
    let headers = [
        (&schema::FILE, ""),
        (&schema::SERVER, "[server]"),
        (&schema::TLS, "[server.tls]"),
        (&schema::CERTIFICATE, "[[server.tls.certificates]]"),
        (&schema::ACME, "[server.acme]"),
        (&schema::LIMITS, "[server.limits]"),
        (&schema::ADMIN, "[admin]"),
        (&schema::SESSION, "[session]"),
        (&schema::KEY, "[[session.keys]]"),
        (&schema::STORE, "[store]"),
        (&schema::PAGES, "[pages]"),
        (&schema::LOG, "[log]"),
        (&schema::TRACE, "[trace]"),
        (&schema::ACCOUNT, "[[account]]"),
        (&schema::SITE, "[[site]]"),
        (&schema::UPSTREAM, "[[site]]\n[[site.upstream]]"),
        (&schema::HEALTH, "[[site]]\n[site.health]"),
        (&schema::UPSTREAM_TLS, "[[site]]\n[site.upstream_tls]"),
        (&schema::HEADERS, "[[site]]\n[site.headers]"),
        (&schema::CORS, "[[site]]\n[site.cors]"),
        (&schema::ROUTE, "[[site]]\n[[site.route]]"),
        (&schema::BROKER, "[broker]"),
        (&schema::CLIENT, "[broker]\n[[broker.client]]"),
        (&schema::SECRET, "[[account]]\n[account.app_secret]"),
    ];
    assert_eq!(headers.len(), schema::ALL.len());
    for (section, header) in headers {
        for (key, _) in section.keys {
            // A date is of no use to any key.
            let text = format!("{header}\n{key} = 2026-11-24\n");
            let complaints = Config::parse("config.toml", &text, &Variables).unwrap_err();
            let quotes = || complaints.iter().filter_map(|it| complaints.source_line(it));
            let found = quotes().any(|it| matches!(it, "2026-11-24" | "**********"));
            assert!(found, "nobody reads `{key}` in {}:\n{complaints}", section.title);
        }
    }
}

#[test]
fn defaults() {
    let config = parse(MINIMAL);
    let Config { server, admin, gateway, accounts, .. } = &config;
    assert_eq!(server.listen, [ListenAddress::Tcp("0.0.0.0:8080".parse().unwrap())]);
    assert_eq!((server.workers, server.tls.is_none()), (0, true));
    assert_eq!(server.drain, Duration::from_secs(30));
    assert_eq!((server.limits.header_bytes, server.limits.header_count), (32_768, 100));
    assert_eq!(server.limits.header_time, Duration::from_secs(10));
    assert_eq!(server.limits.idle_time, Duration::from_secs(75));
    assert_eq!(server.limits.connections, 10_000);
    assert_eq!(admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!((gateway.prefix.as_str(), gateway.body.size), ("/_wx", 0));
    assert_eq!(gateway.session.cookie, "wxgate");
    assert_eq!(gateway.session.idle, Duration::from_hours(12));
    assert_eq!(gateway.session.max, Duration::from_hours(7 * 24));
    assert_eq!(gateway.session.verified_cache, 64 << 20);
    assert!(!gateway.trusted.includes("127.0.0.1".parse().unwrap()));
    let account = &accounts[0];
    assert_eq!(account.authorize_url, "https://open.weixin.qq.com");
    assert_eq!(account.api_urls, ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"]);
    assert_eq!(account.app_secret.expose(), "0123456789abcdef0123456789abcdef");
    let site = &gateway.sites.all()[0];
    assert_eq!(site.name, "h5.example.com");
    let server =
        UpstreamServer { endpoint: Endpoint::Http("10.0.0.5".to_owned(), 8_000), weight: 1 };
    assert_eq!(
        (&*site.upstream.servers, site.upstream.balance),
        (&[server][..], Balance::RoundRobin)
    );
    assert_eq!(site.upstream.connect_timeout, Duration::from_secs(3));
    assert_eq!(site.upstream.response_timeout, Duration::from_mins(1));
    assert!(matches!(
        (&site.outside_wechat, site.snapshot),
        (OutsideWeChat::Page, SnapshotPolicy::Page)
    ));
    assert_eq!(site.ambiguous_paths, AmbiguousPathPolicy::Refuse);
    assert_eq!(site.cookies.session(), "__Host-wxgate");
    let otherwise = site.routes.default_access().access;
    assert_eq!(otherwise, Access::Required(Scope::Base, Prompt::Direct));
}

#[test]
fn what_a_file_says_is_what_the_rooms_get() {
    let config = parse(&format!(
        r#"{}
scope = "snsapi_userinfo"
[site.headers]
aliases = ["X-WX-OPENID"]
extra = {{ "Remote-User" = "unionid" }}
[[site.route]]
path = "/open/*"
auth = "none"
[[site.route]]
path = "/base/*"
scope = "snsapi_base"
"#,
        MINIMAL.replace("keys = [", "keys = [{ id = \"new\", secret = { env = \"OLD_KEY\" } }, ")
    ));
    let keys = &config.gateway.session.keys;
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["new", "2026-11"]);
    assert_eq!(keys[0].secret.expose().len(), 32, "the newline is trimmed");
    let site = &config.gateway.sites.all()[0];
    let names: Vec<(&str, IdentityField)> =
        site.extra_headers.iter().map(|(name, fact)| (name.as_str(), *fact)).collect();
    assert_eq!(
        names,
        [("x-wx-openid", IdentityField::OpenId), ("remote-user", IdentityField::UnionId)]
    );
    for name in ["x-wx-openid", "x-wx-unionid", "x-wx-appid", "remote-user", "x-wechat-openid"] {
        assert!(!site.reserved.keeps(name, true), "{name} can be forged");
    }
    let cases = [
        ("/open/x", Access::None),
        ("/base", Access::Required(Scope::Base, Prompt::Direct)),
        ("/", Access::Required(Scope::UserInfo, Prompt::Button)),
    ];
    for (path, expected) in cases {
        let path = httputil::Path::parse(path).unwrap();
        assert_eq!(site.routes.find(path, &Method::GET).access, expected, "{path:?}");
    }
}

#[test]
fn b3_only_a_header_for_an_address_can_name_the_client() {
    let cases = [
        ("True-Client-IP", true),
        ("cf-connecting-ip", true),
        ("X-Real-IP", true),
        ("Ali-CDN-Real-IP", true),
        ("X-Azure-ClientIP", true),
        ("X-Envoy-External-Address", true),
        ("X-Original-Forwarded-For", true),
        // Nothing changes: the rightmost stranger counts.
        ("X-Forwarded-For", true),
        ("Cookie", false),
        ("Host", false),
        ("Authorization", false),
        ("Connection", false),
        ("User-Agent", false),
        ("X-Forwarded-Host", false),
        ("X-Request-Id", false),
        ("X-WeChat-OpenId", false),
        ("X-WeChat-Client-IP", false),
        ("x_wx_ip", false),
        ("HTTP-X-WX-IP", false),
        ("True Client IP", false),
        ("", false),
    ];
    for (name, is_good) in cases {
        let keys = "trusted_proxies = [\"10.0.0.0/8\"]\nclient_address_header";
        let text = format!("[server]\n{keys} = \"{name}\"\n{MINIMAL}");
        let read = Config::parse("config.toml", &text, &Variables);
        assert_eq!(read.is_ok(), is_good, "{name}");
        if let Ok(config) = read {
            assert!(config.warnings.iter().next().is_none(), "{name}");
        }
    }
    for trusted in ["", "trusted_proxies = []\n"] {
        let text = format!("[server]\n{trusted}client_address_header = \"X-Real-IP\"\n{MINIMAL}");
        let config = parse(&text);
        let warned = config.warnings.iter().any(|it| it.message.contains("trusted_proxies"));
        assert!(warned, "{trusted}");
    }
}

#[test]
fn complaints_for_scripts_and_logs() {
    let text = MINIMAL.replace("account = \"main\"", "account = \"mian\"");
    let complaints = Config::parse("config.toml", &text, &Variables).unwrap_err();
    let complaint = complaints.iter().next().unwrap();
    let line = "config.toml:11:11: error: there is no [[account]] called \"mian\"; did you mean \
                \"main\"?";
    assert_eq!(complaints.line(complaint), line);
    let expected = serde_json::json!([{
        "severity": "error",
        "file": "config.toml",
        "line": 11,
        "column": 11,
        "text": "\"mian\"",
        "message": "there is no [[account]] called \"mian\"",
        "help": "did you mean \"main\"?",
    }]);
    assert_eq!(complaints.to_json(), expected);
}

#[test]
fn a_file_that_cannot_be_read_is_one_complaint() {
    let complaints = Config::load(Path::new("/no/such/config.toml")).unwrap_err();
    let said = complaints.to_string();
    assert!(said.starts_with("error: the configuration cannot be read: no such file"), "{said}");
}

#[test]
fn relative_paths_begin_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(folder.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let text = MINIMAL
        .replace("env = \"WXGATE_APP_SECRET\"", "file = \"secret\"")
        .replace("env = \"WXGATE_SESSION_KEY\"", "file = \"secret\"");
    fs::write(&path, text).unwrap();
    let config = Config::load(&path).unwrap();
    let secret = config.accounts[0].app_secret.expose();
    assert_eq!(secret, "0123456789abcdef0123456789abcdef");
}

proptest::proptest! {
    #[test]
    fn g5_no_text_can_make_us_panic(cut in 0_usize..600, length in 0_usize..40, put in ".{0,12}") {
        let mut text: Vec<char> = include_str!("../../config.toml")
            .lines()
            .filter(|line| !line.starts_with("# ") || line.contains(" = "))
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n")
            .chars()
            .collect();
        let cut = cut * text.len() / 600;
        let end = (cut + length).min(text.len());
        text.splice(cut..end, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(complaints) = Config::parse("config.toml", &text, &Variables) {
            proptest::prop_assert!(!complaints.to_string().is_empty());
            for complaint in &complaints {
                let placed = complaints.position(complaint).is_some();
                proptest::prop_assert_eq!(placed, complaint.span.is_some());
            }
        }
    }
}
