//! Host names as we compare them, and the origins that sites are known by. Pure.

use std::{borrow::Cow, fmt};

use http::HeaderValue;
use url::Url;

/// A host name as we compare it: lowercase, without port or trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Box<str>);

impl Host {
    /// Reads an authority such as `Example.com.:443`. Strict: what is not a plain host name, an
    /// IPv4 address or a bracketed IPv6 address, with or without a port, is no host.
    pub fn parse(authority: &str) -> Option<Self> {
        Self::plain(authority).map(|host| Self(host.into()))
    }

    /// The same name without a `Host` around it: as it came, where that is its plain form.
    pub fn plain(authority: &str) -> Option<Cow<'_, str>> {
        let (host, port) = split_port(authority)?;
        let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let number = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let port_is_good = port.is_none_or(|port| digits(port) && number(port));
        let host = host.strip_suffix('.').unwrap_or(host);
        if !port_is_good || !well_formed(host) {
            return None;
        }
        let is_plain = !host.bytes().any(|b| b.is_ascii_uppercase());
        Some(if is_plain { host.into() } else { host.to_ascii_lowercase().into() })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets a map keyed by [`Host`] be asked with a borrowed name that is already in its plain form.
impl std::borrow::Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        let host = authority.get(..address.len().saturating_add(2))?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 bytes, 253 in all; or brackets
/// around an address that has been checked.
fn well_formed(host: &str) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let mut label = 0;
    for b in host.bytes() {
        label = match b {
            b'.' if label > 0 => 0,
            b'-' | b'_' if label < 63 => label + 1,
            _ if b.is_ascii_alphanumeric() && label < 63 => label + 1,
            _ => return false,
        };
    }
    label > 0 && host.len() <= 253
}

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What a visitor types up to the first slash: scheme, host and, where unusual, port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    text: Box<str>,
    scheme: Scheme,
    host: Host,
}

impl Origin {
    /// Reads `https://h5.example.com` or `http://127.0.0.1:8080`; a path, a query, a fragment or
    /// credentials make it no origin.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let host = Host::parse(url.host_str()?)?;
        bare.then(|| Self { text: url.origin().ascii_serialization().into(), scheme, host })
    }

    /// `https://h5.example.com`, in the form a browser sends as `Origin`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The `Host` header of a request for this name at the origin's port: without a port where that
    /// is the usual one of the scheme.
    pub fn host_header(&self, name: &Host) -> Option<HeaderValue> {
        let authority = self.text.split_once("://").map_or("", |(_, authority)| authority);
        let port = authority.strip_prefix(self.host.as_str()).unwrap_or_default();
        HeaderValue::try_from(format!("{name}{port}")).ok()
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether cookies may be `Secure` and carry the `__Host-` prefix.
    pub fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_host_has_one_form() {
        let cases = [
            ("example.com", Some("example.com")),
            ("Example.COM:8443", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com.:80", Some("example.com")),
            ("127.0.0.1:8080", Some("127.0.0.1")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("", None),
            (".", None),
            (":443", None),
            ("example.com:", None),
            ("example.com:0", None),
            ("example.com:65536", None),
            ("example.com:8o", None),
            ("example.com:+80", None),
            ("exa mple.com", None),
            ("example..com", None),
            ("a/b", None),
            ("a@b", None),
            ("a\tb", None),
            ("example.com,evil.com", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[evil.com]", None),
            ("例子.com", None),
        ];
        for (authority, expected) in cases {
            let host = Host::parse(authority);
            assert_eq!(host.as_ref().map(Host::as_str), expected, "{authority:?}");
        }
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        let cases = [
            ("https://h5.example.com", Some("https://h5.example.com")),
            ("https://H5.example.com:443/", Some("https://h5.example.com")),
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("https://h5.example.com/path", None),
            ("https://h5.example.com/?q", None),
            ("https://u:p@h5.example.com", None),
            ("ftp://h5.example.com", None),
            ("h5.example.com", None),
        ];
        for (text, expected) in cases {
            let origin = Origin::parse(text);
            assert_eq!(origin.as_ref().map(Origin::as_str), expected, "{text:?}");
        }
    }
}
