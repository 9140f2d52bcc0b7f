//! A request on its way to the site: what of it goes on, and what we add. Pure.
//!
//! Nothing is taken out of the visitor's headers or put into them. They are read once more while
//! the request is written for the site, and whatever must not go on is passed over.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::{
    Scheme,
    cookie::CookieNames,
    forwarded,
    headers::{ConnectionOptions, ReservedHeaders},
    trace_context::{self, TraceContext},
};
use crate::bench_toggles::{Recording, leaves_out};

/// A request as it goes on.
#[derive(Debug)]
pub struct OutboundRequest<'a, F> {
    /// What is asked.
    pub method: &'a Method,
    /// Of which only path and query go on.
    pub uri: &'a Uri,
    /// Its headers.
    pub fields: F,
}

/// Headers that are there to be written.
pub trait HeaderSource {
    /// Calls `write` with the name and the value of each.
    fn for_each(&self, write: impl FnMut(&HeaderName, &[u8]));

    /// Whether the answer may be to switch to another protocol.
    fn is_upgrade(&self) -> bool {
        false
    }

    /// Whether what comes behind the answer is taken (RFC 9110, section 10.1.4). That is said of one
    /// hop, so that whoever writes for the next one says it, who can pass it on.
    fn take_trailers(&self) -> bool {
        false
    }
}

impl HeaderSource for HeaderMap {
    fn for_each(&self, mut write: impl FnMut(&HeaderName, &[u8])) {
        for (name, value) in self {
            write(name, value.as_bytes());
        }
    }
}

impl<F: HeaderSource> HeaderSource for &F {
    fn for_each(&self, write: impl FnMut(&HeaderName, &[u8])) {
        (*self).for_each(write);
    }

    fn is_upgrade(&self) -> bool {
        (*self).is_upgrade()
    }

    fn take_trailers(&self) -> bool {
        (*self).take_trailers()
    }
}

/// The headers that a site gets: what we say of the way here and of the visitor, and what passes of
/// what they sent themselves.
#[derive(Debug)]
pub struct OutboundHeaders<'a> {
    /// What they sent.
    pub sent: &'a HeaderMap,
    /// What they may not say.
    pub reserved: &'a ReservedHeaders,
    /// The cookies that are ours.
    pub cookies: &'a CookieNames,
    /// How they came here.
    pub forwarded: ForwardedInfo<'a>,
    /// Who they are, if they are anybody.
    pub introduction: &'a [(HeaderName, HeaderValue)],
    /// The same, signed.
    pub proof: Option<(HeaderName, HeaderValue)>,
    /// Whether they want a WebSocket: no other protocol is asked for.
    pub websocket: bool,
    /// Whether they speak HTTP/2, in which we pass trailers on.
    pub multiplexed: bool,
}

/// How a request came to us.
#[derive(Debug)]
pub struct ForwardedInfo<'a> {
    /// The host of the site that the request is for, as `hosts` names it.
    pub host: &'a HeaderValue,
    /// The visitor's address.
    pub client: &'a HeaderValue,
    /// What they typed, as far as we can know.
    pub scheme: Scheme,
    /// What the request is called in every log.
    pub request_id: &'a HeaderValue,
    /// Its place in a trace.
    pub trace: TraceContext,
    /// Whether a proxy of ours brought it, whose other forwarded headers may go on.
    pub trusted: bool,
}

impl HeaderSource for OutboundHeaders<'_> {
    fn for_each(&self, mut write: impl FnMut(&HeaderName, &[u8])) {
        self.forwarded.each(&mut write);
        let proof = self.proof.as_ref().map(|(name, value)| (name, value));
        for (name, value) in self.introduction.iter().map(|(name, it)| (name, it)).chain(proof) {
            write(name, value.as_bytes());
        }
        if self.websocket {
            write(&header::CONNECTION, b"upgrade");
            write(&header::UPGRADE, b"websocket");
        }
        if let Some(cookie) = self.cookies.strip_own(self.sent) {
            write(&header::COOKIE, &cookie);
        }
        let named = ConnectionOptions::of(self.sent);
        for (name, value) in self.sent {
            if self.passes(name) && !named.has(name) {
                write(name, value.as_bytes());
            }
        }
    }

    fn is_upgrade(&self) -> bool {
        self.websocket
    }

    fn take_trailers(&self) -> bool {
        let mut said = self.sent.get_all(header::TE).iter();
        self.multiplexed && said.any(|it| it.as_bytes().eq_ignore_ascii_case(b"trailers"))
    }
}

impl OutboundHeaders<'_> {
    /// Whether a header of this name goes on as it is.
    fn passes(&self, name: &HeaderName) -> bool {
        self.reserved.keeps(name.as_str(), self.forwarded.trusted)
            && !self.forwarded.is_set_by_gateway(name.as_str())
            && *name != header::COOKIE
    }
}

impl ForwardedInfo<'_> {
    fn each(&self, write: &mut impl FnMut(&HeaderName, &[u8])) {
        let (host, client) = (self.host.as_bytes(), self.client.as_bytes());
        write(&header::HOST, host);
        write(&forwarded::FOR, client);
        write(&forwarded::REAL_IP, client);
        write(&forwarded::HOST, host);
        write(&forwarded::PROTO, self.scheme.as_str().as_bytes());
        write(&forwarded::REQUEST_ID, self.request_id.as_bytes());
        if !leaves_out(Recording::TraceParent) {
            write(&trace_context::PARENT, &self.trace.text());
        }
    }

    /// Whether we say this ourselves. What vendors said belongs to the trace they said it of.
    fn is_set_by_gateway(&self, name: &str) -> bool {
        match name {
            "host" | "x-forwarded-for" | "x-real-ip" | "x-forwarded-host" | "x-forwarded-proto"
            | "x-request-id" | "traceparent" => true,
            "tracestate" => self.trace.parent == 0,
            _ => false,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What a site gets of these headers, in the order of their names: ours are not among them.
    pub fn forwarded_fields(
        sent: &HeaderMap,
        reserved: &ReservedHeaders,
        trusted: bool,
    ) -> HeaderMap {
        let ours = HeaderValue::from_static("ours");
        let trace = TraceContext { id: 1, span: 2, parent: 0, sampled: false };
        let scheme = Scheme::Https;
        let way =
            ForwardedInfo { host: &ours, client: &ours, scheme, request_id: &ours, trace, trusted };
        let passage = OutboundHeaders {
            sent,
            reserved,
            cookies: &CookieNames::new("wxgate", true),
            forwarded: way,
            introduction: &[],
            proof: None,
            websocket: false,
            multiplexed: false,
        };
        let mut said = Vec::new();
        passage.forwarded.each(&mut |name: &HeaderName, _: &[u8]| said.push(name.clone()));
        let (mut got, mut count) = (HeaderMap::new(), 0);
        passage.for_each(|name, value| {
            count += 1;
            if count > said.len() {
                assert!(!said.contains(name), "{name} is said twice");
                got.append(name, HeaderValue::from_bytes(value).unwrap());
            }
        });
        got
    }

    #[test]
    fn b1_whatever_we_say_ourselves_is_said_once() {
        let mut sent = HeaderMap::new();
        let names = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "accept"];
        let more = ["x-real-ip", "x-request-id", "traceparent", "tracestate", "x-forwarded-port"];
        for name in names.into_iter().chain(more) {
            sent.append(name, HeaderValue::from_static("theirs"));
            sent.append(name, HeaderValue::from_static("theirs again"));
        }
        let reserved = ReservedHeaders::default();
        let kept = |trusted| {
            let kept = forwarded_fields(&sent, &reserved, trusted);
            kept.iter().map(|(name, value)| format!("{name}: {value:?}")).collect::<Vec<_>>()
        };
        let accept = ["accept: \"theirs\"", "accept: \"theirs again\""];
        assert_eq!(kept(false), accept);
        let port = ["x-forwarded-port: \"theirs\"", "x-forwarded-port: \"theirs again\""];
        assert_eq!(kept(true), [accept, port].concat());
    }

    #[test]
    fn a_websocket_is_asked_for_in_our_words() {
        let mut sent = HeaderMap::new();
        sent.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade, cookie"));
        sent.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        sent.insert(header::COOKIE, HeaderValue::from_static("__Host-wxgate=x; a=1"));
        let ours = HeaderValue::from_static("ours");
        let trace = TraceContext { id: 1, span: 2, parent: 3, sampled: true };
        let scheme = Scheme::Http;
        let way = ForwardedInfo {
            host: &ours,
            client: &ours,
            scheme,
            request_id: &ours,
            trace,
            trusted: false,
        };
        let passage = OutboundHeaders {
            sent: &sent,
            reserved: &ReservedHeaders::default(),
            cookies: &CookieNames::new("wxgate", true),
            forwarded: way,
            introduction: &[(HeaderName::from_static("x-wechat-openid"), ours.clone())],
            proof: Some((HeaderName::from_static("x-wechat-assertion"), ours.clone())),
            websocket: true,
            multiplexed: true,
        };
        let mut lines = Vec::new();
        passage.for_each(|name, value| {
            lines.extend_from_slice(&[name.as_str().as_bytes(), b": ", value, b"\n"].concat());
        });
        let expected = "host: ours\nx-forwarded-for: ours\nx-real-ip: ours\n\
            x-forwarded-host: ours\nx-forwarded-proto: http\nx-request-id: ours\n\
            traceparent: 00-00000000000000000000000000000001-0000000000000002-01\n\
            x-wechat-openid: ours\nx-wechat-assertion: ours\nconnection: upgrade\n\
            upgrade: websocket\ncookie: a=1\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
    }
}
