//! HTTP/2 streams: each runs where its connection does, for as long as its visitor takes what
//! it brings. A visitor who opens no window holds up a stream and not the socket, so that the
//! the stream below it ([`super::timeout_writer`]) sees nothing of it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection_registry::RegisteredConnection;
use crate::gateway;

/// Runs the streams of one connection.
#[derive(Clone)]
pub struct StreamExecutor {
    /// That of the request which has just been handed over: hyper runs its stream next.
    next: Rc<Cell<Option<Rc<StreamProgress>>>>,
    timeout: Duration,
    worker: Rc<gateway::RequestHandler>,
    open: Rc<OpenStreams>,
}

/// The streams of one connection that are open. Without any it waits for its client.
struct OpenStreams {
    count: Cell<usize>,
    connection: Rc<RegisteredConnection>,
}

/// One stream, open until this is dropped.
struct OpenStreamGuard(Rc<OpenStreams>);

/// Since when a visitor has not taken what there is for them; nothing while they wait for us.
#[derive(Default)]
pub struct StreamProgress(Cell<Option<Instant>>);

impl StreamExecutor {
    /// None yet; a visitor who takes nothing for `patience` is given up.
    pub fn new(
        timeout: Duration,
        worker: Rc<gateway::RequestHandler>,
        connection: Rc<RegisteredConnection>,
    ) -> Self {
        let open = Rc::new(OpenStreams { count: Cell::new(0), connection });
        Self { next: Rc::default(), timeout, worker, open }
    }

    /// A request has been handed over.
    pub fn begin(&self) -> Rc<StreamProgress> {
        let watch = Rc::<StreamProgress>::default();
        self.next.set(Some(Rc::clone(&watch)));
        watch
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, stream: F) {
        let (watch, patience) = (self.next.take().unwrap_or_default(), self.timeout);
        let worker = Rc::clone(&self.worker);
        let open = OpenStreamGuard::new(&self.open);
        tokio::task::spawn_local(async move {
            let _open = open;
            tokio::pin!(stream);
            let mut clock = None;
            poll_fn(|cx| match stream.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => {
                    let stalled = watch.poll_stalled(cx, &mut clock, patience);
                    if stalled.is_ready() {
                        worker.record_limit("send_time");
                    }
                    stalled
                }
            })
            .await;
        });
    }
}

impl OpenStreamGuard {
    fn new(streams: &Rc<OpenStreams>) -> Self {
        streams.count.set(streams.count.get().saturating_add(1));
        streams.connection.set_busy();
        Self(Rc::clone(streams))
    }
}

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        let left = self.0.count.get().saturating_sub(1);
        self.0.count.set(left);
        if left == 0 {
            self.0.connection.set_idle();
        }
    }
}

impl StreamProgress {
    fn poll_stalled(
        &self,
        cx: &mut Context<'_>,
        clock: &mut Option<Pin<Box<Sleep>>>,
        timeout: Duration,
    ) -> Poll<()> {
        let Some(since) = self.0.get() else { return Poll::Pending };
        let until = since + timeout;
        let clock = clock.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(clock.as_mut().poll(cx));
            if Instant::now() >= until {
                tracing::debug!("client reads too slowly, closing stream");
                return Poll::Ready(());
            }
            clock.as_mut().reset(until);
        }
    }
}

/// A body that tells when its visitor has something to take.
pub struct TrackedBody<B> {
    body: B,
    watch: Rc<StreamProgress>,
}

impl<B> TrackedBody<B> {
    /// This body.
    pub fn new(body: B, watch: Rc<StreamProgress>) -> Self {
        Self { body, watch }
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        // hyper comes for more when the last piece has gone out.
        let this = self.get_mut();
        this.watch.0.set(None);
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.watch.0.set(Some(Instant::now()));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
