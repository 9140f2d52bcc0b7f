//! The task of a connection: it moves the bytes of all its requests, and notices when the other end
//! is no longer there.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, client::Connection};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::connection::Http2State;
use crate::http1::Stream;

/// How long nothing comes while somebody waits before the server is asked whether it is there, and
/// how long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Looks at the clock between two such questions in one silence: servers of gRPC hang up on those
/// who ask more often than every five minutes.
const MIN_TICKS_BETWEEN_PINGS: u32 = 36;

/// Polls a connection to its end.
pub async fn run_connection(
    connection: Connection<Stream, Bytes>,
    pings: PingPong,
    state: Rc<Http2State>,
    name: String,
) {
    let (mut connection, mut watch) = (connection, KeepAlive::new(pings));
    let ended = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready("it was closed".to_owned()),
        Poll::Ready(Err(error)) => Poll::Ready(error.to_string()),
        Poll::Pending => watch.poll(cx, &state).map(str::to_owned),
    });
    let why = ended.await;
    tracing::debug!(endpoint = name, why, "a connection of HTTP/2 to a site ended");
}

/// Looks whether the other end is still there.
struct KeepAlive {
    pings: PingPong,
    clock: Interval,
    /// What had been heard at the last look.
    heard: u64,
    /// Looks to let pass before the next question in this silence.
    pause: u32,
    /// Whether an answer is still to come.
    asked: bool,
    /// Looks since nobody has wanted the connection any more.
    unwanted: u32,
}

impl KeepAlive {
    fn new(pings: PingPong) -> Self {
        let mut clock = interval(KEEP_ALIVE_TIMEOUT);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.reset();
        Self { pings, clock, heard: 0, pause: 0, asked: false, unwanted: 0 }
    }

    /// Ready when it is not.
    fn poll(&mut self, cx: &mut Context<'_>, state: &Rc<Http2State>) -> Poll<&'static str> {
        if self.asked && self.pings.poll_pong(cx).is_ready() {
            self.asked = false;
        }
        while self.clock.poll_tick(cx).is_ready() {
            if self.asked {
                return Poll::Ready("it does not answer");
            }
            // Nobody has it, and the other end does not take our last words.
            let unwanted = Rc::strong_count(state) == 1;
            self.unwanted = if unwanted { self.unwanted + 1 } else { 0 };
            if self.unwanted > 1 {
                return Poll::Ready("it would not close");
            }
            self.look(state);
        }
        Poll::Pending
    }

    /// Asks, if there is reason to doubt it; the question wakes the task that sends it.
    fn look(&mut self, state: &Http2State) {
        let silent = std::mem::replace(&mut self.heard, state.heard()) == state.heard();
        if !silent || !state.is_waited_for() {
            self.pause = 0;
            return;
        }
        if let Some(left) = self.pause.checked_sub(1) {
            self.pause = left;
        } else {
            self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            self.pause = MIN_TICKS_BETWEEN_PINGS;
        }
    }
}

#[cfg(test)]
mod tests;
