//! The heads of messages as HTTP/2 has them. Pure.

use http::{
    HeaderMap, HeaderValue, Request, Uri, Version, header,
    uri::{self, Authority, PathAndQuery, Scheme},
};

use crate::httputil::outbound::{HeaderSource, OutboundRequest};

/// Headers that a request has room for from the beginning.
const INITIAL_HEADERS: usize = 40;

/// The request as HTTP/2 has it: what `Host` says is the authority (RFC 9113, section 8.3.1).
pub fn request(
    outbound: &OutboundRequest<'_, impl HeaderSource>,
    scheme: Scheme,
) -> Result<Request<()>, http::Error> {
    let mut parts = uri::Parts::default();
    let mut headers = HeaderMap::with_capacity(INITIAL_HEADERS);
    let mut failed = None;
    outbound.fields.for_each(|name, value| {
        if *name == header::HOST {
            match Authority::try_from(value) {
                Ok(authority) => parts.authority = Some(authority),
                Err(error) => failed = Some(http::Error::from(error)),
            }
            return;
        }
        match HeaderValue::from_bytes(value) {
            Ok(value) => drop(headers.append(name.clone(), value)),
            Err(error) => failed = Some(error.into()),
        }
    });
    if let Some(failed) = failed {
        return Err(failed);
    }
    if outbound.fields.take_trailers() {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    parts.scheme = Some(scheme);
    parts.path_and_query = Some(match outbound.uri.path_and_query() {
        Some(target) if target.as_str().starts_with('/') => target.clone(),
        Some(target) => PathAndQuery::try_from(format!("/{}", target.as_str()))?,
        None => PathAndQuery::from_static("/"),
    });
    let mut head = Request::new(());
    head.method_mut().clone_from(outbound.method);
    *head.uri_mut() = Uri::from_parts(parts)?;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn what_http2_says_elsewhere_is_no_header() {
        let mut fields = HeaderMap::new();
        for (name, value) in [("host", "h5.example.com:8443"), ("x-a", "1"), ("x-a", "2")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let cases = [
            ("/a/b?c=%20", "https://h5.example.com:8443/a/b?c=%20"),
            ("http://other.example.com/a", "https://h5.example.com:8443/a"),
            ("http://other.example.com?a", "https://h5.example.com:8443/?a"),
            ("http://other.example.com", "https://h5.example.com:8443/"),
        ];
        for (target, expected) in cases {
            let (method, uri) = (Method::POST, Uri::try_from(target).unwrap());
            let onward = OutboundRequest { method: &method, uri: &uri, fields: &fields };
            let head = request(&onward, Scheme::HTTPS).unwrap();
            assert_eq!((head.uri().to_string().as_str(), head.method()), (expected, &method));
            assert_eq!(head.headers().len(), 2, "{target}: {head:?}");
            assert_eq!(head.headers().get_all("x-a").iter().count(), 2);
        }
        fields.insert(header::HOST, HeaderValue::from_static("a b"));
        let uri = Uri::default();
        let onward = OutboundRequest { method: &Method::GET, uri: &uri, fields: &fields };
        assert!(request(&onward, Scheme::HTTP).is_err());
    }
}
