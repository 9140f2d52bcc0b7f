//! Who the visitor really is when proxies stand in front: `X-Forwarded-For` and its kin. Pure.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::Scheme;

/// The addresses a request passed on its way, each proxy adding the one it heard from.
pub const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme the visitor used.
pub const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host the visitor asked for.
pub const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The visitor's address alone.
pub const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// One id for this request, in every log it passes.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `trusted_proxies`, whose forwarded headers are believed. Empty by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    address_header: Option<HeaderName>,
}

impl TrustedProxies {
    /// These networks and no others.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, address_header: None }
    }

    /// Reads the client's address from this header instead of `X-Forwarded-For`: one field with one
    /// address, as CDNs send it (`client_address_header`).
    #[must_use]
    pub fn with_address_header(self, name: Option<HeaderName>) -> Self {
        Self { address_header: name.filter(|name| *name != FOR), ..self }
    }

    /// Whether the word of this address is taken.
    pub fn includes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|net| net.contains(&address))
    }

    /// The visitor's address: the rightmost one that is not a trusted proxy's. What does not
    /// parse as an address ends the walk, because whoever wrote it is not one of ours.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        if !self.includes(peer) {
            return client;
        }
        if let Some(name) = &self.address_header {
            let mut values = headers.get_all(name).iter();
            let (value, second) = (values.next(), values.next());
            let text = value.filter(|_| second.is_none()).and_then(|value| value.to_str().ok());
            return text.and_then(|text| address(text.trim())).unwrap_or(peer);
        }
        let fields: Vec<&str> =
            headers.get_all(FOR).iter().map(|value| value.to_str().unwrap_or("-")).collect();
        for hop in fields.iter().rev().flat_map(|field| field.rsplit(',')) {
            let Some(address) = address(hop.trim()) else { break };
            client = address;
            if !self.includes(address) {
                break;
            }
        }
        client
    }
}

/// The scheme a trusted proxy says the visitor used.
pub fn scheme(headers: &HeaderMap) -> Option<Scheme> {
    match headers.get(PROTO)?.as_bytes() {
        b"http" => Some(Scheme::Http),
        b"https" => Some(Scheme::Https),
        _ => None,
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|it| it.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn b3_the_client_is_the_rightmost_untrusted_address() {
        let trusted =
            TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let cases: [(&str, &[&str], &str); 12] = [
            ("192.0.2.1", &[], "192.0.2.1"),
            ("192.0.2.1", &["198.51.100.7"], "192.0.2.1"), // not trusted: not believed
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.0.0.9"], "198.51.100.7"),
            ("10.0.0.1", &["6.6.6.6", "198.51.100.7,10.0.0.9"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, , 10.0.0.2"], "10.0.0.2"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
        ];
        for (peer, fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(FOR, field.parse().unwrap());
            }
            let client = trusted.client(peer.parse().unwrap(), &headers);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {fields:?}");
        }
    }

    /// The peer, the fields of a request, and whose it is.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    #[test]
    fn b3_another_header_can_name_the_client() {
        let trusted = || TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let cdn = trusted().with_address_header(Some(HeaderName::from_static("true-client-ip")));
        let cases: [Case<'_>; 9] = [
            ("10.0.0.1", &[("true-client-ip", "198.51.100.7")], "198.51.100.7"),
            ("10.0.0.1", &[("true-client-ip", " 2001:db8::1 ")], "2001:db8::1"),
            ("10.0.0.1", &[("true-client-ip", "198.51.100.7:4711")], "198.51.100.7"),
            // X-Forwarded-For counts no more, and nothing is guessed.
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.7")], "10.0.0.1"),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "6.6.6.6"), ("true-client-ip", "198.51.100.7")],
                "198.51.100.7",
            ),
            ("10.0.0.1", &[("true-client-ip", "6.6.6.6, 198.51.100.7")], "10.0.0.1"),
            (
                "10.0.0.1",
                &[("true-client-ip", "6.6.6.6"), ("true-client-ip", "198.51.100.7")],
                "10.0.0.1",
            ),
            ("10.0.0.1", &[("true-client-ip", "unknown")], "10.0.0.1"),
            ("192.0.2.1", &[("true-client-ip", "6.6.6.6")], "192.0.2.1"),
        ];
        for (peer, fields, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            let client = cdn.client(peer.parse().unwrap(), &headers);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {fields:?}");
        }
    }

    proptest! {
        #[test]
        fn b3_nothing_left_of_the_rightmost_untrusted_hop_is_believed(
            hops in proptest::collection::vec((0..4_usize, 1..250_u8), 0..8),
            cuts in any::<u8>(),
            peer_is_trusted in any::<bool>(),
        ) {
            let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
            let spell = |(kind, n): &(usize, u8)| match kind {
                0 => format!("198.51.100.{n}"),
                1 => format!("[2001:db8::{n:x}]:4{n:03}"),
                2 => format!("10.0.0.{n}"),
                _ => ["", "unknown", "_hidden", "10.0.0.1 10.0.0.2", "é"][usize::from(*n) % 5].to_owned(),
            };
            // The list in one field or in several, as proxies on the way please.
            let mut fields = vec![Vec::new()];
            for (at, hop) in hops.iter().enumerate() {
                if cuts >> at & 1 == 1 {
                    fields.push(Vec::new());
                }
                fields.last_mut().unwrap().push(spell(hop));
            }
            let mut headers = HeaderMap::new();
            if !hops.is_empty() {
                for field in fields {
                    let value = http::HeaderValue::from_bytes(field.join(" , ").as_bytes());
                    headers.append(FOR, value.unwrap());
                }
            }
            let peer: IpAddr = if peer_is_trusted { [10, 9, 9, 9] } else { [192, 0, 2, 1] }.into();
            let seen = trusted.client(peer, &headers);

            // The first hop from the right that is not one of ours is the last that is looked at.
            let read = |hop: &(usize, u8)| address(&spell(hop));
            let believed = hops.iter().rposition(|(kind, _)| *kind != 2).unwrap_or(0);
            let mut candidates: Vec<IpAddr> = vec![peer];
            if peer_is_trusted {
                candidates.extend(hops[believed.min(hops.len())..].iter().filter_map(read));
            }
            prop_assert!(candidates.contains(&seen), "{} of {:?}", seen, headers);
            let stranger = hops.get(believed).filter(|(kind, _)| *kind < 2).and_then(read);
            if let (true, Some(stranger)) = (peer_is_trusted, stranger) {
                // An opaque byte makes its whole field unreadable: then nothing of it counts.
                let opaque = headers.get_all(FOR).iter().any(|field| field.to_str().is_err());
                prop_assert!(seen == stranger || opaque, "{} of {:?}", seen, headers);
            }
        }

        #[test]
        fn b3_any_bytes_have_a_client(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let everybody = TrustedProxies::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
            if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(PROTO, value.clone());
                headers.insert(FOR, value);
                let _ = everybody.client([10, 0, 0, 1].into(), &headers);
                prop_assert!(scheme(&headers).is_none() || bytes.starts_with(b"http"));
            }
        }
    }
}
