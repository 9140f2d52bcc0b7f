//! The body of a request, as it comes from a visitor.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body;

use super::{BodyError, Http1Connection, SpliceBody, SplicePipe};

/// The body of a request, as it comes from a visitor.
#[derive(Debug, Default)]
pub enum Incoming {
    /// None.
    #[default]
    Empty,
    /// Over a connection of HTTP/1, which it is read from by whoever wants it.
    Http1(Rc<RefCell<Http1Connection>>),
    /// Over a stream of HTTP/2.
    Http2(body::Incoming),
}

impl From<body::Incoming> for Incoming {
    fn from(body: body::Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Http2(body) }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(wire) => {
                let piece = ready!(wire.borrow_mut().poll_data(cx));
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
            Self::Http2(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|it| io::Error::other(it).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(wire) => wire.borrow().framing().is_ended(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(wire) => {
                wire.borrow().framing().exact().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Http2(body) => body.size_hint(),
        }
    }
}

impl SpliceBody for Incoming {
    fn is_pipeable(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.borrow().can_splice(),
            Self::Empty | Self::Http2(_) => false,
        }
    }

    fn poll_fill(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pipe: &mut SplicePipe,
        most: u64,
    ) -> Poll<Option<Result<u64, BodyError>>> {
        match self.get_mut() {
            Self::Http1(wire) => wire.borrow_mut().poll_splice_in(cx, pipe, most),
            Self::Empty | Self::Http2(_) => Poll::Ready(None),
        }
    }
}
