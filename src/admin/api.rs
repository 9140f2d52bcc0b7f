//! What programs of the operator's may change, by a POST of JSON that no browser can send.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;

use super::{AdminBody, runtime_status::RuntimeStatus};
use crate::{
    auth::RevocationRequest,
    gateway::Gateway,
    logs::{AuditEvent, AuditKind},
};

/// Where sessions are ended.
pub const REVOCATIONS: &str = "/revocations";
/// Where the levels of the log are chosen.
pub const LOG: &str = "/log";

/// A wish is a hundred bytes.
const MAX_BODY_LEN: usize = 4_096;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing was done.
type AdminApiError = (StatusCode, String);

/// Ends sessions: 202 with the order, or what is wrong with the wish.
pub async fn revoke(request: Request<Incoming>, gateway: &Gateway) -> Response<AdminBody> {
    let wanted: RevocationRequest = match wish(request).await {
        Ok(wanted) => wanted,
        Err(refusal) => return refuse(refusal),
    };
    match gateway.revoke(&wanted).await {
        Ok(given) => reply(StatusCode::ACCEPTED, &json!(given)),
        Err(unclear) => refuse((StatusCode::BAD_REQUEST, unclear.to_string())),
    }
}

/// What chooses levels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevelRequest {
    level: String,
}

/// Says which lines are written, or chooses others until the next reload.
pub async fn log(
    request: Request<Incoming>,
    status: &RuntimeStatus,
    gateway: &Gateway,
) -> Response<AdminBody> {
    let levels = status.levels();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let wanted: LogLevelRequest = match wish(request).await {
            Ok(wanted) => wanted,
            Err(refusal) => return refuse(refusal),
        };
        if let Err(error) = levels.set(&wanted.level) {
            return refuse((StatusCode::BAD_REQUEST, error.to_string()));
        }
        let line = AuditEvent::ok(AuditKind::Reload, "log levels changed");
        gateway.audit().record(line.with("reason", wanted.level));
    }
    reply(StatusCode::OK, &json!({ "level": levels.get() }))
}

/// Reads what is wanted.
async fn wish<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, AdminApiError> {
    acceptable(request.method(), request.headers())?;
    let refused = |status, why: &str| (status, why.to_owned());
    let body =
        timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BODY_LEN).collect()).await;
    let body: Bytes = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, "at most 4096 bytes")),
        Err(_) => return Err(refused(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    };
    serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// A program of the operator's sends JSON. A browser that some page made send it says where it
/// comes from, also when that page's name points at this address.
fn acceptable(method: &Method, headers: &HeaderMap) -> Result<(), AdminApiError> {
    let refused = |status, why: &str| Err((status, why.to_owned()));
    if method != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    }
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return refused(StatusCode::FORBIDDEN, "not from a browser");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: application/json");
    }
    Ok(())
}

fn refuse((status, why): AdminApiError) -> Response<AdminBody> {
    reply(status, &json!({ "error": why }))
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<AdminBody> {
    let mut response = Response::new(AdminBody::whole(format!("{body}\n")));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn only_programs_that_send_json_are_heard() {
        let json = ("content-type", "application/json");
        let cases: [(Method, Fields<'_>, u16); 7] = [
            (Method::POST, &[json], 202),
            (Method::POST, &[("content-type", "Application/JSON; charset=utf-8")], 202),
            (Method::GET, &[json], 405),
            (Method::POST, &[], 415),
            (Method::POST, &[("content-type", "text/plain")], 415),
            (Method::POST, &[json, ("origin", "http://127.0.0.1:9090")], 403),
            (Method::POST, &[json, ("sec-fetch-site", "same-origin")], 403),
        ];
        for (method, fields, expected) in cases {
            let mut request = Request::builder();
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let request = request.body(()).unwrap();
            let status = acceptable(&method, request.headers()).err().map(|(status, _)| status);
            assert_eq!(status.unwrap_or(StatusCode::ACCEPTED), expected, "{method} {fields:?}");
        }
    }

    #[test]
    fn serialized_requests() {
        let wanted: LogLevelRequest = serde_json::from_str(r#"{"level":"debug"}"#).unwrap();
        assert_eq!(wanted.level, "debug");
        let some = |text: &str| Some(text.to_owned());
        let wanted = RevocationRequest {
            session: some("s"),
            account: some("a"),
            openid: some("o"),
            all: true,
        };
        let recorded = r#"{"session":"s","account":"a","openid":"o","all":true}"#;
        assert_eq!(serde_json::to_string(&wanted).unwrap(), recorded);
        assert_eq!(serde_json::from_str::<RevocationRequest>(recorded).unwrap(), wanted);
        assert_eq!(serde_json::to_string(&RevocationRequest::default()).unwrap(), "{}");
    }
}
