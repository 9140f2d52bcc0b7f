//! The stream below hyper: what comes in is read along, what goes out has to be taken.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::head::{Fault, Framing};

/// No head is like this, whatever was read of it before: hyper answers 400 and closes.
const NO_HEAD: &[u8] = b"\0\n\n";

/// What the two ends of a connection, its bytes and its requests, tell each other.
#[derive(Default)]
pub struct Signals {
    /// Whether a request has been handed over.
    pub begun: AtomicBool,
    /// Whether the next answer shall be the last.
    pub stopping: AtomicBool,
    asking: AtomicBool,
    answer: AtomicU8,
}

const GO_ON: u8 = 1;
const SWITCH: u8 = 2;

impl Signals {
    /// Whether the last request that was read asks for another protocol.
    pub fn is_asking(&self) -> bool {
        self.asking.load(Relaxed)
    }

    /// That request has been answered.
    pub fn answered(&self, switched: bool) {
        self.answer.store(if switched { SWITCH } else { GO_ON }, Relaxed);
    }
}

/// A stream whose requests have one reading, and whose answers are read.
pub struct Guard<S> {
    stream: S,
    reading: Reading,
    signals: Arc<Signals>,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

enum Reading {
    /// Requests.
    Http(Framing),
    /// Nothing more, but for what makes hyper refuse.
    Refused(&'static [u8]),
    /// Whatever comes: either it is no longer HTTP, or its frames tell where they end.
    Open,
}

impl<S> Guard<S> {
    /// Reads HTTP/1 along, and gives a client up that takes nothing for `patience`.
    pub fn http1(stream: S, signals: Arc<Signals>, patience: Duration) -> Self {
        let reading = Reading::Http(Framing::new());
        Self { stream, reading, signals, patience, stalled: None }
    }

    /// Gives a client up that takes nothing for `patience`.
    pub fn http2(stream: S, signals: Arc<Signals>, patience: Duration) -> Self {
        Self { stream, reading: Reading::Open, signals, patience, stalled: None }
    }

    /// Nothing is taken at the moment. A tunnel may be quiet for as long as it likes.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.signals.answer.load(Relaxed) == SWITCH {
            return Poll::Pending;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            return self.poll_stalled(cx);
        }
        self.stalled = None;
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let framing = match &mut this.reading {
            Reading::Http(framing) => framing,
            Reading::Refused(words) => {
                let room = words.len().min(buffer.remaining());
                let (now, later) = words.split_at_checked(room).unwrap_or_default();
                buffer.put_slice(now);
                *words = later;
                return Poll::Ready(Ok(()));
            }
            Reading::Open => return Pin::new(&mut this.stream).poll_read(cx, buffer),
        };
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        if framing.is_asking() {
            match this.signals.answer.load(Relaxed) {
                SWITCH => {
                    this.reading = Reading::Open;
                    return Poll::Ready(Ok(()));
                }
                GO_ON => {
                    this.signals.answer.store(0, Relaxed);
                    this.signals.asking.store(false, Relaxed);
                    framing.go_on();
                }
                _ => (),
            }
        }
        let Err(refused) = framing.read(buffer.filled().get(before..).unwrap_or_default()) else {
            if framing.is_asking() {
                this.signals.asking.store(true, Relaxed);
            }
            return Poll::Ready(Ok(()));
        };
        buffer.set_filled(before.saturating_add(refused.good));
        tracing::debug!(fault = ?refused.fault, "a request that can be read in two ways");
        this.signals.asking.store(framing.is_asking(), Relaxed);
        this.reading = Reading::Refused(match refused.fault {
            Fault::Head => NO_HEAD,
            // The body breaks off here, or the connection does.
            Fault::Chunks | Fault::Early => &[],
        });
        // No bytes at all would be the end of the stream.
        if refused.good == 0 { Pin::new(this).poll_read(cx, buffer) } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.taken(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.taken(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let closed = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.taken(cx, closed)
    }
}
