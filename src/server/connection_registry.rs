//! The connections of one thread: which of them only wait for their client, in the order in which
//! they began to wait, so that the longest idle one can be closed for a new one; and how to wake
//! them when the server stops.
//!
//! A connection starts and stops waiting with every request. That is two changes of a linked list
//! in the memory of the thread, without a lock and without an allocation. Only a thread that needs
//! room looks through the list.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::time::Instant;

use crate::gateway::{ClientNumber, ConnectionLimiter};

/// The connections of one thread.
#[derive(Default)]
pub struct ConnectionRegistry {
    entries: RefCell<Entries>,
    stopped_at: Cell<Option<Instant>>,
}

/// A connection in the registry of its thread. It is taken out when this is dropped.
pub struct RegisteredConnection {
    registry: Rc<ConnectionRegistry>,
    index: u32,
}

/// The connections that may be closed for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionScope {
    /// Those of the client that holds most connections of the whole process.
    LargestClient,
    /// All of them, those of the client that holds most first.
    AnyClient,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is no connection here.
    #[default]
    Unused,
    /// It has a request under way, or is a tunnel.
    Busy,
    /// It waits for its client.
    Idle,
    /// It waits for its client and has been told to close.
    Evicted,
}

/// A quiet connection costs one of these, so the links are half as wide as pointers.
#[derive(Default)]
struct Entry {
    waker: Option<Waker>,
    client: Option<ClientNumber>,
    previous: Link,
    next: Link,
    state: State,
}

/// The index of an entry, or none.
type Link = Option<NonMaxIndex>;

/// An index plus one, so that `Option` costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NonMaxIndex(std::num::NonZeroU32);

#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    /// The first unused entry; their `next` leads to the others.
    unused: Link,
    oldest: Link,
    youngest: Link,
}

impl ConnectionRegistry {
    /// Adds a connection of this client, which is busy at first.
    pub fn register(self: &Rc<Self>, client: Option<ClientNumber>) -> RegisteredConnection {
        let index = self.entries.borrow_mut().insert(client);
        RegisteredConnection { registry: Rc::clone(self), index }
    }

    /// The moment at which the server was asked to stop, if it was.
    pub fn stopped_at(&self) -> Option<Instant> {
        self.stopped_at.get()
    }

    /// Notes that the server stops, and wakes all connections.
    pub fn stop(&self) {
        self.stopped_at.set(Some(Instant::now()));
        let entries = self.entries.borrow();
        entries.all.iter().filter_map(|entry| entry.waker.as_ref()).for_each(Waker::wake_by_ref);
    }

    /// Tells one idle connection to close: the one that has been idle longest among those whose
    /// client holds most. Returns `false` if there is none within `scope`.
    pub fn evict_one(&self, limiter: &ConnectionLimiter, scope: EvictionScope) -> bool {
        let mut entries = self.entries.borrow_mut();
        let Some(index) = entries.choose(limiter, scope) else { return false };
        entries.unlink(index);
        if let Some(entry) = entries.get_mut(index) {
            entry.state = State::Evicted;
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
        true
    }
}

impl RegisteredConnection {
    /// Notes that the connection waits for its client, and wakes the task when that has to end.
    /// Ready when the connection has to close.
    pub fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.set_idle();
        self.poll_evicted(cx)
    }

    /// Ready when the connection has to close. Until then the task is woken when that changes.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut entries = self.registry.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.index) else { return Poll::Pending };
        if entry.state == State::Evicted {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Notes that the connection waits for its client from now on. One that does so already keeps
    /// its place in the order.
    pub fn set_idle(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(self.index)
            && entry.state == State::Busy
        {
            entry.state = State::Idle;
            entries.push_youngest(self.index);
        }
    }

    /// Notes that the client has done something, though it still has to do more: the connection
    /// becomes the last to be closed.
    pub fn refresh(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        if entries.get_mut(self.index).is_some_and(|entry| entry.state == State::Idle) {
            entries.unlink(self.index);
            entries.push_youngest(self.index);
        }
    }

    /// Notes that the connection has something to do. One that was told to close goes on: its
    /// client was faster.
    pub fn set_busy(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.index) else { return };
        let before = std::mem::replace(&mut entry.state, State::Busy);
        if before == State::Idle {
            entries.unlink(self.index);
        }
    }
}

impl Drop for RegisteredConnection {
    fn drop(&mut self) {
        self.set_busy();
        self.registry.entries.borrow_mut().remove(self.index);
    }
}

impl NonMaxIndex {
    fn new(index: u32) -> Link {
        index.checked_add(1).and_then(std::num::NonZeroU32::new).map(Self)
    }

    fn get(self) -> u32 {
        self.0.get() - 1
    }
}

impl Entries {
    fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.all.get_mut(usize::try_from(index).ok()?)
    }

    fn get(&self, link: Link) -> Option<(u32, &Entry)> {
        let index = link?.get();
        self.all.get(usize::try_from(index).ok()?).map(|entry| (index, entry))
    }

    fn insert(&mut self, client: Option<ClientNumber>) -> u32 {
        let new = Entry { client, state: State::Busy, ..Entry::default() };
        if let Some(link) = self.unused
            && let Some(entry) = self.get_mut(link.get())
        {
            let next = std::mem::replace(entry, new).next;
            self.unused = next;
            return link.get();
        }
        self.all.push(new);
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    fn remove(&mut self, index: u32) {
        let unused = self.unused;
        if let Some(entry) = self.get_mut(index) {
            *entry = Entry { next: unused, ..Entry::default() };
            self.unused = NonMaxIndex::new(index);
        }
    }

    fn push_youngest(&mut self, index: u32) {
        let (link, before) = (NonMaxIndex::new(index), self.youngest);
        if let Some(entry) = self.get_mut(index) {
            (entry.previous, entry.next) = (before, None);
        }
        match before.and_then(|before| self.get_mut(before.get())) {
            Some(before) => before.next = link,
            None => self.oldest = link,
        }
        self.youngest = link;
    }

    fn unlink(&mut self, index: u32) {
        let Some(entry) = self.get_mut(index) else { return };
        let (previous, next) = (entry.previous.take(), entry.next.take());
        match previous.and_then(|previous| self.get_mut(previous.get())) {
            Some(previous) => previous.next = next,
            None => self.oldest = next,
        }
        match next.and_then(|next| self.get_mut(next.get())) {
            Some(next) => next.previous = previous,
            None => self.youngest = previous,
        }
    }

    /// The connection to close. The search ends at the first one whose client holds as many as any,
    /// which under an attack from few addresses is soon.
    fn choose(&self, limiter: &ConnectionLimiter, scope: EvictionScope) -> Option<u32> {
        let counts = limiter.counts();
        let (mut link, mut best) = (self.oldest, None);
        while let Some((index, entry)) = self.get(link) {
            let count = counts.of(entry.client);
            if count >= counts.largest() {
                return Some(index);
            }
            if best.is_none_or(|(best, _)| count > best) {
                best = Some((count, index));
            }
            link = entry.next;
        }
        best.filter(|_| scope == EvictionScope::AnyClient).map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::gateway::ConnectionPermit;

    /// A thread's connections, each with the client that it is counted for.
    struct Connections {
        registry: Rc<ConnectionRegistry>,
        limiter: Arc<ConnectionLimiter>,
    }

    /// Clients, busy ones, and who goes within each scope.
    type Row = (&'static [u8], &'static [usize], &'static [usize], &'static [usize]);

    type Held = (RegisteredConnection, Option<ConnectionPermit>);

    impl Connections {
        fn new() -> Self {
            Self { registry: Rc::default(), limiter: Arc::default() }
        }

        /// An idle connection from this address; `0` stands for a trusted proxy.
        fn open(&self, client: u8) -> Held {
            let address = IpAddr::from([192, 0, 2, client]);
            let permit = (client > 0).then(|| self.limiter.acquire(address, 0).unwrap());
            let connection = self.registry.register(permit.as_ref().map(ConnectionPermit::client));
            connection.set_idle();
            (connection, permit)
        }

        fn evict(&self, scope: EvictionScope) -> bool {
            self.registry.evict_one(&self.limiter, scope)
        }
    }

    fn is_evicted((connection, _): &Held) -> bool {
        connection.poll_evicted(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn g5_the_longest_idle_connection_of_the_largest_client_goes_first() {
        // The clients of the connections, the longest idle first; those that are busy; the order in
        // which the others go, within the largest client at first.
        let rows: [Row; 8] = [
            (&[1, 2, 3], &[], &[0, 1, 2], &[0, 1, 2]),
            (&[1, 2, 2, 2, 1], &[], &[1, 2, 3], &[1, 2, 3, 0, 4]),
            (&[1, 2, 2, 2, 1], &[1, 2, 3], &[], &[0, 4]),
            (&[1, 2, 2, 2, 1, 3], &[1, 2, 3], &[], &[0, 4, 5]),
            (&[0, 0, 1, 0], &[], &[2], &[2, 0, 1, 3]),
            (&[0, 0, 0], &[1], &[0, 2], &[0, 2]),
            (&[1, 1, 1], &[0, 1, 2], &[], &[]),
            (&[3, 2, 1, 2, 3, 3], &[4], &[0, 5], &[0, 5, 1, 3, 2]),
        ];
        for (clients, busy, largest, any) in rows {
            for (scope, expected) in
                [(EvictionScope::LargestClient, largest), (EvictionScope::AnyClient, any)]
            {
                let connections = Connections::new();
                let held: Vec<Held> = clients.iter().map(|it| connections.open(*it)).collect();
                for index in busy {
                    held[*index].0.set_busy();
                }
                let mut order = Vec::new();
                while connections.evict(scope) {
                    let fresh = |index: &usize| is_evicted(&held[*index]) && !order.contains(index);
                    let evicted: Vec<usize> = (0..held.len()).filter(fresh).collect();
                    order.extend(evicted);
                }
                assert_eq!(order, expected, "{clients:?} without {busy:?}, {scope:?}");
            }
        }
    }

    #[test]
    fn g5_what_is_used_again_goes_last_and_what_was_faster_stays() {
        let connections = Connections::new();
        let held: Vec<Held> = [1, 1, 1, 1].map(|client| connections.open(client)).into();
        held[0].0.set_busy();
        held[0].0.set_idle();
        held[1].0.refresh();
        held[2].0.set_idle(); // it is idle already, and keeps its place
        assert!(connections.evict(EvictionScope::AnyClient));
        assert!(is_evicted(&held[2]));
        held[2].0.set_busy();
        assert!(!is_evicted(&held[2]), "a request came before it was closed");
        assert!(connections.evict(EvictionScope::AnyClient) && is_evicted(&held[3]));
        assert!(connections.evict(EvictionScope::AnyClient) && is_evicted(&held[0]));
        assert!(connections.evict(EvictionScope::AnyClient) && is_evicted(&held[1]));
        assert!(!connections.evict(EvictionScope::AnyClient));
        drop(held);
        assert_eq!(connections.registry.entries.borrow().all.len(), 4);
        drop(connections.open(1));
        assert_eq!(connections.registry.entries.borrow().all.len(), 4, "places are used again");
    }

    #[test]
    fn a_quiet_connection_costs_little() {
        assert!(size_of::<Entry>() <= 32, "{}", size_of::<Entry>());
        assert!(size_of::<RegisteredConnection>() <= 16);
    }
}
