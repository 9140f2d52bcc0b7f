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
        // Aliases are members of a family that is reserved as a whole.
        let custom = custom.map(folded).filter(|name: &String| !is_of_identity_family(name));
        Self { custom: custom.collect(), underscores, method_overrides }
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
        is_of_identity_family(without_http(name)) || self.is_custom(name)
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
        if !may_be_reserved(name) {
            return if self.is_custom(name) { HeaderAction::Drop } else { HeaderAction::Keep };
        }
        let bare = without_http(name);
        // The first letter leaves few rules to try.
        let of_family = match bare.as_bytes().first() {
            Some(b'x') => {
                is_of_identity_family(bare)
                    || overrides_target(bare)
                    || self.is_method_override(name)
                    || (is_forwarded(bare) && !(trusted && FROM_PROXIES.contains(&name)))
            }
            Some(b'b' | b'f' | b'm' | b'p' | b'r' | b's' | b'w' | b'$') => {
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

/// Returns whether a name, without the prefix of CGI variables, belongs to an identity family.
fn is_of_identity_family(bare: &str) -> bool {
    IDENTITY.iter().any(|family| has_prefix(bare, family))
}

/// A quick test that is false for nearly every name that browsers send: whether any of the rules
/// below can apply.
fn may_be_reserved(name: &str) -> bool {
    let first = name.as_bytes().first().copied().unwrap_or_default();
    let last = name.as_bytes().last().copied().unwrap_or_default();
    matches!(first, b'b' | b'c' | b'f' | b'k' | b'm' | b'p' | b't' | b'u' | b'w' | b'x' | b'$')
        || matches!(last, b'p' | b'4' | b'6')
        // Not `Range` and `Referer`, and not `Sec-Fetch-Mode` and the like.
        || (first == b'r' && name.len() > "referer".len())
        || name.starts_with("sc")
        || name.ends_with("addr")
        || name.ends_with("address")
        || name.ends_with("for")
        || memchr::memchr(b'_', name.as_bytes()).is_some()
        || has_prefix(name, "http_")
}

/// The name without the prefix of CGI variables.
fn without_http(name: &str) -> &str {
    if has_prefix(name, "http_") { name.get("http_".len()..).unwrap_or(name) } else { name }
}

/// Whether a header states where a request came from: families that proxies write, the client's
/// address, and names that legacy code asks for the scheme or the host before it asks for ours
/// (Tornado: `X-Scheme`, `ThinkPHP`: `X-Real-Host`, Yii: `Front-End-Https`, Echo and Fiber: `X-Url-Scheme`).
/// `WebSphere` believes its plug-in's `$WSRA`, `$WSRU` and so on.
fn is_forwarded(name: &str) -> bool {
    const NAMES: [&str; 16] = [
        "forwarded",
        "x_forwarded",
        "x_forward",
        "x_request_id",
        "x_host",
        "x_http_host_override",
        "x_real_host",
        "x_real_port",
        "x_real_proto",
        "x_real_scheme",
        "x_scheme",
        "x_url_scheme",
        "x_proxied_https",
        "front_end_https",
        "wl_proxy_ssl",
        "x_custom_ip_authorization",
    ];
    has_prefix(name, "x_forwarded_")
        || has_prefix(name, "forwarded_")
        || has_prefix(name, "x_envoy_")
        || name.starts_with("$ws")
        || NAMES.iter().any(|it| is(name, it))
        || states_address(name)
}

/// Whether a name says that its value is an address: its last word is `IP` or the like (`Client-IP`,
/// `True-Client-IP`, `CF-Connecting-IPv6`, `X-Azure-ClientIP`, `WL-Proxy-Client-IP`, `X-Remote-Addr`), or
/// it ends as `X-Original-Forwarded-For` and `X-Client-Address` do. There are too many of them for a
/// list, and new ones come with each CDN.
pub fn states_address(name: &str) -> bool {
    const WORDS: [&str; 17] = [
        "ip",
        "ips",
        "ipv4",
        "ipv6",
        "addr",
        "ipaddr",
        "ipaddress",
        "clientip",
        "clientipaddr",
        "connectingip",
        "realip",
        "remoteip",
        "remoteaddr",
        "rlnclientipaddr",
        "socketip",
        "srcip",
        "userip",
    ];
    const ENDINGS: [&str; 8] = [
        "forwarded_for",
        "forward_for",
        "forwarder_for",
        "client_address",
        "remote_address",
        "external_address",
        "coming_from",
        "remote_host",
    ];
    // All of them end in one of these, and no header that browsers send does.
    let last = name.len().checked_sub(2).and_then(|at| name.as_bytes().get(at..));
    if !matches!(last, Some(b"ip" | b"v4" | b"v6" | b"dr" | b"or" | b"ps" | b"ss" | b"om" | b"st"))
    {
        return false;
    }
    let word = name.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
    let word = name.get(word..).unwrap_or_default();
    WORDS.iter().any(|it| word.eq_ignore_ascii_case(it))
        || is(name, "ip_address")
        || has_suffix(name, "_ip_address")
        || ENDINGS.iter().any(|it| has_suffix(name, it))
}

/// Whether frameworks believe this header more than the request target, which is what was judged, or
/// make requests through whatever it names (httpoxy). Proxies that know nothing of these pass them on
/// from a visitor, so not even a trusted one may send them.
fn overrides_target(name: &str) -> bool {
    const NAMES: [&str; 3] = ["proxy", "proxy_url", "proxy_host"];
    has_prefix(name, "x_original_") || replaces_path(name) || NAMES.iter().any(|it| is(name, it))
}

/// Whether sites take the path, or a part of it to cut off, from this header: IIS and its URL rewriters
/// (`X-Rewrite-URL`, `Request-URI`, `X-HTTP-DestinationURL`), many PHP and WSGI programs that were written
/// for one proxy (`X-Script-Name`, `X-Path-Info`), and those for one host (`X-Matched-Path`).
fn replaces_path(name: &str) -> bool {
    const NAMES: [&str; 23] = [
        "x_http_destinationurl",
        "x_http_destination_url",
        "x_destination_url",
        "x_override_url",
        "x_override_uri",
        "x_request_uri",
        "x_request_url",
        "x_request_base",
        "x_proxy_url",
        "x_real_url",
        "x_real_uri",
        "x_real_base_url",
        "x_route_prefix",
        "x_script_name",
        "x_path_info",
        "x_matched_path",
        "x_invoke_path",
        "base_url",
        "request_uri",
        "request_url",
        "request_base",
        "script_name",
        "path_info",
    ];
    has_prefix(name, "x_rewrite_") || NAMES.iter().any(|it| is(name, it))
}

/// Returns whether only a visitor sends this header, and a site would read in it where the request came
/// from or what it is for. No proxy that asks about a request spells names as `X_Forwarded_For`,
/// `Client.IP` and `HTTP_X_ORIGINAL_URL` are, and none replaces the path that it asks about.
pub fn is_only_from_visitors(name: &str) -> bool {
    let odd = name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-');
    let bare = without_http(name);
    replaces_path(bare) || (odd && (is_forwarded(bare) || overrides_target(bare)))
}

/// Whether frameworks take the method from this header.
fn overrides_method(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "x_http_method_override",
        "x_http_method",
        "x_method_override",
        "x_method",
        "x_request_method",
        "x_requested_method",
        "method_override",
        "method",
        "request_method",
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
