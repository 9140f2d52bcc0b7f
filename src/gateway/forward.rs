//! Handing a request to the site and its answer back, each without what must not go on.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio::time::Instant;

use super::{
    Body, Error, RequestContext, RequestHandler, Tunnel, WorkerState, session_watch::SessionWatch,
};
use crate::{
    auth::VerifiedSession,
    clock::Timestamp,
    http1::Incoming,
    httputil::{
        headers,
        outbound::{ForwardedInfo, OutboundHeaders, OutboundRequest},
    },
    site::{ASSERTION, Protocol},
    upstream::{self, LimitedRequestBody},
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

impl RequestHandler {
    /// Passes a request on, introducing the visitor if there is somebody to introduce.
    pub(super) async fn forward(
        &self,
        state: &WorkerState,
        request: &mut Request<Incoming>,
        cx: &RequestContext<'_>,
        known: Option<Rc<VerifiedSession>>,
    ) -> Result<Response<Body>, Error> {
        let (site, limit) = (cx.site, state.rules.body.size);
        if limit > 0
            && headers::content_length(request.headers()).is_some_and(|length| length > limit)
        {
            return Err(upstream::Error::TooLarge.into());
        }
        let tunnel = wants_websocket(request);
        let mut body =
            LimitedRequestBody::new(std::mem::take(request.body_mut()), state.rules.body);
        if site.upstream.protocol == Protocol::Http2 {
            body.with_trailers(site);
        }
        if let Some(known) = &known {
            let mut vigil = SessionWatch::new(known, &self.post, known.session.exp);
            body.break_off_when(move || vigil.pass_piece());
        }
        let passage = outbound_headers((request, tunnel), state, cx, known.as_deref())?;
        let onward =
            OutboundRequest { method: request.method(), uri: request.uri(), fields: passage };
        let group = state.group(site, &self.upstream).ok_or(Error::UnknownHost)?;
        // HTTP/1.0 has none of these, and over HTTP/2 the library cannot send them.
        let passes = request.version() == Version::HTTP_11;
        let early = |answer| {
            if passes {
                queue_interim(answer, cx);
            }
        };
        let began = Instant::now();
        let answer = self.upstream.send(&onward, body, (group, &site.upstream), &early).await;
        cx.upstream_time.set(Some(began.elapsed()));
        let response = answer?;
        self.build_response(response, state, cx, (tunnel, known.as_ref()))
    }

    /// The site's answer, without cookies that are ours to set.
    fn build_response(
        &self,
        response: Response<upstream::UpstreamBody>,
        state: &WorkerState,
        cx: &RequestContext<'_>,
        (tunnel, known): (bool, Option<&Rc<VerifiedSession>>),
    ) -> Result<Response<Body>, Error> {
        let mut response = response;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // If the visitor asked for no other protocol, the site's answer makes no sense.
        if switched && !tunnel {
            return Err(Error::UnexpectedUpgrade);
        }
        cx.site.cookies.strip_reserved_set_cookie(response.headers_mut());
        let vigil = match known {
            None => None,
            Some(known) => {
                let headers = response.headers_mut();
                let renewed = self.renew_session_cookie(headers, state, cx, known)?;
                let expiry = renewed.unwrap_or(known.session.exp);
                Some(SessionWatch::new(known, &self.post, expiry))
            }
        };
        if !switched {
            return Ok(response.map(|body| Body::site(body, vigil)));
        }
        let (head, body) = response.into_parts();
        let site = body.switched().ok_or(Error::UnexpectedUpgrade)?;
        // At once: whoever has the response may renew the session over another connection.
        let vigil = vigil.map(|mut vigil| {
            vigil.register();
            vigil
        });
        let mut response = Response::from_parts(head, Body::tunnel(Tunnel { site, watch: vigil }));
        response.headers_mut().insert(header::CONNECTION, UPGRADE);
        response.headers_mut().insert(header::UPGRADE, WEBSOCKET);
        Ok(response)
    }
}

/// Passes on what the site says before its answer (RFC 9110, section 15.2). A `100 Continue` is
/// between it and us.
fn queue_interim(answer: Response<()>, cx: &RequestContext<'_>) {
    if answer.status() != StatusCode::CONTINUE {
        let mut answer = answer;
        headers::sanitize_interim(answer.headers_mut());
        cx.peer.interim.add(&answer);
    }
}

/// What the site gets to see of a request. Nothing that the visitor sent gets past what we say of
/// them (B1).
fn outbound_headers<'a>(
    (request, websocket): (&'a Request<Incoming>, bool),
    state: &WorkerState,
    cx: &'a RequestContext<'_>,
    known: Option<&'a VerifiedSession>,
) -> Result<OutboundHeaders<'a>, Error> {
    let (site, origin, sent) = (cx.site, &cx.origin, request.headers());
    site.reserved
        .check(sent, origin.trusted)
        .map_err(|headers::RejectedHeader| Error::UnderscoreInHeaderName)?;
    let proof = known.map_or(Ok(None), |known| assertion(state, cx, known))?;
    Ok(OutboundHeaders {
        sent,
        reserved: &site.reserved,
        cookies: &site.cookies,
        forwarded: ForwardedInfo {
            host: cx.host,
            client: &origin.client,
            scheme: origin.scheme,
            request_id: &origin.request_id,
            trace: origin.trace,
            trusted: origin.trusted,
        },
        introduction: known.map_or(&[], |known| &known.identity_headers),
        proof: proof.map(|proof| (ASSERTION, proof)),
        websocket,
        multiplexed: request.version() == Version::HTTP_2,
    })
}

/// What we sign for the site about a visitor, if it wants that.
fn assertion(
    state: &WorkerState,
    cx: &RequestContext<'_>,
    known: &VerifiedSession,
) -> Result<Option<HeaderValue>, Error> {
    Ok(known.assertion(cx.site, &state.rules.keys, cx.now, rand::random)?)
}

/// Says who a visitor is.
pub fn insert_identity_headers(
    headers: &mut HeaderMap,
    state: &WorkerState,
    cx: &RequestContext<'_>,
    known: &VerifiedSession,
) -> Result<(), Error> {
    for (name, value) in &known.identity_headers {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(proof) = assertion(state, cx, known)? {
        headers.insert(ASSERTION, proof);
    }
    Ok(())
}

impl RequestHandler {
    /// Starts the idle time of a session anew, once half of it has passed. Returns when the cookie
    /// expires that the visitor receives with these headers; nothing if they receive none.
    pub(super) fn renew_session_cookie(
        &self,
        headers: &mut HeaderMap,
        state: &WorkerState,
        cx: &RequestContext<'_>,
        known: &VerifiedSession,
    ) -> Result<Option<Timestamp>, Error> {
        let rules = &state.rules;
        let renewed = known.session.renewed(cx.now, &rules.session);
        let news = || known.changed.then(|| known.session.clone());
        let Some(session) = renewed.or_else(news) else { return Ok(None) };
        let (names, age) = (&cx.site.cookies, session.age(cx.now));
        let cookie = names.set_cookie(names.session(), &session.seal(&rules.keys)?, age);
        let Some(cookie) = cookie else { return Ok(None) };
        headers.append(header::SET_COOKIE, cookie);
        keep_private(headers);
        self.gateway.expiries.extend(&session);
        self.gateway.metrics.session("renewed", "");
        Ok(Some(session.exp))
    }
}

/// A response with a cookie of ours is for one visitor only, whatever the site said of it.
fn keep_private(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in [header::EXPIRES.as_str(), "surrogate-control", "cdn-cache-control"] {
        headers.remove(name);
    }
}

/// Only WebSocket opens a tunnel (RFC 6455, section 4.1); any other upgrade is simply not passed.
fn wants_websocket(request: &Request<Incoming>) -> bool {
    let sent = request.headers();
    let Some(protocol) = sent.get(header::UPGRADE) else { return false };
    let said = sent.get_all(header::CONNECTION);
    let named = headers::tokens(&said).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    named
        && protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
        && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && http_body::Body::is_end_stream(request.body())
}
