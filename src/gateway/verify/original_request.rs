//! What a proxy in front says of the request it asks about, put together again. Pure.
//!
//! | proxy | method | path and query | host |
//! |---|---|---|---|
//! | nginx, `HAProxy`, by our recipes | `X-Original-Method` | `X-Original-URI` | `X-Forwarded-Host` |
//! | nginx as Kubernetes sets it up | `X-Original-Method` | `X-Original-URL`, a whole URL | that of the URL |
//! | Traefik, Caddy | `X-Forwarded-Method` | `X-Forwarded-Uri` | `X-Forwarded-Host` |
//! | Envoy | its own | what follows `/_wx/verify` | `Host` |
//!
//! A proxy overwrites the headers that it knows and passes on those that it does not, so that a
//! visitor can bring the other proxy's words: words that disagree are no words.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};

use crate::{
    gateway::{Error, context},
    httputil::forwarded,
};

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The request in front, as if it had come to us. `rest` is what follows the path of our own.
pub fn original_request<B>(request: &Request<B>, rest: &str) -> Result<Request<()>, Error> {
    let headers = request.headers();
    let url = once(headers, &ORIGINAL_URL)?.map(whole).transpose()?;
    // Envoy puts its own path before the original one, and leaves the method as it was.
    let appended = appended(request.uri(), rest);
    let method = consistent_value([
        once(headers, &ORIGINAL_METHOD)?,
        once(headers, &FORWARDED_METHOD)?,
        appended.as_ref().map(|_| request.method().as_str().as_bytes()),
    ])?;
    let target = consistent_value([
        once(headers, &ORIGINAL_URI)?,
        once(headers, &FORWARDED_URI)?,
        url.as_ref().map(|url| url.target),
        appended.as_deref().map(str::as_bytes),
    ])?;
    let scheme = once(headers, &forwarded::PROTO)?.map(scheme).transpose()?;
    consistent_value([scheme, url.as_ref().map(|url| url.scheme)])?;
    // Two Host headers are refused even where another word counts.
    let own = context::host(request)?;
    let host =
        consistent_value([once(headers, &forwarded::HOST)?, url.as_ref().map(|url| url.host)])?;
    let host = HeaderValue::from_bytes(host.unwrap_or(own.as_bytes())).map_err(|_| UNUSABLE)?;
    let (Some(method), Some(target)) = (method, target) else {
        return Err(Error::BadRequest("no word of the original method or URI"));
    };
    let mut original = Request::new(());
    *original.method_mut() = Method::from_bytes(method).map_err(|_| UNUSABLE)?;
    *original.uri_mut() = uri(target)?;
    *original.headers_mut() = headers.clone();
    original.headers_mut().insert(header::HOST, host);
    Ok(original)
}

const UNUSABLE: Error = Error::BadRequest("an unusable word of the original request");

/// What stands in a header that may be there once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Error> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Error::BadRequest("two words for one thing of the original request")),
        (None | Some(b""), None) => Ok(None),
        (Some(value), None) => Ok(Some(value)),
    }
}

/// The one thing that all who speak say.
fn consistent_value<const N: usize>(words: [Option<&[u8]>; N]) -> Result<Option<&[u8]>, Error> {
    let mut words = words.into_iter().flatten();
    let first = words.next();
    if words.any(|word| Some(word) != first) {
        return Err(Error::BadRequest("words of the original request that disagree"));
    }
    Ok(first)
}

/// A whole URL in its parts, none of them decoded.
struct ParsedUrl<'a> {
    scheme: &'a [u8],
    host: &'a [u8],
    target: &'a [u8],
}

fn whole(url: &[u8]) -> Result<ParsedUrl<'_>, Error> {
    let (scheme, rest) = [b"https".as_slice(), b"http"]
        .into_iter()
        .find_map(|it| Some((it, url.strip_prefix(it)?.strip_prefix(b"://")?)))
        .ok_or(UNUSABLE)?;
    let end = rest.iter().position(|b| *b == b'/').ok_or(UNUSABLE)?;
    let (host, target) = rest.split_at_checked(end).ok_or(UNUSABLE)?;
    Ok(ParsedUrl { scheme, host, target })
}

/// `ws` and `wss` are what Traefik calls a WebSocket's way here.
fn scheme(word: &[u8]) -> Result<&[u8], Error> {
    match word {
        b"http" | b"https" => Ok(word),
        b"ws" => Ok(b"http"),
        b"wss" => Ok(b"https"),
        _ => Err(UNUSABLE),
    }
}

fn appended(uri: &Uri, rest: &str) -> Option<String> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (!rest.is_empty()).then(|| format!("{rest}{query}"))
}

/// A path and a query and nothing else; what [`PathAndQuery`] would drop is refused.
fn uri(target: &[u8]) -> Result<Uri, Error> {
    if !target.starts_with(b"/") || target.contains(&b'#') {
        return Err(UNUSABLE);
    }
    PathAndQuery::try_from(target).map(Uri::from).map_err(|_| UNUSABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives, its headers, and what is made of it.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<&'a str>);

    fn read(uri: &str, fields: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::put(uri).header("host", "wxgate:8080");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let rest = request.uri().path().strip_prefix("/_wx/verify").unwrap();
        let original = original_request(&request, rest).ok()?;
        let host = original.headers()["host"].to_str().unwrap();
        Some(format!("{} {host} {}", original.method(), original.uri()))
    }

    #[test]
    fn each_proxy_is_understood_and_none_is_believed_against_another() {
        const HERE: &str = "/_wx/verify";
        let (xm, xu) = (("x-original-method", "GET"), ("x-original-uri", "/a?b=%2F"));
        let (fm, fu) = (("x-forwarded-method", "GET"), ("x-forwarded-uri", "/a?b=%2F"));
        let (fh, url) = (
            ("x-forwarded-host", "h5.example.com"),
            ("x-original-url", "https://h5.example.com/a?b=%2F"),
        );
        let proto = |word| ("x-forwarded-proto", word);
        let found = Some("GET h5.example.com /a?b=%2F");
        let bare = Some("GET wxgate /a?b=%2F");
        let cases: [Case<'_>; 29] = [
            (HERE, &[xm, xu, fh], found),
            (HERE, &[xm, url], found),
            (HERE, &[fm, fu, fh], found),
            (HERE, &[fm, fu, fh, proto("wss"), url], found),
            (HERE, &[xm, xu, fm, fu, fh], found),
            (HERE, &[xm, xu], bare),
            ("/_wx/verify/a?b=%2F", &[], Some("PUT wxgate /a?b=%2F")),
            ("/_wx/verify/a", &[fh], Some("PUT h5.example.com /a")),
            ("/_wx/verify/", &[], Some("PUT wxgate /")),
            (HERE, &[xm, xu, fh, ("x-forwarded-method", "")], found),
            // Nothing is guessed.
            (HERE, &[], None),
            (HERE, &[xm], None),
            (HERE, &[xu], None),
            // Two words for one thing.
            (HERE, &[xm, xm, xu], None),
            (HERE, &[xm, xu, xu], None),
            (HERE, &[xm, xu, fh, fh], None),
            (HERE, &[xm, xu, proto("http"), proto("http")], None),
            (HERE, &[xm, xu, ("host", "h5.example.com")], None),
            (HERE, &[xm, xu, ("x-forwarded-method", "POST")], None),
            (HERE, &[xm, xu, ("x-forwarded-uri", "/b")], None),
            (HERE, &[xm, url, ("x-forwarded-host", "www.example.com")], None),
            (HERE, &[xm, url, proto("http")], None),
            ("/_wx/verify/a", &[xu], None),
            ("/_wx/verify/a?b=%2F", &[xm], None),
            // What is no path.
            (HERE, &[xm, ("x-original-uri", "/a#b")], None),
            (HERE, &[xm, ("x-original-uri", "http://h5.example.com/a")], None),
            (HERE, &[xm, ("x-original-uri", "*")], None),
            (HERE, &[xm, ("x-original-url", "ftp://h5.example.com/a")], None),
            (HERE, &[xm, xu, proto("https,http")], None),
        ];
        for (uri, fields, expected) in cases {
            assert_eq!(read(uri, fields).as_deref(), expected, "{uri} {fields:?}");
        }
    }
}
