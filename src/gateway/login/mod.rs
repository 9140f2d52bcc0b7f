//! The trip through WeChat: out with a state, back with a code, and once per account of the site.

mod callback;
mod relay;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, header};

use super::{
    Body, ClientPreferences, Error, LimitedAction, RequestContext, RequestHandler, WorkerState,
    reply, rules::RuntimeConfig,
};
use crate::{
    auth::{
        App, Device, OAuthState, PartialLogin, PendingLogin, ReturnTo,
        pending::{MAX_PENDING_LOGINS, STATE_LIFETIME},
        token::NONCE,
    },
    httputil::{Path, cookie::CookieNames},
    site::{Access, Account, OutsideWeChat, Scope, Site, SnapshotPolicy},
    traces::{self, ActiveSpan},
    wechat::protocol::{self, AuthorizeParams},
};

pub use callback::{CallbackParams, CodeParam, is_code_spent};
pub use relay::relay;

/// A login that is wanted.
pub struct LoginRequest {
    /// Where the visitor is going.
    pub return_to: ReturnTo,
    /// How much to ask for.
    pub scope: Scope,
    /// How often it has been tried already.
    pub restarts: u8,
    /// The next leg of a trip, if it is not the first: whose login page, and what is known by now.
    pub leg: Option<(Arc<Account>, PartialLogin)>,
}

impl LoginRequest {
    /// The first try.
    pub fn first(return_to: ReturnTo, scope: Scope) -> Self {
        Self { return_to, scope, restarts: 0, leg: None }
    }
}

/// Sends the visitor to WeChat, remembering in a cookie where they were going. Nothing is kept
/// on our side.
pub fn start<B>(
    rules: &RuntimeConfig,
    request: &Request<B>,
    cx: &RequestContext<'_>,
    wish: LoginRequest,
) -> Result<Response<Body>, Error> {
    let site = cx.site;
    if !cx.on_canonical_host {
        // WeChat brings visitors back to the host the site is known by, and a cookie of another
        // host would not be there to meet them.
        return Ok(reply::redirect(&format!("{}{}", site.public_url, wish.return_to.as_str())));
    }
    let (account, so_far) = match wish.leg {
        Some((account, so_far)) => (account, Some(so_far)),
        None => (Arc::clone(account_for(site, request.headers())), None),
    };
    let mut step = traces::step("login start");
    let LoginRequest { return_to, scope, restarts, .. } = wish;
    let audience = site.public_url.as_str();
    let state = OAuthState { nonce: rand::random(), issued: cx.now, restarts, scope };
    let sealed_state = state.seal(&rules.keys, audience);
    let leave = AuthorizeParams {
        callback: &callback_url(rules, site, &account, &return_to),
        scope,
        state: &sealed_state,
        device: Device::of(request.headers()),
    };
    let mut response = reply::redirect(&protocol::authorize_url(&account, &leave));
    let app_id = account.app_id.clone();
    let pending = PendingLogin { nonce: state.nonce, return_to, scope, app_id, so_far };
    let flow = pending.seal(&rules.keys, audience, rand::random::<[u8; NONCE]>())?;
    for name in excess_flow_cookies(request, &site.cookies) {
        set(&mut response, site.cookies.clear_cookie(&name));
    }
    set(
        &mut response,
        site.cookies.set_cookie(&site.cookies.flow(&state.id()), &flow, STATE_LIFETIME),
    );
    step.set_attribute("wxgate.login", || Some(state.id()));
    step.set_attribute("wxgate.account", || Some(account.name.as_str()));
    step.set_attribute("wxgate.scope", || Some(scope.as_str()));
    step.end_ok();
    Ok(response)
}

/// The end of a step of a login, as a trace tells it.
pub fn finish_span<T>(answer: Result<T, Error>, step: ActiveSpan) -> Result<T, Error> {
    match &answer {
        Ok(_) => step.end_ok(),
        Err(error) => step.end_error(error.notice().word()),
    }
    answer
}

/// The account whose login page this app can use.
fn account_for<'a>(site: &'a Site, headers: &HeaderMap) -> &'a Arc<Account> {
    match &site.outside_wechat {
        OutsideWeChat::Login(account) if App::of(headers) != App::WeChat => account,
        OutsideWeChat::Login(_)
        | OutsideWeChat::Page
        | OutsideWeChat::Anonymous
        | OutsideWeChat::Deny => &site.account,
    }
}

/// WeChat keeps what stands in the query. The target in it is only for the case that the cookie is
/// lost on the way: it says nothing about who comes back, and leads nowhere but into the site.
const LONGEST_HINT: usize = 400;

/// Where WeChat sends the visitor back to: from the configuration, never from the request.
fn callback_url(
    rules: &RuntimeConfig,
    site: &Site,
    account: &Account,
    return_to: &ReturnTo,
) -> String {
    let (prefix, scheme) = (&rules.prefix, site.public_url.scheme().as_str());
    let url = match &account.callback {
        Some(callback) => format!("{scheme}://{}{prefix}/callback", callback.authority),
        None => [site.public_url.as_str(), prefix, "/callback"].concat(),
    };
    let hint = RuntimeConfig::encode(return_to.as_str());
    // An authorize URL of about 1500 characters was refused by some iPhones.
    let worthwhile = return_to.as_str() != "/" && hint.len() <= LONGEST_HINT;
    if worthwhile { [&url, "?rd=", &hint].concat() } else { url }
}

/// The flow cookies that have to go so that one more fits.
pub fn excess_flow_cookies<B>(request: &Request<B>, cookies: &CookieNames) -> Vec<String> {
    let under_way: Vec<&str> = cookies.flows(request.headers()).map(|(name, _)| name).collect();
    let too_many = under_way.len().saturating_sub(MAX_PENDING_LOGINS - 1);
    under_way.into_iter().take(too_many).map(str::to_owned).collect()
}

/// Ends the session cookie of a visitor who carries more than one.
pub fn without_session(mut response: Response<Body>, site: &Site) -> Response<Body> {
    set(&mut response, site.cookies.clear_cookie(site.cookies.session()));
    response
}

/// Adds a `Set-Cookie`, if there is one.
pub fn set(response: &mut Response<Body>, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

impl RequestHandler {
    /// The first step of a trip, unless this client has taken too many.
    pub(super) fn begin_login<B>(
        &self,
        rules: &RuntimeConfig,
        request: &Request<B>,
        cx: &RequestContext<'_>,
        wish: LoginRequest,
    ) -> Result<Response<Body>, Error> {
        self.check_rate_limit(LimitedAction::Login, rules, cx.origin.ip)?;
        self.gateway.metrics.login("started", "");
        let trace = cx.origin.trace;
        self.gateway.traces.in_scope(trace, || start(rules, request, cx, wish))
    }

    /// `/login?rd=/path&scope=…`: a login that the visitor asked for themselves.
    pub(super) fn login<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, site) = (&*state.rules, cx.site);
        let field = |name| QueryParam::of(request.uri().query(), name);
        let return_to = match field("rd") {
            QueryParam::Absent => ReturnTo::home(),
            QueryParam::One(rd) => {
                ReturnTo::parse(&rd, &rules.prefix).unwrap_or_else(ReturnTo::home)
            }
            QueryParam::Repeated => return Err(Error::BadRequest("two return targets")),
        };
        let scope = match field("scope") {
            QueryParam::Absent => asked_by_route(site, &return_to),
            QueryParam::One(scope) => {
                Scope::parse(&scope).ok_or(Error::BadRequest("an unknown scope"))?
            }
            QueryParam::Repeated => return Err(Error::BadRequest("two scopes")),
        };
        match self.authenticate(state, request, cx) {
            // WeChat would only name the same virtual visitor again.
            Ok(known) if known.session.snapshot && site.snapshot == SnapshotPolicy::Page => {
                return Ok(rules.responder.leave_snapshot(&ClientPreferences::of(request)));
            }
            Ok(known) if known.session.identity.scope >= scope && !known.session.snapshot => {
                return Ok(reply::redirect(return_to.as_str()));
            }
            Ok(_) | Err(_) => (),
        }
        match (App::of(request.headers()), &site.outside_wechat) {
            (App::WeChat, _) | (_, OutsideWeChat::Login(_)) => {
                if let Some(page) = before(rules, request, &return_to, scope) {
                    return Ok(page);
                }
                self.begin_login(rules, request, cx, LoginRequest::first(return_to, scope))
            }
            (App::WeCom | App::Other, OutsideWeChat::Deny) => Err(Error::WeChatOnly),
            (App::WeCom | App::Other, OutsideWeChat::Page | OutsideWeChat::Anonymous) => Ok(rules
                .responder
                .open_in_wechat(site, &return_to, &ClientPreferences::of(request))),
        }
    }
}

/// The page of ours that comes before WeChat's, where another proxy sent the visitor here in place
/// of showing it.
fn before<B>(
    rules: &RuntimeConfig,
    request: &Request<B>,
    return_to: &ReturnTo,
    scope: Scope,
) -> Option<Response<Body>> {
    let (url, asker) = (rules.login_url(return_to, Some(scope)), ClientPreferences::of(request));
    match QueryParam::of(request.uri().query(), "prompt").single()?.as_str() {
        "button" => Some(rules.responder.login_page(&url, &asker)),
        "remember" => Some(rules.responder.remember_fragment(&url, &asker)),
        _ => None,
    }
}

/// What the page at `return_to` asks for, so that a login without a scope asks for no less.
fn asked_by_route(site: &Site, return_to: &ReturnTo) -> Scope {
    let path = return_to.as_str().split(['?', '#']).next().unwrap_or_default();
    let path = Path::parse_with(path, site.windows_names).ok();
    let route = path.and_then(|path| site.route(path, &http::Method::GET));
    match route.map(|route| route.access) {
        Some(Access::Required(scope, _)) => scope,
        Some(Access::None | Access::Optional) | None => Scope::Base,
    }
}

/// A field of a query.
pub enum QueryParam {
    /// Not there, or empty.
    Absent,
    /// Its value.
    One(String),
    /// More than one.
    Repeated,
}

impl QueryParam {
    /// The field of this name.
    pub fn of(query: Option<&str>, name: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut values = pairs.filter(|(key, _)| key == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) if value.is_empty() => Self::Absent,
            (Some(value), None) => Self::One(value.into_owned()),
            (Some(_), Some(_)) => Self::Repeated,
        }
    }

    /// Its value, if it has one and one only.
    pub fn single(self) -> Option<String> {
        match self {
            Self::One(value) => Some(value),
            Self::Absent | Self::Repeated => None,
        }
    }
}
