//! The front desk: which site a request is for, what it wants there, and who brought it.

use std::{borrow::Cow, cell::Cell, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use super::{Error, Peer, access_log::AccessLogEntry, peer, rules::RuntimeConfig};
use crate::{
    auth::SessionLogId,
    clock::Timestamp,
    httputil::{Host, Path, PathError, Scheme, forwarded, trace_context::TraceContext},
    logs::AuditEvent,
    site::{Access, AmbiguousPathPolicy, Site},
};

/// Where a request landed.
pub struct RequestContext<'a> {
    /// The site it is for.
    pub site: &'a Arc<Site>,
    /// What it wants there.
    pub route: RouteMatch,
    /// Who brought it.
    pub peer: &'a Peer,
    /// The name of the site that matched, as the site receives it in `Host`.
    pub host: &'a HeaderValue,
    /// Whether that is the host the site is known by, where logins end.
    pub on_canonical_host: bool,
    /// When it arrived.
    pub now: Timestamp,
    /// Who sent it and how.
    pub origin: ClientInfo,
    /// What the site took until its answer began, once it has.
    pub upstream_time: Cell<Option<Duration>>,
    /// What logs call the session it came with, once that is known.
    pub session: Cell<Option<SessionLogId>>,
}

impl RequestContext<'_> {
    /// The id that the log, the site and the visitor's error page know it by.
    pub fn request_id(&self) -> &str {
        self.origin.request_id.to_str().unwrap_or_default()
    }

    /// A line of the audit trail, with what is known of where it comes from.
    pub fn audit_event(&self, event: AuditEvent) -> AuditEvent {
        let line =
            event.with("request_id", self.request_id()).with("site", self.site.name.as_str());
        line.with("client", self.origin.ip.to_string())
    }
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// Something of the gateway's own.
    Door(GatewayEndpoint),
    /// A page of the site, under these terms.
    Route(Access),
}

/// What may be asked of the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayEndpoint {
    /// Start a login.
    Login,
    /// Back from WeChat.
    Callback,
    /// Back from WeChat over the account's own host.
    Accept,
    /// End the session.
    Logout,
    /// Who am I.
    Session,
    /// A script that turns a 401 into a login.
    Client,
    /// What checks our assertions.
    PublicKeys,
    /// No such thing, and never the site's either.
    Unknown,
}

/// What the site is told of a request's way here.
pub struct ClientInfo {
    /// The visitor's address.
    pub ip: IpAddr,
    /// The same as a header.
    pub client: HeaderValue,
    /// The scheme the visitor used, as far as we can know.
    pub scheme: Scheme,
    /// Whether the peer is a proxy of ours, whose word we take.
    pub trusted: bool,
    /// This request's id.
    pub request_id: HeaderValue,
    /// Its place in a trace.
    pub trace: TraceContext,
}

/// Reads what everything else depends on. Whatever is not exactly one thing is refused here.
pub fn resolve<'a, B>(
    rules: &'a RuntimeConfig,
    request: &Request<B>,
    peer: &'a Rc<Peer>,
    entry: &mut AccessLogEntry,
    now: Timestamp,
) -> Result<RequestContext<'a>, Error> {
    let ip = rules.trusted.client(peer.ip, request.headers());
    entry.set_client(ip);
    well_formed(request)?;
    let host = host(request)?;
    let site = rules.sites.find(&host).ok_or_else(|| unknown_host(rules, &host))?;
    entry.set_site(site);
    let trusted = rules.trusted.includes(peer.ip);
    let client = if ip == peer.ip { peer.text.clone() } else { peer::text(ip) };
    let told = trusted.then(|| forwarded::scheme(request.headers())).flatten();
    let own = if peer.encrypted { Scheme::Https } else { Scheme::Http };
    Ok(RequestContext {
        site,
        route: match_route(rules, site, request)?,
        peer,
        on_canonical_host: host == site.public_url.host().as_str(),
        host: site.upstream_host(&host).ok_or(Error::UnknownHost)?,
        now,
        origin: ClientInfo {
            ip,
            client,
            scheme: told.unwrap_or(own),
            trusted,
            request_id: entry.request_id().clone(),
            trace: entry.trace(),
        },
        upstream_time: Cell::new(None),
        session: Cell::new(None),
    })
}

/// Where the broker is and no site, nothing but the broker's own paths is.
fn unknown_host(rules: &RuntimeConfig, host: &str) -> Error {
    let broker = rules.broker.as_ref().is_some_and(|it| it.public_url.host().as_str() == host);
    if broker { Error::NotFound } else { Error::UnknownHost }
}

/// What the libraries let through and two readers could understand in two ways.
pub fn well_formed<B>(request: &Request<B>) -> Result<(), Error> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Error::MethodNotAllowed);
    }
    // Methods have case (RFC 9110, section 9.1), but many a framework reads `post` as `POST`,
    // which another route may be about.
    if request.method().as_str().bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(Error::MethodNotAllowed);
    }
    if request.version() == Version::HTTP_2 && !has_one_length_at_most(request.headers()) {
        return Err(Error::BadRequest("an unusable content length"));
    }
    Ok(())
}

/// Over HTTP/1 the framing has been seen to, and h2 lets nobody speak of codings; but it passes two
/// equal lengths on, and an empty one.
fn has_one_length_at_most(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    lengths.next().is_none_or(|length| number(length.as_bytes())) && lengths.next().is_none()
}

/// The one host a request names: `Host`, or in HTTP/2 and in absolute form the authority, and
/// where both are there they agree (RFC 9112, section 3.2).
pub fn host<B>(request: &Request<B>) -> Result<Cow<'_, str>, Error> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let (field, second) = (fields.next(), fields.next());
    if second.is_some() {
        return Err(Error::BadRequest("two Host headers"));
    }
    let named = match field {
        Some(field) => {
            Some(plain(field.to_str().map_err(|_| Error::BadRequest("an unusable host"))?)?)
        }
        None => None,
    };
    let authority = request.uri().authority().map(|it| plain(it.as_str())).transpose()?;
    match (authority, named) {
        (Some(authority), Some(named)) if authority != named => {
            Err(Error::BadRequest("two hosts that disagree"))
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Error::BadRequest("no host")),
    }
}

fn plain(authority: &str) -> Result<Cow<'_, str>, Error> {
    Host::plain(authority).ok_or(Error::BadRequest("an unusable host"))
}

/// One look decides; what is forwarded later is the path that was judged here.
fn match_route<B>(
    rules: &RuntimeConfig,
    site: &Site,
    request: &Request<B>,
) -> Result<RouteMatch, Error> {
    let (text, method) = (request.uri().path(), request.method());
    let strictest = || Ok(RouteMatch::Route(site.strictest_access(text, method)));
    let path = match (Path::parse_with(text, site.windows_names), site.ambiguous_paths) {
        (Ok(path), _) => path,
        (Err(why), AmbiguousPathPolicy::Refuse) => return Err(Error::AmbiguousPath(why)),
        (Err(PathError::NotAPath), _) => {
            return Err(Error::AmbiguousPath(PathError::NotAPath));
        }
        (Err(_), AmbiguousPathPolicy::Protect) => return strictest(),
    };
    if let Some(door) = GatewayEndpoint::of(text, &rules.prefix) {
        return Ok(RouteMatch::Door(door));
    }
    match (site.route(path, method), site.ambiguous_paths) {
        (Some(route), _) => Ok(RouteMatch::Route(route.access)),
        (None, AmbiguousPathPolicy::Refuse) => Err(Error::AmbiguousPath(PathError::Parameter)),
        (None, AmbiguousPathPolicy::Protect) => strictest(),
    }
}

impl GatewayEndpoint {
    /// The door a path below the prefix leads to.
    fn of(path: &str, prefix: &str) -> Option<Self> {
        let rest = path.strip_prefix(prefix)?;
        match rest {
            "/login" => Some(Self::Login),
            "/callback" => Some(Self::Callback),
            "/accept" => Some(Self::Accept),
            "/client.js" => Some(Self::Client),
            "/logout" => Some(Self::Logout),
            "/session" => Some(Self::Session),
            "/jwks.json" => Some(Self::PublicKeys),
            "" => Some(Self::Unknown),
            _ if rest.starts_with('/') => Some(Self::Unknown),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors() {
        let cases = [
            ("/_wx/login", Some(GatewayEndpoint::Login)),
            ("/_wx/callback", Some(GatewayEndpoint::Callback)),
            ("/_wx/accept", Some(GatewayEndpoint::Accept)),
            ("/_wx/client.js", Some(GatewayEndpoint::Client)),
            ("/_wx/logout", Some(GatewayEndpoint::Logout)),
            ("/_wx/session", Some(GatewayEndpoint::Session)),
            ("/_wx/jwks.json", Some(GatewayEndpoint::PublicKeys)),
            ("/_wx/", Some(GatewayEndpoint::Unknown)),
            ("/_wx", Some(GatewayEndpoint::Unknown)),
            ("/_wx/login/", Some(GatewayEndpoint::Unknown)),
            ("/_wxy", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(GatewayEndpoint::of(path, "/_wx"), expected, "{path}");
        }
    }

    #[test]
    fn a4_a_request_names_one_host() {
        let cases: [(&str, &[&str], Option<&str>); 8] = [
            ("/", &["h5.example.com"], Some("h5.example.com")),
            ("/", &["H5.example.com:8080"], Some("h5.example.com")),
            ("http://h5.example.com/", &["h5.example.com"], Some("h5.example.com")),
            ("http://h5.example.com/", &[], Some("h5.example.com")),
            ("http://evil.example/", &["h5.example.com"], None),
            ("/", &[], None),
            ("/", &["h5.example.com", "h5.example.com"], None),
            ("/", &["user@h5.example.com"], None),
        ];
        for (uri, hosts, expected) in cases {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            let request = request.body(()).unwrap();
            let read = host(&request).ok();
            assert_eq!(read.as_deref(), expected, "{uri} {hosts:?}");
        }
    }
}
