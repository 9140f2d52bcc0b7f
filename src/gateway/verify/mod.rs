//! The gatekeeper of other proxies: nginx, Traefik, Caddy, `HAProxy` or Envoy ask here about each
//! request, and pass it to the site themselves.
//!
//! The request asked about goes the way of every other: one host, one canonical path, one route,
//! one decision. Only the answer differs: 204 (200 where the path was appended) with every identity
//! name, so that the proxy overwrites whatever a visitor sent, and the cookies that may go on; 401 with
//! the address of the login, and for a proxy that passes it on the page that the visitor would see
//! with us in front; 403 for all else, because nginx knows no other refusal.

mod original_request;

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::{
    Body, Error, Peer, RequestHandler, WorkerState,
    access_log::AccessLogEntry,
    context::{self, RequestContext, RouteMatch},
    cors, forward, login,
    reply::{self, ClientPreferences},
    rules::RuntimeConfig,
};
use crate::{
    auth::{Decision, ReturnTo, SessionError, VerifiedSession},
    clock::Timestamp,
    httputil::headers::{self, UnderscorePolicy},
    site::{Access, FragmentPolicy, Scope, Site},
};

/// Whether the visitor can be sent to the login: `page`, or a `script` that must be told.
/// nginx sees nothing else of our answer than its headers.
const ASKER: HeaderName = HeaderName::from_static("wxgate-asker");

/// What follows the path of this door in a request for it. Envoy puts the original path there,
/// whatever it looks like.
pub fn match_request<'a, B>(rules: &RuntimeConfig, request: &'a Request<B>) -> Option<&'a str> {
    let rest = request.uri().path().strip_prefix(&rules.prefix)?.strip_prefix("/verify")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl RequestHandler {
    /// Answers a proxy in front of us that asks whether to pass a request on.
    pub(super) fn verify<'a, B>(
        &self,
        state: &'a WorkerState,
        (request, rest): (&Request<B>, &str),
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut AccessLogEntry,
    ) -> Result<Response<Body>, Error> {
        let rules = &*state.rules;
        if !rules.trusted.includes(peer.ip) {
            return Err(Error::UntrustedVerifyCaller(peer.ip));
        }
        let original = original_request::original_request(request, rest)?;
        let arrival =
            context::resolve(rules, &original, peer, entry, now).map_err(Error::behind_proxy)?;
        let RouteMatch::Route(access) = arrival.route else {
            // Ours to answer, and never the site's: the proxy has to send it here.
            return Err(Error::NotFound.behind_proxy());
        };
        reject_reserved_headers(arrival.site, original.headers()).map_err(Error::behind_proxy)?;
        // Whoever appends the path (Envoy, Istio, Higress) takes a 200 for a yes and nothing else.
        let yes = if rest.is_empty() { StatusCode::NO_CONTENT } else { StatusCode::OK };
        let answer = self.verify_respond(state, &original, &arrival, access).map(|mut response| {
            if response.status() == StatusCode::NO_CONTENT {
                *response.status_mut() = yes;
            }
            response
        });
        entry.set_outcome(&arrival);
        answer
    }

    /// The same judgement as of a request that came to us, in words for a proxy.
    fn verify_respond(
        &self,
        state: &WorkerState,
        original: &Request<()>,
        cx: &RequestContext<'_>,
        access: Access,
    ) -> Result<Response<Body>, Error> {
        let site = cx.site;
        let (known, decision) = self.authorize(access, state, original, cx)?;
        let response = match decision {
            Decision::ForwardWithIdentity => {
                self.pass(state, original, cx, known.as_deref().ok())?
            }
            Decision::ForwardAnonymous => self.pass(state, original, cx, None)?,
            Decision::Forbidden => return Err(Error::WeChatOnly),
            Decision::Login(_)
            | Decision::ShowLoginPage(_)
            | Decision::ShowQrPage
            | Decision::ShowSnapshotPage
            | Decision::Unauthorized(_) => stopped(&state.rules, original, cx, decision),
        };
        Ok(match known {
            Err(SessionError::Ambiguous) => login::without_session(response, site),
            Err(_) | Ok(_) => response,
        })
    }
}

/// Refuses a request with a header that the site must not get and that the proxy has not removed. The
/// gateway cannot remove it: the proxy forwards the visitor's request itself. It overwrites the names
/// of the answer, but only if its recipe lists all of them; a recipe that forgets one must not let a
/// visitor be somebody else, or open another path than the one that is judged here. Odd spellings of
/// forwarded headers are the visitor's own as well: no proxy writes `X_Forwarded_For`.
fn reject_reserved_headers(site: &Site, headers: &HeaderMap) -> Result<(), Error> {
    for name in headers.keys() {
        if site.reserved.is_identity(name.as_str()) || headers::is_only_from_visitors(name.as_str())
        {
            return Err(Error::Impersonation);
        }
        if site.reserved.is_method_override(name.as_str()) {
            return Err(Error::MethodOverride);
        }
        if site.underscores == UnderscorePolicy::Refuse && name.as_str().contains('_') {
            return Err(Error::UnderscoreInHeaderName);
        }
    }
    Ok(())
}

impl RequestHandler {
    /// Lets a request through: every name is there, with nothing in it where nothing is known (C5).
    /// `Cookie` is what the site may see of the cookies that the visitor sent (C2), which no proxy can
    /// work out by itself: empty where nothing is left.
    fn pass(
        &self,
        state: &WorkerState,
        original: &Request<()>,
        cx: &RequestContext<'_>,
        known: Option<&VerifiedSession>,
    ) -> Result<Response<Body>, Error> {
        let mut response = reply::empty(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        for name in cx.site.identity_header_names() {
            headers.insert(name, HeaderValue::from_static(""));
        }
        if original.headers().contains_key(header::COOKIE) {
            let cookies = cx.site.cookies.strip_own(original.headers()).unwrap_or_default();
            let cookies = HeaderValue::from_bytes(&cookies).unwrap_or(HeaderValue::from_static(""));
            headers.insert(header::COOKIE, cookies);
        }
        let Some(known) = known else { return Ok(response) };
        forward::insert_identity_headers(headers, state, cx, known)?;
        self.renew_session_cookie(headers, state, cx, known)?;
        Ok(response)
    }
}

/// Stops a request, and says where its visitor can log in.
fn stopped(
    rules: &RuntimeConfig,
    original: &Request<()>,
    cx: &RequestContext<'_>,
    decision: Decision,
) -> Response<Body> {
    let (site, going, asker) =
        (cx.site, rules.return_target(original), ClientPreferences::of(original));
    let url = |scope, first| login_url(rules, site, (&going, scope), first);
    let (login, page) = match decision {
        Decision::Login(scope) => {
            let first = (site.fragment == FragmentPolicy::Keep).then_some("remember");
            (
                url(Some(scope), first),
                Some(rules.responder.remember_fragment(&url(Some(scope), None), &asker)),
            )
        }
        Decision::ShowLoginPage(scope) => {
            let page = rules.responder.login_page(&url(Some(scope), None), &asker);
            (url(Some(scope), Some("button")), Some(page))
        }
        Decision::ShowQrPage => {
            (url(None, None), Some(rules.responder.open_in_wechat(site, &going, &asker)))
        }
        Decision::ShowSnapshotPage => {
            (url(None, None), Some(rules.responder.leave_snapshot(&asker)))
        }
        Decision::Unauthorized(scope) => (url(Some(scope), None), None),
        Decision::ForwardWithIdentity | Decision::ForwardAnonymous | Decision::Forbidden => {
            (url(None, None), None)
        }
    };
    let who = HeaderValue::from_static(if page.is_some() { "page" } else { "script" });
    let script = || cors::readable(site, original.headers(), reply::unauthorized(&login));
    let mut response = page.unwrap_or_else(script);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(ASKER, who);
    if let Ok(login) = HeaderValue::try_from(login) {
        response.headers_mut().insert(header::LOCATION, login);
    }
    response
}

/// Where a login starts, in full: at the host that visitors type. `first` is the page of ours that
/// comes before WeChat's.
fn login_url(
    rules: &RuntimeConfig,
    site: &Site,
    (going, scope): (&ReturnTo, Option<Scope>),
    first: Option<&str>,
) -> String {
    let first = first.map(|page| format!("&prompt={page}")).unwrap_or_default();
    format!("{}{}{first}", site.public_url, rules.login_url(going, scope))
}
