//! What an answer of the admin listener is made of: words, or a stream of events.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// The body of an answer.
pub enum AdminBody {
    /// Complete already.
    Whole(Full<Bytes>),
    /// Goes on for as long as somebody looks.
    Events(EventStream),
}

impl AdminBody {
    /// A complete body.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(watch::Receiver<Bytes>, Bytes)>> + Send>>;

/// What is new, whenever something is. Who reads slowly misses what lies in between: nothing
/// piles up for anybody.
pub struct EventStream {
    next: Next,
    /// One of the few that there are.
    _place: OwnedSemaphorePermit,
}

impl EventStream {
    /// What stands there now, and then each change.
    pub fn new(mut news: watch::Receiver<Bytes>, permit: OwnedSemaphorePermit) -> Self {
        news.mark_changed();
        Self { next: Box::pin(next(news)), _place: permit }
    }
}

async fn next(mut news: watch::Receiver<Bytes>) -> Option<(watch::Receiver<Bytes>, Bytes)> {
    news.changed().await.ok()?;
    let event = news.borrow_and_update().clone();
    Some((news, event))
}

impl HttpBody for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(events) => {
                let Poll::Ready(ready) = events.next.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                let Some((news, event)) = ready else { return Poll::Ready(None) };
                events.next = Box::pin(next(news));
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
