//! URLs and hosts as operators write them. Pure.

use std::net::{IpAddr, SocketAddr};

use url::Url;

use crate::{
    config::reader::{StrValue, TableReader},
    httputil::{Host, Origin},
    site::Endpoint,
};

/// Scheme and host of a URL that says more than that, as advice.
pub fn origin_of(text: &str) -> Option<String> {
    let with_scheme = || Url::parse(&format!("https://{text}"));
    let url = if text.contains("://") { Url::parse(text) } else { with_scheme() }.ok()?;
    let host = url.host_str().and_then(Host::parse);
    let plain = matches!(url.scheme(), "http" | "https") && host.is_some();
    plain.then(|| url.origin().ascii_serialization())
}

/// Whether a host is this very machine.
pub fn is_loopback(host: &Host) -> bool {
    let name = host.as_str();
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name == "localhost"
        || name.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

/// What keeps WeChat from accepting an origin as the way back; nothing for a good one.
pub fn callback_problem(url: &Origin) -> Option<&'static str> {
    let name = url.host().as_str();
    if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return Some("an IP address");
    }
    if is_loopback(url.host()) || !name.contains('.') {
        return Some("a name that only your network knows");
    }
    let port = Url::parse(url.as_str()).ok().and_then(|url| url.port());
    port.map(|_| "an address with a port")
}

/// A host name of `hosts`: no scheme, no port, no path.
pub fn host(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<Host> {
    let text = word.text;
    let has_port = !text.ends_with(']') && text.contains(':');
    let host = Host::parse(text).filter(|_| !has_port);
    if host.is_none() {
        let near = origin_of(text).and_then(|origin| origin.split_once("://").map(host_part));
        let help = match near.flatten() {
            _ if text.contains('*') => {
                "there are no wildcards: name each host, so that no forgotten one is let in"
                    .to_owned()
            }
            Some(near) => format!("write \"{near}\": it matches on every port"),
            None => "write a name or an address alone, as in \"h5.example.com\"".to_owned(),
        };
        table.context.error(word.at.clone(), format!("\"{text}\" is no host name"), help);
    }
    host
}

fn host_part((_, authority): (&str, &str)) -> Option<String> {
    Host::parse(authority).map(|host| host.as_str().to_owned())
}

/// A server behind a site: `http://host:port`, `https://host:port` or `unix:/path`.
pub fn endpoint(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<Endpoint> {
    if let Some(path) = word.text.strip_prefix("unix:") {
        if path.starts_with('/') && path.len() > 1 {
            return Some(Endpoint::Unix(path.into()));
        }
        let help = "write it in full, as in \"unix:/run/site.sock\"";
        table.context.error(word.at.clone(), "the path of a socket begins with a slash", help);
        return None;
    }
    let url = Url::parse(word.text).ok().filter(is_bare);
    let endpoint = url.and_then(|url| {
        // The resolver and the certificate check want IPv6 addresses without brackets.
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().filter(|port| *port > 0)?;
        match url.scheme() {
            "http" => Some(Endpoint::Http(host, port)),
            "https" => Some(Endpoint::Https(host, port)),
            _ => None,
        }
    });
    if endpoint.is_none() {
        let message = format!("\"{}\" is no server to pass requests to", word.text);
        table.context.error(word.at.clone(), message, endpoint_help(word.text));
    }
    endpoint
}

/// Whether a URL says nothing after its host and port.
fn is_bare(url: &Url) -> bool {
    let named = url.username().is_empty() && url.password().is_none();
    let asks = url.query().is_some() || url.fragment().is_some();
    named && !asks && matches!(url.path(), "" | "/") && url.has_host()
}

fn endpoint_help(text: &str) -> String {
    let known = matches!(text.split_once("://"), None | Some(("http" | "https", _)));
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match origin_of(&url) {
        Some(origin) if known && origin != text => {
            format!("write \"{origin}\": paths are passed on as the visitor sent them")
        }
        Some(_) | None => {
            "write \"http://host:port\", \"https://host\" or \"unix:/path\"".to_owned()
        }
    }
}

/// Complains when a site's server is the gateway itself: requests would go in circles.
pub fn reject_own_address(
    table: &TableReader<'_>,
    word: &StrValue<'_>,
    endpoint: &Endpoint,
    listeners: &[SocketAddr],
) {
    let (host, port) = match endpoint {
        Endpoint::Http(host, port) | Endpoint::Https(host, port) => (host, *port),
        Endpoint::Unix(_) => return,
    };
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let same = |listener: &SocketAddr| {
        let ip = listener.ip();
        let named = host.parse::<IpAddr>().is_ok_and(|other| other == ip);
        listener.port() == port && (named || (local && (ip.is_unspecified() || ip.is_loopback())))
    };
    if let Some(listener) = listeners.iter().find(|listener| same(listener)) {
        let message = format!("this is the gateway itself: it listens on {listener}");
        let help = "write where the site listens, or give one of them another port";
        table.context.error(word.at.clone(), message, help);
    }
}
