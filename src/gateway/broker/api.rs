//! What a client's server asks, with the client's secret: a code for a person, a ticket for the
//! same. The answer is JSON, whatever the caller says that it reads.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Limited};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::timeout;
use url::form_urlencoded;

use super::{
    BrokerEndpoint, BrokerRequest, api_error::BrokerApiError, callback::picture,
    login_store::TicketIdentity,
};
use crate::{
    auth::{Identity, pending::site_number, session::ISSUER},
    clock::Timestamp,
    gateway::{
        Body, Error, LimitedAction, RequestHandler,
        login::{CallbackParams, CodeParam},
        reply,
    },
    http1::Incoming,
    logs::{AuditEvent, AuditKind},
    site::{Account, Scope, broker::Client},
    wechat::WeChatUser,
};

/// A body has one field.
const LONGEST_BODY: usize = 4096;
const BODY_TIME: Duration = Duration::from_secs(5);

/// How long what we sign about a visitor is good for.
const LIFETIME: Duration = Duration::from_mins(5);

/// The secret that a request shows, if it shows one: then its caller is a server. One that is not
/// legible is nobody's.
pub fn secret(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, second) = (values.next()?, values.next());
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    let separate = rest.first().is_none_or(|b| *b == b' ');
    if !scheme.eq_ignore_ascii_case(b"Bearer") || !separate {
        return None;
    }
    let rest = if second.is_some() { &[] } else { rest.trim_ascii() };
    HeaderValue::from_bytes(rest).ok()
}

impl RequestHandler {
    /// A code that the client's own front end brought back from WeChat.
    pub(super) async fn exchange<B>(
        &self,
        visit: &BrokerRequest<'_>,
        window: BrokerEndpoint,
        request: &Request<B>,
        secret: &HeaderValue,
    ) -> Response<Body> {
        let told = self.try_to_exchange(visit, window, request, secret).await;
        self.broker_api_respond(visit, told)
    }

    /// A ticket that a visitor brought along.
    pub(super) async fn redeem(
        &self,
        visit: &BrokerRequest<'_>,
        request: &mut Request<Incoming>,
    ) -> Response<Body> {
        let told = self.try_to_redeem(visit, request).await;
        self.broker_api_respond(visit, told)
    }

    async fn try_to_exchange<B>(
        &self,
        visit: &BrokerRequest<'_>,
        window: BrokerEndpoint,
        request: &Request<B>,
        secret: &HeaderValue,
    ) -> Result<Value, BrokerApiError> {
        let client = self.authenticate_client(visit, Some(secret))?;
        let code = match CallbackParams::of(request.uri().query()).code {
            CodeParam::Some(code) => code,
            CodeParam::Absent => return Err(BrokerApiError::Invalid("`code` is missing")),
            CodeParam::Unusable => return Err(BrokerApiError::Invalid("`code` is unusable")),
        };
        let (exchanges, account) = (&self.gateway.exchanges, &client.account);
        let person = exchanges.identify(visit.rules, account, &code, flow_of(client)).await?;
        let wants_profile = window == BrokerEndpoint::UserInfo && !person.snapshot;
        if wants_profile && (person.identity.scope < Scope::UserInfo || person.stale) {
            return Err(BrokerApiError::NoProfile);
        }
        self.gateway.metrics.login("exchanged", "");
        self.record_login(visit, client, (&person.identity, "code exchanged for a client"));
        Ok(exchanged(window, account, &person))
    }

    async fn try_to_redeem(
        &self,
        visit: &BrokerRequest<'_>,
        request: &mut Request<Incoming>,
    ) -> Result<Value, BrokerApiError> {
        let client = self.authenticate_client(visit, secret(request.headers()).as_ref())?;
        let ticket = ticket(request).await?;
        let (keys, errands) = (&visit.rules.keys, &self.gateway.errands);
        let who = errands.redeem(keys, &client.name, &ticket).await.map_err(Error::from)?;
        let who = who.ok_or(BrokerApiError::TicketGone)?;
        let TicketIdentity { identity, app_id, auth_time } = &who;
        let claims = TicketClaims {
            iss: ISSUER,
            aud: &client.name,
            jti: format!("{:032x}", rand::random::<u128>()),
            iat: visit.now,
            exp: visit.now.plus(LIFETIME),
            sub: &identity.openid,
            appid: app_id,
            auth_time: *auth_time,
            facts: facts(identity),
        };
        let assertion = keys.sign_jwt(&claims).map_err(Error::from)?;
        let mut fields = facts(identity);
        fields.insert("appid".to_owned(), app_id.as_str().into());
        fields.insert("auth_time".to_owned(), auth_time.0.into());
        fields.insert("assertion".to_owned(), assertion.into());
        self.gateway.metrics.login("redeemed", "");
        self.record_login(visit, client, (identity, "ticket redeemed"));
        Ok(Value::Object(fields))
    }

    /// The client whose secret this is. Whoever tries too many is not listened to any more, so that
    /// guessing is no use.
    fn authenticate_client<'a>(
        &self,
        visit: &BrokerRequest<'a>,
        secret: Option<&HeaderValue>,
    ) -> Result<&'a Arc<Client>, BrokerApiError> {
        let (ip, most) = (visit.client, visit.rules.logins_per_minute);
        self.gateway.throttle.peek(LimitedAction::Secret, ip, most)?;
        let holder = secret.and_then(|secret| visit.broker.holder(secret.as_bytes()));
        if holder.is_none() {
            self.check_rate_limit(LimitedAction::Secret, visit.rules, ip)?;
        }
        holder.ok_or(BrokerApiError::WrongSecret)
    }

    fn record_login(
        &self,
        visit: &BrokerRequest<'_>,
        client: &Client,
        (identity, what): (&Identity, &'static str),
    ) {
        let line = AuditEvent::ok(AuditKind::Login, what)
            .with("program", client.name.as_str())
            .with("openid", identity.openid.as_str())
            .with("scope", identity.scope.as_str());
        self.gateway.audit.record(visit.audit_event(line));
    }

    fn broker_api_respond(
        &self,
        visit: &BrokerRequest<'_>,
        told: Result<Value, BrokerApiError>,
    ) -> Response<Body> {
        let refusal = match told {
            Ok(fields) => return reply::json(StatusCode::OK, &fields),
            Err(refusal) => refusal,
        };
        if refusal.meets_limit() {
            self.record_limit("logins_per_minute");
        }
        self.gateway.metrics.login("failed", refusal.word());
        self.gateway.audit.record(visit.audit_event(refusal.line()));
        refusal.answer(visit.id())
    }
}

/// Exchanges of one client are its own: another one with the same code asks WeChat itself (E5).
fn flow_of(client: &Client) -> u128 {
    let number = |salt: &str| u128::from(site_number(&format!("{salt} {}", client.name)));
    ["a", "b", "c", "d"].into_iter().fold(0, |sum, salt| (sum << 32) | number(salt))
}

/// The one field of a form, or of a JSON object.
async fn ticket(request: &mut Request<Incoming>) -> Result<String, BrokerApiError> {
    let body = std::mem::take(request.body_mut());
    let body = timeout(BODY_TIME, Limited::new(body, LONGEST_BODY).collect()).await;
    let body = body.ok().and_then(Result::ok).map(Collected::to_bytes);
    let body = body.ok_or(BrokerApiError::Invalid("the body is too long, or did not come"))?;
    let kind =
        request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let found = if kind.to_ascii_lowercase().starts_with(b"application/json") {
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        json.and_then(|it| it.get("ticket").and_then(Value::as_str).map(str::to_owned))
    } else {
        let mut fields = form_urlencoded::parse(&body).filter(|(name, _)| name == "ticket");
        let (first, second) = (fields.next(), fields.next());
        first.filter(|_| second.is_none()).map(|(_, value)| value.into_owned())
    };
    found.filter(|it| !it.is_empty()).ok_or(BrokerApiError::Invalid("`ticket` is missing"))
}

/// What a server learns for a code. The access token is for it alone.
fn exchanged(window: BrokerEndpoint, account: &Account, user: &WeChatUser) -> Value {
    let identity = &user.identity;
    let whole = window == BrokerEndpoint::UserInfo;
    let mut fields = if whole { user.rest.clone() } else { Map::new() };
    let known = if whole {
        facts(identity)
    } else {
        facts(&Identity { nickname: None, avatar: None, ..identity.clone() })
    };
    fields.extend(known);
    fields.insert("appid".to_owned(), account.app_id.as_str().into());
    fields.insert("access_token".to_owned(), user.access.token.expose().into());
    fields.insert("expires_in".to_owned(), user.access.expires_in.into());
    if user.snapshot {
        fields.insert("is_snapshotuser".to_owned(), 1.into());
    }
    Value::Object(fields)
}

/// Who somebody is, by WeChat's names. Absent means absent.
fn facts(identity: &Identity) -> Map<String, Value> {
    let mut facts = Map::new();
    facts.insert("openid".to_owned(), identity.openid.as_str().into());
    facts.insert("scope".to_owned(), identity.scope.as_str().into());
    let known = [
        ("unionid", identity.unionid.as_deref()),
        ("nickname", identity.nickname.as_deref()),
        ("headimgurl", picture(identity)),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value.into());
        }
    }
    facts
}

/// What the JWT of a redeemed ticket says.
#[derive(Serialize)]
struct TicketClaims<'a> {
    iss: &'static str,
    /// The client's name, which no site's origin looks like.
    aud: &'a str,
    jti: String,
    iat: Timestamp,
    exp: Timestamp,
    sub: &'a str,
    appid: &'a str,
    auth_time: Timestamp,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{secret::Secret, serialized::assert_serialized, test_support, wechat::AccessToken};

    #[test]
    fn a_secret_is_shown_as_a_bearer_token() {
        let cases: [(&[&str], Option<&str>); 10] = [
            (&["Bearer abc"], Some("abc")),
            (&["bearer abc"], Some("abc")),
            (&["BEARER  abc "], Some("abc")),
            (&["Bearer "], Some("")),
            (&["Bearer"], Some("")),
            (&["Bearerabc"], None),
            (&["Bearer abc", "Bearer abc"], Some("")),
            (&["Basic YTpi"], None),
            (&["Bear"], None),
            (&[], None),
        ];
        for (lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(line));
            }
            let shown = secret(&headers);
            assert_eq!(
                shown.as_ref().map(HeaderValue::as_bytes),
                expected.map(str::as_bytes),
                "{lines:?}"
            );
        }
    }

    /// Who came: with everything, and with as little as there can be.
    fn identity(full: bool) -> Identity {
        let some = |text: &str| full.then(|| text.to_owned());
        Identity {
            openid: "o1".to_owned(),
            unionid: some("u1"),
            nickname: some("李雷"),
            avatar: some("https://thirdwx.qlogo.cn/mmopen/a/132"),
            scope: if full { Scope::UserInfo } else { Scope::Base },
        }
    }

    #[test]
    fn serialized_claims_of_a_ticket() {
        let claims = |full| TicketClaims {
            iss: ISSUER,
            aud: "shop",
            jti: format!("{:032x}", 7),
            iat: Timestamp(10_000),
            exp: Timestamp(10_300),
            sub: "o1",
            appid: "wx1",
            auth_time: Timestamp(9_990),
            facts: facts(&identity(full)),
        };
        let text = |full| serde_json::to_string(&claims(full)).unwrap();
        assert_serialized(&[
            (
                "full claims",
                text(true),
                r#"{"iss":"wxgate","aud":"shop","jti":"00000000000000000000000000000007","iat":10000,"exp":10300,"sub":"o1","appid":"wx1","auth_time":9990,"headimgurl":"https://thirdwx.qlogo.cn/mmopen/a/132","nickname":"李雷","openid":"o1","scope":"snsapi_userinfo","unionid":"u1"}"#,
            ),
            (
                "minimal claims",
                text(false),
                r#"{"iss":"wxgate","aud":"shop","jti":"00000000000000000000000000000007","iat":10000,"exp":10300,"sub":"o1","appid":"wx1","auth_time":9990,"openid":"o1","scope":"snsapi_base"}"#,
            ),
        ]);
    }

    #[test]
    fn serialized_answer_to_a_code() {
        let config = test_support::config(test_support::SITE);
        let account = &config.accounts[0];
        let person = |full| WeChatUser {
            identity: identity(full),
            snapshot: full,
            refresh_token: None,
            access: AccessToken { token: Secret::new("AT"), expires_in: 7_200 },
            rest: Map::from_iter([("sex".to_owned(), 0.into())]),
            stale: false,
        };
        let text = |window, full| exchanged(window, account, &person(full)).to_string();
        let (openid, user_info) = (BrokerEndpoint::OpenId, BrokerEndpoint::UserInfo);
        assert_serialized(&[
            (
                "openid, full",
                text(openid, true),
                r#"{"access_token":"AT","appid":"wx0123456789abcdef","expires_in":7200,"is_snapshotuser":1,"openid":"o1","scope":"snsapi_userinfo","unionid":"u1"}"#,
            ),
            (
                "openid, minimal",
                text(openid, false),
                r#"{"access_token":"AT","appid":"wx0123456789abcdef","expires_in":7200,"openid":"o1","scope":"snsapi_base"}"#,
            ),
            (
                "user info, full",
                text(user_info, true),
                r#"{"access_token":"AT","appid":"wx0123456789abcdef","expires_in":7200,"headimgurl":"https://thirdwx.qlogo.cn/mmopen/a/132","is_snapshotuser":1,"nickname":"李雷","openid":"o1","scope":"snsapi_userinfo","sex":0,"unionid":"u1"}"#,
            ),
            (
                "user info, minimal",
                text(user_info, false),
                r#"{"access_token":"AT","appid":"wx0123456789abcdef","expires_in":7200,"openid":"o1","scope":"snsapi_base","sex":0}"#,
            ),
        ]);
    }

    #[test]
    fn serialized_number_of_a_clients_exchanges() {
        let broker = r#"
[broker]
host = "auth.example.com"
public_url = "https://auth.example.com"
[[broker.client]]
name = "shop"
account = "main"
return_to = ["https://shop.example.com/"]
"#;
        let config = test_support::config(&format!("{}{broker}", test_support::SITE));
        let broker = config.gateway.broker.unwrap();
        let number = format!("{:032x}", flow_of(&broker.clients[0]));
        assert_serialized(&[("number", number, "c226d0e18c54aa9d2e616bb019fb9ba1")]);
    }
}
