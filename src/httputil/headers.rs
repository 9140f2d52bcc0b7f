//! Which headers may travel on, and which ones only we may set. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header, header::GetAll};

/// Headers that belong to one connection and end with it (RFC 9110, section 7.6.1).
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "close"
            | "connection"
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

/// What `Connection` says of the connection itself.
fn is_of_the_connection(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close")
}

/// Headers that `Connection` may not name away: they frame the message or carry its meaning.
const END_TO_END: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::COOKIE];

/// What to do with a header whose name has an underscore. PHP and WSGI cannot tell it from a
/// hyphen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscorePolicy {
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
pub struct ReservedHeaders {
    /// Folded.
    custom: Vec<String>,
    underscores: UnderscorePolicy,
}

/// A header's name that the site's policy refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedHeader;

impl ReservedHeaders {
    /// The identity and forwarded families, and the names this operator added.
    pub fn new<'a>(
        custom: impl Iterator<Item = &'a HeaderName>,
        underscores: UnderscorePolicy,
    ) -> Self {
        let folded = |name: &HeaderName| name.as_str().bytes().map(fold).map(char::from).collect();
        Self { custom: custom.map(folded).collect(), underscores }
    }

    /// Refuses a request for its names, where the policy is to refuse it.
    pub fn check(&self, headers: &HeaderMap, trusted: bool) -> Result<(), RejectedHeader> {
        let refused = |name: &HeaderName| self.fate(name.as_str(), trusted) == HeaderAction::Refuse;
        if self.underscores == UnderscorePolicy::Refuse && headers.keys().any(refused) {
            return Err(RejectedHeader);
        }
        Ok(())
    }

    /// Whether a header of a request may go on: hop-by-hop headers and our families do not.
    /// `trusted` is whether the forwarded headers of the peer may.
    pub fn keeps(&self, name: &str, trusted: bool) -> bool {
        self.fate(name, trusted) == HeaderAction::Keep
    }

    /// Whether a name, in some spelling, is one that says who a visitor is.
    pub fn is_identity(&self, name: &str) -> bool {
        has_prefix(name, "x_wechat_") || self.custom.iter().any(|custom| is(name, custom))
    }

    fn fate(&self, name: &str, trusted: bool) -> HeaderAction {
        // Most names begin like none of those below.
        let plain =
            !matches!(name.bytes().next(), Some(b'c' | b'f' | b'k' | b'p' | b't' | b'u' | b'x'));
        if plain && self.custom.is_empty() && memchr::memchr(b'_', name.as_bytes()).is_none() {
            return HeaderAction::Keep;
        }
        let ours = self.is_identity(name);
        let forwarded = !trusted && is_forwarded(name);
        if is_hop_by_hop(name) || ours || is_another_path(name) || forwarded {
            return HeaderAction::Drop;
        }
        match self.underscores {
            UnderscorePolicy::Pass => HeaderAction::Keep,
            UnderscorePolicy::Drop | UnderscorePolicy::Refuse if !name.contains('_') => {
                HeaderAction::Keep
            }
            UnderscorePolicy::Drop => HeaderAction::Drop,
            UnderscorePolicy::Refuse => HeaderAction::Refuse,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderAction {
    Keep,
    Drop,
    Refuse,
}

/// Where the visitor came from: a proxy's word, or a lie.
fn is_forwarded(name: &str) -> bool {
    has_prefix(name, "x_forwarded_")
        || ["forwarded", "x_real_ip", "x_request_id"].into_iter().any(|it| is(name, it))
}

/// What frameworks believe more than the path itself, which is the one we judged. Proxies that
/// know nothing of these pass them on from a visitor, so not even a trusted one may bring them.
fn is_another_path(name: &str) -> bool {
    has_prefix(name, "x_original_") || has_prefix(name, "x_rewrite_")
}

/// Whether a name folds to `folded`.
fn is(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && has_prefix(name, folded)
}

/// Whether a name, folded, begins with `folded`. Nearly always the first letter tells.
fn has_prefix(name: &str, folded: &str) -> bool {
    name.len() >= folded.len() && name.bytes().map(fold).zip(folded.bytes()).all(|(a, b)| a == b)
}

fn fold(b: u8) -> u8 {
    if b.is_ascii_alphanumeric() { b.to_ascii_lowercase() } else { b'_' }
}

/// Removes what a value of `Connection` says ends with it.
pub fn remove_connection_options(headers: &mut HeaderMap, connection: &[u8]) {
    for name in list(connection).filter_map(|token| HeaderName::from_bytes(token).ok()) {
        if !END_TO_END.contains(&name) {
            headers.remove(name);
        }
    }
}

/// Removes every header that must not cross the gateway.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let connection: Vec<HeaderValue> =
        headers.get_all(header::CONNECTION).iter().cloned().collect();
    for value in &connection {
        remove_connection_options(headers, value.as_bytes());
    }
    let ends = |name: &&HeaderName| is_hop_by_hop(name.as_str());
    let gone: Vec<HeaderName> = headers.keys().filter(ends).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Removes from an interim answer what it has no use for: it is there to be read at once and
/// forgotten.
pub fn sanitize_interim(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::SET_COOKIE);
}

/// Removes what may not come behind a message: what frames it, says whom it is for or who sent it,
/// asks for something, or tells how to take what was before it (RFC 9110, section 6.5.1).
pub fn sanitize_trailers(trailers: &mut HeaderMap) {
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
    remove_hop_by_hop(trailers);
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
pub struct ConnectionOptions<'a>(Option<GetAll<'a, HeaderValue>>);

impl<'a> ConnectionOptions<'a> {
    /// Those in these headers.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let all = headers.get_all(header::CONNECTION);
        let names = tokens(&all).any(|token| !is_of_the_connection(token));
        Self(names.then_some(all))
    }

    /// Whether this is one of them.
    pub fn has(&self, name: &HeaderName) -> bool {
        let Some(all) = &self.0 else { return false };
        let is_it = |token: &[u8]| token.eq_ignore_ascii_case(name.as_str().as_bytes());
        tokens(all).any(is_it) && !END_TO_END.contains(name)
    }
}

/// What `Connection` says, word by word.
pub fn tokens<'a>(connection: &GetAll<'a, HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    connection.iter().flat_map(|value| list(value.as_bytes()))
}

/// The members of a list (RFC 9110, section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
