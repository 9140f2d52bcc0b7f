//! Every request in some bytes, as a connection would read them: what the tests and the fuzzer
//! look at.

use bytes::BytesMut;

use super::{
    BodyDecoder,
    head::{HeadScanner, ParseError, request},
};

pub use super::decoder::DecodeResult;

/// A request as it was read: its target, and its body.
pub type Read = (String, Vec<u8>);

/// The whole requests in these bytes, dealt out in pieces, and why reading ended before their end.
pub fn read(pieces: &[&[u8]]) -> (Vec<Read>, Option<ParseError>) {
    let (mut input, mut search, mut found) = (BytesMut::new(), HeadScanner::default(), Vec::new());
    let mut under_way: Option<(String, BodyDecoder, Vec<u8>)> = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let Some((target, framing, body)) = &mut under_way else {
                let head = match search.take_head(&mut input, 4096) {
                    Ok(Some(head)) => head,
                    Ok(None) => break,
                    Err(refused) => return (found, Some(refused)),
                };
                match request(&head, 100) {
                    Ok(asked) => {
                        let target = asked.request.uri().to_string();
                        under_way = Some((target, asked.framing, Vec::new()));
                    }
                    Err(refused) => return (found, Some(refused)),
                }
                continue;
            };
            match framing.decode(&mut input) {
                Ok(DecodeResult::Data(data)) => body.extend_from_slice(&data),
                Ok(DecodeResult::NeedMore) => break,
                Ok(DecodeResult::End) => {
                    found.push((std::mem::take(target), std::mem::take(body)));
                    under_way = None;
                }
                Err(_) => return (found, Some(ParseError::Malformed("chunks"))),
            }
        }
    }
    (found, None)
}
