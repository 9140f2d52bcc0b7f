//! The connection preface of an HTTP/2 client (RFC 9113, section 3.4). The library checks its fixed
//! part only, and takes any frame behind it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_LEN: usize = 9;
const PREFACE_LEN: usize = PREFACE.len() + FRAME_HEADER_LEN;
/// The frame type of SETTINGS, and its flag for an acknowledgement, which is no preface.
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
/// A frame that the library refuses with the error for an invalid preface, `PROTOCOL_ERROR`: SETTINGS of
/// a stream (RFC 9113, section 6.5). Given this instead of the frame that came, it sends `GOAWAY` in order.
const INVALID_FRAME: [u8; FRAME_HEADER_LEN] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 1];

/// A stream on which the first frame of the client has to be SETTINGS. Until that is known, nothing that
/// the client sent reaches the reader.
pub struct PrefaceCheck<S> {
    stream: S,
    /// The beginning of what the client sends; nothing once it has been handed on.
    start: Option<PrefaceBuffer>,
}

/// The preface, as far as it has come.
struct PrefaceBuffer {
    bytes: [u8; PREFACE_LEN],
    filled: usize,
    /// How much of it has been handed on, once it is known to be good.
    passed: usize,
}

impl<S> PrefaceCheck<S> {
    /// A connection over which nothing has come yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            start: Some(PrefaceBuffer { bytes: [0; PREFACE_LEN], filled: 0, passed: 0 }),
        }
    }
}

impl PrefaceBuffer {
    /// Returns whether it says all that it can: it is complete, or its fixed part is another one, which
    /// the library refuses.
    fn is_decided(&self) -> bool {
        let fixed = self.filled.min(PREFACE.len());
        self.filled == PREFACE_LEN || self.bytes.get(..fixed) != PREFACE.get(..fixed)
    }

    /// Puts a frame that is refused in the place of a first frame that is not SETTINGS.
    fn replace_invalid_frame(&mut self) {
        let Some((preface, frame)) = self.bytes.split_at_mut_checked(PREFACE.len()) else { return };
        let [_, _, _, kind, flags, stream @ ..] = frame else { return };
        // The highest bit of the stream is reserved, and ignored.
        let settings =
            *kind == SETTINGS && *flags & ACK == 0 && matches!(stream, [0 | 0x80, 0, 0, 0]);
        if preface == PREFACE && self.filled == PREFACE_LEN && !settings {
            frame.copy_from_slice(&INVALID_FRAME);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefaceCheck<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(start) = &mut this.start else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        while !start.is_decided() {
            let rest = start.bytes.get_mut(start.filled..).unwrap_or_default();
            let mut rest = ReadBuf::new(rest);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut rest))?;
            match rest.filled().len() {
                0 => break,
                count => start.filled += count,
            }
        }
        start.replace_invalid_frame();
        let end = start.filled.min(start.passed + buffer.remaining());
        buffer.put_slice(start.bytes.get(start.passed..end).unwrap_or_default());
        start.passed = end;
        if end == start.filled {
            this.start = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefaceCheck<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
