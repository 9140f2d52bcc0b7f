//! The code broker: logins for sites that are not behind us. Two kinds of callers come by here.
//!
//! Browsers walk the classic way: out over `/auth`, back over `/getOpenId` or `/getWxUserInfo`, and
//! on to the address they asked for. What waits meanwhile waits in the store ([`errand`]); where
//! they may be sent is [`crate::site::broker`]'s to say. Servers show a client's secret and get
//! JSON ([`program`]). Pages of clients are signed for the JS-SDK ([`jssdk`]).

mod back;
mod errand;
mod go;
mod jssdk;
mod openapi;
mod program;
mod refusal;

use std::{net::IpAddr, rc::Rc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};

use super::{Body, Desk, Error, Peer, Worker, access_log::Entry, receive, reply, rules::Rules};
use crate::{clock::Timestamp, http1::Incoming, logs::Line, site::Broker};

pub use errand::Errands;
pub use jssdk::Signers;
pub use openapi::document;

/// What may be asked of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
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

impl Window {
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
struct Visit<'a> {
    rules: &'a std::sync::Arc<Rules>,
    broker: &'a Broker,
    client: IpAddr,
    now: Timestamp,
    request_id: HeaderValue,
}

impl Visit<'_> {
    /// The id that the log knows the request by.
    fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// A line of the audit trail, with what is known of where it comes from.
    fn tell(&self, line: Line) -> Line {
        let site = self.broker.public_url.host().as_str();
        let line = line.with("request_id", self.id()).with("site", site);
        line.with("client", self.client.to_string())
    }
}

/// What a request asks of the broker, if it is for the broker at all: by exact host and prefix.
pub fn asked<'a, B>(rules: &'a Rules, request: &Request<B>) -> Option<(&'a Broker, Window)> {
    let broker = rules.broker.as_ref()?;
    let rest = request.uri().path().strip_prefix(broker.prefix.as_str())?;
    if !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let (_, host) = receive::host(request).ok()?;
    let window = Window::of(rest);
    let beside = broker.prefix.is_empty() && window == Window::Unknown;
    (broker.public_url.host().as_str() == host && !beside).then_some((broker, window))
}

impl Worker {
    /// Answers a request for the broker.
    pub(super) async fn broker<'a>(
        &self,
        desk: &'a Desk,
        ((broker, window), request): ((&'a Broker, Window), &mut Request<Incoming>),
        (peer, now): (&'a Rc<Peer>, Timestamp),
        entry: &mut Entry,
    ) -> Result<Response<Body>, Error> {
        let rules = &desk.rules;
        let client = rules.trusted.client(peer.ip, request.headers());
        entry.came_from(client);
        entry.at_broker();
        match receive::well_formed(request) {
            // After a method like these nobody knows what the client sends next, but over HTTP/2.
            Err(Error::MethodNotAllowed) => {
                let last = request.version() != Version::HTTP_2;
                let answer = not_allowed(&window.method());
                return Ok(if last { reply::last(answer) } else { answer });
            }
            formed => formed?,
        }
        let signs = window == Window::JsSdk && broker.has_jssdk();
        let preflight = signs && request.method() == Method::OPTIONS;
        if window != Window::Unknown && request.method() != window.method() && !preflight {
            return Ok(not_allowed(&window.method()));
        }
        let request_id = entry.request_id().clone();
        let visit = Visit { rules, broker, client, now, request_id };
        match window {
            Window::Auth => self.go(&visit, request).await,
            Window::OpenId | Window::UserInfo => match program::secret(request.headers()) {
                Some(secret) => Ok(self.exchange(&visit, window, request, &secret).await),
                None => self.back(&visit, request).await,
            },
            Window::Redeem => Ok(self.redeem(&visit, request).await),
            Window::JsSdk if preflight => Ok(jssdk::preflight(&visit, request)),
            Window::JsSdk if signs => Ok(self.sign(&visit, request).await),
            Window::PublicKeys => Ok(reply::public_keys(rules.keys.public(), request.headers())),
            Window::OpenApi => Ok(reply::json(StatusCode::OK, &rules.broker_document)),
            Window::JsSdk | Window::Unknown => Err(Error::NotFound),
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
            ("/auth", Window::Auth),
            ("/getOpenId", Window::OpenId),
            ("/getWxUserInfo", Window::UserInfo),
            ("/getUserInfo", Window::UserInfo),
            ("/redeem", Window::Redeem),
            ("/jssdk", Window::JsSdk),
            ("/jwks.json", Window::PublicKeys),
            ("/openapi.json", Window::OpenApi),
            ("", Window::Unknown),
            ("/", Window::Unknown),
            ("/auth/", Window::Unknown),
            ("/Auth", Window::Unknown),
            ("/getopenid", Window::Unknown),
            ("//auth", Window::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(Window::of(path), expected, "{path}");
        }
    }
}
