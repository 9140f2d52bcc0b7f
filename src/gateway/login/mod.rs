//! The trip through WeChat: out with a state, back with a code, and once per account of the site.

mod callback;
mod relay;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, header};

use super::{Arrival, Asker, Body, Deed, Desk, Error, Worker, reply, rules::Rules};
use crate::{
    auth::{
        App, Device, Pending, ReturnTo, SoFar, State,
        pending::{AT_ONCE, PATIENCE},
        token::NONCE,
    },
    site::{Access, Account, Outside, Scope, Site, Snapshot},
    traces::{self, Step},
    wechat::protocol::{self, Leave},
    wire::{Path, cookie::Names},
};

pub use callback::{Code, Words, is_spent};
pub use relay::relay;

/// A login that is wanted.
pub struct Wish {
    /// Where the visitor is going.
    pub return_to: ReturnTo,
    /// How much to ask for.
    pub scope: Scope,
    /// How often it has been tried already.
    pub restarts: u8,
    /// The next leg of a trip, if it is not the first: whose login page, and what is known by now.
    pub leg: Option<(Arc<Account>, SoFar)>,
}

impl Wish {
    /// The first try.
    pub fn first(return_to: ReturnTo, scope: Scope) -> Self {
        Self { return_to, scope, restarts: 0, leg: None }
    }
}

/// Sends the visitor to WeChat, remembering in a cookie where they were going. Nothing is kept
/// on our side.
pub fn start<B>(
    rules: &Rules,
    request: &Request<B>,
    arrival: &Arrival<'_>,
    wish: Wish,
) -> Result<Response<Body>, Error> {
    let site = arrival.site;
    if !arrival.at_home {
        // WeChat brings visitors back to the host the site is known by, and a cookie of another
        // host would not be there to meet them.
        return Ok(reply::redirect(&format!("{}{}", site.public_url, wish.return_to.as_str())));
    }
    let (account, so_far) = match wish.leg {
        Some((account, so_far)) => (account, Some(so_far)),
        None => (Arc::clone(account_for(site, request.headers())), None),
    };
    let mut step = traces::step("login start");
    let Wish { return_to, scope, restarts, .. } = wish;
    let audience = site.public_url.as_str();
    let state = State { nonce: rand::random(), issued: arrival.now, restarts, scope };
    let sealed_state = state.seal(&rules.keys, audience);
    let leave = Leave {
        callback: &callback_url(rules, site, &account, &return_to),
        scope,
        state: &sealed_state,
        device: Device::of(request.headers()),
    };
    let mut response = reply::redirect(&protocol::authorize_url(&account, &leave));
    let app_id = account.app_id.clone();
    let pending = Pending { nonce: state.nonce, return_to, scope, app_id, so_far };
    let flow = pending.seal(&rules.keys, audience, rand::random::<[u8; NONCE]>())?;
    for name in forgotten(request, &site.cookies) {
        set(&mut response, site.cookies.clear(&name));
    }
    set(&mut response, site.cookies.set(&site.cookies.flow(&state.id()), &flow, PATIENCE));
    step.say("wxgate.login", || Some(state.id()));
    step.say("wxgate.account", || Some(account.name.as_str()));
    step.say("wxgate.scope", || Some(scope.as_str()));
    step.well();
    Ok(response)
}

/// The end of a step of a login, as a trace tells it.
pub fn told<T>(answer: Result<T, Error>, step: Step) -> Result<T, Error> {
    match &answer {
        Ok(_) => step.well(),
        Err(error) => step.ill(error.notice().word()),
    }
    answer
}

/// The account whose login page this app can use.
fn account_for<'a>(site: &'a Site, headers: &HeaderMap) -> &'a Arc<Account> {
    match &site.outside_wechat {
        Outside::Login(account) if App::of(headers) != App::WeChat => account,
        Outside::Login(_) | Outside::Page | Outside::Anonymous | Outside::Deny => &site.account,
    }
}

/// WeChat keeps what stands in the query. The target in it is only for the case that the cookie is
/// lost on the way: it says nothing about who comes back, and leads nowhere but into the site.
const LONGEST_HINT: usize = 400;

/// Where WeChat sends the visitor back to: from the configuration, never from the request.
fn callback_url(rules: &Rules, site: &Site, account: &Account, return_to: &ReturnTo) -> String {
    let (prefix, scheme) = (&rules.prefix, site.public_url.scheme().as_str());
    let url = match &account.callback {
        Some(callback) => format!("{scheme}://{}{prefix}/callback", callback.authority),
        None => [site.public_url.as_str(), prefix, "/callback"].concat(),
    };
    let hint = Rules::encode(return_to.as_str());
    // An authorize URL of about 1500 characters was refused by some iPhones.
    let worthwhile = return_to.as_str() != "/" && hint.len() <= LONGEST_HINT;
    if worthwhile { [&url, "?rd=", &hint].concat() } else { url }
}

/// The flow cookies that have to go so that one more fits.
pub fn forgotten<B>(request: &Request<B>, cookies: &Names) -> Vec<String> {
    let under_way: Vec<&str> = cookies.flows(request.headers()).map(|(name, _)| name).collect();
    let too_many = under_way.len().saturating_sub(AT_ONCE - 1);
    under_way.into_iter().take(too_many).map(str::to_owned).collect()
}

/// Ends the session cookie of a visitor who carries more than one.
pub fn without_session(mut response: Response<Body>, site: &Site) -> Response<Body> {
    set(&mut response, site.cookies.clear(site.cookies.session()));
    response
}

/// Adds a `Set-Cookie`, if there is one.
pub fn set(response: &mut Response<Body>, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

impl Worker {
    /// The first step of a trip, unless this client has taken too many.
    pub(super) fn begin_login<B>(
        &self,
        rules: &Rules,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        wish: Wish,
    ) -> Result<Response<Body>, Error> {
        self.count(Deed::Login, rules, arrival.origin.ip)?;
        self.gateway.metrics.login("started", "");
        let trace = arrival.origin.trace;
        self.gateway.traces.within(trace, || start(rules, request, arrival, wish))
    }

    /// `/login?rd=/path&scope=…`: a login that the visitor asked for themselves.
    pub(super) fn login<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, site) = (&*desk.rules, arrival.site);
        let field = |name| Field::of(request.uri().query(), name);
        let return_to = match field("rd") {
            Field::Absent => ReturnTo::home(),
            Field::Once(rd) => ReturnTo::parse(&rd, &rules.prefix).unwrap_or_else(ReturnTo::home),
            Field::Several => return Err(Error::BadRequest("two return targets")),
        };
        let scope = match field("scope") {
            Field::Absent => asked_by_route(site, &return_to),
            Field::Once(scope) => {
                Scope::parse(&scope).ok_or(Error::BadRequest("an unknown scope"))?
            }
            Field::Several => return Err(Error::BadRequest("two scopes")),
        };
        match self.recognise(desk, request, arrival) {
            // WeChat would only name the same virtual visitor again.
            Ok(known) if known.session.snapshot && site.snapshot == Snapshot::Page => {
                return Ok(rules.voice.leave_snapshot(&Asker::of(request)));
            }
            Ok(known) if known.session.identity.scope >= scope && !known.session.snapshot => {
                return Ok(reply::redirect(return_to.as_str()));
            }
            Ok(_) | Err(_) => (),
        }
        match (App::of(request.headers()), &site.outside_wechat) {
            (App::WeChat, _) | (_, Outside::Login(_)) => {
                if let Some(page) = before(rules, request, &return_to, scope) {
                    return Ok(page);
                }
                self.begin_login(rules, request, arrival, Wish::first(return_to, scope))
            }
            (App::WeCom | App::Other, Outside::Deny) => Err(Error::WeChatOnly),
            (App::WeCom | App::Other, Outside::Page | Outside::Anonymous) => {
                Ok(rules.voice.open_in_wechat(site, &return_to, &Asker::of(request)))
            }
        }
    }
}

/// The page of ours that comes before WeChat's, where another proxy sent the visitor here in place
/// of showing it.
fn before<B>(
    rules: &Rules,
    request: &Request<B>,
    return_to: &ReturnTo,
    scope: Scope,
) -> Option<Response<Body>> {
    let (url, asker) = (rules.login_url(return_to, Some(scope)), Asker::of(request));
    match Field::of(request.uri().query(), "prompt").only()?.as_str() {
        "button" => Some(rules.voice.offer_login(&url, &asker)),
        "remember" => Some(rules.voice.remember(&url, &asker)),
        _ => None,
    }
}

/// What the page at `return_to` asks for, so that a login without a scope asks for no less.
fn asked_by_route(site: &Site, return_to: &ReturnTo) -> Scope {
    let path = return_to.as_str().split(['?', '#']).next().unwrap_or_default();
    let route = Path::parse(path).ok().and_then(|path| site.route(path, &http::Method::GET));
    match route.map(|route| route.access) {
        Some(Access::Required(scope, _)) => scope,
        Some(Access::None | Access::Optional) | None => Scope::Base,
    }
}

/// A field of a query.
pub enum Field {
    /// Not there, or empty.
    Absent,
    /// Its value.
    Once(String),
    /// More than one.
    Several,
}

impl Field {
    /// The field of this name.
    pub fn of(query: Option<&str>, name: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) if value.is_empty() => Self::Absent,
            (Some(value), None) => Self::Once(value.into_owned()),
            (Some(_), Some(_)) => Self::Several,
        }
    }

    /// Its value, if it has one and one only.
    pub fn only(self) -> Option<String> {
        match self {
            Self::Once(value) => Some(value),
            Self::Absent | Self::Several => None,
        }
    }
}
