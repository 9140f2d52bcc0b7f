//! The heads of messages: read once and strictly, written anew (RFC 9112, sections 2 to 6). Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use memchr::memchr;

use super::{BodyDecoder, chunk::is_token};
use crate::httputil::headers::{is_hop_by_hop, list, remove_connection_options};

mod write;

pub use write::{BodyLength, write_field, write_request, write_response};

/// Headers that are read onto the stack; more than that are rare.
const STACK_HEADERS: usize = 64;

/// The headers a response may have.
const MAX_RESPONSE_HEADERS: usize = 256;

/// Room for the headers that we add to an answer ourselves.
const ADDED_HEADERS: usize = 2;

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It can be read in two ways, or in none.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is longer than allowed.
    #[error("request or response head too large")]
    TooLarge,
    /// It has more headers than allowed.
    #[error("too many headers")]
    TooManyHeaders,
    /// It is of a version that has another grammar.
    #[error("not HTTP/1.0 or HTTP/1.1")]
    UnsupportedVersion,
}

/// How far a head has been searched for its end, so that one which comes byte by byte is not
/// searched from the beginning each time. Zero is the beginning, where empty lines may still come.
#[derive(Debug, Default)]
pub struct HeadScanner(usize);

impl HeadScanner {
    /// Takes a whole head off `input`, if there is one of at most `longest` bytes. Empty lines
    /// before it are passed over (RFC 9112, section 2.2); a bare LF ends a line, a bare CR nothing:
    /// whoever reads the head finds it there, and refuses it.
    pub fn take_head(
        &mut self,
        input: &mut BytesMut,
        longest: usize,
    ) -> Result<Option<Bytes>, ParseError> {
        if self.0 == 0 {
            pass_over_empty_lines(input)?;
        }
        match self.end(input)? {
            Some(end) if end <= longest => {
                self.0 = 0;
                Ok(Some(input.split_to(end).freeze()))
            }
            Some(_) => Err(ParseError::TooLarge),
            None if input.len() >= longest => Err(ParseError::TooLarge),
            None => Ok(None),
        }
    }

    /// Where the empty line ends.
    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        loop {
            let rest = bytes.get(self.0..).unwrap_or_default();
            let Some(found) = memchr(b'\n', rest) else {
                // The first byte may be half of such a line.
                self.0 = bytes.len().saturating_sub(usize::from(bytes.ends_with(b"\r")));
                return Ok(None);
            };
            self.0 += found;
            match rest.get(found + 1..).unwrap_or_default() {
                [b'\n', ..] => return Ok(Some(self.0 + 2)),
                [b'\r', b'\n', ..] => return Ok(Some(self.0 + 3)),
                [] | [b'\r'] => return Ok(None),
                // Nothing that comes later could make a head of it.
                [b'\r', ..] => return Err(ParseError::Malformed("a bare CR")),
                _ => self.0 += 1,
            }
        }
    }
}

fn pass_over_empty_lines(input: &mut BytesMut) -> Result<(), ParseError> {
    loop {
        match input.get(..2).unwrap_or(input) {
            [b'\n', ..] => input.advance(1),
            [b'\r', b'\n'] => input.advance(2),
            [] | [b'\r'] => return Ok(()),
            [first, ..] if is_token(*first) => return Ok(()),
            _ => return Err(ParseError::Malformed("no method")),
        }
    }
}

/// A request, and what of it concerns the connection.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The request; its body is on its way.
    pub request: Request<()>,
    /// Where its body ends.
    pub framing: BodyDecoder,
    /// Whether another may follow.
    pub keeps: bool,
    /// Whether it wants another protocol, so that nothing may follow before its answer.
    pub upgrade: bool,
    /// Whether its body waits for a `100 Continue`.
    pub expects: bool,
}

/// A response, and what of it concerns the connection.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The response, whose headers are those that may go on; its body is on its way.
    pub response: Response<()>,
    /// Where its body ends.
    pub framing: BodyDecoder,
    /// Whether the connection may be used again.
    pub keeps: bool,
}

/// Reads the head of a request with at most so many headers, the crumbs of a cookie counted as one.
pub fn request(head: &Bytes, most: usize) -> Result<ParsedRequest, ParseError> {
    match parse_request(head, most) {
        Err(ParseError::UnsupportedVersion) => match RequestVersion::find(head) {
            // A later version of the same grammar is served as the latest one that is known
            // (RFC 9110, section 2.5).
            Some(version) if version.major == 1 => {
                parse_request(&version.replace_minor(head, b'1'), most)
            }
            Some(_) => Err(ParseError::UnsupportedVersion),
            None => Err(ParseError::Malformed("an unusable version")),
        },
        done => done,
    }
}

fn parse_request(head: &Bytes, most: usize) -> Result<ParsedRequest, ParseError> {
    let few = &mut [const { MaybeUninit::uninit() }; STACK_HEADERS];
    match request_into(head, few, most) {
        Err(ParseError::TooManyHeaders) if most > STACK_HEADERS => {
            request_into(head, &mut vec![MaybeUninit::uninit(); most.saturating_mul(2)], most)
        }
        done => done,
    }
}

/// The version in a request line.
struct RequestVersion {
    major: u8,
    /// The position of the minor version in the head.
    minor_at: usize,
}

impl RequestVersion {
    /// Finds it, if it has the form of one (RFC 9112, section 2.3).
    fn find(head: &[u8]) -> Option<Self> {
        let line = head.get(..memchr(b'\n', head)?)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let version = line.splitn(3, |b| *b == b' ').nth(2)?.strip_prefix(b"HTTP/")?;
        let [major @ b'0'..=b'9', b'.', b'0'..=b'9'] = version else { return None };
        Some(Self { major: major.wrapping_sub(b'0'), minor_at: line.len().checked_sub(1)? })
    }

    /// The head with another minor version.
    fn replace_minor(&self, head: &[u8], minor: u8) -> Bytes {
        let mut head = head.to_vec();
        if let Some(digit) = head.get_mut(self.minor_at) {
            *digit = minor;
        }
        head.into()
    }
}

fn request_into<'h>(
    head: &'h Bytes,
    room: &mut [MaybeUninit<httparse::Header<'h>>],
    most: usize,
) -> Result<ParsedRequest, ParseError> {
    let mut parsed = httparse::Request::new(&mut []);
    let whole = parsed.parse_with_uninit_headers(head, room).map_err(unreadable)?;
    let (true, Some(method), Some(target), Some(version)) =
        (is_all_of(head, whole), parsed.method, parsed.path, parsed.version)
    else {
        return Err(ParseError::Malformed("no request line"));
    };
    // A fragment is no part of a request (RFC 9112, section 3.2): whoever sends one means
    // something by it, and the site behind us could understand it.
    if target.contains('#') {
        return Err(ParseError::Malformed("a fragment in the target"));
    }
    let mut connection = ConnectionHeaders::default();
    let headers = fields(head, parsed.headers, &mut connection, |_| true)?;
    if headers.len() > most && header_count(&headers) > most {
        return Err(ParseError::TooManyHeaders);
    }
    if connection.lengths > 1 || (connection.chunked && (connection.lengths > 0 || version == 0)) {
        return Err(ParseError::Malformed("two lengths"));
    }
    let framing = match (connection.chunked, connection.length) {
        (true, _) => BodyDecoder::CHUNKED_REQUEST,
        (false, length) => BodyDecoder::of(length.unwrap_or(0)),
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes())
        .map_err(|_| ParseError::Malformed("an unusable method"))?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target.as_bytes()))
        .map_err(|_| ParseError::Malformed("an unusable target"))?;
    *request.version_mut() = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let expects = version == 1 && !framing.is_ended() && expect_continue(&headers);
    let upgrades = connection.upgrade && framing.is_ended();
    *request.headers_mut() = headers;
    Ok(ParsedRequest {
        request,
        framing,
        keeps: connection.keep_alive(version),
        upgrade: upgrades,
        expects,
    })
}

/// Reads the head of the response to a request of this method.
pub fn response(head: &Bytes, method: &Method) -> Result<ParsedResponse, ParseError> {
    let room = &mut [const { MaybeUninit::uninit() }; STACK_HEADERS];
    match response_into(head, room, method) {
        Err(ParseError::TooManyHeaders) => response_into(
            head,
            &mut [const { MaybeUninit::uninit() }; MAX_RESPONSE_HEADERS],
            method,
        ),
        done => done,
    }
}

fn response_into<'h>(
    head: &'h Bytes,
    room: &mut [MaybeUninit<httparse::Header<'h>>],
    method: &Method,
) -> Result<ParsedResponse, ParseError> {
    let mut parsed = httparse::Response::new(&mut []);
    let whole = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, room)
        .map_err(unreadable)?;
    let (true, Some(code), Some(version)) = (is_all_of(head, whole), parsed.code, parsed.version)
    else {
        return Err(ParseError::Malformed("no status line"));
    };
    let status =
        StatusCode::from_u16(code).map_err(|_| ParseError::Malformed("an unusable status"))?;
    let mut connection = ConnectionHeaders::default();
    let passes = |name: &HeaderName| !is_hop_by_hop(name.as_str());
    let mut headers = fields(head, parsed.headers, &mut connection, passes)?;
    if connection.names {
        let all = parsed.headers.iter();
        let values = all.filter(|it| it.name.eq_ignore_ascii_case("connection")).map(|it| it.value);
        for value in values {
            remove_connection_options(&mut headers, value);
        }
    }
    let bodiless = method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match (bodiless, connection.chunked, connection.length) {
        (true, _, _) => BodyDecoder::Done,
        (false, true, _) => BodyDecoder::CHUNKED_RESPONSE,
        (false, false, Some(length)) => BodyDecoder::of(length),
        (false, false, None) => BodyDecoder::CloseDelimited,
    };
    // Whoever sends both may be understood otherwise by the next one down the line.
    let one_reading = !(connection.chunked && connection.lengths > 0);
    let keeps =
        connection.keep_alive(version) && one_reading && framing != BodyDecoder::CloseDelimited;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(ParsedResponse { response, framing, keeps })
}

/// Whether what was read ends where the head was found to end.
fn is_all_of(head: &[u8], read: httparse::Status<usize>) -> bool {
    read == httparse::Status::Complete(head.len())
}

fn unreadable(error: httparse::Error) -> ParseError {
    ParseError::Malformed(match error {
        httparse::Error::TooManyHeaders => return ParseError::TooManyHeaders,
        httparse::Error::Version => return ParseError::UnsupportedVersion,
        httparse::Error::HeaderName => "an unusable header name",
        httparse::Error::HeaderValue => "an unusable header value",
        httparse::Error::NewLine => "a line that does not end as one",
        httparse::Error::Status => "an unusable status",
        httparse::Error::Token => "an unusable method or target",
    })
}

/// What a head says of its connection and of its body.
#[derive(Default)]
struct ConnectionHeaders {
    /// Whether another message may follow, if it says so.
    keeps: Option<bool>,
    upgrade: bool,
    /// Whether it names headers that end with it.
    names: bool,
    chunked: bool,
    length: Option<u64>,
    lengths: u8,
}

impl ConnectionHeaders {
    fn keep_alive(&self, version: u8) -> bool {
        self.keeps.unwrap_or(version == 1)
    }

    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), ParseError> {
        if *name == header::CONNECTION {
            for token in list(value) {
                if token.eq_ignore_ascii_case(b"close") {
                    self.keeps = Some(false);
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    self.keeps.get_or_insert(true);
                } else {
                    self.names = true;
                }
            }
        } else if *name == header::CONTENT_LENGTH {
            let length = number(value).ok_or(ParseError::Malformed("an unusable length"))?;
            if self.length.replace(length).is_some_and(|other| other != length) {
                return Err(ParseError::Malformed("two lengths"));
            }
            self.lengths = self.lengths.saturating_add(1);
        } else if *name == header::TRANSFER_ENCODING {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(ParseError::Malformed("a transfer coding other than chunked"));
            }
            self.chunked = true;
        } else if *name == header::UPGRADE {
            self.upgrade = true;
        }
        Ok(())
    }
}

/// The headers of which `passes` says so, whose values share the memory of the head.
fn fields(
    head: &Bytes,
    parsed: &[httparse::Header<'_>],
    connection: &mut ConnectionHeaders,
    passes: impl Fn(&HeaderName) -> bool,
) -> Result<HeaderMap, ParseError> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED_HEADERS);
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| ParseError::Malformed("an unusable header name"))?;
        connection.note(&name, field.value)?;
        if !passes(&name) {
            continue;
        }
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice_ref(field.value))
                .map_err(|_| ParseError::Malformed("an unusable header value"))?
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn expect_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Headers of a request, the crumbs of a cookie counted as one.
pub fn header_count(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(header::COOKIE).iter().count();
    headers.len().saturating_sub(crumbs.saturating_sub(1))
}

#[cfg(test)]
mod tests;
