//! `[server]` and `[admin]`: how we are reached. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::PathBuf,
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;

use super::{acme, paths, secret};
use crate::{
    acme::Settings as Orders,
    admin,
    config::{
        diagnostic::Diagnostic,
        reader::{StrValue, TableReader},
        schema,
    },
    gateway::BodyLimits,
    httputil::{
        Host, Path,
        forwarded::TrustedProxies,
        headers::{self, ReservedHeaders},
    },
    secret::Secret,
    server::{Limits, ListenAddress, Settings, tls},
};

/// The shortest token of `[admin]`: as hard to guess as a session key.
const TOKEN_BYTES: usize = 32;

/// Everything that `[server]` and `[admin]` say.
pub struct ServerSection {
    /// How to listen.
    pub server: Settings,
    /// Where the other listener is.
    pub admin: admin::Settings,
    /// The proxies in front of us.
    pub trusted: TrustedProxies,
    /// Where our own paths begin.
    pub prefix: String,
    /// What a request body may ask of us.
    pub body: BodyLimits,
    /// Logins that one client may start in a minute; zero is no limit.
    pub logins_per_minute: u32,
    /// Where it is said that certificates are ordered.
    pub orders: Option<acme::AcmeLocation>,
    /// Where visitors reach us.
    pub listeners: Vec<SocketAddr>,
}

/// An address to listen on and its place in the file, if it stands there.
type LocatedAddress = (SocketAddr, Option<Range<usize>>);

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);
const KIB: u64 = 1_024;

/// Reads `[server]` and `[admin]`.
pub fn front(file: &TableReader<'_>) -> ServerSection {
    let server = file.table("server", &schema::SERVER);
    let mut taken = Vec::new();
    let (acme, orders) = acme::settings(&server).unzip();
    let tls = tls(&server, acme, &mut taken);
    let listen = listen(&server, tls.is_some(), &mut taken);
    let listeners = taken.iter().map(|(address, _)| *address).collect();
    let admin = admin(&file.table("admin", &schema::ADMIN), &mut taken);
    let limits = server.table("limits", &schema::LIMITS);
    if server.boolean("proxy_protocol", false)
        && let Some(at) = server.place("proxy_protocol")
    {
        let help = "remove it, and let the proxy in front send `X-Forwarded-For`";
        server.unsupported(at, "the PROXY protocol", help);
    }
    ServerSection {
        listeners,
        orders,
        admin,
        trusted: trusted(&server).with_address_header(client_address_header(&server)),
        prefix: prefix(&server),
        body: BodyLimits {
            size: limits.size("body_size", 0, 0..=1 << 50),
            time: limits.duration("body_time", 10 * SECOND, SECOND..=DAY),
        },
        logins_per_minute: limits.number("logins_per_minute", 600, 0..=1_000_000),
        server: Settings {
            listen,
            tls,
            workers: usize::try_from(server.number("workers", 0, 0..=1_024)).unwrap_or_default(),
            reuse_port: server.boolean("reuse_port", false),
            limits: self::limits(&limits),
            drain: server.duration("drain", 30 * SECOND, Duration::ZERO..=DAY),
        },
    }
}

fn limits(table: &TableReader<'_>) -> Limits {
    let count = |key, default, range| {
        usize::try_from(table.number(key, default, range)).unwrap_or(usize::MAX)
    };
    // The HTTP library reads heads into a buffer of 8 KiB at the least.
    let header_bytes = table.size("header_bytes", 32 * KIB, 8 * KIB..=KIB * KIB);
    Limits {
        header_bytes: u32::try_from(header_bytes).unwrap_or(u32::MAX),
        header_count: count("header_count", 100, 10..=1_000),
        header_time: table.duration("header_time", 10 * SECOND, SECOND..=600 * SECOND),
        idle_time: table.duration("idle_time", 75 * SECOND, SECOND..=DAY),
        send_time: table.duration("send_time", 60 * SECOND, SECOND..=DAY),
        connections: count("connections", 10_000, 1..=10_000_000),
        streams: table.number("streams", 250, 1..=10_000),
        connections_per_client: count("connections_per_client", 0, 0..=10_000_000),
        upstream_idle: count("upstream_idle", 2_000, 0..=1_000_000),
    }
}

fn listen(
    server: &TableReader<'_>,
    has_tls: bool,
    taken: &mut Vec<LocatedAddress>,
) -> Vec<ListenAddress> {
    let default = SocketAddr::from(([0, 0, 0, 0], 8_080));
    let Some(words) = server.words("listen") else {
        // Who asks for TLS and nothing else gets nothing else.
        if has_tls {
            return Vec::new();
        }
        taken.push((default, None));
        return vec![ListenAddress::Tcp(default)];
    };
    if let Some(at) = server.empty_array("listen")
        && !has_tls
    {
        let help = "name an address, such as `listen = [\"0.0.0.0:8080\"]`; sockets handed over \
                    by systemd are used in its place";
        server.context.error(at, "nothing listens for visitors", help);
    }
    let read = |word: StrValue<'_>| match word.text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Some(ListenAddress::Unix(PathBuf::from(path))),
        Some(_) => {
            let help = "write it in full, as in \"unix:/run/wxgate.sock\"";
            server.context.error(word.at, "the path of a socket begins with a slash", help);
            None
        }
        None => take(server, &word, taken).map(ListenAddress::Tcp),
    };
    words.into_iter().filter_map(read).collect()
}

fn tls(
    server: &TableReader<'_>,
    acme: Option<Orders>,
    taken: &mut Vec<LocatedAddress>,
) -> Option<tls::Settings> {
    let table = server.table("tls", &schema::TLS);
    table.at.as_ref()?;
    let default = SocketAddr::from(([0, 0, 0, 0], 8_443));
    if table.value("listen").is_none() {
        taken.push((default, None));
    }
    let listen = table.words("listen").map_or_else(
        || vec![default],
        |words| words.iter().filter_map(|word| take(&table, word, taken)).collect(),
    );
    if let Some(at) = table.empty_array("listen") {
        table.context.error(
            at,
            "nothing listens for TLS",
            "name an address, or remove [server.tls]",
        );
    }
    let named =
        table.value("certificates").is_some() && table.empty_array("certificates").is_none();
    if !named && acme.is_none() {
        let message = "`certificates` is missing in [server.tls]";
        let help = "add `certificates = [{ cert = \"fullchain.pem\", key = \"privkey.pem\" }]`, or let \
                    them be ordered: [server.acme]";
        table.context.error(table.at.clone(), message, help);
    }
    let certificates = table.tables("certificates", &schema::CERTIFICATE);
    let files = |table: &TableReader<'_>| {
        let file = |key, private| Some(paths::file(table, &table.required(key)?, private));
        let (cert, key) = (file("cert", false), file("key", true));
        Some(tls::CertificatePaths { cert: cert?, key: key? })
    };
    let certificates = certificates.iter().filter_map(files).collect();
    Some(tls::Settings { listen, certificates, acme })
}

fn admin(table: &TableReader<'_>, taken: &mut Vec<LocatedAddress>) -> admin::Settings {
    let default = SocketAddr::from(([127, 0, 0, 1], 9_090));
    let word = table.word("listen");
    if table.value("listen").is_none()
        && let Some((_, at)) = taken.iter().find(|(other, _)| clash(*other, default))
    {
        let message = format!("{default} is where the admin listener is unless [admin] moves it");
        table.context.error(at.clone(), message, "move one of them to another port");
    }
    if word.is_none() {
        taken.push((default, None));
    }
    let listen = word.and_then(|word| take(table, &word, taken)).unwrap_or(default);
    let host = |word: StrValue<'_>| {
        let host = Host::parse(word.text);
        if host.is_none() {
            let help = "write the name alone, as in \"wxgate.internal\"";
            table.context.error(word.at, format!("\"{}\" is no host name", word.text), help);
        }
        host
    };
    let hosts = table.words("hosts").unwrap_or_default().into_iter().filter_map(host).collect();
    let metrics_listen = table.word("metrics_listen").and_then(|word| take(table, &word, taken));
    let token = admin_token(table);
    if !listen.ip().is_loopback()
        && token.is_none()
        && let Some(at) = table.place("listen")
    {
        let help = "let it listen on 127.0.0.1 and give monitoring `metrics_listen`, or add \
                    `token = { env = \"NAME\" }`; `wxgate keygen` makes a good one";
        table.context.warn(at, "whoever reaches this address can end sessions", help);
    }
    admin::Settings { listen, metrics_listen, token, hosts }
}

/// What every POST has to present.
fn admin_token(table: &TableReader<'_>) -> Option<Secret> {
    table.value("token")?;
    let found = secret::secret(table, "token")?;
    let text = found.secret.expose();
    if text.len() < TOKEN_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("`token` must be at least {TOKEN_BYTES} bytes of visible ASCII");
        table.context.error(found.at, message, "run `wxgate keygen` for a good one");
    }
    Some(found.secret)
}

/// Reads an address to listen on, and complains when it is in use already.
fn take(
    table: &TableReader<'_>,
    word: &StrValue<'_>,
    taken: &mut Vec<LocatedAddress>,
) -> Option<SocketAddr> {
    let Ok(address) = word.text.parse::<SocketAddr>() else {
        let message = format!("\"{}\" is no address to listen on", word.text);
        table.context.error(word.at.clone(), message, address_help(word.text));
        return None;
    };
    if let Some((other, at)) = taken.iter().find(|(other, _)| clash(*other, address)) {
        let message = format!("{address} is taken already, by {other}");
        let help = match table.section.title {
            "[admin]" => {
                "give each listener of [admin] a port of its own that visitors cannot reach"
            }
            _ if other.is_ipv4() != address.is_ipv4() => {
                "keep \"[::]\" alone: visitors with IPv4 addresses reach it, too"
            }
            _ => "listen on each port once",
        };
        let complaint = Diagnostic::error(word.at.clone(), message).help(help);
        table.context.report(match at {
            Some(at) => complaint.related(at.clone(), "here"),
            None => complaint,
        });
    }
    taken.push((address, Some(word.at.clone())));
    Some(address)
}

fn address_help(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("it needs a port: write \"{}\"", SocketAddr::new(ip, 8_080));
    }
    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    match (port, text.split_once(':')) {
        (Some(port), Some(("" | "*", _)) | None) => {
            format!("write \"0.0.0.0:{port}\" for every address of this machine")
        }
        (Some(port), Some(("localhost", _))) => format!("write \"127.0.0.1:{port}\""),
        _ => "write an IP address and a port, as in \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned(),
    }
}

/// Whether two listeners cannot both have what they ask for. Port 0 takes a free one.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    // Linux gives `[::]` the IPv4 addresses as well, but not the other way round.
    let covers =
        |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

fn trusted(server: &TableReader<'_>) -> TrustedProxies {
    let read = |word: StrValue<'_>| {
        let net =
            word.text.parse::<IpNet>().or_else(|_| word.text.parse::<IpAddr>().map(IpNet::from));
        let Ok(net) = net else {
            let message = format!("\"{}\" is no network", word.text);
            let help = "write an address or a range, as in \"10.0.0.5\" or \"10.0.0.0/8\"";
            server.context.error(word.at, message, help);
            return None;
        };
        if net.prefix_len() == 0 {
            let help = "name the addresses of your own proxies: anybody else could pass for any \
                        visitor in logs and limits";
            server.context.warn(word.at, "the whole internet is trusted", help);
        }
        Some(net.trunc())
    };
    let words = server.words("trusted_proxies").unwrap_or_default();
    TrustedProxies::new(words.into_iter().filter_map(read).collect())
}

/// The header in which trusted proxies name the client instead of `X-Forwarded-For`. It has to be one
/// that visitors cannot send to the site.
fn client_address_header(server: &TableReader<'_>) -> Option<HeaderName> {
    let word = server.word("client_address_header")?;
    let name = HeaderName::from_bytes(word.text.as_bytes()).ok();
    let is_good = |name: &HeaderName| {
        headers::states_address(name.as_str())
            && !ReservedHeaders::default().is_identity(name.as_str())
    };
    if let Some(name) = name.filter(is_good) {
        let listed = server.value("trusted_proxies");
        if listed.is_none_or(|it| it.get_ref().as_array().is_some_and(|list| list.is_empty())) {
            let help = "name your proxies or your CDN's addresses in trusted_proxies";
            server.context.warn(
                word.at,
                "nobody may send this header: trusted_proxies is empty",
                help,
            );
        }
        return Some(name);
    }
    let message = format!("\"{}\" is no header for a client's address", word.text);
    let help = "write the name that your CDN documents, such as \"True-Client-IP\", \
                \"CF-Connecting-IP\" or \"X-Real-IP\"";
    server.context.error(word.at, message, help);
    None
}

fn prefix(server: &TableReader<'_>) -> String {
    let default = || "/_wx".to_owned();
    let Some(word) = server.word("prefix") else { return default() };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    let good = word.text.len() > 1
        && !word.text.ends_with('/')
        && word.text.bytes().all(plain)
        && Path::parse(word.text).is_ok();
    if good {
        return word.text.to_owned();
    }
    let message = format!("\"{}\" cannot be the prefix of our paths", word.text);
    let help = "write a path of letters and digits without a slash at its end, as in \"/_wx\"";
    server.context.error(word.at, message, help);
    default()
}
