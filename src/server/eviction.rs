//! Room for a new connection when all are taken: an idle one is closed, wherever it is.
//!
//! The kernel deals new connections to threads without regard to the idle ones that each holds, and
//! a thread closes its own connections only. A thread that has none to close therefore hands the
//! request on to the next. It passes all threads twice at the most: first for the connections of
//! the client that holds most of them, then for any.

use std::sync::Arc;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::connection_registry::EvictionScope;

/// A request to close one idle connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvictionRequest {
    /// Threads that had none to close. Each thread counts once for each scope.
    visited: usize,
}

/// The threads as one of them reaches them.
pub struct EvictionQueue {
    thread: usize,
    threads: Arc<[UnboundedSender<EvictionRequest>]>,
}

/// A queue for each thread, and what arrives in it. A thread adds one request for each new connection
/// that it holds back, so the queues stay short.
pub fn queues(threads: usize) -> Vec<(EvictionQueue, UnboundedReceiver<EvictionRequest>)> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| mpsc::unbounded_channel()).unzip();
    let threads: Arc<[_]> = senders.into();
    let queue =
        |(thread, receiver)| (EvictionQueue { thread, threads: Arc::clone(&threads) }, receiver);
    receivers.into_iter().enumerate().map(queue).collect()
}

impl EvictionQueue {
    /// Tries the request at this thread with `evict`, and hands it on to the next where that fails.
    pub fn process(&self, request: EvictionRequest, evict: impl Fn(EvictionScope) -> bool) {
        let EvictionRequest { visited } = request;
        let threads = self.threads.len();
        let scope =
            if visited < threads { EvictionScope::LargestClient } else { EvictionScope::AnyClient };
        if visited >= threads.saturating_mul(2) || evict(scope) {
            return;
        }
        let next = self.thread.wrapping_add(1) % threads.max(1);
        if let Some(next) = self.threads.get(next) {
            // A thread that has ended has no connection left.
            let _ = next.send(EvictionRequest { visited: visited.saturating_add(1) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_request_passes_every_thread_twice_and_ends() {
        // The thread that has one to close, and within which scope; the visits until it is found.
        let rows = [
            (Some((0, EvictionScope::LargestClient)), 1),
            (Some((2, EvictionScope::LargestClient)), 3),
            (Some((0, EvictionScope::AnyClient)), 4),
            (Some((2, EvictionScope::AnyClient)), 6),
            (None, 6),
        ];
        for (holder, expected) in rows {
            let mut queues = queues(3);
            let visits = Cell::new(0);
            let visit = |(queue, _): &(EvictionQueue, _), request| {
                queue.process(request, |scope| {
                    visits.set(visits.get() + 1);
                    holder == Some((queue.thread, scope))
                });
            };
            visit(&queues[0], EvictionRequest::default());
            while let Some((thread, request)) = queues
                .iter_mut()
                .enumerate()
                .find_map(|(thread, (_, receiver))| Some((thread, receiver.try_recv().ok()?)))
            {
                visit(&queues[thread], request);
            }
            assert_eq!(visits.get(), expected, "{holder:?}");
        }
    }
}
