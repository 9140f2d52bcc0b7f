//! `/auth`: out to WeChat, while the address to come back to waits in the store.

use http::{Request, Response, StatusCode};
use serde_json::json;

use super::{BrokerRequest, login_store::PendingBrokerLogin};
use crate::{
    auth::{self, App, Device, OAuthState, pending::STATE_LIFETIME, token::NONCE},
    gateway::{
        Body, ClientPreferences, Error, LimitedAction, RequestHandler,
        login::{self, QueryParam},
        reply,
        rules::RuntimeConfig,
    },
    httputil::HttpUrl,
    site::{Broker, OutsideWeChat, Scope, broker::Client},
    traces,
    wechat::protocol::{self, AuthorizeParams},
};

/// A longer address, with everything escaped, is none that a phone takes, or our store.
const LONGEST_URL: usize = 2048;
/// A QR code of more than this is none that a phone reads.
const LONGEST_QR: usize = 600;

/// A login that a page of a client wants.
pub struct BrokerLoginRequest<'a> {
    /// The client.
    pub client: &'a Client,
    /// Where to come back to.
    pub url: HttpUrl,
    /// How much to ask for.
    pub scope: Scope,
    /// How often it has been tried already.
    pub restarts: u8,
}

impl<'a> BrokerLoginRequest<'a> {
    /// Reads the query of `/auth`.
    fn of(visit: &BrokerRequest<'a>, query: Option<&str>) -> Result<Self, Error> {
        let url = match QueryParam::of(query, "url") {
            QueryParam::One(url) => url,
            QueryParam::Absent => return Err(Error::BadRequest("no url to come back to")),
            QueryParam::Repeated => return Err(Error::BadRequest("two urls to come back to")),
        };
        let scope = match QueryParam::of(query, "scope") {
            QueryParam::Absent => Scope::Base,
            QueryParam::One(scope) => {
                Scope::parse(&scope).ok_or(Error::BadRequest("an unknown scope"))?
            }
            QueryParam::Repeated => return Err(Error::BadRequest("two scopes")),
        };
        let link = HttpUrl::parse(&url).ok_or(Error::UnknownReturn)?;
        if link.as_str().len() > LONGEST_URL {
            return Err(Error::BadRequest("too long a url to come back to"));
        }
        let client = visit.broker.client_at(&link).ok_or(Error::UnknownReturn)?;
        Ok(Self { client, url: link, scope, restarts: 0 })
    }

    /// The path that begins this login anew.
    pub fn retry(&self, visit: &BrokerRequest<'_>) -> String {
        let url = RuntimeConfig::encode(self.url.as_str());
        format!("{}/auth?url={url}&scope={}", visit.broker.prefix, self.scope.as_str())
    }
}

impl RequestHandler {
    /// Sends a visitor to WeChat, if the page they come from is a client's.
    pub(super) async fn broker_authorize<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
    ) -> Result<Response<Body>, Error> {
        let wish = BrokerLoginRequest::of(visit, request.uri().query())?;
        if !auth::navigates(request.method(), request.headers()) {
            self.check_rate_limit(LimitedAction::Refusal, visit.rules, visit.client)?;
            let url = format!("{}{}", visit.broker.public_url, wish.retry(visit));
            let word = json!({ "error": "login_required", "login_url": url });
            return Ok(reply::json(StatusCode::UNAUTHORIZED, &word));
        }
        if wish.client.account_for(App::of(request.headers()) == App::WeChat).is_none() {
            return outside(visit, &wish, &ClientPreferences::of(request));
        }
        self.check_rate_limit(LimitedAction::Login, visit.rules, visit.client)?;
        self.gateway.metrics.login("started", "");
        self.redirect_to_wechat(visit, request, wish).await
    }

    /// One trip: the state goes with the visitor, its proof stays in their browser, and where they
    /// are going in the store.
    pub(super) async fn redirect_to_wechat<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
        wish: BrokerLoginRequest<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, broker) = (visit.rules, visit.broker);
        let BrokerLoginRequest { client, url: link, scope, restarts } = wish;
        let inside = App::of(request.headers()) == App::WeChat;
        let account = client.account_for(inside).unwrap_or(&client.account);
        let state = OAuthState { nonce: rand::random(), issued: visit.now, restarts, scope };
        let mut step = traces::step("login start");
        step.set_attribute("wxgate.login", || Some(state.id()));
        step.set_attribute("wxgate.account", || Some(account.name.as_str()));
        step.set_attribute("wxgate.scope", || Some(scope.as_str()));
        let errand = PendingBrokerLogin {
            client: client.name.clone(),
            url: link.as_str().to_owned(),
            scope,
            app_id: account.app_id.clone(),
        };
        let begun = self.gateway.errands.begin(&rules.keys, state.nonce, &errand);
        login::finish_span(step.instrument(begun).await.map_err(Error::from), step)?;
        let window = match scope {
            Scope::Base => "getOpenId",
            Scope::UserInfo => "getWxUserInfo",
        };
        let leave = AuthorizeParams {
            callback: &format!("{}/{window}", broker.base),
            scope,
            state: &state.seal(&rules.keys, &broker.audience),
            device: Device::of(request.headers()),
        };
        let mut response = reply::redirect(&protocol::authorize_url(account, &leave));
        let (names, place) = (&broker.cookies, flow_context(broker));
        let proof =
            rules.keys.seal(&state.nonce.to_be_bytes(), &place, rand::random::<[u8; NONCE]>())?;
        for name in login::excess_flow_cookies(request, names) {
            login::set(&mut response, names.clear_cookie(&name));
        }
        login::set(
            &mut response,
            names.set_cookie(&names.flow(&state.id()), &proof, STATE_LIFETIME),
        );
        Ok(response)
    }
}

/// What the flow cookie of a login of the broker's is sealed for.
pub fn flow_context(broker: &Broker) -> String {
    format!("flow of {}", broker.audience)
}

/// WeChat's login page turns other browsers away, so they are shown what to scan.
fn outside(
    visit: &BrokerRequest<'_>,
    wish: &BrokerLoginRequest<'_>,
    preferences: &ClientPreferences,
) -> Result<Response<Body>, Error> {
    if matches!(wish.client.outside_wechat, OutsideWeChat::Deny) {
        return Err(Error::WeChatOnly);
    }
    let url = format!("{}{}", visit.broker.public_url, wish.retry(visit));
    // Without its query the way to the login leads nowhere; the page itself does.
    let url = if url.len() <= LONGEST_QR { &url } else { wish.url.as_str() };
    Ok(visit.rules.responder.open_url_in_wechat(url, preferences))
}
