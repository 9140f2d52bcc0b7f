//! The servers behind a site. Pure.

use std::{net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use super::{address, health, paths};
use crate::{
    config::{
        reader::{StrValue, TableReader},
        schema,
    },
    site::{
        Balance, Endpoint, PemError, Protocol, UpstreamLimit, UpstreamServer, UpstreamSettings,
        UpstreamTls,
    },
};

/// Reads `upstream` and the patience with it.
pub fn upstreams(site: &TableReader<'_>, listeners: &[SocketAddr]) -> Option<UpstreamSettings> {
    const MILLISECOND: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    let connect_timeout = site.duration("connect_timeout", 3 * SECOND, MILLISECOND..=60 * SECOND);
    let response_timeout =
        site.duration("response_timeout", 60 * SECOND, MILLISECOND..=86_400 * SECOND);
    let balances = [("round_robin", Balance::RoundRobin), ("least_loaded", Balance::LeastLoaded)];
    let balance = site.one_of("balance", &balances).unwrap_or_default();
    let slow_start = site.duration("slow_start", 10 * SECOND, Duration::ZERO..=3_600 * SECOND);
    let limit = limit(site);
    let checkup = health::checkup(&site.table("health", &schema::HEALTH));
    let protocol =
        site.one_of("upstream_http", &[("1.1", Protocol::Http1), ("2", Protocol::Http2)]);
    let tls = credentials(&site.table("upstream_tls", &schema::UPSTREAM_TLS));
    if site.value("upstream").is_none() || site.empty_array("upstream").is_some() {
        site.missing("upstream");
        return None;
    }
    let entries = site.entries("upstream", &schema::UPSTREAM);
    let servers: Vec<UpstreamServer> =
        entries.into_iter().filter_map(|entry| server(entry, site, listeners)).collect();
    let encrypted = servers.iter().any(|it| matches!(it.endpoint, Endpoint::Https(..)));
    if let (Some(at), false, false) = (site.place("upstream_tls"), encrypted, servers.is_empty()) {
        let help = "write \"https://…\" in `upstream`, or remove the table";
        site.context.error(at, "[site.upstream_tls] means nothing without TLS", help);
    }
    Some(UpstreamSettings {
        servers,
        balance,
        slow_start,
        checkup,
        limit,
        connect_timeout,
        response_timeout,
        tls,
        protocol: protocol.unwrap_or_default(),
    })
}

/// One server: its URL alone, or a table of it and its weight.
fn server(
    entry: Result<StrValue<'_>, TableReader<'_>>,
    site: &TableReader<'_>,
    listeners: &[SocketAddr],
) -> Option<UpstreamServer> {
    let (word, weight) = match entry {
        Ok(word) => (word, 1),
        Err(table) => {
            let weight = table.number("weight", 1, 1..=1_000);
            (table.required("url")?, weight)
        }
    };
    let endpoint = address::endpoint(site, &word)?;
    address::reject_own_address(site, &word, &endpoint, listeners);
    Some(UpstreamServer { endpoint, weight })
}

/// How much of each server the site may take at once; all of it unless the operator says so.
fn limit(site: &TableReader<'_>) -> Option<UpstreamLimit> {
    const SECOND: Duration = Duration::from_secs(1);
    let connections = site.number("upstream_connections", 0, 0..=1_000_000);
    let queue = site.number("upstream_queue", 1_000, 0..=1_000_000);
    let queue_time =
        site.duration("upstream_queue_time", 5 * SECOND, SECOND / 1_000..=600 * SECOND);
    (connections > 0).then_some(UpstreamLimit { connections, queue, queue_time })
}

/// Reads `[site.upstream_tls]`, with the files it names.
fn credentials(table: &TableReader<'_>) -> Option<UpstreamTls> {
    table.at.as_ref()?;
    if !table.has_keys() {
        let help = "add `ca`, or `cert` and `key`, or remove the table";
        table.context.error(table.at.clone(), "[site.upstream_tls] says nothing", help);
    }
    let name = table.word("server_name").and_then(|word| {
        let name = ServerName::try_from(word.text.to_owned()).ok();
        if name.is_none() {
            let message = format!("\"{}\" is no name that a certificate could have", word.text);
            table.context.error(word.at, message, "write a host name, as in \"site.internal\"");
        }
        name
    });
    let mut own = UpstreamTls::new(name);
    if let Some(pem) = content(table, "ca", false)
        && let Err(why) = own.add_root(&pem)
    {
        unusable(table, "ca", why);
    }
    for (key, other) in [("cert", "key"), ("key", "cert")] {
        if table.value(key).is_some() && table.value(other).is_none() {
            table.missing(other);
        }
    }
    let (cert, key) = (content(table, "cert", false), content(table, "key", true));
    if let (Some(cert), Some(key)) = (cert, key)
        && let Err(why) = own.set_client_certificate(&cert, &key)
    {
        unusable(table, if why == PemError::NoCertificate { "cert" } else { "key" }, why);
    }
    Some(own)
}

/// A file's bytes; nothing where something was wrong with it, which has then been said.
fn content(table: &TableReader<'_>, key: &str, private: bool) -> Option<Zeroizing<Vec<u8>>> {
    let word = table.word(key)?;
    let path = paths::file(table, &word, private);
    let file = table.context.sources.file(&path).ok()?;
    (!file.content.is_empty()).then_some(file.content)
}

fn unusable(table: &TableReader<'_>, key: &str, why: PemError) {
    let help = match why {
        PemError::NoCertificate => "it begins with -----BEGIN CERTIFICATE-----",
        PemError::NoKey => "it begins with -----BEGIN PRIVATE KEY-----, without a passphrase",
        PemError::Mismatch => "`cert` is the chain, leaf first, and `key` the key of the leaf",
    };
    let name = table.word(key).map_or(key, |word| word.text);
    table.context.error(table.place(key), format!("{name} {why}"), help);
}
