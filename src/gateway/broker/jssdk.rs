//! `/jssdk`: signs a client's page for WeChat's JS-SDK.
//!
//! A ticket of the account signs all its pages for two hours. It lies in the store, sealed; of the
//! whole fleet one replica renews it while the others go on with what there is, and each keeps a
//! copy, so that a signature costs no more than a hash.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    runtime::Handle,
    sync::Mutex as Turn,
    time::{Instant, sleep},
};

use super::BrokerRequest;
use crate::{
    auth::token::NONCE,
    clock::Timestamp,
    gateway::{
        Body, Error, LimitedAction, RequestHandler, login::QueryParam, reply, rules::RuntimeConfig,
    },
    httputil::HttpUrl,
    secret::Secret,
    site::Account,
    store::Store,
    traces,
    wechat::{self, WeChatClient, protocol::jssdk},
};

/// A ticket is renewed so long before it ends, or half-way where it is a short one.
const RENEW_BEFORE: Duration = Duration::from_mins(10);
/// How long one replica may take to renew: longer than WeChat may.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// How long the others wait where there is no ticket at all, and how often they look.
const WAIT_TIMEOUT: Duration = Duration::from_secs(4);
const POLL_INTERVAL: Duration = Duration::from_millis(60);
/// After a failure WeChat is left alone for a while: the quota is the account's.
const COOLDOWN: Duration = Duration::from_secs(10);

/// A ticket with its times.
#[derive(Clone, Serialize, Deserialize)]
struct JsapiTicket {
    text: String,
    /// When to ask for the next one.
    renew: Timestamp,
    /// When it is worth nothing.
    end: Timestamp,
}

impl JsapiTicket {
    fn new(lent: &jssdk::ExpiringToken, now: Timestamp) -> Self {
        let early = lent.life.saturating_sub(RENEW_BEFORE).max(lent.life / 2);
        let text = lent.text.expose().to_owned();
        Self { text, renew: now.plus(early), end: now.plus(lent.life) }
    }
}

/// One account's ticket as this replica knows it.
#[derive(Default)]
struct TicketEntry {
    ticket: Mutex<Option<JsapiTicket>>,
    failed: Mutex<Option<(Instant, wechat::Error)>>,
    /// Whose turn it is to look for another.
    turn: Turn<()>,
}

/// The tickets of the accounts.
#[derive(Clone)]
pub struct JssdkSigner {
    wechat: WeChatClient,
    store: Arc<Store>,
    runtime: Handle,
    known: Arc<Mutex<HashMap<String, Arc<TicketEntry>>>>,
}

impl JssdkSigner {
    /// None yet.
    pub fn new(wechat: WeChatClient, store: Arc<Store>, runtime: Handle) -> Self {
        Self { wechat, store, runtime, known: Arc::default() }
    }

    /// The ticket that signs the account's pages now.
    async fn ticket(
        &self,
        rules: &Arc<RuntimeConfig>,
        account: &Arc<Account>,
        now: Timestamp,
    ) -> Result<Secret, wechat::Error> {
        let known = Arc::clone(lock(&self.known).entry(account.app_id.clone()).or_default());
        let ticket = lock(&known.ticket).clone();
        let good = ticket.filter(|ticket| now < ticket.end);
        if let Some(ticket) = &good
            && now < ticket.renew
        {
            return Ok(Secret::new(ticket.text.clone()));
        }
        // Not on the visitor's time: one who hangs up would take the answer along.
        let (this, rules, account) = (self.clone(), Arc::clone(rules), Arc::clone(account));
        let renewal = self.runtime.spawn(traces::with_current_span(async move {
            let look = TicketRenewal { signers: &this, rules: &rules, account: &account, now };
            look.renew(&known).await
        }));
        if let Some(ticket) = good {
            return Ok(Secret::new(ticket.text));
        }
        let died =
            |_| Err(wechat::Error::NoResponse("background task ended without a result".to_owned()));
        let ticket = renewal.await.unwrap_or_else(died)?;
        Ok(Secret::new(ticket.text))
    }
}

/// A look for a fresh ticket.
struct TicketRenewal<'a> {
    signers: &'a JssdkSigner,
    rules: &'a RuntimeConfig,
    account: &'a Account,
    now: Timestamp,
}

impl TicketRenewal<'_> {
    /// One at a time on this replica. Whoever waited finds what the one before has found.
    async fn renew(&self, known: &TicketEntry) -> Result<JsapiTicket, wechat::Error> {
        let _turn = known.turn.lock().await;
        let ticket = lock(&known.ticket).clone();
        if let Some(ticket) = ticket.filter(|ticket| self.now < ticket.renew) {
            return Ok(ticket);
        }
        let failed = lock(&known.failed).clone();
        if let Some((_, error)) = failed.filter(|(since, _)| since.elapsed() < COOLDOWN) {
            return Err(error);
        }
        let found = self.find().await;
        match &found {
            Ok(ticket) => *lock(&known.ticket) = Some(ticket.clone()),
            Err(error) => {
                let remedy = match error {
                    wechat::Error::Api(refusal) => refusal.remedy(),
                    wechat::Error::Unreachable(_) | wechat::Error::NoResponse(_) => None,
                };
                tracing::error!(account = self.account.name, %error, remedy, "cannot get jsapi_ticket");
                *lock(&known.failed) = Some((Instant::now(), error.clone()));
            }
        }
        found
    }

    /// From the store, else from WeChat, whom one replica asks.
    async fn find(&self) -> Result<JsapiTicket, wechat::Error> {
        if let Some(ticket) = self.stored().await.filter(|ticket| self.now < ticket.renew) {
            return Ok(ticket);
        }
        let (store, lease) = (&self.signers.store, format!("{}/lease", self.name()));
        match store.put_new(&lease, Vec::new(), LEASE_TTL).await {
            Ok(true) => {
                let asked = self.ask().await;
                if let Ok(ticket) = &asked {
                    self.share(ticket).await;
                }
                // Should this fail, the lease ends by itself.
                let _ = store.take(&lease).await;
                asked
            }
            Ok(false) => self.wait().await,
            Err(error) => {
                tracing::warn!(%error, "cannot share jsapi_ticket with other replicas");
                self.ask().await
            }
        }
    }

    async fn ask(&self) -> Result<JsapiTicket, wechat::Error> {
        let lent = self.signers.wechat.jssdk_ticket(self.account).await?;
        Ok(JsapiTicket::new(&lent, self.now))
    }

    /// Another replica is asking.
    async fn wait(&self) -> Result<JsapiTicket, wechat::Error> {
        let until = Instant::now() + WAIT_TIMEOUT;
        while Instant::now() < until {
            if let Some(ticket) = self.stored().await.filter(|ticket| self.now < ticket.end) {
                return Ok(ticket);
            }
            sleep(POLL_INTERVAL).await;
        }
        Err(wechat::Error::NoResponse("another replica asked, and did not tell".to_owned()))
    }

    async fn stored(&self) -> Option<JsapiTicket> {
        let sealed = self.signers.store.get(&self.name()).await.ok()??;
        let json = self.rules.keys.open_sealed(&sealed, &self.name()).ok()?;
        serde_json::from_slice(&json).ok()
    }

    async fn share(&self, ticket: &JsapiTicket) {
        let Ok(json) = serde_json::to_vec(ticket) else { return };
        let sealed = self.rules.keys.seal(&json, &self.name(), rand::random::<[u8; NONCE]>());
        let age = Duration::from_secs(ticket.end.since(self.now).max(1));
        if let Ok(sealed) = sealed
            && let Err(error) = self.signers.store.put(&self.name(), sealed.into_bytes(), age).await
        {
            tracing::warn!(%error, "the other replicas do not learn of a ticket for the JS-SDK");
        }
    }

    fn name(&self) -> String {
        format!("jssdk/{}", self.account.app_id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RequestHandler {
    /// Signs the page in `url`.
    pub(super) async fn sign<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
    ) -> Response<Body> {
        let answer = match self.try_to_sign(visit, request).await {
            Ok(answer) => answer,
            Err(error) => {
                let refused = matches!(error, Error::UnknownReturn | Error::BadRequest(_));
                let counted = || {
                    self.check_rate_limit(LimitedAction::Refusal, visit.rules, visit.client).err()
                };
                let error = refused.then(counted).flatten().unwrap_or(error);
                // A ticket that cannot be had has been logged where it was asked for.
                if !matches!(error, Error::Login { .. }) {
                    self.gateway.audit.record(visit.audit_event(error.line()));
                }
                let word = json!({ "error": error.notice().word(), "trace": visit.id() });
                reply::json(error.status(), &word)
            }
        };
        readable(visit, request, answer)
    }

    async fn try_to_sign<B>(
        &self,
        visit: &BrokerRequest<'_>,
        request: &Request<B>,
    ) -> Result<Response<Body>, Error> {
        let QueryParam::One(url) = QueryParam::of(request.uri().query(), "url") else {
            return Err(Error::BadRequest("not one url to sign"));
        };
        let link = HttpUrl::parse(&url).ok_or(Error::UnknownReturn)?;
        let client = visit.broker.signer_of(&link).ok_or(Error::UnknownReturn)?;
        let ticket = self.gateway.signers.ticket(visit.rules, &client.account, visit.now).await;
        let ticket = ticket.map_err(|source| Error::Login { retry: String::new(), source })?;
        let (page, timestamp) = (HttpUrl::page(&url), visit.now.0);
        let nonce = format!("{:032x}", rand::random::<u128>());
        let signature = jssdk::signature(&ticket, &nonce, timestamp, page);
        let fields = json!({
            "appId": client.account.app_id,
            "timestamp": timestamp,
            "nonceStr": nonce,
            "signature": signature,
            "url": page,
        });
        Ok(reply::json(StatusCode::OK, &fields))
    }
}

/// The answer to a preflight: scripts that send headers of their own ask first (Fetch, section
/// 3.3.7).
pub fn preflight<B>(visit: &BrokerRequest<'_>, request: &Request<B>) -> Response<Body> {
    let mut answer = readable(visit, request, reply::empty(StatusCode::NO_CONTENT));
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET, OPTIONS"));
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(names) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
    }
    answer
}

/// Lets a script of a client's page read the answer. It is nobody's in particular, so there is no
/// word about cookies.
fn readable<B>(
    visit: &BrokerRequest<'_>,
    request: &Request<B>,
    mut answer: Response<Body>,
) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && visit.broker.signs_for(origin.as_bytes())
    {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serialized::assert_serialized;

    #[test]
    fn serialized_jsapi_ticket() {
        let life = Duration::from_hours(2);
        let lent = jssdk::ExpiringToken { text: Secret::new("T1"), life };
        let ticket = JsapiTicket::new(&lent, Timestamp(10_000));
        let recorded = r#"{"text":"T1","renew":16600,"end":17200}"#;
        assert_serialized(&[("ticket", serde_json::to_string(&ticket).unwrap(), recorded)]);
        let read: JsapiTicket = serde_json::from_str(recorded).unwrap();
        assert_eq!((read.text, read.renew, read.end), (ticket.text, ticket.renew, ticket.end));
    }
}
