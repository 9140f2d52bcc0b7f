//! The way back: who is it, and where were they going.
//!
//! The order matters. The session comes first, because callbacks repeat; then state and flow
//! cookie, because callbacks are forged; WeChat last, because a code works once.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};

use super::{LoginRequest, QueryParam, finish_span, relay::RelayTicket, set, start};
use crate::{
    auth::{
        OAuthState, PartialLogin, PendingLogin, ReturnTo, Session,
        pending::{CLOCK_SKEW, MAX_RESTARTS, StateError},
    },
    clock::Timestamp,
    gateway::{
        Body, ClientPreferences, Error, LimitedAction, RequestContext, RequestHandler, WorkerState,
        reply, rules::RuntimeConfig,
    },
    httputil::cookie,
    logs::{AuditEvent, AuditKind},
    site::{self, Account, Scope, Site},
    traces,
    wechat::{self, protocol::ErrorClass},
};

/// What a callback brought, before any of it is believed.
pub struct CallbackParams {
    /// The state.
    pub state: Option<String>,
    /// The code; absent when the visitor declined.
    pub code: CodeParam,
    /// Where the visitor was going, should their cookie be lost.
    pub hint: Option<String>,
    /// How many seconds a ticket lies in the future. It brings nothing else then.
    pub clock_skew: Option<u64>,
}

/// The code of a callback.
pub enum CodeParam {
    /// None.
    Absent,
    /// One.
    Some(String),
    /// Two, or something that is none.
    Unusable,
}

impl CallbackParams {
    /// Reads the query of `/callback`.
    pub fn of(query: Option<&str>) -> Self {
        Self {
            state: QueryParam::of(query, "state").single(),
            code: match QueryParam::of(query, "code") {
                QueryParam::Absent => CodeParam::Absent,
                QueryParam::One(code) if is_code(&code) => CodeParam::Some(code),
                QueryParam::One(_) | QueryParam::Repeated => CodeParam::Unusable,
            },
            hint: QueryParam::of(query, "rd").single(),
            clock_skew: None,
        }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { state: None, code: CodeParam::Absent, hint: None, clock_skew: None }
    }
}

/// WeChat promises neither length nor alphabet; this is what fits a URL.
fn is_code(code: &str) -> bool {
    (1..=512).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic())
}

/// A callback that this browser's flow cookie belongs to.
struct VerifiedCallback {
    state: OAuthState,
    pending: PendingLogin,
}

/// Why a callback is not believed.
enum CallbackError {
    /// The state is not ours, or too old.
    State,
    /// The state, or the ticket with it, lies so many seconds in the future.
    ClockSkew(u64),
    /// The state is good, but its cookie is not there.
    Cookie(OAuthState),
}

impl VerifiedCallback {
    fn read<B>(
        words: &CallbackParams,
        request: &Request<B>,
        rules: &RuntimeConfig,
        cx: &RequestContext<'_>,
    ) -> Result<Self, CallbackError> {
        let (site, audience) = (cx.site, cx.site.public_url.as_str());
        if let Some(seconds) = words.clock_skew {
            return Err(CallbackError::ClockSkew(seconds));
        }
        let state = words.state.as_deref().ok_or(CallbackError::State)?;
        let state = OAuthState::open(state, &rules.keys, audience, cx.now);
        let state = state.map_err(|error| match error {
            StateError::ClockSkew { seconds } => CallbackError::ClockSkew(seconds),
            StateError::Forged | StateError::Expired => CallbackError::State,
        })?;
        let name = site.cookies.flow(&state.id());
        let pending = cookie::values(request.headers(), &name)
            .filter_map(|value| PendingLogin::open(value, &rules.keys, audience, &rules.prefix))
            .find(|pending| pending.nonce == state.nonce);
        pending.map(|pending| Self { state, pending }).ok_or(CallbackError::Cookie(state))
    }
}

impl RequestHandler {
    /// `/callback?code&state`: straight from WeChat.
    pub(in crate::gateway) async fn callback<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        self.finish_login(state, request, cx, CallbackParams::of(request.uri().query())).await
    }

    /// `/accept?ticket`: from WeChat over the account's own callback host.
    pub(in crate::gateway) async fn accept<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        let ticket = QueryParam::of(request.uri().query(), "ticket").single();
        // A gateway that is alone wrote it by the same clock.
        let skew = if self.gateway.revocations.is_shared() { CLOCK_SKEW } else { Duration::ZERO };
        let words = ticket.and_then(|it| RelayTicket::open(&it, &state.rules.keys, cx, skew));
        let words = words.unwrap_or_else(CallbackParams::none);
        self.finish_login(state, request, cx, words).await
    }

    async fn finish_login<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
        words: CallbackParams,
    ) -> Result<Response<Body>, Error> {
        let rules = &*state.rules;
        self.check_rate_limit(LimitedAction::Callback, rules, cx.origin.ip)?;
        let back = VerifiedCallback::read(&words, request, rules, cx);
        if let Some(going) = self.already_logged_in(state, request, cx, (&words, &back)) {
            return Ok(redirect_back(&going));
        }
        let back = match back {
            Ok(back) => back,
            Err(CallbackError::State) => return Err(Error::LoginExpired),
            Err(CallbackError::ClockSkew(seconds)) => {
                return Err(Error::ClockSkew { seconds, retry: Some("/") });
            }
            Err(CallbackError::Cookie(state)) => {
                self.record_restart(cx, ("cookie", "cookies_lost"), "");
                let (return_to, scope) = (return_to_hint(&words, rules), state.scope);
                return restart_login(
                    rules,
                    request,
                    cx,
                    state,
                    LoginRequest::first(return_to, scope),
                );
            }
        };
        let mut step = traces::step("login return");
        step.set_attribute("wxgate.login", || Some(back.state.id()));
        let answer = self.complete_callback(state, request, cx, (back, words.code));
        finish_span(step.instrument(answer).await, step)
    }

    /// Who comes back with this code, and what they get.
    async fn complete_callback<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
        (back, code): (VerifiedCallback, CodeParam),
    ) -> Result<Response<Body>, Error> {
        let rules = &*state.rules;
        self.record_return(&back, &code)?;
        match self.exchange_code(&state.rules, code, cx, &back).await {
            ExchangeOutcome::Completed(login) => match next_account(cx.site, &back.pending) {
                Some(account)
                    if !login.snapshot && login.so_far.identity.scope >= back.state.scope =>
                {
                    let leg = Some((Arc::clone(account), login.so_far));
                    let PendingLogin { return_to, .. } = back.pending;
                    let wish = LoginRequest { return_to, scope: Scope::Base, restarts: 0, leg };
                    start(rules, request, cx, wish)
                }
                Some(_) | None => {
                    self.gateway.metrics.login("finished", "");
                    self.gateway.metrics.session("issued", "");
                    self.issue_session(rules, cx, (&back, login), &ClientPreferences::of(request))
                }
            },
            ExchangeOutcome::CodeSpent(error) if back.state.restarts < MAX_RESTARTS => {
                self.record_restart(cx, ("code", "code_failed"), &error.to_string());
                let wish = LoginRequest::first(back.pending.return_to, back.pending.scope);
                restart_login(rules, request, cx, back.state, wish)
            }
            ExchangeOutcome::CodeSpent(source) | ExchangeOutcome::Failed(source) => {
                Err(Error::Login { retry: back.retry(rules), source })
            }
            ExchangeOutcome::Declined => Err(Error::Declined { retry: back.retry(rules) }),
            ExchangeOutcome::InvalidCode => Err(Error::BadRequest("an unusable code")),
        }
    }

    /// Counts who comes back from WeChat, once in a trip, and the codes they bring.
    fn record_return(&self, back: &VerifiedCallback, code: &CodeParam) -> Result<(), Error> {
        if back.pending.so_far.is_none() {
            self.gateway.metrics.login("returned", "");
        }
        let admitted = match code {
            CodeParam::Some(code) => self.gateway.exchanges.allow_code(code, back.state.nonce),
            CodeParam::Absent | CodeParam::Unusable => true,
        };
        if admitted { Ok(()) } else { Err(Error::LoginExpired) }
    }

    /// Notes that a login begins once more, and why: for the metrics, and for the trail.
    fn record_restart(
        &self,
        cx: &RequestContext<'_>,
        (word, reason): (&'static str, &'static str),
        error: &str,
    ) {
        self.gateway.metrics.login("restarted", word);
        let line = AuditEvent::failed(AuditKind::Login, "login restarted").with("reason", reason);
        self.gateway.audit.record(cx.audit_event(line.with("error", error)));
    }

    /// Where somebody goes who has all that this callback could bring: it came twice, or late.
    fn already_logged_in<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
        (words, back): (&CallbackParams, &Result<VerifiedCallback, CallbackError>),
    ) -> Option<ReturnTo> {
        let known = self.authenticate(state, request, cx).ok()?;
        let wanted = back.as_ref().map_or(Scope::Base, |back| back.pending.scope);
        if known.session.identity.scope < wanted || known.session.snapshot {
            return None;
        }
        Some(match back {
            Ok(back) => back.pending.return_to.clone(),
            Err(_) => return_to_hint(words, &state.rules),
        })
    }

    /// One leg of the trip. The first decides whether somebody comes in at all; what a further
    /// account does not say is simply missing.
    async fn exchange_code(
        &self,
        rules: &Arc<RuntimeConfig>,
        code: CodeParam,
        cx: &RequestContext<'_>,
        back: &VerifiedCallback,
    ) -> ExchangeOutcome {
        let (site, pending) = (cx.site, &back.pending);
        let account = site.accounts().find(|account| account.app_id == pending.app_id);
        let answer = match (code, account) {
            (CodeParam::Some(code), Some(account)) => {
                let exchanges = &self.gateway.exchanges;
                let answer = exchanges.identify(rules, account, &code, back.state.nonce);
                answer.await.map(|it| (account, it))
            }
            (CodeParam::Absent, _) if pending.so_far.is_none() => return ExchangeOutcome::Declined,
            (CodeParam::Unusable, _) if pending.so_far.is_none() => {
                return ExchangeOutcome::InvalidCode;
            }
            (CodeParam::Absent | CodeParam::Unusable, _) => Err(no_response("no code came back")),
            (CodeParam::Some(_), None) => Err(no_response("the account is no longer the site's")),
        };
        let knows = self.gateway.revocations.latest_revocation();
        match (answer, pending.so_far.clone()) {
            (Ok((account, person)), None) => {
                if let (Some(token), Some(_)) = (&person.refresh_token, site.profile_refresh) {
                    let (refreshes, openid) = (&self.gateway.refreshes, &person.identity.openid);
                    refreshes.remember(rules, account, openid, token).await;
                }
                let app_id = account.app_id.clone();
                let so_far = PartialLogin { identity: person.identity, app_id, also: [].into() };
                ExchangeOutcome::Completed(CompletedLogin {
                    so_far,
                    snapshot: person.snapshot,
                    knows,
                })
            }
            (Ok((account, person)), Some(mut so_far)) => {
                so_far.also.insert(account.name.to_ascii_lowercase(), person.identity.openid);
                ExchangeOutcome::Completed(CompletedLogin { so_far, snapshot: false, knows })
            }
            (Err(error), Some(so_far)) => {
                tracing::warn!(site = site.name, app_id = pending.app_id, %error, "cannot get openid for additional account");
                ExchangeOutcome::Completed(CompletedLogin { so_far, snapshot: false, knows })
            }
            (Err(error), None) if is_code_spent(&error) => ExchangeOutcome::CodeSpent(error),
            (Err(error), None) => ExchangeOutcome::Failed(error),
        }
    }
}

/// How a leg of the trip ended.
enum ExchangeOutcome {
    /// With somebody.
    Completed(CompletedLogin),
    /// With a code that no longer works, where another login may.
    CodeSpent(wechat::Error),
    /// Without an answer that helps.
    Failed(wechat::Error),
    /// The visitor said no.
    Declined,
    /// The code is none.
    InvalidCode,
}

/// Who came back.
struct CompletedLogin {
    so_far: PartialLogin,
    /// Whether theirs is the virtual identity of a snapshot page.
    snapshot: bool,
    /// The last order to end sessions that they come after.
    knows: Timestamp,
}

impl VerifiedCallback {
    /// Where the visitor can try again.
    fn retry(&self, rules: &RuntimeConfig) -> String {
        rules.login_url(&self.pending.return_to, Some(self.pending.scope))
    }
}

/// The account of the next leg: those under `also` come in turn, where the visitor is in WeChat.
fn next_account<'a>(site: &'a Site, pending: &PendingLogin) -> Option<&'a Arc<Account>> {
    let inside = |account: &&Arc<Account>| account.app_id == pending.app_id;
    match pending.so_far {
        None => {
            let account = site.login_accounts().find(inside)?;
            if account.kind == site::AccountKind::Official { site.also.first() } else { None }
        }
        Some(_) => site.also.iter().skip_while(|account| !inside(account)).nth(1),
    }
}

/// Starts a login once more, unless that has been done often enough.
fn restart_login<B>(
    rules: &RuntimeConfig,
    request: &Request<B>,
    cx: &RequestContext<'_>,
    state: OAuthState,
    wish: LoginRequest,
) -> Result<Response<Body>, Error> {
    if state.restarts >= MAX_RESTARTS {
        return Err(Error::CookiesLost {
            retry: rules.login_url(&wish.return_to, Some(wish.scope)),
        });
    }
    start(rules, request, cx, LoginRequest { restarts: state.restarts.saturating_add(1), ..wish })
}

/// Where the visitor was going by the callback's own word.
fn return_to_hint(words: &CallbackParams, rules: &RuntimeConfig) -> ReturnTo {
    let hint = words.hint.as_deref().and_then(|hint| ReturnTo::parse(hint, &rules.prefix));
    hint.unwrap_or_else(ReturnTo::home)
}

fn no_response(why: &str) -> wechat::Error {
    wechat::Error::NoResponse(why.to_owned())
}

/// A code that no longer works, where another login may.
pub fn is_code_spent(error: &wechat::Error) -> bool {
    matches!(error, wechat::Error::Api(refusal) if refusal.class() == ErrorClass::Code)
}

impl RequestHandler {
    /// A fresh session, and on to the page the visitor asked for.
    fn issue_session(
        &self,
        rules: &RuntimeConfig,
        cx: &RequestContext<'_>,
        (back, login): (&VerifiedCallback, CompletedLogin),
        preferences: &ClientPreferences,
    ) -> Result<Response<Body>, Error> {
        let (site, now, pending) = (cx.site, cx.now, &back.pending);
        let sid = back.state.sid(&rules.keys, &login.so_far.identity.openid);
        let fresh = Session::issue(site, login.so_far, sid, now, &rules.session)
            .with_known_revocation(login.knows);
        let session = if login.snapshot { fresh.mark_snapshot() } else { fresh };
        let names = &site.cookies;
        let cookie =
            names.set_cookie(names.session(), &session.seal(&rules.keys)?, session.age(now));
        // A visitor who granted less than the page asks would be sent round in circles.
        let granted = session.identity.scope;
        let mut response =
            if granted < pending.scope && !session.snapshot && pending.so_far.is_none() {
                rules.responder.ask_consent(&back.retry(rules), preferences)
            } else {
                redirect_back(&pending.return_to)
            };
        set(&mut response, cookie);
        set(&mut response, names.clear_cookie(&names.flow(&back.state.id())));
        cx.session.set(Some(session.log_id()));
        let line = AuditEvent::ok(AuditKind::Login, "login finished")
            .with("appid", session.appid.as_str())
            .with("openid", session.identity.openid.as_str())
            .with("session", session.log_id().to_string())
            .with("scope", granted.as_str())
            .with("snapshot", if session.snapshot { "yes" } else { "" });
        self.gateway.audit.record(cx.audit_event(line));
        Ok(response)
    }
}

/// From the callback to the page asked for. A browser carries the fragment of the address it came
/// from over a redirect that has none (Fetch, section 4.4), and it came from `#wechat_redirect`,
/// which an app with routes in its fragment would take for a route: an empty one stops that.
fn redirect_back(return_to: &ReturnTo) -> Response<Body> {
    let path = return_to.as_str();
    if path.contains('#') { reply::redirect(path) } else { reply::redirect(&format!("{path}#")) }
}
