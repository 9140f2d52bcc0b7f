//! The gatekeeper of other proxies: nginx, Traefik, Caddy, `HAProxy` or Envoy ask here about each
//! request, and pass it to the site themselves.
//!
//! The request asked about goes the way of every other: one host, one canonical path, one route,
//! one decision. Only the answer differs: 204 with every identity name, so that the proxy
//! overwrites whatever a visitor sent; 401 with the address of the login, and for a proxy that
//! passes it on the page that the visitor would see with us in front; 403 for all else, because
//! nginx knows no other refusal.

mod claim;

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::{
    Body, Desk, Error, Peer, Worker,
    access_log::Entry,
    cors, forward, login,
    receive::{self, Arrival, Landing},
    reply::{self, Asker},
    rules::Rules,
};
use crate::{
    auth::{Decision, Known, ReturnTo, Stranger},
    clock::Timestamp,
    site::{Access, Fragment, Scope, Site},
    wire::headers::Underscores,
};

/// Whether the visitor can be sent to the login: `page`, or a `script` that must be told.
/// nginx sees nothing else of our answer than its headers.
const ASKER: HeaderName = HeaderName::from_static("wxgate-asker");

/// What follows the path of this door in a request for it. Envoy puts the original path there,
/// whatever it looks like.
pub fn asked<'a, B>(rules: &Rules, request: &'a Request<B>) -> Option<&'a str> {
    let rest = request.uri().path().strip_prefix(&rules.prefix)?.strip_prefix("/verify")?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl Worker {
    /// Answers a proxy in front of us that asks whether to pass a request on.
    pub(super) fn verify<'a, B>(
        &self,
        desk: &'a Desk,
        (request, rest): (&Request<B>, &str),
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut Entry,
    ) -> Result<Response<Body>, Error> {
        let rules = &*desk.rules;
        if !rules.trusted.includes(peer.ip) {
            return Err(Error::ForeignVerify(peer.ip));
        }
        let original = claim::original(request, rest)?;
        let arrival =
            receive::receive(rules, &original, peer, entry, now).map_err(Error::behind_proxy)?;
        let Landing::Route(access) = arrival.landing else {
            // Ours to answer, and never the site's: the proxy has to send it here.
            return Err(Error::NotFound.behind_proxy());
        };
        plain(arrival.site, original.headers()).map_err(Error::behind_proxy)?;
        let answer = self.tell(desk, &original, &arrival, access);
        entry.learn(&arrival);
        answer
    }

    /// The same judgement as of a request that came to us, in words for a proxy.
    fn tell(
        &self,
        desk: &Desk,
        original: &Request<()>,
        arrival: &Arrival<'_>,
        access: Access,
    ) -> Result<Response<Body>, Error> {
        let site = arrival.site;
        let (known, decision) = self.judge(access, desk, original, arrival)?;
        let response = match decision {
            Decision::Introduce => pass(desk, arrival, known.as_deref().ok())?,
            Decision::PassUnnamed => pass(desk, arrival, None)?,
            Decision::WeChatOnly => return Err(Error::WeChatOnly),
            Decision::Login(_)
            | Decision::OfferLogin(_)
            | Decision::OpenInWeChat
            | Decision::LeaveSnapshot
            | Decision::Unauthorized(_) => stopped(&desk.rules, original, arrival, decision),
        };
        Ok(match known {
            Err(Stranger::Several) => login::without_session(response, site),
            Err(_) | Ok(_) => response,
        })
    }
}

/// We cannot take a header out of a request that the proxy passes on. It overwrites the names of
/// our answer, if its recipe has all of them; so that one who forgot some lets nobody be somebody
/// else, whoever sends such a name is refused, unless the proxy removes it before it asks.
fn plain(site: &Site, headers: &HeaderMap) -> Result<(), Error> {
    for name in headers.keys() {
        if site.reserved.is_identity(name.as_str()) {
            return Err(Error::Impersonation);
        }
        if site.underscores == Underscores::Refuse && name.as_str().contains('_') {
            return Err(Error::Underscore);
        }
    }
    Ok(())
}

/// Lets a request through: every name is there, with nothing in it where nothing is known (C5).
fn pass(
    desk: &Desk,
    arrival: &Arrival<'_>,
    known: Option<&Known>,
) -> Result<Response<Body>, Error> {
    let mut response = reply::empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    for name in arrival.site.identity_names() {
        headers.insert(name, HeaderValue::from_static(""));
    }
    let Some(known) = known else { return Ok(response) };
    forward::introduce(headers, desk, arrival, known)?;
    forward::renew(&mut response, desk, arrival, known)?;
    Ok(response)
}

/// Stops a request, and says where its visitor can log in.
fn stopped(
    rules: &Rules,
    original: &Request<()>,
    arrival: &Arrival<'_>,
    decision: Decision,
) -> Response<Body> {
    let (site, going, asker) = (arrival.site, rules.going(original), Asker::of(original));
    let url = |scope, first| login_url(rules, site, (&going, scope), first);
    let (login, page) = match decision {
        Decision::Login(scope) => {
            let first = (site.fragment == Fragment::Keep).then_some("remember");
            (url(Some(scope), first), Some(rules.voice.remember(&url(Some(scope), None), &asker)))
        }
        Decision::OfferLogin(scope) => {
            let page = rules.voice.offer_login(&url(Some(scope), None), &asker);
            (url(Some(scope), Some("button")), Some(page))
        }
        Decision::OpenInWeChat => {
            (url(None, None), Some(rules.voice.open_in_wechat(site, &going, &asker)))
        }
        Decision::LeaveSnapshot => (url(None, None), Some(rules.voice.leave_snapshot(&asker))),
        Decision::Unauthorized(scope) => (url(Some(scope), None), None),
        Decision::Introduce | Decision::PassUnnamed | Decision::WeChatOnly => {
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
    rules: &Rules,
    site: &Site,
    (going, scope): (&ReturnTo, Option<Scope>),
    first: Option<&str>,
) -> String {
    let first = first.map(|page| format!("&prompt={page}")).unwrap_or_default();
    format!("{}{}{first}", site.public_url, rules.login_url(going, scope))
}
