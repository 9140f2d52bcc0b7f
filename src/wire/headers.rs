//! Which headers may travel on, and which ones only we may set. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header, header::GetAll};

/// Headers that belong to one connection and end with it (RFC 9110, section 7.6.1).
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Headers that `Connection` may not name away: they frame the message or carry its meaning.
const END_TO_END: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::COOKIE];

/// What to do with a header whose name has an underscore. PHP and WSGI cannot tell it from a
/// hyphen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Leave the header out.
    #[default]
    Drop,
    /// Refuse the request.
    Refuse,
    /// Pass it on, unless it is one that only we may set.
    Pass,
}

/// The headers that only we may set for a site. A visitor who sends one is impersonating us.
///
/// Names are equal when they are equal after folding case and every character that is no letter
/// or digit to `_`, because some sites (PHP, Perl, old CGI) see them so.
#[derive(Clone, Debug, Default)]
pub struct Reserved {
    /// Folded.
    custom: Vec<String>,
    underscores: Underscores,
}

/// A header's name that the site's policy refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Reserved {
    /// The identity and forwarded families, and the names this operator added.
    pub fn new<'a>(custom: impl Iterator<Item = &'a HeaderName>, underscores: Underscores) -> Self {
        let folded = |name: &HeaderName| name.as_str().bytes().map(fold).map(char::from).collect();
        Self { custom: custom.map(folded).collect(), underscores }
    }

    /// Refuses a request for its names, where the policy is to refuse it.
    pub fn admit(&self, headers: &HeaderMap, trusted: bool) -> Result<(), Refused> {
        let refused = |name: &HeaderName| self.fate(name.as_str(), trusted) == Fate::Refuse;
        if self.underscores == Underscores::Refuse && headers.keys().any(refused) {
            return Err(Refused);
        }
        Ok(())
    }

    /// Whether a header of a request may go on: hop-by-hop headers and our families do not.
    /// `trusted` is whether the forwarded headers of the peer may.
    pub fn keeps(&self, name: &str, trusted: bool) -> bool {
        self.fate(name, trusted) == Fate::Keep
    }

    /// Whether a name, in some spelling, is one that says who a visitor is.
    pub fn is_identity(&self, name: &str) -> bool {
        begins(name, "x_wechat_") || self.custom.iter().any(|custom| is(name, custom))
    }

    fn fate(&self, name: &str, trusted: bool) -> Fate {
        // Most names begin like none of those below.
        let plain =
            !matches!(name.bytes().next(), Some(b'c' | b'f' | b'k' | b'p' | b't' | b'u' | b'x'));
        if plain && self.custom.is_empty() && memchr::memchr(b'_', name.as_bytes()).is_none() {
            return Fate::Keep;
        }
        let ours = self.is_identity(name);
        let forwarded = !trusted && is_forwarded(name);
        if is_hop_by_hop(name) || ours || is_another_path(name) || forwarded {
            return Fate::Drop;
        }
        match self.underscores {
            Underscores::Pass => Fate::Keep,
            Underscores::Drop | Underscores::Refuse if !name.contains('_') => Fate::Keep,
            Underscores::Drop => Fate::Drop,
            Underscores::Refuse => Fate::Refuse,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
    Refuse,
}

/// Where the visitor came from: a proxy's word, or a lie.
fn is_forwarded(name: &str) -> bool {
    begins(name, "x_forwarded_")
        || ["forwarded", "x_real_ip", "x_request_id"].into_iter().any(|it| is(name, it))
}

/// What frameworks believe more than the path itself, which is the one we judged. Proxies that
/// know nothing of these pass them on from a visitor, so not even a trusted one may bring them.
fn is_another_path(name: &str) -> bool {
    begins(name, "x_original_") || begins(name, "x_rewrite_")
}

/// Whether a name folds to `folded`.
fn is(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && begins(name, folded)
}

/// Whether a name, folded, begins with `folded`. Nearly always the first letter tells.
fn begins(name: &str, folded: &str) -> bool {
    name.len() >= folded.len() && name.bytes().map(fold).zip(folded.bytes()).all(|(a, b)| a == b)
}

fn fold(b: u8) -> u8 {
    if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'_' }
}

/// Removes what a value of `Connection` says ends with it.
pub fn end_named(headers: &mut HeaderMap, connection: &[u8]) {
    for name in list(connection).filter_map(|token| HeaderName::from_bytes(token).ok()) {
        if !END_TO_END.contains(&name) {
            headers.remove(name);
        }
    }
}

/// Removes every header that must not cross the gateway.
pub fn end_hop(headers: &mut HeaderMap) {
    let connection: Vec<HeaderValue> =
        headers.get_all(header::CONNECTION).iter().cloned().collect();
    for value in &connection {
        end_named(headers, value.as_bytes());
    }
    let ends = |name: &&HeaderName| is_hop_by_hop(name.as_str());
    let gone: Vec<HeaderName> = headers.keys().filter(ends).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Removes from an interim answer what it has no use for: it is there to be read at once and
/// forgotten.
pub fn end_interim(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::SET_COOKIE);
}

/// Removes what may not come behind a message: what frames it, says whom it is for or who sent it,
/// asks for something, or tells how to take what was before it (RFC 9110, section 6.5.1).
pub fn end_trailers(trailers: &mut HeaderMap) {
    const NEVER: [HeaderName; 21] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::COOKIE,
        header::SET_COOKIE,
        header::AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::CACHE_CONTROL,
        header::EXPECT,
        header::EXPIRES,
        header::AGE,
        header::DATE,
        header::LOCATION,
        header::RETRY_AFTER,
        header::VARY,
        header::MAX_FORWARDS,
        header::PRAGMA,
        header::RANGE,
        header::STRICT_TRANSPORT_SECURITY,
    ];
    end_hop(trailers);
    for name in NEVER {
        trailers.remove(name);
    }
}

/// How many bytes a message says that its body has.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The headers of which `Connection` says that they end with it. Nearly always it names none.
#[derive(Debug)]
pub struct Named<'a>(Option<GetAll<'a, HeaderValue>>);

impl<'a> Named<'a> {
    /// Those in these headers.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let all = headers.get_all(header::CONNECTION);
        let said = |token: &[u8]| token.eq_ignore_ascii_case(b"keep-alive") || token == b"close";
        let names = tokens(&all).any(|token| !said(token));
        Self(names.then_some(all))
    }

    /// Whether this is one of them.
    pub fn has(&self, name: &HeaderName) -> bool {
        let Some(all) = &self.0 else { return false };
        let is_it = |token: &[u8]| token.eq_ignore_ascii_case(name.as_str().as_bytes());
        tokens(all).any(is_it) && !END_TO_END.contains(name)
    }
}

fn tokens<'a>(connection: &GetAll<'a, HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    connection.iter().flat_map(|value| list(value.as_bytes()))
}

/// The members of a list (RFC 9110, section 5.6.1).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::onward::tests::passed;

    fn stripped(sent: &[(&str, &str)], reserved: &Reserved, trusted: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let kept = passed(&headers, reserved, trusted);
        let mut kept: Vec<String> = kept.keys().map(|name| name.as_str().to_owned()).collect();
        kept.sort();
        kept
    }

    #[test]
    fn b1_hop_by_hop_ends_here_with_what_connection_names() {
        let sent = [
            ("connection", "keep-alive, X-Private"),
            ("connection", "te, cookie, host"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic x"),
            ("cookie", "a=1"),
            ("host", "h"),
            ("accept", "*/*"),
        ];
        let kept = stripped(&sent, &Reserved::default(), false);
        assert_eq!(kept, ["accept", "cookie"], "and the host, which we say anew");
    }

    #[test]
    fn b2_b3_b4_no_spelling_of_a_reserved_name_gets_through() {
        let custom =
            [HeaderName::from_static("remote-user"), HeaderName::from_static("x-wx-openid")];
        let reserved = Reserved::new(custom.iter(), Underscores::Pass);
        let cases = [
            // name, kept from a stranger, kept from a trusted proxy
            ("X-WeChat-OpenId", false, false),
            ("x_wechat_openid", false, false),
            ("X-WeChat_OpenId", false, false),
            ("X.WeChat.OpenId", false, false),
            ("x-wechat-anything", false, false),
            ("Remote-User", false, false),
            ("remote_user", false, false),
            ("REMOTE.USER", false, false),
            ("X-WX-OPENID", false, false),
            ("x_wx_openid", false, false),
            ("X-Forwarded-For", false, false), // we say it anew
            ("x_forwarded_for", false, true),
            ("X-Forwarded-Prefix", false, true),
            ("Forwarded", false, true),
            ("X-Real-IP", false, false),
            ("X-Original-URL", false, false),
            ("X-Rewrite-URL", false, false),
            ("X-Requested-With", true, true),
            ("x-wechatty", true, true),
            ("accept", true, true),
            ("under_score", true, true),
        ];
        for (name, stranger, trusted) in cases {
            let kept = |it| !stripped(&[(name, "forged")], &reserved, it).is_empty();
            assert_eq!((kept(false), kept(true)), (stranger, trusted), "{name}");
        }
    }

    #[test]
    fn b4_underscores_are_dropped_refused_or_passed() {
        let cases = [
            (Underscores::Drop, Ok(()), 0),
            (Underscores::Refuse, Err(Refused), 0),
            (Underscores::Pass, Ok(()), 1),
        ];
        for (policy, admitted, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static("a_b"), HeaderValue::from_static("1"));
            let reserved = Reserved::new([].iter(), policy);
            assert_eq!(reserved.admit(&headers, false), admitted, "{policy:?}");
            assert_eq!(passed(&headers, &reserved, false).len(), kept, "{policy:?}");
        }
    }

    #[test]
    fn b6_trailers_frame_route_and_identify_nothing() {
        let sent = "connection x-named te transfer-encoding host content-length content-type cookie \
                    set-cookie authorization cache-control trailer grpc-status x-checksum date";
        let mut trailers = HeaderMap::new();
        for name in sent.split_whitespace() {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("x-named"));
        }
        end_trailers(&mut trailers);
        let mut kept: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["grpc-status", "x-checksum"]);
    }

    /// Names near to those that matter, with every separator a header name may hold.
    fn name() -> impl Strategy<Value = String> {
        let words = "x-wechat-openid x-wechat- x-wechat x-wechatty-a remote-user remoteuser \
                     x-wx-openid x-wx-openid-2 x-forwarded-for x-forwarded forwarded x-real-ip \
                     x-request-id x-original-url x-rewrite-url x-rewrite te keep-alive \
                     transfer-encoding accept x-custom";
        let words: Vec<&str> = words.split_whitespace().collect();
        let separators = vec!['-', '-', '_', '.', '!', '~', '*'];
        let lot = (proptest::sample::select(separators), any::<bool>());
        let lots = proptest::collection::vec(lot, 24);
        let respelled = (proptest::sample::select(words), lots).prop_map(|(word, lots)| {
            let letters = word.chars().zip(lots);
            letters
                .map(|(c, (separator, upper))| match c {
                    '-' => separator,
                    c if upper => c.to_ascii_uppercase(),
                    c => c,
                })
                .collect()
        });
        prop_oneof![4 => respelled, 1 => "[a-z0-9_.-]{1,12}"]
    }

    /// How PHP, WSGI and old CGI see a name.
    fn as_php_sees_it(name: &str) -> String {
        name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }

    proptest! {
        #[test]
        fn b2_nothing_that_folds_to_a_reserved_name_is_left_and_nothing_else_is_lost(
            sent in proptest::collection::vec(name(), 1..12),
            trusted in any::<bool>(),
            pass in any::<bool>(),
        ) {
            let custom =
                [HeaderName::from_static("remote-user"), HeaderName::from_static("x-wx-openid")];
            let policy = if pass { Underscores::Pass } else { Underscores::Drop };
            let reserved = Reserved::new(custom.iter(), policy);
            let names: Vec<HeaderName> =
                sent.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
            let mut headers = HeaderMap::new();
            for (at, name) in names.iter().enumerate() {
                headers.append(name, HeaderValue::from(at));
            }
            let passed = passed(&headers, &reserved, trusted);
            for name in &names {
                let seen = as_php_sees_it(name.as_str());
                let forwarded = seen.starts_with("x_forwarded_")
                    || ["forwarded", "x_real_ip", "x_request_id"].contains(&&*seen);
                let ours = ["x-forwarded-for", "x-real-ip", "x-request-id"].contains(&name.as_str());
                let gone = seen.starts_with("x_wechat_")
                    || ["remote_user", "x_wx_openid"].contains(&&*seen)
                    || seen.starts_with("x_original_")
                    || seen.starts_with("x_rewrite_")
                    || (forwarded && !trusted)
                    || ours
                    || ["te", "keep-alive", "transfer-encoding"].contains(&name.as_str())
                    || (!pass && name.as_str().contains('_'));
                let all = |headers: &HeaderMap| -> Vec<HeaderValue> {
                    headers.get_all(name).iter().cloned().collect()
                };
                let expected = if gone { Vec::new() } else { all(&headers) };
                prop_assert_eq!(all(&passed), expected, "{}", name);
            }
        }
    }
}
