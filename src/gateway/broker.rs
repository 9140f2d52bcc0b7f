//! The code broker: logins for sites that are not behind us. Two kinds of callers come by here.
//!
//! Browsers walk the classic way: out over `/auth`, back over `/getOpenId` or `/getWxUserInfo`, and
//! on to the address they asked for. What waits meanwhile waits in the store ([`login_store`]); where
//! they may be sent is [`crate::site::broker`]'s to say. Servers show a client's secret and get
//! JSON ([`api`]). Pages of clients are signed for the JS-SDK ([`jssdk`]).

mod callback;
mod login_store;
mod authorize;
mod jssdk;
mod openapi;
mod api;
mod api_error;

use std::{net::IpAddr, rc::Rc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};

use super::{
    Body, Error, Peer, RequestHandler, WorkerState, access_log::AccessLogEntry, context, reply,
    rules::RuntimeConfig,
};
use crate::{clock::Timestamp, http1::Incoming, logs::AuditEvent, site::Broker};

pub use jssdk::JssdkSigner;
pub use login_store::BrokerLoginStore;
pub use openapi::document;

/// What may be asked of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerEndpoint {
    /// `/auth`: to WeChat.
    Auth,
    /// `/getOpenId`: back, or a server with a code.
    OpenId,
    /// `/getWxUserInfo`, also `/getUserInfo`: the same with the profile.
    UserInfo,
    /// `/redeem`: a server with a ticket.
    Redeem,
    /// `/jssdk`: a page that wants a signature.
    JsSdk,
    /// `/jwks.json`: what checks the JWT of `/redeem`.
    PublicKeys,
    /// `/openapi.json`: all of this in a document.
    OpenApi,
    /// No such thing.
    Unknown,
}

impl BrokerEndpoint {
    fn of(path: &str) -> Self {
        match path {
            "/auth" => Self::Auth,
            "/getOpenId" => Self::OpenId,
            "/getWxUserInfo" | "/getUserInfo" => Self::UserInfo,
            "/redeem" => Self::Redeem,
            "/jssdk" => Self::JsSdk,
            "/jwks.json" => Self::PublicKeys,
            "/openapi.json" => Self::OpenApi,
            _ => Self::Unknown,
        }
    }

    /// The one method it takes. `HEAD` would cost a login what it costs to begin one.
    fn method(self) -> Method {
        if self == Self::Redeem { Method::POST } else { Method::GET }
    }
}

/// A request for the broker, once it is clear where from.
struct BrokerRequest<'a> {
    rules: &'a std::sync::Arc<RuntimeConfig>,
    broker: &'a Broker,
    client: IpAddr,
    now: Timestamp,
    request_id: HeaderValue,
}

impl BrokerRequest<'_> {
    /// The id that the log knows the request by.
    fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// A line of the audit trail, with what is known of where it comes from.
    fn audit_event(&self, event: AuditEvent) -> AuditEvent {
        let site = self.broker.public_url.host().as_str();
        let line = event.with("request_id", self.id()).with("site", site);
        line.with("client", self.client.to_string())
    }
}

/// What a request asks of the broker, if it is for the broker at all: by exact host and prefix.
pub fn match_request<'a, B>(
    rules: &'a RuntimeConfig,
    request: &Request<B>,
) -> Option<(&'a Broker, BrokerEndpoint)> {
    let broker = rules.broker.as_ref()?;
    let rest = request.uri().path().strip_prefix(broker.prefix.as_str())?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let host = context::host(request).ok()?;
    let window = BrokerEndpoint::of(rest);
    let beside = broker.prefix.is_empty() && window == BrokerEndpoint::Unknown;
    (broker.public_url.host().as_str() == host && !beside).then_some((broker, window))
}

impl RequestHandler {
    /// Answers a request for the broker.
    pub(super) async fn broker<'a>(
        &self,
        state: &'a WorkerState,
        ((broker, window), request): ((&'a Broker, BrokerEndpoint), &mut Request<Incoming>),
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut AccessLogEntry,
    ) -> Result<Response<Body>, Error> {
        let rules = &state.rules;
        let client = rules.trusted.client(peer.ip, request.headers());
        entry.set_client(client);
        entry.set_broker();
        match context::well_formed(request) {
            // After a method like these nobody knows what the client sends next, but over HTTP/2.
            Err(Error::MethodNotAllowed) => {
                let last = request.version() != Version::HTTP_2;
                let answer = not_allowed(&window.method());
                return Ok(if last { reply::close_connection(answer) } else { answer });
            }
            formed => formed?,
        }
        let signs = window == BrokerEndpoint::JsSdk && broker.has_jssdk();
        let preflight = signs && request.method() == Method::OPTIONS;
        if window != BrokerEndpoint::Unknown && request.method() != window.method() && !preflight {
            return Ok(not_allowed(&window.method()));
        }
        let request_id = entry.request_id().clone();
        let visit = BrokerRequest { rules, broker, client, now, request_id };
        match window {
            BrokerEndpoint::Auth => self.broker_authorize(&visit, request).await,
            BrokerEndpoint::OpenId | BrokerEndpoint::UserInfo => {
                match api::secret(request.headers()) {
                    Some(secret) => Ok(self.exchange(&visit, window, request, &secret).await),
                    None => self.broker_callback(&visit, request).await,
                }
            }
            BrokerEndpoint::Redeem => Ok(self.redeem(&visit, request).await),
            BrokerEndpoint::JsSdk if preflight => Ok(jssdk::preflight(&visit, request)),
            BrokerEndpoint::JsSdk if signs => Ok(self.sign(&visit, request).await),
            BrokerEndpoint::PublicKeys => {
                Ok(reply::public_keys(rules.keys.public(), request.headers()))
            }
            BrokerEndpoint::OpenApi => Ok(reply::json(StatusCode::OK, &rules.broker_document)),
            BrokerEndpoint::JsSdk | BrokerEndpoint::Unknown => Err(Error::NotFound),
        }
    }
}

/// Says which method it takes (RFC 9110, section 15.5.6).
fn not_allowed(method: &Method) -> Response<Body> {
    let word = serde_json::json!({ "error": "method_not_allowed" });
    let mut response = reply::json(StatusCode::METHOD_NOT_ALLOWED, &word);
    if let Ok(method) = HeaderValue::try_from(method.as_str()) {
        response.headers_mut().insert(header::ALLOW, method);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let cases = [
            ("/auth", BrokerEndpoint::Auth),
            ("/getOpenId", BrokerEndpoint::OpenId),
            ("/getWxUserInfo", BrokerEndpoint::UserInfo),
            ("/getUserInfo", BrokerEndpoint::UserInfo),
            ("/redeem", BrokerEndpoint::Redeem),
            ("/jssdk", BrokerEndpoint::JsSdk),
            ("/jwks.json", BrokerEndpoint::PublicKeys),
            ("/openapi.json", BrokerEndpoint::OpenApi),
            ("", BrokerEndpoint::Unknown),
            ("/", BrokerEndpoint::Unknown),
            ("/auth/", BrokerEndpoint::Unknown),
            ("/Auth", BrokerEndpoint::Unknown),
            ("/getopenid", BrokerEndpoint::Unknown),
            ("//auth", BrokerEndpoint::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(BrokerEndpoint::of(path), expected, "{path}");
        }
    }
}
