//! The shapes of what the gateway answers itself: none of it may be cached. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Body,
    page::{self, Lang},
};
use crate::{
    auth::{Session, assertion::JwkSet},
    site::Site,
};

/// What an answer of ours has to know of who asks.
pub struct ClientPreferences {
    accept: Option<HeaderValue>,
    language: Option<HeaderValue>,
}

impl ClientPreferences {
    /// Notes the two headers that matter; a clone of a header is no copy.
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            accept: headers.get(header::ACCEPT).cloned(),
            language: headers.get(header::ACCEPT_LANGUAGE).cloned(),
        }
    }

    /// Somebody of whom nothing could be read.
    pub fn unknown() -> Self {
        Self { accept: None, language: None }
    }

    /// The language to speak.
    pub fn lang(&self) -> Lang {
        Lang::preferred(self.language.as_ref().map(HeaderValue::as_bytes))
    }

    /// Whether a page can be shown.
    pub fn reads_html(&self) -> bool {
        let accept = self.accept.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
        memchr::memmem::find(accept, b"text/html").is_some()
    }
}

/// Sends the visitor elsewhere.
pub fn redirect(location: &str) -> Response<Body> {
    let mut response = answer(StatusCode::FOUND, Body::own(""));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A page.
pub fn html(status: StatusCode, html: String, nonce: &str) -> Response<Body> {
    let mut response = answer(status, Body::own(html));
    let policy = page::content_security_policy(nonce);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// A few words to a program.
pub fn text(text: &str) -> Response<Body> {
    let mut response = answer(StatusCode::OK, Body::own(text.to_owned()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The script that a site may include, for a gateway whose own paths begin with `prefix`.
pub fn client(prefix: &str) -> Response<Body> {
    const SCRIPT: &str = include_str!("client.js");
    let script = SCRIPT.replace("\"/_wx\"", &format!("{prefix:?}"));
    let mut response = answer(StatusCode::OK, Body::own(script));
    let kind = HeaderValue::from_static("text/javascript; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The keys that check our assertions: the one answer of ours that may be kept, for five minutes.
pub fn public_keys(keys: &JwkSet, headers: &HeaderMap) -> Response<Body> {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, &keys.tag));
    let mut response = if known {
        answer(StatusCode::NOT_MODIFIED, Body::own(""))
    } else {
        answer(StatusCode::OK, Body::own(keys.json.clone()))
    };
    let headers = response.headers_mut();
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    if let Ok(tag) = HeaderValue::try_from(&keys.tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Whether a list of entity tags has this one; a weak one will do (RFC 9110, section 13.1.2).
fn names(tags: &HeaderValue, tag: &str) -> bool {
    let mut tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.any(|it| it == "*" || it.strip_prefix("W/").unwrap_or(it) == tag)
}

/// A status alone.
pub fn empty(status: StatusCode) -> Response<Body> {
    answer(status, Body::own(""))
}

/// Something for a script.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = answer(status, Body::own(value.to_string()));
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Tells a script that its page must log in, and where.
pub fn unauthorized(login_url: &str) -> Response<Body> {
    json(StatusCode::UNAUTHORIZED, &json!({ "error": "login_required", "login_url": login_url }))
}

/// A visitor's own identity, for scripts of the site.
pub fn session(session: &Session, site: &Site) -> Response<Body> {
    let identity = &session.identity;
    let mut value = json!({
        "openid": identity.openid,
        "unionid": identity.unionid,
        "appid": session.appid,
        "account": site.account.name,
        "scope": identity.scope.as_str(),
        "nickname": identity.nickname,
        "avatar": identity.avatar,
        "session": session.sid,
        "auth_time": session.auth_time.0,
        "expires": session.exp.0,
        "snapshot": session.snapshot.then_some(true),
    });
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    json(StatusCode::OK, &value)
}

/// What HTTP/1 says of itself to a head of too many lines.
pub fn too_many_headers() -> Response<Body> {
    answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Body::own(""))
}

/// The same answer, after which the connection closes.
pub fn close_connection(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    add_security_headers(response.headers_mut());
    response
}

/// What every answer of ours carries.
fn add_security_headers(headers: &mut HeaderMap) {
    const GUARDS: [(HeaderName, HeaderValue); 3] = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    headers.extend(GUARDS);
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{serialized::assert_serialized, test_support};

    async fn text(response: Response<Body>) -> String {
        let body = response.into_body().collect().await;
        String::from_utf8(body.ok().unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn serialized_answers_to_scripts() {
        let config = test_support::config(test_support::SITE);
        let site = &config.gateway.sites.all()[0];
        let claims = json!({
            "iss": "wxgate", "aud": "https://h5.example.com", "sub": "o1",
            "sid": "00000000000000000000000000000007", "iat": 1, "exp": 3, "max": 4,
            "auth_time": 1, "appid": "wx0123456789abcdef", "scope": "snsapi_userinfo",
        });
        let minimal: Session = serde_json::from_value(claims.clone()).unwrap();
        let mut claims = claims;
        for (name, value) in [("unionid", "u1"), ("nickname", "李雷"), ("avatar", "https://a/1")]
        {
            claims[name] = value.into();
        }
        claims["snapshot"] = true.into();
        let full: Session = serde_json::from_value(claims).unwrap();
        assert_serialized(&[
            (
                "full session",
                text(session(&full, site)).await,
                r#"{"account":"main","appid":"wx0123456789abcdef","auth_time":1,"avatar":"https://a/1","expires":3,"nickname":"李雷","openid":"o1","scope":"snsapi_userinfo","session":"00000000000000000000000000000007","snapshot":true,"unionid":"u1"}"#,
            ),
            (
                "minimal session",
                text(session(&minimal, site)).await,
                r#"{"account":"main","appid":"wx0123456789abcdef","auth_time":1,"expires":3,"openid":"o1","scope":"snsapi_userinfo","session":"00000000000000000000000000000007"}"#,
            ),
            (
                "unauthorized",
                text(unauthorized("/_wx/login")).await,
                r#"{"error":"login_required","login_url":"/_wx/login"}"#,
            ),
        ]);
    }
}
