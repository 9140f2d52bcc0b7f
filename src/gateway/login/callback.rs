//! The way back: who is it, and where were they going.
//!
//! The order matters. The session comes first, because callbacks repeat; then state and flow
//! cookie, because callbacks are forged; WeChat last, because a code works once.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};

use super::{Field, Wish, relay::Ticket, set, start, told};
use crate::{
    auth::{
        Pending, ReturnTo, Session, SoFar, State,
        pending::{RESTARTS, SKEW},
    },
    clock::Timestamp,
    gateway::{Arrival, Asker, Body, Deed, Desk, Error, Worker, reply, rules::Rules},
    logs::{Kind, Line},
    site::{self, Account, Scope, Site},
    traces,
    wechat::{self, protocol::Fault},
    wire::cookie,
};

/// What a callback brought, before any of it is believed.
pub struct Words {
    /// The state.
    pub state: Option<String>,
    /// The code; absent when the visitor declined.
    pub code: Code,
    /// Where the visitor was going, should their cookie be lost.
    pub hint: Option<String>,
}

/// The code of a callback.
pub enum Code {
    /// None.
    Absent,
    /// One.
    Some(String),
    /// Two, or something that is none.
    Unusable,
}

impl Words {
    /// Reads the query of `/callback`.
    pub fn of(query: Option<&str>) -> Self {
        Self {
            state: Field::of(query, "state").only(),
            code: match Field::of(query, "code") {
                Field::Absent => Code::Absent,
                Field::Once(code) if is_code(&code) => Code::Some(code),
                Field::Once(_) | Field::Several => Code::Unusable,
            },
            hint: Field::of(query, "rd").only(),
        }
    }
}

/// WeChat promises neither length nor alphabet; this is what fits a URL.
fn is_code(code: &str) -> bool {
    (1..=512).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic())
}

/// A callback that this browser's flow cookie belongs to.
struct Back {
    state: State,
    pending: Pending,
}

/// Why a callback is not believed.
enum Unknown {
    /// The state is not ours, or too old.
    State,
    /// The state is good, but its cookie is not there.
    Cookie(State),
}

impl Back {
    fn read<B>(
        words: &Words,
        request: &Request<B>,
        rules: &Rules,
        arrival: &Arrival<'_>,
    ) -> Result<Self, Unknown> {
        let (site, audience) = (arrival.site, arrival.site.public_url.as_str());
        let state = words.state.as_deref().ok_or(Unknown::State)?;
        let state =
            State::open(state, &rules.keys, audience, arrival.now).map_err(|_| Unknown::State)?;
        let name = site.cookies.flow(&state.id());
        let pending = cookie::values(request.headers(), &name)
            .filter_map(|value| Pending::open(value, &rules.keys, audience, &rules.prefix))
            .find(|pending| pending.nonce == state.nonce);
        pending.map(|pending| Self { state, pending }).ok_or(Unknown::Cookie(state))
    }
}

impl Worker {
    /// `/callback?code&state`: straight from WeChat.
    pub(in crate::gateway) async fn callback<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        self.finish_login(desk, request, arrival, Words::of(request.uri().query())).await
    }

    /// `/accept?ticket`: from WeChat over the account's own callback host.
    pub(in crate::gateway) async fn accept<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Response<Body>, Error> {
        let ticket = Field::of(request.uri().query(), "ticket").only();
        // A gateway that is alone wrote it by the same clock.
        let skew = if self.gateway.feed.is_shared() { SKEW } else { Duration::ZERO };
        let ticket = ticket.and_then(|it| Ticket::open(&it, &desk.rules.keys, arrival, skew));
        let words =
            ticket.map_or(Words { state: None, code: Code::Absent, hint: None }, Ticket::words);
        self.finish_login(desk, request, arrival, words).await
    }

    async fn finish_login<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        words: Words,
    ) -> Result<Response<Body>, Error> {
        let rules = &*desk.rules;
        self.count(Deed::Callback, rules, arrival.origin.ip)?;
        let back = Back::read(&words, request, rules, arrival);
        if let Some(going) = self.has_come(desk, request, arrival, (&words, &back)) {
            return Ok(onward(&going));
        }
        let back = match back {
            Ok(back) => back,
            Err(Unknown::State) => return Err(Error::LoginExpired),
            Err(Unknown::Cookie(state)) => {
                self.starts_again(arrival, ("cookie", "cookies_lost"), "");
                let (return_to, scope) = (hinted(&words, rules), state.scope);
                return again(rules, request, arrival, state, Wish::first(return_to, scope));
            }
        };
        let mut step = traces::step("login return");
        step.say("wxgate.login", || Some(back.state.id()));
        let answer = self.let_in(desk, request, arrival, (back, words.code));
        told(step.around(answer).await, step)
    }

    /// Who comes back with this code, and what they get.
    async fn let_in<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        (back, code): (Back, Code),
    ) -> Result<Response<Body>, Error> {
        let rules = &*desk.rules;
        self.returned(&back, &code)?;
        match self.ask_wechat(&desk.rules, code, arrival, &back).await {
            Leg::Ended(login) => match next_account(arrival.site, &back.pending) {
                Some(account)
                    if !login.snapshot && login.so_far.identity.scope >= back.state.scope =>
                {
                    let leg = Some((Arc::clone(account), login.so_far));
                    let Pending { return_to, .. } = back.pending;
                    let wish = Wish { return_to, scope: Scope::Base, restarts: 0, leg };
                    start(rules, request, arrival, wish)
                }
                Some(_) | None => {
                    self.gateway.metrics.login("finished", "");
                    self.gateway.metrics.session("issued", "");
                    self.welcome(rules, arrival, (&back, login), &Asker::of(request))
                }
            },
            Leg::Spent(error) if back.state.restarts < RESTARTS => {
                self.starts_again(arrival, ("code", "code_failed"), &error.to_string());
                let wish = Wish::first(back.pending.return_to, back.pending.scope);
                again(rules, request, arrival, back.state, wish)
            }
            Leg::Spent(source) | Leg::Failed(source) => {
                Err(Error::Login { retry: back.retry(rules), source })
            }
            Leg::Declined => Err(Error::Declined { retry: back.retry(rules) }),
            Leg::Garbled => Err(Error::BadRequest("an unusable code")),
        }
    }

    /// Counts who comes back from WeChat, once in a trip, and the codes they bring.
    fn returned(&self, back: &Back, code: &Code) -> Result<(), Error> {
        if back.pending.so_far.is_none() {
            self.gateway.metrics.login("returned", "");
        }
        let admitted = match code {
            Code::Some(code) => self.gateway.exchanges.admits(code, back.state.nonce),
            Code::Absent | Code::Unusable => true,
        };
        if admitted { Ok(()) } else { Err(Error::LoginExpired) }
    }

    /// Notes that a login begins once more, and why: for the metrics, and for the trail.
    fn starts_again(
        &self,
        arrival: &Arrival<'_>,
        (word, reason): (&'static str, &'static str),
        error: &str,
    ) {
        self.gateway.metrics.login("restarted", word);
        let line = Line::bad(Kind::Login, "login starts again").with("reason", reason);
        self.gateway.audit.note(arrival.tell(line.with("error", error)));
    }

    /// Where somebody goes who has all that this callback could bring: it came twice, or late.
    fn has_come<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        (words, back): (&Words, &Result<Back, Unknown>),
    ) -> Option<ReturnTo> {
        let known = self.recognise(desk, request, arrival).ok()?;
        let wanted = back.as_ref().map_or(Scope::Base, |back| back.pending.scope);
        if known.session.identity.scope < wanted || known.session.snapshot {
            return None;
        }
        Some(match back {
            Ok(back) => back.pending.return_to.clone(),
            Err(_) => hinted(words, &desk.rules),
        })
    }

    /// One leg of the trip. The first decides whether somebody comes in at all; what a further
    /// account does not say is simply missing.
    async fn ask_wechat(
        &self,
        rules: &Arc<Rules>,
        code: Code,
        arrival: &Arrival<'_>,
        back: &Back,
    ) -> Leg {
        let (site, pending) = (arrival.site, &back.pending);
        let account = site.accounts().find(|account| account.app_id == pending.app_id);
        let answer = match (code, account) {
            (Code::Some(code), Some(account)) => {
                let exchanges = &self.gateway.exchanges;
                let answer = exchanges.identify(rules, account, &code, back.state.nonce);
                answer.await.map(|it| (account, it))
            }
            (Code::Absent, _) if pending.so_far.is_none() => return Leg::Declined,
            (Code::Unusable, _) if pending.so_far.is_none() => return Leg::Garbled,
            (Code::Absent | Code::Unusable, _) => Err(silent("no code came back")),
            (Code::Some(_), None) => Err(silent("the account is no longer the site's")),
        };
        let knows = self.gateway.feed.latest();
        match (answer, pending.so_far.clone()) {
            (Ok((account, person)), None) => {
                if let (Some(token), Some(_)) = (&person.refresh_token, site.profile_refresh) {
                    let (refreshes, openid) = (&self.gateway.refreshes, &person.identity.openid);
                    refreshes.remember(rules, account, openid, token).await;
                }
                let app_id = account.app_id.clone();
                let so_far = SoFar { identity: person.identity, app_id, also: [].into() };
                Leg::Ended(Login { so_far, snapshot: person.snapshot, knows })
            }
            (Ok((account, person)), Some(mut so_far)) => {
                so_far.also.insert(account.name.to_ascii_lowercase(), person.identity.openid);
                Leg::Ended(Login { so_far, snapshot: false, knows })
            }
            (Err(error), Some(so_far)) => {
                tracing::warn!(site = site.name, app_id = pending.app_id, %error, "no openid of this account");
                Leg::Ended(Login { so_far, snapshot: false, knows })
            }
            (Err(error), None) if is_spent(&error) => Leg::Spent(error),
            (Err(error), None) => Leg::Failed(error),
        }
    }
}

/// How a leg of the trip ended.
enum Leg {
    /// With somebody.
    Ended(Login),
    /// With a code that no longer works, where another login may.
    Spent(wechat::Error),
    /// Without an answer that helps.
    Failed(wechat::Error),
    /// The visitor said no.
    Declined,
    /// The code is none.
    Garbled,
}

/// Who came back.
struct Login {
    so_far: SoFar,
    /// Whether theirs is the virtual identity of a snapshot page.
    snapshot: bool,
    /// The last order to end sessions that they come after.
    knows: Timestamp,
}

impl Back {
    /// Where the visitor can try again.
    fn retry(&self, rules: &Rules) -> String {
        rules.login_url(&self.pending.return_to, Some(self.pending.scope))
    }
}

/// The account of the next leg: those under `also` come in turn, where the visitor is in WeChat.
fn next_account<'a>(site: &'a Site, pending: &Pending) -> Option<&'a Arc<Account>> {
    let inside = |account: &&Arc<Account>| account.app_id == pending.app_id;
    match pending.so_far {
        None => {
            let account = site.login_accounts().find(inside)?;
            if account.kind == site::Kind::Official { site.also.first() } else { None }
        }
        Some(_) => site.also.iter().skip_while(|account| !inside(account)).nth(1),
    }
}

/// Starts a login once more, unless that has been done often enough.
fn again<B>(
    rules: &Rules,
    request: &Request<B>,
    arrival: &Arrival<'_>,
    state: State,
    wish: Wish,
) -> Result<Response<Body>, Error> {
    if state.restarts >= RESTARTS {
        return Err(Error::CookiesLost {
            retry: rules.login_url(&wish.return_to, Some(wish.scope)),
        });
    }
    start(rules, request, arrival, Wish { restarts: state.restarts.saturating_add(1), ..wish })
}

/// Where the visitor was going by the callback's own word.
fn hinted(words: &Words, rules: &Rules) -> ReturnTo {
    let hint = words.hint.as_deref().and_then(|hint| ReturnTo::parse(hint, &rules.prefix));
    hint.unwrap_or_else(ReturnTo::home)
}

fn silent(why: &str) -> wechat::Error {
    wechat::Error::Silent(why.to_owned())
}

/// A code that no longer works, where another login may.
pub fn is_spent(error: &wechat::Error) -> bool {
    matches!(error, wechat::Error::Refused(refusal) if refusal.fault() == Fault::Code)
}

impl Worker {
    /// A fresh session, and on to the page the visitor asked for.
    fn welcome(
        &self,
        rules: &Rules,
        arrival: &Arrival<'_>,
        (back, login): (&Back, Login),
        asker: &Asker,
    ) -> Result<Response<Body>, Error> {
        let (site, now, pending) = (arrival.site, arrival.now, &back.pending);
        let sid = back.state.sid(&rules.keys, &login.so_far.identity.openid);
        let fresh =
            Session::begin(site, login.so_far, sid, now, &rules.session).knowing(login.knows);
        let session = if login.snapshot { fresh.of_snapshot() } else { fresh };
        let names = &site.cookies;
        let cookie = names.set(names.session(), &session.seal(&rules.keys)?, session.age(now));
        // A visitor who granted less than the page asks would be sent round in circles.
        let granted = session.identity.scope;
        let mut response =
            if granted < pending.scope && !session.snapshot && pending.so_far.is_none() {
                rules.voice.ask_consent(&back.retry(rules), asker)
            } else {
                onward(&pending.return_to)
            };
        set(&mut response, cookie);
        set(&mut response, names.clear(&names.flow(&back.state.id())));
        arrival.session.set(Some(session.tag()));
        let line = Line::good(Kind::Login, "login finished")
            .with("appid", session.appid.as_str())
            .with("openid", session.identity.openid.as_str())
            .with("session", session.tag().to_string())
            .with("scope", granted.as_str())
            .with("snapshot", if session.snapshot { "yes" } else { "" });
        self.gateway.audit.note(arrival.tell(line));
        Ok(response)
    }
}

/// From the callback to the page asked for. A browser carries the fragment of the address it came
/// from over a redirect that has none (Fetch, section 4.4), and it came from `#wechat_redirect`,
/// which an app with routes in its fragment would take for a route: an empty one stops that.
fn onward(return_to: &ReturnTo) -> Response<Body> {
    let path = return_to.as_str();
    if path.contains('#') { reply::redirect(path) } else { reply::redirect(&format!("{path}#")) }
}
