//! `/getOpenId` and `/getWxUserInfo`: back from WeChat, and on to the address that waits in the
//! store.
//!
//! As with our own logins the order matters: state and flow cookie before the store, the store
//! before WeChat. There is no session to look at first; what a callback that comes twice finds in
//! its place is how its login ended.

use http::{Request, Response};

use super::{
    BrokerRequest,
    authorize::{BrokerLoginRequest, flow_context},
    login_store::{PendingBrokerLogin, TicketIdentity},
};
use crate::{
    auth::{
        Identity, OAuthState,
        pending::{MAX_RESTARTS, StateError},
    },
    gateway::{
        Body, ClientPreferences, Error, LimitedAction, RequestHandler,
        login::{self, CallbackParams, CodeParam, is_code_spent},
        reply,
    },
    httputil::{HttpUrl, cookie},
    logs::{AuditEvent, AuditKind},
    site::{
        Scope,
        broker::{Client, Delivery},
    },
    traces,
    wechat::WeChatUser,
};

/// Longer nicknames are cut, and longer addresses of pictures left out: they travel in a URL.
const LONGEST_NICKNAME: usize = 64;
const LONGEST_AVATAR: usize = 512;

impl RequestHandler {
    /// A callback of WeChat's.
    pub(super) async fn broker_callback<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
    ) -> Result<Response<Body>, Error> {
        self.check_rate_limit(LimitedAction::Callback, visit.rules, visit.client)?;
        let keys = &visit.rules.keys;
        let words = CallbackParams::of(request.uri().query());
        let state = words.state.as_deref();
        let state = state.ok_or(Error::UnknownBrokerLogin)?;
        let state = OAuthState::open(state, keys, &visit.broker.audience, visit.now);
        let state = state.map_err(|error| match error {
            StateError::ClockSkew { seconds } => Error::ClockSkew { seconds, retry: None },
            StateError::Forged | StateError::Expired => Error::UnknownBrokerLogin,
        })?;
        let mut step = traces::step("login return");
        step.set_attribute("wxgate.login", || Some(state.id()));
        let answer = self.handle_known_state(visit, request, (state, words.code));
        login::finish_span(step.instrument(answer).await, step)
    }

    /// Somebody from WeChat, whose state is good.
    async fn handle_known_state<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
        (state, code): (OAuthState, CodeParam),
    ) -> Result<Response<Body>, Error> {
        let (keys, errands) = (&visit.rules.keys, &self.gateway.errands);
        let errand = errands.find(keys, state.nonce).await?;
        let ended = match errand {
            Some(_) => None,
            None => errands.find_finished(keys, state.nonce).await?,
        };
        if !has_flow_cookie(visit, request, &state) {
            let errand = errand.or(ended).ok_or(Error::UnknownBrokerLogin)?;
            return self.restart_login(visit, request, (&state, &errand, "cookie")).await;
        }
        if errand.is_some() {
            self.gateway.metrics.login("returned", "");
        }
        match (errand, ended) {
            (Some(errand), _) => self.identify(visit, request, (state, errand), code).await,
            // A reload may have taken the client or its address away.
            (None, Some(ended)) => {
                login_request(visit, &ended).map(|wish| onward(wish.url.as_str()))
            }
            (None, None) => Err(Error::UnknownBrokerLogin),
        }
    }

    async fn identify<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
        (state, errand): (OAuthState, PendingBrokerLogin),
        code: CodeParam,
    ) -> Result<Response<Body>, Error> {
        let wish = login_request(visit, &errand)?;
        let retry = wish.retry(visit);
        let code = match code {
            CodeParam::Some(code) => code,
            CodeParam::Absent => return Err(Error::Declined { retry }),
            CodeParam::Unusable => return Err(Error::BadRequest("an unusable code")),
        };
        let mut accounts = wish.client.accounts();
        let account =
            accounts.find(|it| it.app_id == errand.app_id).ok_or(Error::UnknownBrokerLogin)?;
        let exchanges = &self.gateway.exchanges;
        if !exchanges.allow_code(&code, state.nonce) {
            return Err(Error::UnknownBrokerLogin);
        }
        match exchanges.identify(visit.rules, account, &code, state.nonce).await {
            Ok(person) if person.snapshot => {
                Ok(visit.rules.responder.leave_snapshot(&ClientPreferences::of(request)))
            }
            Ok(person) if person.stale && state.restarts < MAX_RESTARTS => {
                self.restart_login(visit, request, (&state, &errand, "token")).await
            }
            Ok(person) if person.identity.scope < errand.scope => {
                Ok(visit.rules.responder.ask_consent(&retry, &ClientPreferences::of(request)))
            }
            Ok(person) => self.redirect_to_client(visit, &wish, (state, errand), person).await,
            Err(error) if is_code_spent(&error) && state.restarts < MAX_RESTARTS => {
                let line = AuditEvent::failed(AuditKind::Login, "login restarted")
                    .with("reason", "code_failed");
                let line = line.with("program", errand.client.as_str());
                self.gateway.audit.record(visit.audit_event(line.with("error", error.to_string())));
                self.restart_login(visit, request, (&state, &errand, "code")).await
            }
            Err(source) => Err(Error::Login { retry, source }),
        }
    }

    /// The end of a login: what the visitor brings to the client, and where.
    async fn redirect_to_client(
        &self,
        visit: &BrokerRequest<'_>,
        wish: &BrokerLoginRequest<'_>,
        (state, errand): (OAuthState, PendingBrokerLogin),
        user: WeChatUser,
    ) -> Result<Response<Body>, Error> {
        let (keys, errands) = (&visit.rules.keys, &self.gateway.errands);
        let (client, identity) = (wish.client, user.identity);
        let url = match client.result {
            Delivery::Params => with_params(&wish.url, &identity, errand.scope),
            Delivery::Ticket => {
                let (app_id, auth_time) = (errand.app_id.clone(), visit.now);
                let who = TicketIdentity { identity: identity.clone(), app_id, auth_time };
                let ticket = errands.issue_ticket(keys, &client.name, &who).await?;
                wish.url.with(&[("ticket", &ticket)], &["ticket"])
            }
        };
        let ended = errands.finish(keys, state.nonce, PendingBrokerLogin { url, ..errand }).await?;
        self.gateway.metrics.login("finished", "");
        let line = AuditEvent::ok(AuditKind::Login, "login finished")
            .with("program", client.name.as_str())
            .with("appid", ended.app_id.as_str())
            .with("openid", identity.openid.as_str())
            .with("scope", identity.scope.as_str());
        self.gateway.audit.record(visit.audit_event(line));
        Ok(onward(&ended.url))
    }

    /// Starts a login once more, unless that has been done often enough.
    async fn restart_login<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
        (state, errand, why): (&OAuthState, &PendingBrokerLogin, &'static str),
    ) -> Result<Response<Body>, Error> {
        let wish = login_request(visit, errand)?;
        if state.restarts >= MAX_RESTARTS {
            return Err(Error::CookiesLost { retry: wish.retry(visit) });
        }
        self.gateway.metrics.login("restarted", why);
        let restarts = state.restarts.saturating_add(1);
        self.redirect_to_wechat(visit, request, BrokerLoginRequest { restarts, ..wish }).await
    }
}

/// Whether this is the browser that left with the state.
fn has_flow_cookie<B>(visit: &BrokerRequest<'_>, request: &Request<B>, state: &OAuthState) -> bool {
    let (name, place) = (visit.broker.cookies.flow(&state.id()), flow_context(visit.broker));
    let mut values = cookie::values(request.headers(), &name);
    values.any(|value| {
        let opened = visit.rules.keys.open(value, &place);
        opened.is_ok_and(|nonce| nonce == state.nonce.to_be_bytes())
    })
}

/// The login that an errand was for, if its client would still send it.
fn login_request<'a>(
    visit: &BrokerRequest<'a>,
    errand: &PendingBrokerLogin,
) -> Result<BrokerLoginRequest<'a>, Error> {
    let link = HttpUrl::parse(&errand.url).ok_or(Error::UnknownReturn)?;
    let client: Option<&Client> = visit.broker.client_at(&link).map(|client| &**client);
    let client = client.filter(|client| client.name == errand.client);
    let client = client.ok_or(Error::UnknownReturn)?;
    Ok(BrokerLoginRequest { client, url: link, scope: errand.scope, restarts: 0 })
}

/// A page puts it into an `img` or a link, where other schemes mean something else.
pub fn picture(identity: &Identity) -> Option<&str> {
    let plain = |url: &&str| url.starts_with("https://") || url.starts_with("http://");
    identity.avatar.as_deref().filter(plain)
}

/// The names of the classic service.
fn with_params(url: &HttpUrl, identity: &Identity, scope: Scope) -> String {
    const PROFILE: [&str; 4] = ["openid", "nickname", "headimgurl", "unionid"];
    if scope < Scope::UserInfo {
        return url.with(&[("openid", &identity.openid)], &["openid"]);
    }
    let nickname = identity.nickname.as_deref().unwrap_or_default();
    let nickname: String = nickname.chars().take(LONGEST_NICKNAME).collect();
    let avatar = picture(identity).filter(|url| url.len() <= LONGEST_AVATAR);
    let unionid = identity.unionid.as_deref().unwrap_or_default();
    let values = [&identity.openid, nickname.as_str(), avatar.unwrap_or_default(), unionid];
    let fields = PROFILE.into_iter().zip(values).filter(|(_, value)| !value.is_empty());
    url.with(&fields.collect::<Vec<_>>(), &PROFILE)
}

/// On to the client's page. A browser carries the fragment of the address it came from over a
/// redirect that has none (Fetch, section 4.4), and that was `#wechat_redirect`; an empty one
/// stops it.
fn onward(url: &str) -> Response<Body> {
    if url.contains('#') { reply::redirect(url) } else { reply::redirect(&format!("{url}#")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Identity {
        Identity {
            openid: "o1".to_owned(),
            unionid: Some("u1".to_owned()),
            nickname: Some("李 雷&".to_owned()),
            avatar: Some("https://thirdwx.qlogo.cn/a/132".to_owned()),
            scope: Scope::UserInfo,
        }
    }

    #[test]
    fn results_have_the_classic_names() {
        let whole = "openid=o1&nickname=%E6%9D%8E%20%E9%9B%B7%26&headimgurl=https%3A%2F%2Fthirdwx.qlogo.cn%2Fa%2F132&unionid=u1";
        let bare = Identity { nickname: None, avatar: None, unionid: None, ..somebody() };
        let endless = Identity {
            nickname: Some("🐧".repeat(10_000)),
            avatar: Some(format!("https://a/{}", "b".repeat(10_000))),
            ..somebody()
        };
        let script = Identity { avatar: Some("javascript:alert(1)".to_owned()), ..bare.clone() };
        let cut = format!("openid=o1&nickname={}&unionid=u1", "%F0%9F%90%A7".repeat(64));
        let cases = [
            (
                "https://a.com/?x=1#/r",
                Scope::Base,
                somebody(),
                "https://a.com/?x=1&openid=o1#/r".to_owned(),
            ),
            ("https://a.com/", Scope::UserInfo, somebody(), format!("https://a.com/?{whole}")),
            (
                "https://a.com/?nickname=x&unionid=y&z=1",
                Scope::UserInfo,
                bare,
                "https://a.com/?z=1&openid=o1".to_owned(),
            ),
            ("https://a.com/", Scope::UserInfo, script, "https://a.com/?openid=o1".to_owned()),
            ("https://a.com/", Scope::UserInfo, endless, format!("https://a.com/?{cut}")),
        ];
        for (url, scope, identity, expected) in cases {
            assert_eq!(
                with_params(&HttpUrl::parse(url).unwrap(), &identity, scope),
                expected,
                "{url}"
            );
        }
    }
}
