//! `POST /revocations`: the operator ends sessions on every replica.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::{auth::Wanted, gateway::Gateway};

/// Where it is.
pub const PATH: &str = "/revocations";

/// A wish is a hundred bytes.
const LONGEST: usize = 4_096;
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes a wish: 202 with the order, or what is wrong with it.
pub async fn take(request: Request<Incoming>, gateway: &Gateway) -> Response<Full<Bytes>> {
    if let Err((status, why)) = acceptable(request.method(), request.headers()) {
        return refuse(status, why);
    }
    let body = timeout(PATIENCE, Limited::new(request.into_body(), LONGEST).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "at most 4096 bytes"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come"),
    };
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match gateway.revoke(&wanted).await {
        Ok(given) => reply(StatusCode::ACCEPTED, &json!(given)),
        Err(unclear) => refuse(StatusCode::BAD_REQUEST, &unclear.to_string()),
    }
}

/// A program of the operator's sends JSON. A browser that some page made send it says where it
/// comes from, also when that page's name points at this address.
fn acceptable(method: &Method, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    if method != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only"));
    }
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err((StatusCode::FORBIDDEN, "not from a browser"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: application/json"));
    }
    Ok(())
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({ "error": why }))
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
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
}
