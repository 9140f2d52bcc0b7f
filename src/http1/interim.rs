//! What a site says before its answer (RFC 9110, section 15.2), until its visitor has it.

use std::{
    cell::RefCell,
    io::IoSlice,
    task::{Context, Poll},
};

use http::Response;

use super::{
    Http1Connection,
    head::{self, BodyLength},
    writer::MessageSink,
};

/// Interim answers to one request that are passed on, and their bytes: what a site says beyond that,
/// it says to us alone.
const MAX_INTERIM: usize = 16;
const BYTES: usize = 16 * 1024;

/// The interim answers that wait for the visitor at the other end of a connection. Next to no request
/// has any, and then it holds nothing.
#[derive(Debug, Default)]
pub struct InterimResponses(RefCell<Option<Box<PendingInterim>>>);

#[derive(Debug, Default)]
struct PendingInterim {
    bytes: Vec<u8>,
    written: usize,
    count: usize,
}

impl InterimResponses {
    /// One more, to the request under way.
    pub fn add(&self, answer: &Response<()>) {
        let mut waiting = self.0.borrow_mut();
        let waiting = waiting.get_or_insert_default();
        let before = waiting.bytes.len();
        head::write_response(&mut waiting.bytes, answer, BodyLength::None);
        waiting.bytes.extend_from_slice(b"\r\n");
        if waiting.count >= MAX_INTERIM || waiting.bytes.len() > BYTES {
            waiting.bytes.truncate(before);
        } else {
            waiting.count += 1;
        }
    }

    /// Says what there is to say, as far as the other end takes it. What goes wrong with that goes
    /// wrong with the answer, too.
    pub fn poll_write(&self, cx: &mut Context<'_>, wire: &mut Http1Connection) {
        let mut waiting = self.0.borrow_mut();
        let Some(waiting) = waiting.as_deref_mut() else { return };
        if wire.continue_pending() {
            return; // half of a `100 Continue` may be out
        }
        while let Some(rest @ [_, ..]) = waiting.bytes.get(waiting.written..) {
            let Poll::Ready(Ok(count @ 1..)) = wire.poll_send(cx, &[IoSlice::new(rest)]) else {
                return;
            };
            waiting.written += count;
        }
        let _ = wire.poll_flush(cx);
    }

    /// The answer has come: what of it all has still to be said before.
    pub fn take(&self) -> Option<Vec<u8>> {
        let PendingInterim { mut bytes, written, .. } = *self.0.take()?;
        bytes.drain(..written);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_has_few_interim_answers() {
        let interim = InterimResponses::default();
        assert_eq!(interim.take(), None);
        let mut answer = Response::new(());
        *answer.status_mut() = http::StatusCode::EARLY_HINTS;
        answer.headers_mut().insert("link", HeaderValue::from_static("</a.css>"));
        let said = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        for _ in 0..50 {
            interim.add(&answer);
        }
        assert_eq!(String::from_utf8(interim.take().unwrap()).unwrap(), said.repeat(MAX_INTERIM));

        interim.add(&answer);
        let long = HeaderValue::try_from("x".repeat(BYTES)).unwrap();
        answer.headers_mut().insert("x-long", long);
        interim.add(&answer);
        assert_eq!(String::from_utf8(interim.take().unwrap()).unwrap(), said);
    }
}
