//! A connection that messages come over: the socket, what was read of it and not yet understood,
//! and where the message that is being received ends.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::{
    BodyDecoder, BodyError, Stream,
    decoder::{BodyStart, DecodeResult},
    head::{HeadScanner, ParseError},
    splice::{PipePool, SplicePipe},
    writer::MessageSink,
};

/// Where the bytes of one thread's connections are read to. A quiet connection holds no buffer,
/// and a busy one shares its: what has been read is cut off and travels on without a copy, and
/// when all of it has gone, the memory is used again.
#[derive(Debug, Default)]
pub struct BufferPool {
    chunk: RefCell<BytesMut>,
    heads: RefCell<Vec<u8>>,
    pipes: PipePool,
}

/// Bytes of an arena that are taken at a time.
const READ_CHUNK_LEN: usize = 64 * 1024;
/// The least room to read a head into, which a short body may follow.
const MIN_READ_LEN: usize = 20 * 1024;
/// The least room to read a long body into: each read is a call of the system.
const MIN_BODY_READ_LEN: usize = 32 * 1024;
/// The largest buffer of a head that is kept.
const MAX_KEPT_HEAD_LEN: usize = 16 * 1024;

impl BufferPool {
    /// One thread's.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    fn poll_read(
        &self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<BytesMut>> {
        let mut chunk = self.chunk.borrow_mut();
        if chunk.capacity() < room {
            chunk.reserve(READ_CHUNK_LEN);
        }
        ready!(poll_read_buf(Pin::new(stream), cx, &mut *chunk))?;
        Poll::Ready(Ok(chunk.split()))
    }

    /// A buffer to write a head into; best given back.
    pub fn buffer(&self) -> Vec<u8> {
        self.heads.take()
    }

    /// Takes such a buffer back.
    pub fn give_back(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= MAX_KEPT_HEAD_LEN {
            let mut buffer = buffer;
            buffer.clear();
            self.heads.replace(buffer);
        }
    }
}

/// A connection that messages come over.
#[derive(Debug)]
pub struct Http1Connection {
    stream: Stream,
    arena: Rc<BufferPool>,
    input: BytesMut,
    search: HeadScanner,
    framing: BodyDecoder,
    /// How much of `100 Continue` has been said, while somebody waits for it.
    owed: Option<usize>,
    closed: bool,
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Http1Connection {
    /// A connection over which nothing has come yet.
    pub fn new(stream: Stream, arena: &Rc<BufferPool>) -> Self {
        Self {
            stream,
            arena: Rc::clone(arena),
            input: BytesMut::new(),
            search: HeadScanner::default(),
            framing: BodyDecoder::Done,
            owed: None,
            closed: false,
        }
    }

    /// Where its bytes are read to.
    pub fn arena(&self) -> &Rc<BufferPool> {
        &self.arena
    }

    /// The head of the next message; nothing when the other end has closed before it.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        longest: usize,
    ) -> Poll<Result<Option<Bytes>, ReadHeadError>> {
        loop {
            if let Some(head) = self.search.take_head(&mut self.input, longest)? {
                self.release_buffer();
                return Poll::Ready(Ok(Some(head)));
            }
            if !ready!(self.poll_more(cx, MIN_READ_LEN)).map_err(ReadHeadError::Io)? {
                let none = self.input.is_empty();
                return Poll::Ready(if none { Ok(None) } else { Err(ReadHeadError::Truncated) });
            }
        }
    }

    /// A body follows the head that was taken last. `expects` is whether the other end waits for
    /// us to say that we want it.
    pub fn start_body(&mut self, framing: BodyDecoder, expects: bool) {
        self.framing = framing;
        self.owed = expects.then_some(0);
    }

    /// Whether the other end waits to be told that we want the body, and may have been told in part.
    pub fn continue_pending(&self) -> bool {
        self.owed.is_some()
    }

    /// What is still to come of the message.
    pub fn framing(&self) -> BodyDecoder {
        self.framing
    }

    /// Whether something has been read that belongs to no message yet.
    pub fn has_buffered(&self) -> bool {
        !self.input.is_empty()
    }

    /// What has been read and belongs to no message, for whatever comes after HTTP.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.input)
    }

    /// The next piece of the body; nothing at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.owed.is_some() {
            ready!(self.poll_invite(cx))?;
        }
        loop {
            let step = self.framing.decode(&mut self.input)?;
            self.release_buffer();
            match step {
                DecodeResult::Data(piece) => return Poll::Ready(Some(Ok(piece))),
                DecodeResult::End => return Poll::Ready(None),
                DecodeResult::NeedMore => (),
            }
            let long = !matches!(self.framing, BodyDecoder::Length(left) if left < 4096);
            if !ready!(self.poll_more(cx, if long { MIN_BODY_READ_LEN } else { MIN_READ_LEN }))? {
                if self.framing != BodyDecoder::CloseDelimited {
                    return Poll::Ready(Some(Err(BodyError::Truncated)));
                }
                self.framing = BodyDecoder::Done;
            }
        }
    }

    /// Judges what has been read of the body, and takes nothing of it.
    pub fn check_body_start(&self) -> Result<BodyStart, BodyError> {
        self.framing.check(&self.input)
    }

    /// Ready when the body has begun as a body does, or does not: until then, nothing of the message
    /// needs to be passed on. Takes nothing of it.
    pub fn poll_body_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while self.check_body_start()? == BodyStart::Incomplete {
            if !ready!(self.poll_more(cx, MIN_BODY_READ_LEN))? {
                return Poll::Ready(Err(BodyError::Truncated));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the rest of the body can go through a pipe: it comes over a plain socket, its length is
    /// known, and nothing of it has been read.
    pub fn can_splice(&self) -> bool {
        matches!(self.framing, BodyDecoder::Length(_))
            && self.input.is_empty()
            && self.owed.is_none()
            && self.stream.tcp().is_some()
    }

    /// Fills a pipe with at most so many bytes of such a body; how many. Nothing, if that cannot be
    /// done after all.
    pub fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BodyError>>> {
        let (BodyDecoder::Length(left), Some(socket)) = (self.framing, self.stream.tcp()) else {
            return Poll::Ready(None);
        };
        let filled = ready!(pipe.poll_fill(cx, socket, left.min(most)));
        if self.arena.pipes.disable_if_unsupported(&filled) {
            return Poll::Ready(None);
        }
        let count = filled?;
        if count == 0 {
            self.closed = true;
            return Poll::Ready(Some(Err(BodyError::Truncated)));
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.framing = BodyDecoder::of(left.saturating_sub(count));
        Poll::Ready(Some(Ok(count)))
    }

    /// Passes over what of the body has been read already; whether that was all of it.
    pub fn skip_buffered_body(&mut self) -> bool {
        while let Ok(DecodeResult::Data(_)) = self.framing.decode(&mut self.input) {}
        self.release_buffer();
        self.framing.is_ended()
    }

    /// Reads on while nothing is expected, as far as `most` bytes; whether the other end has closed.
    pub fn poll_read_ahead(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        while self.input.len() < most {
            if !ready!(self.poll_more(cx, MIN_READ_LEN))? {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Whether it is open, and silent as it should be between two exchanges.
    pub fn is_idle(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.input.is_empty() && self.poll_more(cx, MIN_READ_LEN).is_pending()
    }

    /// Whether to close it is not enough: something is unread, or TLS wants its last word.
    pub fn needs_lingering_close(&self) -> bool {
        self.has_buffered() || matches!(self.stream, Stream::Tls(_))
    }

    /// Says that no more will be sent, and reads and forgets what still comes: who closes with
    /// bytes unread takes the answer back that is on its way (RFC 9112, section 9.6).
    pub fn poll_lingering_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        loop {
            self.input.clear();
            if !ready!(self.poll_more(cx, MIN_READ_LEN))? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_invite(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.owed.and_then(|said| CONTINUE.get(said..)) {
            if rest.is_empty() {
                self.owed = None;
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            let said = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            self.owed = self.owed.map(|already| already + said);
        }
        Poll::Ready(Ok(()))
    }

    /// An input of which nothing is left would still hold the memory it is a part of.
    fn release_buffer(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Reads some more; `false` when the other end has closed.
    fn poll_more(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<bool>> {
        if self.closed {
            return Poll::Ready(Ok(false));
        }
        let more = ready!(self.arena.poll_read(&mut self.stream, cx, room))?;
        if more.is_empty() {
            self.closed = true;
        } else if self.input.is_empty() {
            self.input = more;
        } else {
            self.input.unsplit(more);
        }
        Poll::Ready(Ok(!self.closed))
    }
}

impl MessageSink for Http1Connection {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn pipe(&self) -> Option<SplicePipe> {
        self.stream.tcp().and_then(|_| self.arena.pipes.take())
    }

    fn poll_splice_out(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = self.stream.tcp() else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        pipe.poll_drain(cx, socket)
    }

    fn give_back(&self, pipe: SplicePipe) {
        self.arena.pipes.give_back(pipe);
    }
}

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub enum ReadHeadError {
    /// It is not one that we take.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The connection closed in the middle of it.
    #[error("the connection closed in the middle of a head")]
    Truncated,
    /// The connection failed.
    #[error("connection error")]
    Io(#[source] io::Error),
}
