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

/// Names that make a framework treat a request as one of another method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodOverridePolicy {
    /// They are forwarded: legacy REST code lives on them, and no route depends on the method.
    #[default]
    Pass,
    /// They are removed: a route of the site names `methods`, and the site must not see another
    /// method than the one that was judged.
    Drop,
}

/// The headers that a client may not send to a site: those that only the gateway sets, and those
/// that state something the gateway has judged otherwise.
///
/// Names are equal when they are equal after folding case and every character that is no letter
/// or digit to `_`, because some sites (PHP, Perl, old CGI) see them so. A leading `HTTP_` is
/// ignored: it is how CGI code spells a header's name, and some Java code asks for it literally.
#[derive(Clone, Debug, Default)]
pub struct ReservedHeaders {
    /// Names of the operator's, folded.
    custom: Vec<String>,
    underscores: UnderscorePolicy,
    method_overrides: MethodOverridePolicy,
}

/// A header's name that the site's policy refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedHeader;

impl ReservedHeaders {
    /// The built-in families and the names this operator added.
    pub fn new<'a>(
        custom: impl Iterator<Item = &'a HeaderName>,
        underscores: UnderscorePolicy,
        method_overrides: MethodOverridePolicy,
    ) -> Self {
        let folded = |name: &HeaderName| name.as_str().bytes().map(fold).map(char::from).collect();
        Self { custom: custom.map(folded).collect(), underscores, method_overrides }
    }

    /// Refuses a request for its names, where the policy is to refuse it.
    pub fn check(&self, headers: &HeaderMap, trusted: bool) -> Result<(), RejectedHeader> {
        let refused =
            |name: &HeaderName| self.action(name.as_str(), trusted) == HeaderAction::Refuse;
        if self.underscores == UnderscorePolicy::Refuse && headers.keys().any(refused) {
            return Err(RejectedHeader);
        }
        Ok(())
    }

    /// Whether a header of a request is forwarded. `trusted` is whether the peer is one of
    /// `trusted_proxies`, which may send a few more.
    pub fn keeps(&self, name: &str, trusted: bool) -> bool {
        self.action(name, trusted) == HeaderAction::Keep
    }

    /// Whether a name, in some spelling, is one that states who a visitor is.
    pub fn is_identity(&self, name: &str) -> bool {
        let bare = without_http(name);
        IDENTITY.iter().any(|family| has_prefix(bare, family)) || self.is_custom(name)
    }

    fn is_custom(&self, name: &str) -> bool {
        let bare = without_http(name);
        self.custom.iter().any(|custom| is(name, custom) || is(bare, custom))
    }

    /// Whether the site would read this header as another method than the one that was judged, on a
    /// site with a route that depends on the method.
    pub fn is_method_override(&self, name: &str) -> bool {
        self.method_overrides == MethodOverridePolicy::Drop && overrides_method(without_http(name))
    }

    fn action(&self, name: &str, trusted: bool) -> HeaderAction {
        if self.custom.is_empty() && !may_be_reserved(name) {
            return HeaderAction::Keep;
        }
        let bare = without_http(name);
        // The first letter leaves few rules to try.
        let of_family = match bare.as_bytes().first() {
            Some(b'x') => {
                self.is_identity(name)
                    || overrides_target(bare)
                    || self.is_method_override(name)
                    || (is_forwarded(bare) && !(trusted && FROM_PROXIES.contains(&name)))
            }
            Some(b'f' | b'm' | b'p') => {
                overrides_target(bare) || self.is_method_override(name) || is_forwarded(bare)
            }
            _ => states_address(bare),
        };
        if of_family || is_hop_by_hop(name) || self.is_custom(name) {
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

/// The identity families: the gateway's own, and Tencent cloud's, of which aliases are members.
const IDENTITY: [&str; 2] = ["x_wechat_", "x_wx_"];

/// Forwarded headers that the gateway does not rebuild and a trusted proxy may send, in this
/// spelling alone. Every other member of the family was put there by the visitor as likely as by the
/// proxy: nginx passes on what it does not set.
const FROM_PROXIES: [&str; 2] = ["x-forwarded-port", "x-forwarded-prefix"];

/// A quick test that is false for nearly every name that browsers send: whether any of the rules
/// below can apply.
fn may_be_reserved(name: &str) -> bool {
    let first = name.as_bytes().first().copied().unwrap_or_default();
    let last = name.as_bytes().last().copied().unwrap_or_default();
    matches!(first, b'c' | b'f' | b'k' | b'm' | b'p' | b't' | b'u' | b'x')
        || matches!(last, b'p' | b'4' | b'6')
        || name.ends_with("addr")
        || name.ends_with("for")
        || memchr::memchr(b'_', name.as_bytes()).is_some()
        || has_prefix(name, "http_")
}

/// The name without the prefix of CGI variables.
fn without_http(name: &str) -> &str {
    if has_prefix(name, "http_") { name.get("http_".len()..).unwrap_or(name) } else { name }
}

/// Whether a header states where a request came from: a family that proxies write, and the many
/// names under which legacy code looks for the client's address before it asks for ours.
fn is_forwarded(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "forwarded",
        "x_forwarded",
        "x_request_id",
        "x_host",
        "x_http_host_override",
        "x_envoy_external_address",
        "x_azure_socketip",
        "x_custom_ip_authorization",
    ];
    has_prefix(name, "x_forwarded_")
        || has_prefix(name, "forwarded_")
        || NAMES.iter().any(|it| is(name, it))
        || states_address(name)
}

/// Whether the last word of a name is `IP` or the like: `Client-IP`, `True-Client-IP`,
/// `CF-Connecting-IPv6`, `X-Azure-ClientIP`, `WL-Proxy-Client-IP`, `X-Remote-Addr`,
/// `X-Original-Forwarded-For`. There are too many of them for a list, and new ones come with each CDN.
pub fn states_address(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["ip", "ipv4", "ipv6", "addr", "clientip", "realip", "remoteip", "userip", "remoteaddr"];
    // All of them end in one of these.
    if !matches!(name.as_bytes().last(), Some(b'p' | b'4' | b'6' | b'r')) {
        return false;
    }
    let word = name.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
    let word = name.get(word..).unwrap_or_default();
    WORDS.iter().any(|it| word.eq_ignore_ascii_case(it))
        || has_suffix(name, "forwarded_for")
        || has_suffix(name, "forward_for")
}

/// Whether frameworks believe this header more than the request target, which is what was judged:
/// Symfony and IIS (`X-Original-URL`, `X-Rewrite-URL`), URL rewriters (`X-HTTP-DestinationURL`,
/// `X-Override-URL`), and CGI programs that make requests through whatever `Proxy` names (httpoxy).
/// Proxies that know nothing of these pass them on from a visitor, so not even a trusted one may
/// send them.
fn overrides_target(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "x_http_destinationurl",
        "x_http_destination_url",
        "x_destination_url",
        "x_override_url",
        "x_override_uri",
        "x_request_uri",
        "x_request_url",
        "x_proxy_url",
        "proxy",
        "proxy_url",
        "proxy_host",
    ];
    has_prefix(name, "x_original_")
        || has_prefix(name, "x_rewrite_")
        || NAMES.iter().any(|it| is(name, it))
}

/// Whether a name is no proxy's spelling of a header about the way here or about another target, and
/// PHP or CGI would read it as one: `X_Forwarded_For`, `Client.IP`, `HTTP_X_ORIGINAL_URL`.
pub fn is_disguised(name: &str) -> bool {
    let odd = name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-');
    let bare = without_http(name);
    odd && (is_forwarded(bare) || overrides_target(bare))
}

/// Whether frameworks take the method from this header.
fn overrides_method(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "x_http_method_override",
        "x_http_method",
        "x_method_override",
        "x_method",
        "method_override",
        "x_requested_method",
    ];
    NAMES.iter().any(|it| is(name, it))
}

/// Whether a name folds to `folded`.
fn is(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && has_prefix(name, folded)
}

/// Whether a name, folded, ends with `folded`.
fn has_suffix(name: &str, folded: &str) -> bool {
    let rest = name.len().checked_sub(folded.len()).and_then(|at| name.get(at..));
    rest.is_some_and(|rest| has_prefix(rest, folded))
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
