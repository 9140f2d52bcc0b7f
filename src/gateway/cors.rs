//! Scripts of other origins: which may read what the gateway answers. Pure.
//!
//! The site's own answers carry whatever the site says; this is about the 401 that a script has
//! to be able to read, and the preflight, which never carries a cookie and so could never pass.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::{Body, reply};
use crate::site::{Access, Site};

/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The answer to a preflight for a page that asks for a login (Fetch, section 3.3.7).
pub fn preflight<B>(site: &Site, access: Access, request: &Request<B>) -> Option<Response<Body>> {
    let headers = request.headers();
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    if request.method() != Method::OPTIONS || access == Access::None {
        return None;
    }
    let origin = allowed(site, headers)?;
    let mut response = reply::empty(StatusCode::NO_CONTENT);
    let answer = response.headers_mut();
    expose(answer, origin);
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, asked.clone());
    if let Some(names) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Some(response)
}

/// Lets a script of an allowed origin read an answer of ours.
pub fn readable(site: &Site, headers: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    if let Some(origin) = allowed(site, headers) {
        expose(response.headers_mut(), origin);
    }
    response
}

/// Exactly one of the configured origins, compared as the browser writes it.
fn allowed<'a>(site: &Site, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let known = site.cors.iter().any(|it| it.as_str().as_bytes() == origin.as_bytes());
    known.then_some(origin)
}

fn expose(answer: &mut HeaderMap, origin: &HeaderValue) {
    const TRUE: HeaderValue = HeaderValue::from_static("true");
    const VARY: HeaderValue = HeaderValue::from_static("origin");
    let names: [(HeaderName, HeaderValue); 3] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE),
        (header::VARY, VARY),
    ];
    answer.extend(names);
}
