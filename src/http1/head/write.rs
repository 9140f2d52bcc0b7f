//! Heads as we write them. Pure.

use http::{HeaderName, Method, Response, header};

use crate::httputil::outbound::{HeaderSource, OutboundRequest};

/// How the other end is told where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Not at all: there is none, and none is expected.
    None,
    /// In bytes.
    Known(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    CloseDelimited,
}

/// Writes the head of a request for the path and query of its target, whose body has so many bytes
/// if anybody can know; returns how its end is told.
pub fn write_request(
    out: &mut Vec<u8>,
    request: &OutboundRequest<'_, impl HeaderSource>,
    body: Option<u64>,
) -> BodyLength {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    if !target.starts_with('/') && target != "*" {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut said = false;
    request.fields.for_each(|name, value| {
        if tells_length(name) {
            said |= *name == header::CONTENT_LENGTH;
        } else {
            write_field(out, name.as_str(), value);
        }
    });
    // A body of unknown length needs chunks, also under a method that has none as a rule; none at all
    // needs a length where one is expected (RFC 9110, section 8.6).
    let expected = said || matches!(*request.method, Method::POST | Method::PUT | Method::PATCH);
    let length = match body {
        Some(0) if !expected => BodyLength::None,
        Some(bytes) => BodyLength::Known(bytes),
        None => BodyLength::Chunked,
    };
    write_length(out, length);
    out.extend_from_slice(b"\r\n");
    length
}

/// Writes the head of a response, with what the connection has to say.
pub fn write_response<B>(out: &mut Vec<u8>, response: &Response<B>, length: BodyLength) {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        if !tells_length(name) {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    write_length(out, length);
}

/// Writes one header.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What tells the length is said once, by [`write_length`].
fn tells_length(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING
}

fn write_length(out: &mut Vec<u8>, length: BodyLength) {
    match length {
        BodyLength::Known(bytes) => {
            write_field(out, "content-length", itoa::Buffer::new().format(bytes).as_bytes());
        }
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::None | BodyLength::CloseDelimited => (),
    }
}
