//! A message on its way out: its head, and its body as it comes.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Body;

use super::{
    head::BodyLength,
    splice::{SPLICE_MIN_LEN, SplicePipe},
};

/// What a message is written to.
pub trait MessageSink {
    /// Writes some of these, in order; how many bytes it took.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;
    /// Sees that what it took is on its way.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// A pipe whose bytes it can take, if it is of that kind and one is to be had.
    fn pipe(&self) -> Option<SplicePipe>;
    /// Takes some of the bytes in such a pipe; how many.
    fn poll_splice_out(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
    ) -> Poll<io::Result<usize>>;
    /// Takes an empty pipe back.
    fn give_back(&self, pipe: SplicePipe);
}

/// A body that may come through a pipe, past us.
pub trait SpliceBody: Body<Data = Bytes> {
    /// Whether that is so at the moment: nothing of it has been read ahead.
    fn is_pipeable(&self) -> bool {
        false
    }

    /// Fills an empty pipe with at most so many bytes of it; how many. Nothing, if that cannot be done
    /// and the body has to be read.
    fn poll_fill(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut SplicePipe,
        _most: u64,
    ) -> Poll<Option<Result<u64, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// Borrowed only while it writes, because the body may come over the same connection.
impl<O: MessageSink> MessageSink for &RefCell<O> {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.borrow_mut().poll_send(cx, slices)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.borrow_mut().poll_flush(cx)
    }

    fn pipe(&self) -> Option<SplicePipe> {
        self.borrow().pipe()
    }

    fn poll_splice_out(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
    ) -> Poll<io::Result<usize>> {
        self.borrow_mut().poll_splice_out(cx, pipe)
    }

    fn give_back(&self, pipe: SplicePipe) {
        self.borrow().give_back(pipe);
    }
}

/// A message on its way out.
#[derive(Debug)]
pub struct MessageWriter {
    /// The head, what frames the body, and pieces so short that to copy them costs less.
    words: Vec<u8>,
    written: usize,
    /// A piece of the body that follows the words, and what follows the piece.
    piece: Bytes,
    tail: &'static [u8],
    /// What follows all that, past us.
    pipe: Option<SplicePipe>,
    /// Whether no pipe could be had for it.
    unpiped: bool,
    length: BodyLength,
    state: WriteState,
    /// Bytes that have gone out.
    taken: u64,
    blocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    /// The body brings more.
    Gathering,
    /// The body has nothing at the moment.
    Waiting,
    /// Everything is here.
    Whole,
    /// Everything is on its way.
    Sent,
}

/// A message that did not go out whole.
#[derive(Debug)]
pub enum WriteError<E> {
    /// Its body failed.
    Body(E),
    /// The connection did.
    Io(io::Error),
}

/// The longest piece that is copied behind a head.
const COPY_MAX_LEN: usize = 2048;

impl MessageWriter {
    /// A message with this head, whose body comes as the head says.
    pub fn new(head: Vec<u8>, length: BodyLength) -> Self {
        Self {
            words: head,
            written: 0,
            piece: Bytes::new(),
            tail: b"",
            pipe: None,
            unpiped: false,
            length,
            state: WriteState::Gathering,
            taken: 0,
            blocked: false,
        }
    }

    /// Whether all of it is on its way.
    pub fn is_sent(&self) -> bool {
        self.state == WriteState::Sent
    }

    /// How many bytes of it have gone out.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether it waits for its own body.
    pub fn is_waiting_for_body(&self) -> bool {
        self.state == WriteState::Waiting
    }

    /// Whether it waits for the other end to take it.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The buffer that the head was in, when all has been sent.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.words)
    }

    /// Sends until all of it is on its way, the body has nothing, or the outlet takes nothing.
    pub fn poll<B>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
        outlet: &mut impl MessageSink,
    ) -> Poll<Result<(), WriteError<B::Error>>>
    where
        B: SpliceBody,
    {
        self.blocked = false;
        if self.state == WriteState::Waiting {
            self.state = WriteState::Gathering;
        }
        loop {
            // A head and what is there of the body leave together.
            if self.state == WriteState::Gathering && self.piece.is_empty() && !self.is_piped() {
                self.poll_body(cx, body.as_mut(), outlet)?;
            }
            if self.has_bytes() || self.is_piped() {
                if self.poll_write(cx, outlet).map_err(WriteError::Io)?.is_pending() {
                    self.blocked = true;
                    return Poll::Pending;
                }
                continue;
            }
            match self.state {
                WriteState::Gathering => (),
                WriteState::Waiting | WriteState::Whole => {
                    // TLS takes what it has no way to send yet: that is the other end's doing, too.
                    self.blocked = outlet.poll_flush(cx).map_err(WriteError::Io)?.is_pending();
                    if self.blocked || self.state == WriteState::Waiting {
                        return Poll::Pending;
                    }
                    self.state = WriteState::Sent;
                    if let Some(pipe) = self.pipe.take() {
                        outlet.give_back(pipe);
                    }
                }
                WriteState::Sent => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes what the body has.
    fn poll_body<B>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: Pin<&mut B>,
        outlet: &impl MessageSink,
    ) -> Result<(), WriteError<B::Error>>
    where
        B: SpliceBody,
    {
        if body.is_end_stream() {
            return self.end();
        }
        let piped = self.poll_body_spliced(cx, body.as_mut(), outlet).map_err(WriteError::Body)?;
        if !piped {
            self.gather_piece(cx, body.as_mut())?;
        }
        if self.state == WriteState::Gathering && body.is_end_stream() {
            self.end()
        } else {
            Ok(())
        }
    }

    /// Much of a long body goes past us; whether this is one.
    fn poll_body_spliced<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
        outlet: &impl MessageSink,
    ) -> Result<bool, B::Error>
    where
        B: SpliceBody,
    {
        let BodyLength::Known(left) = &mut self.length else { return Ok(false) };
        if self.unpiped || !body.is_pipeable() || (self.pipe.is_none() && *left < SPLICE_MIN_LEN) {
            return Ok(false);
        }
        let Some(mut pipe) = self.pipe.take().or_else(|| outlet.pipe()) else {
            self.unpiped = true;
            return Ok(false);
        };
        match body.poll_fill(cx, &mut pipe, *left) {
            Poll::Pending => self.state = WriteState::Waiting,
            Poll::Ready(Some(count)) => *left = left.saturating_sub(count?),
            Poll::Ready(None) => {
                outlet.give_back(pipe);
                return Ok(false);
            }
        }
        self.pipe = Some(pipe);
        Ok(true)
    }

    fn gather_piece<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
    ) -> Result<(), WriteError<B::Error>>
    where
        B: SpliceBody,
    {
        match body.poll_frame(cx) {
            Poll::Pending => self.state = WriteState::Waiting,
            Poll::Ready(None) => return self.end(),
            Poll::Ready(Some(Err(error))) => return Err(WriteError::Body(error)),
            Poll::Ready(Some(Ok(frame))) => {
                // Trailers end here: they could carry what a header may not.
                if let Ok(piece) = frame.into_data() {
                    self.push(piece)?;
                }
            }
        }
        Ok(())
    }

    fn push<E>(&mut self, piece: Bytes) -> Result<(), WriteError<E>> {
        if piece.is_empty() {
            return Ok(());
        }
        let chunked = self.length == BodyLength::Chunked;
        match &mut self.length {
            BodyLength::Known(left) => {
                let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                *left = left.checked_sub(length).ok_or_else(length_mismatch)?;
            }
            // Writing to memory cannot fail.
            BodyLength::Chunked => drop(write!(self.words, "{:x}\r\n", piece.len())),
            BodyLength::CloseDelimited => (),
            BodyLength::None => return Err(length_mismatch()),
        }
        let tail: &[u8] = if chunked { b"\r\n" } else { b"" };
        if piece.len() <= COPY_MAX_LEN {
            self.words.extend_from_slice(&piece);
            self.words.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (piece, tail);
        }
        Ok(())
    }

    fn end<E>(&mut self) -> Result<(), WriteError<E>> {
        self.state = WriteState::Whole;
        match self.length {
            BodyLength::Known(left) if left > 0 => return Err(length_mismatch()),
            BodyLength::Chunked if self.piece.is_empty() => {
                self.words.extend_from_slice(b"0\r\n\r\n");
            }
            BodyLength::Chunked => self.tail = b"\r\n0\r\n\r\n",
            BodyLength::Known(_) | BodyLength::None | BodyLength::CloseDelimited => (),
        }
        Ok(())
    }

    /// Whether something is in the pipe.
    fn is_piped(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    /// Whether something is in our own hands.
    fn has_bytes(&self) -> bool {
        self.written < self.words.len() || !self.piece.is_empty() || !self.tail.is_empty()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outlet: &mut impl MessageSink,
    ) -> Poll<io::Result<()>> {
        let words = self.words.get(self.written..).unwrap_or_default();
        let own = self.has_bytes();
        let count = match &mut self.pipe {
            Some(pipe) if !own => ready!(outlet.poll_splice_out(cx, pipe))?,
            _ if self.piece.is_empty() && self.tail.is_empty() => {
                ready!(outlet.poll_send(cx, &[IoSlice::new(words)]))?
            }
            _ => {
                let slices =
                    [IoSlice::new(words), IoSlice::new(&self.piece), IoSlice::new(self.tail)];
                ready!(outlet.poll_send(cx, &slices))?
            }
        };
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.taken = self.taken.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if own {
            self.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        let words = count.min(self.words.len().saturating_sub(self.written));
        self.written = self.written.saturating_add(words);
        if self.written == self.words.len() {
            self.words.clear();
            self.written = 0;
        }
        let rest = count.saturating_sub(words);
        let piece = rest.min(self.piece.len());
        self.piece.advance(piece);
        if self.piece.is_empty() {
            self.piece = Bytes::new(); // an empty piece would still hold its memory
        }
        self.tail = self.tail.get(rest.saturating_sub(piece)..).unwrap_or_default();
    }
}

/// A body that is not as long as its head says would put the next message out of step.
fn length_mismatch<E>() -> WriteError<E> {
    WriteError::Io(io::Error::other("body length does not match `Content-Length`"))
}
