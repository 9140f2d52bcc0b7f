//! `/events`: a tick a second, half a minute long, to see that answers are streamed.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::time::{Interval, interval};

use crate::emulator::listen::Body;

/// How many ticks there are.
const ALL: u32 = 30;

/// The stream, at its beginning.
pub fn stream() -> Response<Body> {
    let ticks = TickStream { interval: interval(Duration::from_secs(1)), told: 0 };
    let mut response = Response::new(ticks.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct TickStream {
    interval: Interval,
    told: u32,
}

impl http_body::Body for TickStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.told >= ALL {
            return Poll::Ready(None);
        }
        ready!(self.interval.poll_tick(context));
        self.told = self.told.saturating_add(1);
        let event = format!("id: {0}\ndata: {0}/{ALL}\n\n", self.told);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }
}
