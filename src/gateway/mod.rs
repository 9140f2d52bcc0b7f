//! One request, from door to door.
//!
//! [`RequestHandler::handle`] is the story; every sentence of it is a call into another room.

use std::{
    cell::RefCell,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use http::{Method, Request, Response, StatusCode, Version};

use crate::{
    auth::{Decision, ReturnTo, SessionError},
    clock::Timestamp,
    http1::{BufferPool, Incoming, head::ParseError},
    metrics::ThreadMetrics,
    site::{Access, FragmentPolicy},
    upstream::{self, UpstreamClient},
};

mod access_log;
mod body;
mod broker;
mod cors;
mod crowd;
mod error;
mod code_exchange;
mod revocation_sync;
mod forward;
mod login;
mod logout;
mod record;
pub mod page;
mod peer;
mod context;
mod authenticate;
mod profile_refresh;
mod reply;
mod revocation;
mod rules;
mod shared;
mod throttle;
mod verify;
mod session_cache;
mod session_expiry;
mod session_watch;
mod voice;

pub use access_log::AccessLog;
pub use body::{Body, Tunnel};
pub use crowd::{ClientNumber, ConnectionLimiter, ConnectionPermit};
pub use error::Error;
pub use peer::Peer;
pub use reply::too_many_headers;
pub use revocation::{RevocationResult, RevocationStatus};
pub use shared::{Gateway, Settings, SetupError};
pub use upstream::BodyLimits;

use access_log::{AccessLogBuffer, AccessLogEntry};
use context::{GatewayEndpoint, RequestContext, RouteMatch};
use reply::ClientPreferences;
use rules::{RuntimeConfig, WorkerState};
use session_watch::SessionWatchContext;
use throttle::LimitedAction;

/// One thread's part of the gateway.
pub struct RequestHandler {
    gateway: Arc<Gateway>,
    state: RefCell<Rc<WorkerState>>,
    upstream: UpstreamClient,
    post: Rc<SessionWatchContext>,
    lines: Rc<AccessLogBuffer>,
    counters: Arc<ThreadMetrics>,
    /// Threads that share what holds for the whole process.
    workers: usize,
}

impl RequestHandler {
    /// The part of one of so many `workers`, with no connections and an empty cache.
    /// Of connections to sites it keeps at most so many that are idle.
    pub fn new(
        gateway: Arc<Gateway>,
        arena: Rc<BufferPool>,
        workers: usize,
        most_idle: usize,
    ) -> Self {
        let counters = gateway.metrics.thread();
        let desk = Rc::new(WorkerState::new(gateway.rules.load_full(), 0, &counters, workers));
        let backends = Arc::clone(&gateway.backends);
        let upstream = UpstreamClient::new(Arc::clone(&gateway.tls), (arena, backends), most_idle);
        let lines = AccessLogBuffer::new(gateway.log.clone(), gateway.traces.clone());
        let post = SessionWatchContext::new(&gateway);
        Self { gateway, state: RefCell::new(desk), upstream, post, lines, counters, workers }
    }

    /// Answers a request. Whatever happens inside, the visitor gets a response.
    pub async fn handle(&self, request: &mut Request<Incoming>, peer: &Rc<Peer>) -> Response<Body> {
        let (desk, now) = (self.desk(), (self.gateway.clock)());
        let mut entry = AccessLogEntry::start(request, peer, (&desk, &self.lines), now);
        let response = match self.respond(&desk, request, (peer, now), &mut entry).await {
            Ok(response) => response,
            Err(error) => {
                let error = self.count_refusal(&desk, error, entry.client());
                self.record_error(&error, &entry);
                let sorry = desk.rules.responder.error_response(
                    &error,
                    &ClientPreferences::of(request),
                    entry.request_id(),
                );
                // HTTP/2 frames its requests, and knows no such header.
                let last = error.ends_connection() && request.version() != Version::HTTP_2;
                if last { reply::close_connection(sorry) } else { sorry }
            }
        };
        entry.set_status(response.status());
        response.map(|body| body.with_access_log(entry))
    }

    /// Answers somebody whose head is no request, and notes that it was there.
    pub fn respond_unparsed(&self, refused: ParseError, peer: &Rc<Peer>) -> Response<Body> {
        let (desk, now) = (self.desk(), (self.gateway.clock)());
        let mut entry = AccessLogEntry::start_unparsed(peer, (&desk, &self.lines), now);
        let response = match refused {
            ParseError::Malformed(why) => {
                let error = Error::BadRequest(why);
                self.record_error(&error, &entry);
                desk.rules.responder.error_response(
                    &error,
                    &ClientPreferences::unknown(),
                    entry.request_id(),
                )
            }
            ParseError::TooLarge | ParseError::TooManyHeaders => too_many_headers(),
            ParseError::UnsupportedVersion => reply::empty(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
        };
        entry.set_status(response.status());
        response.map(|body| body.with_access_log(entry))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.gateway.clock)()
    }

    /// Whether the word of a peer at this address is taken.
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        self.desk().rules.trusted.includes(address)
    }

    /// Hands the access lines over that have been gathered.
    pub fn flush(&self) {
        self.lines.flush();
    }

    /// Closes upstream connections that nobody has used for a while, and lets go of what belongs to
    /// rules that are no longer in force: a thread without requests would keep it.
    pub fn close_idle(&self) {
        self.upstream.close_idle();
        drop(self.desk());
    }

    async fn respond<'a>(
        &self,
        state: &'a WorkerState,
        request: &mut Request<Incoming>,
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut AccessLogEntry,
    ) -> Result<Response<Body>, Error> {
        let rules = &*state.rules;
        if let Some(content) = rules.verify_file(request) {
            return Ok(reply::text(content));
        }
        if let Some(asked) = broker::match_request(rules, request) {
            let trace = entry.trace();
            let answer = self.broker(state, (asked, request), (peer, now), entry);
            return self.gateway.traces.instrument_request(trace, answer).await;
        }
        if self.gateway.revocations.was_suspended() {
            Box::pin(self.gateway.revocations.catch_up()).await;
        }
        if let Some(rest) = verify::match_request(rules, request) {
            return self.verify(state, (request, rest), (peer, now), entry);
        }
        if let Some(relayed) = login::relay(rules, request, now) {
            let client = rules.trusted.client(peer.ip, request.headers());
            self.check_rate_limit(LimitedAction::Callback, rules, client)?;
            return relayed;
        }
        let arrival = context::resolve(rules, request, peer, entry, now)?;
        let answer = match arrival.route {
            // In a box, as all that is rare: every request would carry its weight.
            RouteMatch::Door(door) => {
                let answer = self.handle_endpoint(door, state, request, &arrival);
                self.gateway.traces.instrument_request(arrival.origin.trace, answer).await
            }
            RouteMatch::Route(access) => {
                entry.set_access(access);
                self.handle_site_request(access, state, request, &arrival).await
            }
        };
        entry.set_outcome(&arrival);
        answer
    }

    /// A request for a page of the site: who asks, may they, and then one thing per decision.
    async fn handle_site_request(
        &self,
        access: Access,
        state: &WorkerState,
        request: &mut Request<Incoming>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, site) = (&*state.rules, cx.site);
        if let Some(answer) = cors::preflight(site, access, request) {
            return Ok(answer);
        }
        let (known, decision) = self.authorize(access, state, request, cx)?;
        let response = match decision {
            Decision::ForwardWithIdentity => {
                return self.forward(state, request, cx, known.ok()).await;
            }
            Decision::ForwardAnonymous => return self.forward(state, request, cx, None).await,
            Decision::Login(scope) if site.fragment == FragmentPolicy::Keep => {
                let url = rules.login_url(&rules.return_target(request), Some(scope));
                rules.responder.remember_fragment(&url, &ClientPreferences::of(request))
            }
            Decision::Login(scope) => {
                let wish = login::LoginRequest::first(rules.return_target(request), scope);
                self.begin_login(rules, request, cx, wish)?
            }
            Decision::ShowLoginPage(scope) => {
                let url = rules.login_url(&rules.return_target(request), Some(scope));
                rules.responder.login_page(&url, &ClientPreferences::of(request))
            }
            Decision::ShowQrPage => rules.responder.open_in_wechat(
                site,
                &rules.return_target(request),
                &ClientPreferences::of(request),
            ),
            Decision::ShowSnapshotPage => {
                rules.responder.leave_snapshot(&ClientPreferences::of(request))
            }
            Decision::Forbidden => return Err(Error::WeChatOnly),
            Decision::Unauthorized(scope) => {
                self.check_rate_limit(LimitedAction::Refusal, rules, cx.origin.ip)?;
                let url = rules.login_url(&rules.return_target(request), Some(scope));
                cors::readable(site, request.headers(), reply::unauthorized(&url))
            }
        };
        Ok(match known {
            Err(SessionError::Ambiguous) => login::without_session(response, site),
            Err(_) | Ok(_) => response,
        })
    }

    /// A request for the gateway itself.
    async fn handle_endpoint(
        &self,
        endpoint: GatewayEndpoint,
        state: &WorkerState,
        request: &mut Request<Incoming>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match endpoint {
            GatewayEndpoint::Login if get => self.login(state, request, cx),
            GatewayEndpoint::Callback if get => self.callback(state, request, cx).await,
            GatewayEndpoint::Accept if get => self.accept(state, request, cx).await,
            GatewayEndpoint::Client if get => Ok(reply::client(&state.rules.prefix)),
            GatewayEndpoint::PublicKeys if get && cx.site.assertion => {
                Ok(reply::public_keys(state.rules.keys.public(), request.headers()))
            }
            GatewayEndpoint::Logout if get => Ok(self.ask_logout(state, request, cx)),
            GatewayEndpoint::Logout if request.method() == Method::POST => {
                self.logout(state, request, cx).await
            }
            GatewayEndpoint::Session if get => {
                let answer = match self.authenticate(state, request, cx) {
                    Ok(known) => reply::session(&known.session, cx.site),
                    Err(_) => reply::unauthorized(&state.rules.login_url(&ReturnTo::home(), None)),
                };
                Ok(cors::readable(cx.site, request.headers(), answer))
            }
            GatewayEndpoint::PublicKeys if get => Err(Error::NotFound),
            GatewayEndpoint::Unknown => Err(Error::NotFound),
            GatewayEndpoint::Login
            | GatewayEndpoint::Callback
            | GatewayEndpoint::Accept
            | GatewayEndpoint::Logout
            | GatewayEndpoint::Session
            | GatewayEndpoint::Client
            | GatewayEndpoint::PublicKeys => Err(Error::MethodNotAllowed),
        }
    }

    /// This thread's view of the settings in force.
    fn desk(&self) -> Rc<WorkerState> {
        let edition = self.gateway.edition.load(Ordering::Acquire);
        if self.state.borrow().generation != edition {
            let rules = self.gateway.rules.load_full();
            let state = WorkerState::new(rules, edition, &self.counters, self.workers);
            self.state.replace(Rc::new(state));
        }
        Rc::clone(&self.state.borrow())
    }
}
