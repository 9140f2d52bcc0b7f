//! One request, from door to door.
//!
//! [`Worker::handle`] is the story; every sentence of it is a call into another room.

use std::{
    cell::RefCell,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use http::{Method, Request, Response, StatusCode, Version};

use crate::{
    auth::{Decision, ReturnTo, Stranger},
    clock::Timestamp,
    http1::{Arena, Incoming, head::Refused},
    metrics::Thread,
    site::{Access, Fragment},
    upstream::{self, Upstream},
};

mod access_log;
mod body;
mod broker;
mod cors;
mod crowd;
mod error;
mod exchange;
mod feed;
mod forward;
mod login;
mod logout;
mod notes;
pub mod page;
mod peer;
mod receive;
mod recognise;
mod refresh;
mod reply;
mod revoke;
mod rules;
mod shared;
mod throttle;
mod verify;
mod vigil;
mod voice;

pub use access_log::AccessLog;
pub use body::{Body, Tunnel};
pub use crowd::{Crowd, Seat};
pub use error::Error;
pub use peer::Peer;
pub use reply::too_many_headers;
pub use revoke::{Given, Standing};
pub use shared::{Gateway, Settings, SetupError};
pub use upstream::Allowance;

use access_log::{Entry, Lines};
use receive::{Arrival, Door, Landing};
use reply::Asker;
use rules::{Desk, Rules};
use throttle::Deed;
use vigil::Post;

/// One thread's part of the gateway.
pub struct Worker {
    gateway: Arc<Gateway>,
    desk: RefCell<Rc<Desk>>,
    upstream: Upstream,
    post: Rc<Post>,
    lines: Rc<Lines>,
    counters: Arc<Thread>,
}

impl Worker {
    /// A thread's part, with no connections and an empty cache.
    /// Of connections to sites it keeps at most so many that are idle.
    pub fn new(gateway: Arc<Gateway>, arena: Rc<Arena>, most_idle: usize) -> Self {
        let counters = gateway.metrics.thread();
        let desk = Rc::new(Desk::new(gateway.rules.load_full(), 0, &counters));
        let backends = Arc::clone(&gateway.backends);
        let upstream = Upstream::new(Arc::clone(&gateway.tls), (arena, backends), most_idle);
        let lines = Lines::new(gateway.log.clone(), gateway.traces.clone());
        let post = Post::new(&gateway.feed);
        Self { gateway, desk: RefCell::new(desk), upstream, post, lines, counters }
    }

    /// Answers a request. Whatever happens inside, the visitor gets a response.
    pub async fn handle(&self, request: &mut Request<Incoming>, peer: &Rc<Peer>) -> Response<Body> {
        let (desk, now) = (self.desk(), (self.gateway.clock)());
        let mut entry = Entry::open(request, peer, (&desk, &self.lines), now);
        let response = match self.answer(&desk, request, (peer, now), &mut entry).await {
            Ok(response) => response,
            Err(error) => {
                let error = self.held_back(&desk, error, entry.client());
                self.note(&error, &entry);
                let sorry =
                    desk.rules.voice.apologise(&error, &Asker::of(request), entry.request_id());
                // HTTP/2 frames its requests, and knows no such header.
                let last = error.ends_connection() && request.version() != Version::HTTP_2;
                if last { reply::last(sorry) } else { sorry }
            }
        };
        entry.answered(response.status());
        response.map(|body| body.told_by(entry))
    }

    /// Answers somebody whose head is no request, and notes that it was there.
    pub fn refuse(&self, refused: Refused, peer: &Rc<Peer>) -> Response<Body> {
        let (desk, now) = (self.desk(), (self.gateway.clock)());
        let mut entry = Entry::unread(peer, (&desk, &self.lines), now);
        let response = match refused {
            Refused::Unreadable(why) => {
                let error = Error::BadRequest(why);
                self.note(&error, &entry);
                desk.rules.voice.apologise(&error, &Asker::unknown(), entry.request_id())
            }
            Refused::TooLarge | Refused::TooMany => too_many_headers(),
            Refused::Version => reply::empty(StatusCode::HTTP_VERSION_NOT_SUPPORTED),
        };
        entry.answered(response.status());
        response.map(|body| body.told_by(entry))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.gateway.clock)()
    }

    /// Whether the word of a peer at this address is taken.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.desk().rules.trusted.includes(address)
    }

    /// Hands the access lines over that have been gathered.
    pub fn flush(&self) {
        self.lines.flush();
    }

    /// Closes upstream connections that nobody has used for a while.
    pub fn sweep(&self) {
        self.upstream.sweep();
    }

    async fn answer<'a>(
        &self,
        desk: &'a Desk,
        request: &mut Request<Incoming>,
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut Entry,
    ) -> Result<Response<Body>, Error> {
        let rules = &*desk.rules;
        if let Some(content) = rules.verify_file(request) {
            return Ok(reply::text(content));
        }
        if let Some(asked) = broker::asked(rules, request) {
            let trace = entry.trace();
            let answer = self.broker(desk, (asked, request), (peer, now), entry);
            return self.gateway.traces.follow(trace, answer).await;
        }
        if self.gateway.feed.has_dozed() {
            Box::pin(self.gateway.feed.catch_up()).await;
        }
        if let Some(rest) = verify::asked(rules, request) {
            return self.verify(desk, (request, rest), (peer, now), entry);
        }
        if let Some(relayed) = login::relay(rules, request, now) {
            let client = rules.trusted.client(peer.ip, request.headers());
            self.count(Deed::Callback, rules, client)?;
            return relayed;
        }
        let arrival = receive::receive(rules, request, peer, entry, now)?;
        let answer = match arrival.landing {
            // In a box, as all that is rare: every request would carry its weight.
            Landing::Door(door) => {
                let answer = self.open(door, desk, request, &arrival);
                self.gateway.traces.follow(arrival.origin.trace, answer).await
            }
            Landing::Route(access) => {
                entry.routed(access);
                self.visit(access, desk, request, &arrival).await
            }
        };
        entry.learn(&arrival);
        answer
    }

    /// A request for a page of the site: who asks, may they, and then one thing per decision.
    async fn visit(
        &self,
        access: Access,
        desk: &Desk,
        request: &mut Request<Incoming>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, site) = (&*desk.rules, arrival.site);
        if let Some(answer) = cors::preflight(site, access, request) {
            return Ok(answer);
        }
        let (known, decision) = self.judge(access, desk, request, arrival)?;
        let response = match decision {
            Decision::Introduce => return self.forward(desk, request, arrival, known.ok()).await,
            Decision::PassUnnamed => return self.forward(desk, request, arrival, None).await,
            Decision::Login(scope) if site.fragment == Fragment::Keep => {
                let url = rules.login_url(&rules.going(request), Some(scope));
                rules.voice.remember(&url, &Asker::of(request))
            }
            Decision::Login(scope) => {
                let wish = login::Wish::first(rules.going(request), scope);
                self.begin_login(rules, request, arrival, wish)?
            }
            Decision::OfferLogin(scope) => {
                let url = rules.login_url(&rules.going(request), Some(scope));
                rules.voice.offer_login(&url, &Asker::of(request))
            }
            Decision::OpenInWeChat => {
                rules.voice.open_in_wechat(site, &rules.going(request), &Asker::of(request))
            }
            Decision::LeaveSnapshot => rules.voice.leave_snapshot(&Asker::of(request)),
            Decision::WeChatOnly => return Err(Error::WeChatOnly),
            Decision::Unauthorized(scope) => {
                self.count(Deed::Refusal, rules, arrival.origin.ip)?;
                let url = rules.login_url(&rules.going(request), Some(scope));
                cors::readable(site, request.headers(), reply::unauthorized(&url))
            }
        };
        Ok(match known {
            Err(Stranger::Several) => login::without_session(response, site),
            Err(_) | Ok(_) => response,
        })
    }

    /// A request for the gateway itself.
    async fn open(
        &self,
        door: Door,
        desk: &Desk,
        request: &mut Request<Incoming>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match door {
            Door::Login if get => self.login(desk, request, arrival),
            Door::Callback if get => self.callback(desk, request, arrival).await,
            Door::Accept if get => self.accept(desk, request, arrival).await,
            Door::Client if get => Ok(reply::client(&desk.rules.prefix)),
            Door::PublicKeys if get && arrival.site.assertion => {
                Ok(reply::public_keys(desk.rules.keys.public(), request.headers()))
            }
            Door::Logout if get => Ok(self.ask_logout(desk, request, arrival)),
            Door::Logout if request.method() == Method::POST => {
                self.logout(desk, request, arrival).await
            }
            Door::Session if get => {
                let answer = match self.recognise(desk, request, arrival) {
                    Ok(known) => reply::session(&known.session, arrival.site),
                    Err(_) => reply::unauthorized(&desk.rules.login_url(&ReturnTo::home(), None)),
                };
                Ok(cors::readable(arrival.site, request.headers(), answer))
            }
            Door::PublicKeys if get => Err(Error::NotFound),
            Door::Unknown => Err(Error::NotFound),
            Door::Login
            | Door::Callback
            | Door::Accept
            | Door::Logout
            | Door::Session
            | Door::Client
            | Door::PublicKeys => Err(Error::MethodNotAllowed),
        }
    }

    /// This thread's view of the settings in force.
    fn desk(&self) -> Rc<Desk> {
        let edition = self.gateway.edition.load(Ordering::Acquire);
        if self.desk.borrow().edition != edition {
            let rules = self.gateway.rules.load_full();
            self.desk.replace(Rc::new(Desk::new(rules, edition, &self.counters)));
        }
        Rc::clone(&self.desk.borrow())
    }
}
