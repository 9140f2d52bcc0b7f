//! `/getOpenId` and `/getWxUserInfo`: back from WeChat, and on to the address that waits in the
//! store.
//!
//! As with our own logins the order matters: state and flow cookie before the store, the store
//! before WeChat. There is no session to look at first; what a callback that comes twice finds in
//! its place is how its login ended.

use http::{Request, Response};

use super::{
    Visit,
    errand::{Bearer, Errand},
    go::{Wish, flow_place},
};
use crate::{
    auth::{Identity, State, pending::RESTARTS},
    gateway::{
        Asker, Body, Deed, Error, Worker,
        login::{self, Code, Words, is_spent},
        reply,
    },
    logs::{Kind, Line},
    site::{
        Scope,
        broker::{Client, Delivery},
    },
    traces,
    wechat::Person,
    wire::{Link, cookie},
};

/// Longer nicknames are cut, and longer addresses of pictures left out: they travel in a URL.
const LONGEST_NICKNAME: usize = 64;
const LONGEST_AVATAR: usize = 512;

impl Worker {
    /// A callback of WeChat's.
    pub(super) async fn back<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
    ) -> Result<Response<Body>, Error> {
        self.count(Deed::Callback, visit.rules, visit.client)?;
        let keys = &visit.rules.keys;
        let words = Words::of(request.uri().query());
        let state = words.state.as_deref();
        let state =
            state.and_then(|it| State::open(it, keys, &visit.broker.audience, visit.now).ok());
        let state = state.ok_or(Error::Astray)?;
        let mut step = traces::step("login return");
        step.say("wxgate.login", || Some(state.id()));
        let answer = self.known(visit, request, (state, words.code));
        login::told(step.around(answer).await, step)
    }

    /// Somebody from WeChat, whose state is good.
    async fn known<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
        (state, code): (State, Code),
    ) -> Result<Response<Body>, Error> {
        let (keys, errands) = (&visit.rules.keys, &self.gateway.errands);
        let errand = errands.find(keys, state.nonce).await?;
        let ended = match errand {
            Some(_) => None,
            None => errands.ended(keys, state.nonce).await?,
        };
        if !is_proven(visit, request, &state) {
            let errand = errand.or(ended).ok_or(Error::Astray)?;
            return self.again(visit, request, (&state, &errand, "cookie")).await;
        }
        if errand.is_some() {
            self.gateway.metrics.login("returned", "");
        }
        match (errand, ended) {
            (Some(errand), _) => self.ask_who(visit, request, (state, errand), code).await,
            // A reload may have taken the client or its address away.
            (None, Some(ended)) => wish(visit, &ended).map(|wish| onward(wish.link.as_str())),
            (None, None) => Err(Error::Astray),
        }
    }

    async fn ask_who<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
        (state, errand): (State, Errand),
        code: Code,
    ) -> Result<Response<Body>, Error> {
        let wish = wish(visit, &errand)?;
        let retry = wish.retry(visit);
        let code = match code {
            Code::Some(code) => code,
            Code::Absent => return Err(Error::Declined { retry }),
            Code::Unusable => return Err(Error::BadRequest("an unusable code")),
        };
        let mut accounts = wish.client.accounts();
        let account = accounts.find(|it| it.app_id == errand.app_id).ok_or(Error::Astray)?;
        let exchanges = &self.gateway.exchanges;
        if !exchanges.admits(&code, state.nonce) {
            return Err(Error::Astray);
        }
        match exchanges.identify(visit.rules, account, &code, state.nonce).await {
            Ok(person) if person.snapshot => {
                Ok(visit.rules.voice.leave_snapshot(&Asker::of(request)))
            }
            Ok(person) if person.stale && state.restarts < RESTARTS => {
                self.again(visit, request, (&state, &errand, "token")).await
            }
            Ok(person) if person.identity.scope < errand.scope => {
                Ok(visit.rules.voice.ask_consent(&retry, &Asker::of(request)))
            }
            Ok(person) => self.deliver(visit, &wish, (state, errand), person).await,
            Err(error) if is_spent(&error) && state.restarts < RESTARTS => {
                let line =
                    Line::bad(Kind::Login, "login starts again").with("reason", "code_failed");
                let line = line.with("program", errand.client.as_str());
                self.gateway.audit.note(visit.tell(line.with("error", error.to_string())));
                self.again(visit, request, (&state, &errand, "code")).await
            }
            Err(source) => Err(Error::Login { retry, source }),
        }
    }

    /// The end of a login: what the visitor brings to the client, and where.
    async fn deliver(
        &self,
        visit: &Visit<'_>,
        wish: &Wish<'_>,
        (state, errand): (State, Errand),
        person: Person,
    ) -> Result<Response<Body>, Error> {
        let (keys, errands) = (&visit.rules.keys, &self.gateway.errands);
        let (client, identity) = (wish.client, person.identity);
        let url = match client.result {
            Delivery::Params => with_params(&wish.link, &identity, errand.scope),
            Delivery::Ticket => {
                let (app_id, auth_time) = (errand.app_id.clone(), visit.now);
                let who = Bearer { identity: identity.clone(), app_id, auth_time };
                let ticket = errands.issue(keys, &client.name, &who).await?;
                wish.link.with(&[("ticket", &ticket)], &["ticket"])
            }
        };
        let ended = errands.end(keys, state.nonce, Errand { url, ..errand }).await?;
        self.gateway.metrics.login("finished", "");
        let line = Line::good(Kind::Login, "login finished")
            .with("program", client.name.as_str())
            .with("appid", ended.app_id.as_str())
            .with("openid", identity.openid.as_str())
            .with("scope", identity.scope.as_str());
        self.gateway.audit.note(visit.tell(line));
        Ok(onward(&ended.url))
    }

    /// Starts a login once more, unless that has been done often enough.
    async fn again<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
        (state, errand, why): (&State, &Errand, &'static str),
    ) -> Result<Response<Body>, Error> {
        let wish = wish(visit, errand)?;
        if state.restarts >= RESTARTS {
            return Err(Error::CookiesLost { retry: wish.retry(visit) });
        }
        self.gateway.metrics.login("restarted", why);
        let restarts = state.restarts.saturating_add(1);
        self.send_out(visit, request, Wish { restarts, ..wish }).await
    }
}

/// Whether this is the browser that left with the state.
fn is_proven<B>(visit: &Visit<'_>, request: &Request<B>, state: &State) -> bool {
    let (name, place) = (visit.broker.cookies.flow(&state.id()), flow_place(visit.broker));
    let mut values = cookie::values(request.headers(), &name);
    values.any(|value| {
        let opened = visit.rules.keys.open(value, &place);
        opened.is_ok_and(|nonce| nonce == state.nonce.to_be_bytes())
    })
}

/// The login that an errand was for, if its client would still send it.
fn wish<'a>(visit: &Visit<'a>, errand: &Errand) -> Result<Wish<'a>, Error> {
    let link = Link::parse(&errand.url).ok_or(Error::UnknownReturn)?;
    let client: Option<&Client> = visit.broker.client_at(&link).map(|client| &**client);
    let client = client.filter(|client| client.name == errand.client);
    let client = client.ok_or(Error::UnknownReturn)?;
    Ok(Wish { client, link, scope: errand.scope, restarts: 0 })
}

/// A page puts it into an `img` or a link, where other schemes mean something else.
pub fn picture(identity: &Identity) -> Option<&str> {
    let plain = |url: &&str| url.starts_with("https://") || url.starts_with("http://");
    identity.avatar.as_deref().filter(plain)
}

/// The names of the classic service.
fn with_params(link: &Link, identity: &Identity, scope: Scope) -> String {
    const PROFILE: [&str; 4] = ["openid", "nickname", "headimgurl", "unionid"];
    if scope < Scope::UserInfo {
        return link.with(&[("openid", &identity.openid)], &["openid"]);
    }
    let nickname = identity.nickname.as_deref().unwrap_or_default();
    let nickname: String = nickname.chars().take(LONGEST_NICKNAME).collect();
    let avatar = picture(identity).filter(|url| url.len() <= LONGEST_AVATAR);
    let unionid = identity.unionid.as_deref().unwrap_or_default();
    let values = [&identity.openid, nickname.as_str(), avatar.unwrap_or_default(), unionid];
    let fields = PROFILE.into_iter().zip(values).filter(|(_, value)| !value.is_empty());
    link.with(&fields.collect::<Vec<_>>(), &PROFILE)
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
                with_params(&Link::parse(url).unwrap(), &identity, scope),
                expected,
                "{url}"
            );
        }
    }
}
