//! Our own pages and switches: the index, faults, the list of requests, and who the browser is.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use minijinja::context;
use serde::Deserialize;
use serde_json::json;

use super::{
    authorize_pages, fetch, lang,
    listen::Body,
    page,
    params::Params,
    service::{ReceivedRequest, Service, respond, text},
};

const JSON: &str = "application/json";

/// Everything that is not WeChat's.
pub async fn answer(service: &Service, call: &ReceivedRequest) -> Response<Body> {
    // A page on some other site must not flip switches in a developer's emulator.
    if call.path.starts_with("/_emulator/") && call.header("sec-fetch-site") == Some("cross-site") {
        return text(StatusCode::FORBIDDEN, "not from another site\n");
    }
    match (&call.method, call.path.as_str()) {
        (&Method::GET | &Method::HEAD, "/") => index(service, call),
        (&Method::GET, "/_emulator/faults") => faults(service),
        (&Method::POST, "/_emulator/faults") => add_faults(service, &call.body),
        (&Method::DELETE, "/_emulator/faults") => {
            service.state().faults.clear();
            faults(service)
        }
        (&Method::GET, "/_emulator/requests") => {
            respond(StatusCode::OK, JSON, service.state().calls.json())
        }
        (&Method::DELETE, "/_emulator/requests") => {
            service.state().calls.clear();
            respond(StatusCode::OK, JSON, "[]")
        }
        (&Method::POST, "/_emulator/verify") => verify(&call.body).await,
        (&Method::GET, "/_emulator/become") => turn_into(service, call),
        (
            _,
            "/"
            | "/_emulator/faults"
            | "/_emulator/requests"
            | "/_emulator/verify"
            | "/_emulator/become",
        ) => text(StatusCode::METHOD_NOT_ALLOWED, "not this method\n"),
        _ => text(StatusCode::NOT_FOUND, "the emulated WeChat has nothing here; see /\n"),
    }
}

/// From now on this browser is `user_id`.
pub fn remember(response: &mut Response<Body>, user_id: &str) {
    let cookie = format!(
        "{}={user_id}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax",
        authorize_pages::USER_COOKIE
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

fn index(service: &Service, call: &ReceivedRequest) -> Response<Body> {
    let chosen = authorize_pages::visitor(service, call);
    let state = service.state();
    let faults: Vec<_> = state.faults.list().iter().map(ToString::to_string).collect();
    let page = context! {
        zh => lang::is_chinese(&call.headers),
        host => call.host(),
        people => page::people(&service.users, &chosen.id),
        faults,
        requests => page::requests(&state.calls.latest(30)),
    };
    service.pages.render("index.html", page)
}

fn faults(service: &Service) -> Response<Body> {
    let list = serde_json::to_string(service.state().faults.list()).unwrap_or_default();
    respond(StatusCode::OK, JSON, list)
}

fn add_faults(service: &Service, body: &[u8]) -> Response<Body> {
    let added = service.state().faults.add(body);
    match added {
        Ok(()) => faults(service),
        Err(why) => respond(StatusCode::BAD_REQUEST, JSON, json!({ "error": why }).to_string()),
    }
}

/// `/_emulator/become?user=lilei&back=/path`
fn turn_into(service: &Service, call: &ReceivedRequest) -> Response<Body> {
    let params = Params::parse(&call.query);
    let Some(user) = params.get("user").and_then(|id| service.user(id)) else {
        return text(StatusCode::NOT_FOUND, "no such user\n");
    };
    let is_ours =
        |back: &&str| back.starts_with('/') && !back.starts_with("//") && !back.contains('\\');
    let mut response = authorize_pages::redirect(params.get("back").filter(is_ours).unwrap_or("/"));
    remember(&mut response, &user.id);
    response
}

/// What the console of a 公众号 does when its owner saves a domain.
async fn verify(body: &[u8]) -> Response<Body> {
    #[derive(Deserialize)]
    struct FaultOrder {
        url: String,
        expect: String,
    }
    let why = match serde_json::from_slice::<FaultOrder>(body) {
        Err(error) => {
            return respond(
                StatusCode::BAD_REQUEST,
                JSON,
                json!({ "ok": false, "why": error.to_string() }).to_string(),
            );
        }
        Ok(order) => match fetch::get(&order.url).await {
            Ok((status, body)) => judge(status, &body, &order.expect),
            Err(error) => Some(error.to_string()),
        },
    };
    let verdict = match why {
        None => json!({ "ok": true }),
        Some(why) => json!({ "ok": false, "why": why }),
    };
    respond(StatusCode::OK, JSON, verdict.to_string())
}

fn judge(status: StatusCode, body: &Bytes, expected: &str) -> Option<String> {
    if status != StatusCode::OK {
        return Some(format!("status {status}; the file must come with 200 and no redirect"));
    }
    let found = String::from_utf8_lossy(body);
    let found = found.trim();
    let start: String = found.chars().take(40).collect();
    (found != expected).then(|| format!("the file says {start:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs() {
        let rows = [
            (StatusCode::OK, "AbCd1234", None),
            (StatusCode::OK, "AbCd1234\r\n", None),
            (StatusCode::OK, "<html>", Some("the file says \"<html>\"")),
            (StatusCode::FOUND, "AbCd1234", Some("status 302")),
        ];
        for (status, body, expected) in rows {
            let why = judge(status, &Bytes::from(body), "AbCd1234");
            match expected {
                None => assert_eq!(why, None, "{status} {body}"),
                Some(part) => {
                    assert!(why.clone().unwrap().contains(part), "{status} {body}: {why:?}");
                }
            }
        }
    }
}
