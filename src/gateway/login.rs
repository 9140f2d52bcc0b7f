//! The trip through WeChat: out with a state, back with a code.

use std::borrow::Cow;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use url::form_urlencoded;

use super::{Arrival, Asker, Body, Desk, Error, Worker, reply, rules::Rules};
use crate::{
    auth::{
        App, Client, Pending, ReturnTo, Session, State,
        pending::{AT_ONCE, PATIENCE, RESTARTS},
        token::NONCE,
    },
    site::{Access, Outside, Scope, Site},
    wechat::{
        self, Person,
        protocol::{self, Fault},
    },
    wire::{Path, cookie},
};

/// A login that is wanted.
pub struct Wish {
    /// Where the visitor is going.
    pub return_to: ReturnTo,
    /// How much to ask for.
    pub scope: Scope,
    /// How often it has been tried already.
    pub restarts: u8,
}

impl Wish {
    /// The first try.
    pub fn first(return_to: ReturnTo, scope: Scope) -> Self {
        Self { return_to, scope, restarts: 0 }
    }
}

/// Sends the visitor to WeChat, remembering in a cookie where they were going. Nothing is kept
/// on our side.
pub fn start(
    rules: &Rules,
    request: &Request<Incoming>,
    arrival: &Arrival<'_>,
    wish: &Wish,
) -> Result<Response<Body>, Error> {
    let site = arrival.site;
    if !arrival.at_home {
        // WeChat brings visitors back to the host the site is known by, and a cookie of another
        // host would not be there to meet them.
        return Ok(reply::redirect(&format!("{}{}", site.public_url, wish.return_to.as_str())));
    }
    let audience = site.public_url.as_str();
    let state = State { nonce: rand::random(), issued: arrival.now, restarts: wish.restarts };
    let pending =
        Pending { nonce: state.nonce, return_to: wish.return_to.clone(), scope: wish.scope };
    let flow = pending.seal(&rules.keys, audience, rand::random::<[u8; NONCE]>())?;
    let callback = format!("{audience}{}/callback", rules.prefix);
    let away = protocol::authorize_url(
        &site.account,
        &callback,
        wish.scope,
        &state.seal(&rules.keys, audience),
    );
    let mut response = reply::redirect(&away);
    for name in forgotten(request, site) {
        set(&mut response, site.cookies.clear(&name));
    }
    set(&mut response, site.cookies.set(&site.cookies.flow(&state.id()), &flow, PATIENCE));
    tracing::debug!(target: "audit", site = site.name, scope = wish.scope.as_str(), "login started");
    Ok(response)
}

/// The flow cookies that have to go so that one more fits.
fn forgotten(request: &Request<Incoming>, site: &Site) -> Vec<String> {
    let under_way: Vec<&str> =
        site.cookies.flows(request.headers()).map(|(name, _)| name).collect();
    let too_many = under_way.len().saturating_sub(AT_ONCE - 1);
    under_way.into_iter().take(too_many).map(str::to_owned).collect()
}

/// Ends the session cookie of a visitor who carries more than one.
pub fn without_session(mut response: Response<Body>, site: &Site) -> Response<Body> {
    set(&mut response, site.cookies.clear(site.cookies.session()));
    response
}

fn set(response: &mut Response<Body>, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

impl Worker {
    /// `/login?rd=/path&scope=…`: a login that the visitor asked for themselves.
    pub(super) fn login(
        &self,
        desk: &Desk,
        request: &Request<Incoming>,
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
        if let Ok(known) = self.recognise(desk, request, arrival)
            && known.session.identity.scope >= scope
            && !known.session.snapshot
        {
            return Ok(reply::redirect(return_to.as_str()));
        }
        match (Client::of(request.method(), request.headers()).app, site.outside_wechat) {
            (App::WeChat, _) | (_, Outside::Login) => {
                start(rules, request, arrival, &Wish::first(return_to, scope))
            }
            (App::WeCom | App::Other, Outside::Deny) => Err(Error::WeChatOnly),
            (App::WeCom | App::Other, Outside::Page | Outside::Anonymous) => {
                Ok(rules.voice.open_in_wechat(site, &return_to, &Asker::of(request)))
            }
        }
    }

    /// `/callback?code&state`: welcomes the visitor back. The session comes first, because
    /// callbacks repeat; then state and flow cookie, because callbacks are forged; WeChat last.
    pub(super) async fn finish_login(
        &self,
        desk: &Desk,
        request: &Request<Incoming>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        let rules = &*desk.rules;
        let back = Back::read(request, rules, arrival);
        if let Ok(known) = self.recognise(desk, request, arrival) {
            let wanted = back.as_ref().map_or(Scope::Base, |back| back.pending.scope);
            let home = ReturnTo::home();
            let going = back.as_ref().map_or(&home, |back| &back.pending.return_to);
            if known.session.identity.scope >= wanted && !known.session.snapshot {
                return Ok(onward(going));
            }
        }
        let back = back?;
        let retry = rules.login_url(&back.pending.return_to, Some(back.pending.scope));
        let Some(code) = &back.code else { return Err(Error::Declined { retry }) };
        let account = &arrival.site.account;
        let answer = self.gateway.exchanges.identify(account, code, back.state.nonce).await;
        match answer {
            Ok(person) => welcome(rules, arrival, &back, person, &Asker::of(request)),
            Err(error) if is_spent(&error) && back.state.restarts < RESTARTS => {
                tracing::info!(target: "audit", site = arrival.site.name, %error, "login starts again");
                let restarts = back.state.restarts.saturating_add(1);
                let (return_to, scope) = (back.pending.return_to, back.pending.scope);
                start(rules, request, arrival, &Wish { return_to, scope, restarts })
            }
            Err(source) => Err(Error::Login { retry, source }),
        }
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

/// A code that no longer works, where another login may.
fn is_spent(error: &wechat::Error) -> bool {
    matches!(error, wechat::Error::Refused(refusal) if refusal.fault() == Fault::Code)
}

/// A fresh session, and on to the page the visitor asked for.
fn welcome(
    rules: &Rules,
    arrival: &Arrival<'_>,
    back: &Back,
    person: Person,
    asker: &Asker,
) -> Result<Response<Body>, Error> {
    let (site, now, pending) = (arrival.site, arrival.now, &back.pending);
    let granted = person.identity.scope;
    let fresh = Session::begin(site, person.identity, rand::random(), now, &rules.session);
    let session = if person.snapshot { fresh.of_snapshot() } else { fresh };
    let names = &site.cookies;
    let cookie = names.set(names.session(), &session.seal(&rules.keys)?, session.age(now));
    // A visitor who granted less than the page asks would be sent round in circles.
    let mut response = if granted < pending.scope && !session.snapshot {
        rules.voice.ask_consent(&rules.login_url(&pending.return_to, Some(pending.scope)), asker)
    } else {
        onward(&pending.return_to)
    };
    set(&mut response, cookie);
    set(&mut response, names.clear(&names.flow(&back.state.id())));
    tracing::info!(
        target: "audit",
        site = site.name,
        account = site.account.name,
        openid = session.identity.openid,
        scope = granted.as_str(),
        snapshot = session.snapshot,
        "login finished",
    );
    Ok(response)
}

/// From the callback to the page asked for. A browser carries the fragment of the address it came
/// from over a redirect that has none (Fetch, section 4.4), and it came from `#wechat_redirect`,
/// which an app with routes in its fragment would take for a route: an empty one stops that.
fn onward(return_to: &ReturnTo) -> Response<Body> {
    let path = return_to.as_str();
    if path.contains('#') { reply::redirect(path) } else { reply::redirect(&format!("{path}#")) }
}

/// A callback whose state this browser remembers.
struct Back {
    state: State,
    pending: Pending,
    /// Absent when the visitor declined.
    code: Option<String>,
}

impl Back {
    fn read(
        request: &Request<Incoming>,
        rules: &Rules,
        arrival: &Arrival<'_>,
    ) -> Result<Self, Error> {
        let query = request.uri().query();
        let (site, audience) = (arrival.site, arrival.site.public_url.as_str());
        let state = Field::of(query, "state").only().ok_or(Error::LoginExpired)?;
        let state = State::open(&state, &rules.keys, audience, arrival.now)
            .map_err(|_| Error::LoginExpired)?;
        let name = site.cookies.flow(&state.id());
        let pending = cookie::values(request.headers(), &name)
            .filter_map(|value| Pending::open(value, &rules.keys, audience, &rules.prefix))
            .find(|pending| pending.nonce == state.nonce)
            .ok_or_else(|| Error::CookiesLost { retry: "/".to_owned() })?;
        let code = match Field::of(query, "code") {
            Field::Absent => None,
            Field::Once(code) if is_code(&code) => Some(code.into_owned()),
            Field::Once(_) | Field::Several => return Err(Error::BadRequest("an unusable code")),
        };
        Ok(Self { state, pending, code })
    }
}

/// WeChat promises neither length nor alphabet; this is what fits a URL.
fn is_code(code: &str) -> bool {
    (1..=512).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic())
}

/// A field of a query.
enum Field<'a> {
    Absent,
    Once(Cow<'a, str>),
    Several,
}

impl<'a> Field<'a> {
    fn of(query: Option<&'a str>, name: &str) -> Field<'a> {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None, _) => Field::Absent,
            (Some(value), None) if value.is_empty() => Field::Absent,
            (Some(value), None) => Field::Once(value),
            (Some(_), Some(_)) => Field::Several,
        }
    }

    fn only(self) -> Option<Cow<'a, str>> {
        match self {
            Field::Once(value) => Some(value),
            Field::Absent | Field::Several => None,
        }
    }
}
