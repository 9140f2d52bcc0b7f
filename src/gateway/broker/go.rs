//! `/auth`: out to WeChat, while the address to come back to waits in the store.

use http::{Request, Response, StatusCode};
use serde_json::json;

use super::{Visit, errand::Errand};
use crate::{
    auth::{self, App, Device, State, pending::PATIENCE, token::NONCE},
    gateway::{
        Asker, Body, Deed, Error, Worker,
        login::{self, Field},
        reply,
        rules::Rules,
    },
    site::{Broker, Outside, Scope, broker::Client},
    traces,
    wechat::protocol::{self, Leave},
    wire::Link,
};

/// A longer address, with everything escaped, is none that a phone takes, or our store.
const LONGEST_URL: usize = 2048;
/// A QR code of more than this is none that a phone reads.
const LONGEST_QR: usize = 600;

/// A login that a page of a client wants.
pub struct Wish<'a> {
    /// The client.
    pub client: &'a Client,
    /// Where to come back to.
    pub link: Link,
    /// How much to ask for.
    pub scope: Scope,
    /// How often it has been tried already.
    pub restarts: u8,
}

impl<'a> Wish<'a> {
    /// Reads the query of `/auth`.
    fn of(visit: &Visit<'a>, query: Option<&str>) -> Result<Self, Error> {
        let url = match Field::of(query, "url") {
            Field::Once(url) => url,
            Field::Absent => return Err(Error::BadRequest("no url to come back to")),
            Field::Several => return Err(Error::BadRequest("two urls to come back to")),
        };
        let scope = match Field::of(query, "scope") {
            Field::Absent => Scope::Base,
            Field::Once(scope) => {
                Scope::parse(&scope).ok_or(Error::BadRequest("an unknown scope"))?
            }
            Field::Several => return Err(Error::BadRequest("two scopes")),
        };
        let link = Link::parse(&url).ok_or(Error::UnknownReturn)?;
        if link.as_str().len() > LONGEST_URL {
            return Err(Error::BadRequest("too long a url to come back to"));
        }
        let client = visit.broker.client_at(&link).ok_or(Error::UnknownReturn)?;
        Ok(Self { client, link, scope, restarts: 0 })
    }

    /// The path that begins this login anew.
    pub fn retry(&self, visit: &Visit<'_>) -> String {
        let url = Rules::encode(self.link.as_str());
        format!("{}/auth?url={url}&scope={}", visit.broker.prefix, self.scope.as_str())
    }
}

impl Worker {
    /// Sends a visitor to WeChat, if the page they come from is a client's.
    pub(super) async fn go<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
    ) -> Result<Response<Body>, Error> {
        let wish = Wish::of(visit, request.uri().query())?;
        if !auth::navigates(request.method(), request.headers()) {
            self.count(Deed::Refusal, visit.rules, visit.client)?;
            let url = format!("{}{}", visit.broker.public_url, wish.retry(visit));
            let word = json!({ "error": "login_required", "login_url": url });
            return Ok(reply::json(StatusCode::UNAUTHORIZED, &word));
        }
        if wish.client.account_for(App::of(request.headers()) == App::WeChat).is_none() {
            return outside(visit, &wish, &Asker::of(request));
        }
        self.count(Deed::Login, visit.rules, visit.client)?;
        self.gateway.metrics.login("started", "");
        self.send_out(visit, request, wish).await
    }

    /// One trip: the state goes with the visitor, its proof stays in their browser, and where they
    /// are going in the store.
    pub(super) async fn send_out<B>(
        &self,
        visit: &Visit<'_>,
        request: &Request<B>,
        wish: Wish<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, broker) = (visit.rules, visit.broker);
        let Wish { client, link, scope, restarts } = wish;
        let inside = App::of(request.headers()) == App::WeChat;
        let account = client.account_for(inside).unwrap_or(&client.account);
        let state = State { nonce: rand::random(), issued: visit.now, restarts, scope };
        let mut step = traces::step("login start");
        step.say("wxgate.login", || Some(state.id()));
        step.say("wxgate.account", || Some(account.name.as_str()));
        step.say("wxgate.scope", || Some(scope.as_str()));
        let errand = Errand {
            client: client.name.clone(),
            url: link.as_str().to_owned(),
            scope,
            app_id: account.app_id.clone(),
        };
        let begun = self.gateway.errands.begin(&rules.keys, state.nonce, &errand);
        login::told(step.around(begun).await.map_err(Error::from), step)?;
        let window = match scope {
            Scope::Base => "getOpenId",
            Scope::UserInfo => "getWxUserInfo",
        };
        let leave = Leave {
            callback: &format!("{}/{window}", broker.base),
            scope,
            state: &state.seal(&rules.keys, &broker.audience),
            device: Device::of(request.headers()),
        };
        let mut response = reply::redirect(&protocol::authorize_url(account, &leave));
        let (names, place) = (&broker.cookies, flow_place(broker));
        let proof =
            rules.keys.seal(&state.nonce.to_be_bytes(), &place, rand::random::<[u8; NONCE]>())?;
        for name in login::forgotten(request, names) {
            login::set(&mut response, names.clear(&name));
        }
        login::set(&mut response, names.set(&names.flow(&state.id()), &proof, PATIENCE));
        Ok(response)
    }
}

/// What the flow cookie of a login of the broker's is sealed for.
pub fn flow_place(broker: &Broker) -> String {
    format!("flow of {}", broker.audience)
}

/// WeChat's login page turns other browsers away, so they are shown what to scan.
fn outside(visit: &Visit<'_>, wish: &Wish<'_>, asker: &Asker) -> Result<Response<Body>, Error> {
    if matches!(wish.client.outside_wechat, Outside::Deny) {
        return Err(Error::WeChatOnly);
    }
    let url = format!("{}{}", visit.broker.public_url, wish.retry(visit));
    // Without its query the way to the login leads nowhere; the page itself does.
    let url = if url.len() <= LONGEST_QR { &url } else { wish.link.as_str() };
    Ok(visit.rules.voice.open_url_in_wechat(url, asker))
}
