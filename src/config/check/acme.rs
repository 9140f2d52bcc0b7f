//! `[server.acme]`: which certificates are ordered, and from whom. Pure.

use std::{net::IpAddr, ops::Range, path::PathBuf};

use url::Url;

use super::{address, paths, secret};
use crate::{
    acme::{self, ExternalAccountBinding, Settings},
    config::{
        reader::{LoadContext, StrValue, TableReader},
        schema,
    },
    httputil::Host,
    site::UpstreamTls,
};

/// The authority that almost everybody means.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The folder that the packages make.
const STORAGE: &str = "/var/lib/wxgate/acme";

/// Where the file speaks of it.
pub struct AcmeLocation {
    /// The table.
    pub at: Range<usize>,
    /// Whether it names domains.
    pub named: bool,
}

/// Reads `[server.acme]`. Without `domains` there are none yet: [`fill`].
pub fn settings(server: &TableReader<'_>) -> Option<(Settings, AcmeLocation)> {
    let table = server.table("acme", &schema::ACME);
    let at = table.at.clone()?;
    if server.value("tls").is_none() {
        let help = "add `[server.tls]` with `listen = [\"[::]:443\"]`: there they are shown";
        table.context.error(at.clone(), "[server.acme] means nothing without [server.tls]", help);
    }
    let directory = directory(&table);
    if !table.boolean("terms_agreed", false) {
        let place = table.place("terms_agreed").unwrap_or(at.clone());
        let message = "an authority gives certificates to those who agree to its terms";
        let help = "read them (Let's Encrypt's are at https://letsencrypt.org/repository/, others are \
                    named by `termsOfService` in the directory) and write `terms_agreed = true`";
        table.context.error(place, message, help);
    }
    let storage = table.word("storage").map(|word| table.context.resolve(word.text));
    let settings = Settings {
        domains: domains(&table),
        contact: contact(&table),
        customer: customer(&table),
        directory,
        believes: authority(&table),
        storage: storage.unwrap_or_else(|| PathBuf::from(STORAGE)),
        ring: Vec::new(),
    };
    let named = table.value("domains").is_some();
    Some((settings, AcmeLocation { at, named }))
}

/// Where the file names no domains, they are all the hosts where visitors arrive.
pub fn fill<'a>(
    settings: &mut Settings,
    place: &AcmeLocation,
    hosts: impl Iterator<Item = &'a Host>,
    context: &LoadContext<'_>,
) {
    if place.named {
        return;
    }
    for host in hosts {
        let host = host.as_str().to_owned();
        if no_certificate(&host).is_none() && !settings.domains.contains(&host) {
            settings.domains.push(host);
        }
    }
    if settings.domains.is_empty() {
        let help = "name them: `domains = [\"h5.example.com\"]`";
        context.error(place.at.clone(), "there is no name to order a certificate for", help);
    }
}

fn directory(table: &TableReader<'_>) -> String {
    let Some(word) = table.word("directory") else { return DIRECTORY.to_owned() };
    let url = Url::parse(word.text).ok();
    let good = url
        .is_some_and(|url| url.scheme() == "https" && url.has_host() && url.username().is_empty());
    if !good {
        let message = format!("\"{}\" is no directory of an authority", word.text);
        let help = format!("write its address, as in \"{DIRECTORY}\"; it begins with https://");
        table.context.error(word.at, message, help);
    }
    word.text.to_owned()
}

fn domains(table: &TableReader<'_>) -> Vec<String> {
    if let Some(at) = table.empty_array("domains") {
        let help = "remove it: then they are the hosts of the sites";
        table.context.error(at, "there is no name to order a certificate for", help);
    }
    let mut domains = Vec::new();
    for word in table.words("domains").unwrap_or_default() {
        if word.text.starts_with("*.") {
            let message = format!("{} cannot be proven by TLS-ALPN-01", word.text);
            let help = "name each host; a certificate with a star comes from elsewhere, into \
                        [server.tls] certificates";
            table.context.error(word.at, message, help);
            continue;
        }
        let Some(host) = address::host(table, &word) else { continue };
        if let Some(why) = no_certificate(host.as_str()) {
            let message = format!("no certificate can be ordered for {host}: {why}");
            table.context.error(word.at, message, "write a name, as in \"h5.example.com\"");
        } else if !domains.iter().any(|it| it == host.as_str()) {
            domains.push(host.as_str().to_owned());
        }
    }
    domains
}

/// What keeps an authority from naming a host.
fn no_certificate(host: &str) -> Option<&'static str> {
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return Some("it is an address");
    }
    let odd = |label: &str| label.contains('_') || label.starts_with('-') || label.ends_with('-');
    host.split('.').any(odd).then_some("names have letters, digits and hyphens inside")
}

fn contact(table: &TableReader<'_>) -> Vec<String> {
    let read = |word: StrValue<'_>| {
        let address = word.text.strip_prefix("mailto:");
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '<' | '>');
        let good = |address: &str| {
            let parts = address.split_once('@');
            parts.is_some_and(|(name, host)| {
                !name.is_empty() && host.contains('.') && address.chars().all(plain)
            })
        };
        if address.is_some_and(good) {
            return Some(word.text.to_owned());
        }
        let message = format!("\"{}\" is nothing an authority could write to", word.text);
        let help = match word.text {
            text if good(text) => format!("write \"mailto:{text}\""),
            _ => "write an address, as in \"mailto:ops@example.com\"".to_owned(),
        };
        table.context.error(word.at, message, help);
        None
    };
    table.words("contact").unwrap_or_default().into_iter().filter_map(read).collect()
}

/// By what the authority knows us: both keys, or none.
fn customer(table: &TableReader<'_>) -> Option<ExternalAccountBinding> {
    let (kid, key) = ("eab_kid", "eab_hmac_key");
    if table.value(kid).is_none() && table.value(key).is_none() {
        return None;
    }
    let (kid, found) = (table.required(kid), secret::secret(table, key));
    let found = found?;
    if acme::mac_key(found.secret.expose()).is_none() {
        let help = "it is the text that the authority shows beside the kid, 22 letters or more";
        table.context.error(found.at, format!("`{key}` is no base64"), help);
    }
    Some(ExternalAccountBinding { kid: kid?.text.to_owned(), key: found.secret })
}

/// Whom we believe to be the authority.
fn authority(table: &TableReader<'_>) -> UpstreamTls {
    let mut believes = UpstreamTls::new(None);
    if let Some(word) = table.word("ca") {
        let path = paths::file(table, &word, false);
        let file = table.context.sources.file(&path).ok();
        let content = file.map(|file| file.content).filter(|content| !content.is_empty());
        if let Some(content) = content
            && let Err(why) = believes.add_root(&content)
        {
            let help = "it begins with -----BEGIN CERTIFICATE-----";
            table.context.error(word.at, format!("{} {why}", word.text), help);
        }
    }
    believes
}
