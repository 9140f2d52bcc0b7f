//! WeChat's OAuth API: a code goes out, an identity comes back.

use std::{sync::Arc, time::Duration};

use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    auth::Identity,
    descriptors, error_chain,
    metrics::{Component, Metrics},
    secret::Secret,
    site::{Account, Scope},
    traces,
};

mod circuit_breaker;
mod credentials;
pub mod protocol;

pub use credentials::CredentialCheck;

use circuit_breaker::CircuitBreaker;
use protocol::{
    ApiError, ErrorClass, Profile,
    jssdk::{self, ExpiringToken},
};

/// From the callback to the answer. A visitor's phone repeats a callback that takes five seconds.
const DEADLINE: Duration = Duration::from_millis(4_500);
/// A host that does not take a connection in this time is passed over.
const CONNECT: Duration = Duration::from_millis(1_500);
/// What the profile may take: without it the visitor still comes in, as an openid.
const PROFILE: Duration = Duration::from_millis(1_500);

/// Why nobody came back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// WeChat answered, and the answer was no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No API host took the connection; the code is as good as it was.
    #[error("no API host of WeChat could be reached: {0}")]
    Unreachable(String),
    /// The call went out and nothing useful came back; the code may be spent.
    #[error("no response from WeChat's API: {0}")]
    NoResponse(String),
}

/// Who came back from WeChat.
#[derive(Clone, Debug)]
pub struct WeChatUser {
    /// Who they are and what they granted.
    pub identity: Identity,
    /// Whether that is the virtual identity of a snapshot page.
    pub snapshot: bool,
    /// With which the profile can be asked for again.
    pub refresh_token: Option<Secret>,
    /// What WeChat lets us ask about them with.
    pub access: AccessToken,
    /// What their profile has besides, where one was asked for.
    pub rest: Map<String, Value>,
    /// Whether their profile is missing because WeChat no longer takes the token, which another
    /// login would mend.
    pub stale: bool,
}

/// An access token. It leaves us for a client of the broker who has shown a secret, and for nobody
/// else.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub token: Secret,
    /// Seconds that it is good for.
    pub expires_in: u64,
}

/// One call: where to, and what is posted there, if anything is.
struct ApiRequest {
    url: Secret,
    json: Option<Secret>,
}

impl ApiRequest {
    fn get(url: Secret) -> Self {
        Self { url, json: None }
    }

    /// It begins: its span says where to, without the query, in which the secrets are.
    fn begin(&self) -> StartedCall {
        let url = self.url.expose();
        let method = if self.json.is_some() { "POST" } else { "GET" };
        let place = || url::Url::parse(url).ok();
        let mut span = traces::client_span(|| {
            place().map_or(method.to_owned(), |it| format!("{method} {}", it.path()))
        });
        span.set_attribute("http.request.method", || Some(method));
        span.set_attribute("server.address", || place()?.host_str().map(str::to_owned));
        span.set_attribute("server.port", || place()?.port_or_known_default());
        span.set_attribute("url.path", || place().map(|it| it.path().to_owned()));
        StartedCall { since: Instant::now(), span }
    }
}

/// A call that has gone out.
struct StartedCall {
    since: Instant,
    span: traces::ActiveSpan,
}

/// The API client.
#[derive(Clone, Debug)]
pub struct WeChatClient {
    client: reqwest::Client,
    breaker: Arc<CircuitBreaker>,
    metrics: Arc<Metrics>,
}

impl WeChatClient {
    /// The only client, with every limit set. Fails when TLS cannot be set up.
    pub fn new(tls: &Arc<ClientConfig>, metrics: Arc<Metrics>) -> Result<Self, reqwest::Error> {
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy() // the app secret takes no detour that an environment variable names
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(DEADLINE)
            .pool_idle_timeout(Duration::from_mins(1))
            .build()?;
        Ok(Self { client, breaker: Arc::default(), metrics })
    }

    /// Exchanges a code, and asks for the profile when the visitor granted it. A code is sent
    /// once: only a connection that was never made leads to the next host.
    pub async fn identify(&self, account: &Account, code: &str) -> Result<WeChatUser, Error> {
        let url = |api: &str| ApiRequest::get(protocol::token_url(api, account, code));
        let exchange = self.ask("access_token", account, url, protocol::read_grant);
        let (grant, api) = tokio::time::timeout(DEADLINE, exchange)
            .await
            .map_err(|_| Error::NoResponse("deadline passed".to_owned()))??;
        // A snapshot visitor's profile is as virtual as its openid: not worth a call.
        if grant.scope < Scope::UserInfo || grant.snapshot {
            return Ok(WeChatUser { refresh_token: None, ..person(grant, Profile::default()) });
        }
        let (grant, profile) = self.profile_of(account, api, grant).await;
        let error = match profile {
            Ok(profile) => return Ok(person(grant, profile)),
            Err(error) => error,
        };
        tracing::warn!(account = account.name, %error, "cannot fetch profile, login continues with openid only");
        let mut person = person(grant, Profile::default());
        if let Error::Api(refusal) = &error {
            let fault = refusal.class();
            person.stale = fault == ErrorClass::Code || refusal.invalidates_access_token();
            if fault == ErrorClass::Scope {
                person.identity.scope = Scope::Base;
            }
        }
        Ok(person)
    }

    /// The profile, for which an access token that has died already is renewed once.
    async fn profile_of(
        &self,
        account: &Account,
        api: &str,
        tokens: protocol::TokenResponse,
    ) -> (protocol::TokenResponse, Result<Profile, Error>) {
        let died = match self.profile(api, &tokens).await {
            Err(Error::Api(refusal)) if refusal.invalidates_access_token() => refusal,
            profile => return (tokens, profile),
        };
        let Some(token) = &tokens.refresh_token else { return (tokens, Err(died.into())) };
        let url = |api: &str| ApiRequest::get(protocol::refresh_url(api, account, token));
        let refresh = self.ask("refresh_token", account, url, protocol::read_grant);
        match tokio::time::timeout(PROFILE, refresh).await {
            Ok(Ok((fresh, api))) => {
                // What the login said of the visitor still holds; a refresh says less.
                let refresh_token = fresh.refresh_token.or(tokens.refresh_token);
                let (access_token, expires_in) = (fresh.access_token, fresh.expires_in);
                let grant =
                    protocol::TokenResponse { access_token, expires_in, refresh_token, ..tokens };
                let profile = self.profile(api, &grant).await;
                (grant, profile)
            }
            Ok(Err(error)) => (tokens, Err(error)),
            Err(_) => (tokens, Err(Error::NoResponse("deadline passed".to_owned()))),
        }
    }

    /// The ticket that signs the account's pages for the JS-SDK.
    pub async fn jssdk_ticket(&self, account: &Account) -> Result<ExpiringToken, Error> {
        let post = |api: &str| ApiRequest {
            url: Secret::new(protocol::stable_token_url(api)),
            json: Some(protocol::stable_token_body(account)),
        };
        let mut tries = 0;
        loop {
            let (token, _) = self.ask("stable_token", account, post, jssdk::read_token).await?;
            let url = |api: &str| ApiRequest::get(jssdk::ticket_url(api, &token.text));
            match self.ask("getticket", account, url, jssdk::read_ticket).await {
                // Somebody renewed the token in between.
                Err(Error::Api(refusal)) if refusal.invalidates_access_token() && tries == 0 => {
                    tries += 1;
                }
                answer => return answer.map(|(ticket, _)| ticket),
            }
        }
    }

    /// Renews a profile, and with it the refresh token. An access token that has died in between
    /// is renewed once more.
    pub async fn refresh(
        &self,
        account: &Account,
        token: &Secret,
    ) -> Result<(Profile, Secret), Error> {
        let mut token = token.clone();
        let mut tries = 0;
        loop {
            let url = |api: &str| ApiRequest::get(protocol::refresh_url(api, account, &token));
            let asked = self.ask("refresh_token", account, url, protocol::read_grant);
            let (grant, api) = asked.await?;
            token = grant.refresh_token.clone().unwrap_or(token);
            match self.profile(api, &grant).await {
                Ok(profile) => return Ok((profile, token)),
                Err(Error::Api(refusal)) if refusal.invalidates_access_token() && tries == 0 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer of the account's first API host that takes the connection, and which that was.
    async fn ask<'a, T>(
        &self,
        endpoint: &'static str,
        account: &'a Account,
        call: impl Fn(&str) -> ApiRequest,
        read: fn(&[u8]) -> Result<T, ApiError>,
    ) -> Result<(T, &'a str), Error> {
        let mut last = Error::Unreachable("circuit breaker open for every API host".to_owned());
        for api in &account.api_urls {
            if !self.breaker.allows(api, Instant::now()) {
                continue;
            }
            let call = call(api);
            let (begun, mut asked) = (call.begin(), CallGuard::new(self, api));
            let answer = match self.send(&call).await {
                Ok(body) => {
                    asked.outcome = Some(Ok(()));
                    read(&body).map_err(Error::Api)
                }
                Err(error) => {
                    asked.outcome = Some(Err(error.to_string()));
                    asked.says_nothing = self.is_out_of_descriptors(&error);
                    Err(error)
                }
            };
            drop(asked);
            self.judge(account, &answer);
            self.count(endpoint, &answer, begun);
            match answer {
                Err(error @ Error::Unreachable(_)) => last = error,
                answer => return answer.map(|it| (it, api.as_str())),
            }
        }
        Err(last)
    }

    /// What the visitor shows of themselves, if that is quickly said.
    async fn profile(&self, api: &str, tokens: &protocol::TokenResponse) -> Result<Profile, Error> {
        let call = ApiRequest::get(protocol::userinfo_url(api, tokens));
        let begun = call.begin();
        let profile = match tokio::time::timeout(PROFILE, self.send(&call)).await {
            Ok(Ok(body)) => protocol::read_profile(&body).map_err(Error::Api),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::NoResponse("deadline passed".to_owned())),
        };
        self.count("userinfo", &profile, begun);
        profile
    }

    /// Returns whether a call was not sent for want of a file descriptor, which is no fault of WeChat's.
    fn is_out_of_descriptors(&self, error: &Error) -> bool {
        let exhausted = matches!(error, Error::Unreachable(_)) && descriptors::is_none_left();
        if exhausted {
            self.metrics.limit("descriptors");
        }
        exhausted
    }

    /// Notes whether WeChat takes the account, where the answer says.
    fn judge<T>(&self, account: &Account, answer: &Result<T, Error>) {
        let health = &self.metrics.health;
        match answer {
            Ok(_) => health.set_healthy(Component::Account, &account.name),
            Err(Error::Api(refusal)) if refusal.class() == ErrorClass::Setup => {
                health.set_unhealthy(Component::Account, &account.name, &refusal.to_string());
            }
            Err(_) => (),
        }
    }

    /// Notes how a call ended.
    fn count<T>(&self, endpoint: &'static str, answer: &Result<T, Error>, begun: StartedCall) {
        let errcode = match answer {
            Ok(_) => "ok".to_owned(),
            Err(Error::Api(refusal)) => refusal.label(),
            Err(Error::Unreachable(_)) => "unreachable".to_owned(),
            Err(Error::NoResponse(_)) => "silent".to_owned(),
        };
        let StartedCall { since, mut span } = begun;
        span.set_attribute("wechat.errcode", || match answer {
            Ok(_) => Some(0),
            Err(Error::Api(refusal)) => refusal.code(),
            Err(Error::Unreachable(_) | Error::NoResponse(_)) => None,
        });
        match answer {
            Ok(_) => span.end_ok(),
            Err(_) => span.end_error(&errcode),
        }
        self.metrics.call(endpoint, errcode, since.elapsed());
    }

    /// One call, read to its end or to the limit.
    async fn send(&self, call: &ApiRequest) -> Result<Vec<u8>, Error> {
        let request = match &call.json {
            None => self.client.get(call.url.expose()),
            Some(json) => {
                let post = self.client.post(call.url.expose()).body(json.expose().to_owned());
                post.header(http::header::CONTENT_TYPE, "application/json")
            }
        };
        read(request.send().await.map_err(unsent)?).await
    }
}

/// Errors leave without the URL, which holds secrets.
fn unsent(error: reqwest::Error) -> Error {
    let connect = error.is_connect();
    let words = error_chain::line(&error.without_url());
    if connect { Error::Unreachable(words) } else { Error::NoResponse(words) }
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, Error> {
    let status = response.status();
    let mut response = response;
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(Error::NoResponse(error_chain::line(&error.without_url()))),
        }
        if body.len() > protocol::LONGEST_ANSWER {
            return Err(Error::NoResponse("the answer is too long".to_owned()));
        }
    }
    // WeChat answers 200 whatever happens; anything else comes from something in between.
    if status.is_success() { Ok(body) } else { Err(Error::NoResponse(format!("HTTP {status}"))) }
}

/// Whoever came with this grant and this profile.
fn person(tokens: protocol::TokenResponse, profile: Profile) -> WeChatUser {
    WeChatUser {
        snapshot: tokens.snapshot,
        refresh_token: tokens.refresh_token.clone(),
        access: AccessToken { token: tokens.access_token.clone(), expires_in: tokens.expires_in },
        rest: profile.rest.clone(),
        stale: false,
        identity: tokens.identity(profile),
    }
}

/// A call under way. One that is given up when the deadline passes has failed like any other, so
/// its end is noted when it is dropped.
struct CallGuard<'a> {
    wechat: &'a WeChatClient,
    api: &'a str,
    /// Whether there was an answer, or why not; nothing if nobody waited for it.
    outcome: Option<Result<(), String>>,
    /// `true` if the outcome says nothing about the host.
    says_nothing: bool,
}

impl<'a> CallGuard<'a> {
    fn new(wechat: &'a WeChatClient, api: &'a str) -> Self {
        Self { wechat, api, outcome: None, says_nothing: false }
    }
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if self.says_nothing {
            return;
        }
        let (health, api) = (&self.wechat.metrics.health, self.api);
        let outcome = self.outcome.take().unwrap_or_else(|| Err("deadline passed".to_owned()));
        self.wechat.breaker.record(api, outcome.is_ok(), Instant::now());
        match outcome {
            Ok(()) => health.set_healthy(Component::WeChat, api),
            Err(why) => health.set_unhealthy(Component::WeChat, api, &why),
        }
    }
}
