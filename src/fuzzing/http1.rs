//! Bytes from a visitor, and from a site.

use bytes::{Bytes, BytesMut};
use http::Method;

use crate::{
    http1::{
        BodyDecoder,
        head::{self, HeadScanner},
        reading::{DecodeResult, read},
    },
    httputil::outbound::OutboundRequest,
};

/// The requests of a connection: read whole and byte by byte they are the same, and what we write of
/// one is read as the same again. A site reads more bodies than are read from a visitor, and reads those
/// to the same end. Then the same bytes as the answers of a site.
pub fn http1(data: &[u8]) {
    let whole = read(&[data]);
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    let dealt = read(&bytes);
    assert_eq!(whole.0, dealt.0);
    assert_eq!(whole.1.is_some(), dealt.1.is_some());
    let mut input = BytesMut::from(data);
    if let Ok(Some(head)) = HeadScanner::default().take_head(&mut input, 4096) {
        written_anew(&head);
        strict_is_part_of_lenient(&input);
        for method in [Method::GET, Method::HEAD] {
            answer(&head, &method, input.clone());
        }
    }
}

fn written_anew(head: &Bytes) {
    let Ok(asked) = head::request(head, 100) else { return };
    let mut out = Vec::new();
    let (method, uri) = (asked.request.method(), asked.request.uri());
    let onward = OutboundRequest { method, uri, fields: asked.request.headers() };
    head::write_request(&mut out, &onward, asked.framing.exact());
    let again = head::request(&Bytes::from(out), 101).unwrap();
    assert_eq!(again.framing, asked.framing);
    let lines = |headers: &http::HeaderMap| -> Vec<(String, Bytes)> {
        let framing = ["content-length", "transfer-encoding"];
        let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))
        };
        headers.iter().map(line).filter(|(name, _)| !framing.contains(&&**name)).collect()
    };
    assert_eq!(lines(again.request.headers()), lines(asked.request.headers()));
    // An empty path is written as `/` (RFC 9112, section 3.2.1).
    let target = |request: &http::Request<()>| match request.uri().path_and_query() {
        None => "/".to_owned(),
        Some(it) if it.as_str().starts_with('?') => format!("/{}", it.as_str()),
        Some(it) => it.as_str().to_owned(),
    };
    assert_eq!(target(&again.request), target(&asked.request));
}

/// The body that these bytes are, and what is left behind it; nothing if they are none.
fn body(framing: BodyDecoder, bytes: &[u8]) -> Option<(Vec<u8>, bool, usize)> {
    let (mut framing, mut input, mut body) = (framing, BytesMut::from(bytes), Vec::new());
    loop {
        match framing.decode(&mut input).ok()? {
            DecodeResult::Data(piece) => body.extend_from_slice(&piece),
            DecodeResult::NeedMore | DecodeResult::End => {
                return Some((body, framing.is_ended(), input.len()));
            }
        }
    }
}

fn strict_is_part_of_lenient(bytes: &[u8]) {
    let strict = body(BodyDecoder::CHUNKED_REQUEST, bytes);
    let lenient = body(BodyDecoder::CHUNKED_RESPONSE, bytes);
    assert_eq!(BodyDecoder::CHUNKED_REQUEST.check(bytes).is_ok(), strict.is_some());
    assert_eq!(BodyDecoder::CHUNKED_RESPONSE.check(bytes).is_ok(), lenient.is_some());
    assert!(strict.is_none() || strict == lenient);
}

fn answer(head: &Bytes, method: &Method, mut input: BytesMut) {
    let Ok(answered) = head::response(head, method) else { return };
    let mut framing = answered.framing;
    while let Ok(DecodeResult::Data(piece)) = framing.decode(&mut input) {
        assert!(!piece.is_empty());
    }
    assert!(framing != BodyDecoder::CloseDelimited || !answered.keeps);
}
