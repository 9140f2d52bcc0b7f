//! The orders to end sessions: ours go out to the other replicas, theirs come in.
//!
//! Requests look at a snapshot in memory. One task asks the store again and again what is new; each
//! answer, an empty one too, is a heartbeat, so that silence is noticed. After any silence the
//! whole log is read anew and compared with what we know: an order that the store has lost, or
//! never got, is put back. So nothing is lost while one replica that knows of it is alive.
//!
//! Three things look like news and are none. A server that answers and takes no orders, a replica or
//! a master that lost its own, is found out by a small write. A store that is back has not been told
//! yet what the other replicas owe it, so that its first answers are not believed to be whole. And a
//! process that was stopped for a while holds old news for new: its requests wait for the next.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    auth::{ActiveRevocations, Revocation, RevocationTarget, Session},
    clock::{Clock, Timestamp},
    metrics::{Component, Metrics},
    site::RevocationPolicy,
    store::{LogPosition, LogRead, Store, StoreUnavailable},
    traces,
};

/// How often the store is asked. An order is known everywhere after twice this and two trips.
const POLL_INTERVAL: Duration = Duration::from_millis(150);
/// The same where nobody else can add anything, so that what could not be written is written later.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after a failure: at first, and at most.
const INITIAL_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often the store is asked to show that it takes orders.
const WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a store that is back may not have been told what the others owe it: they ask it again
/// after [`MAX_RETRY_DELAY`], and the question takes a while.
const RECOVERY_GRACE: Duration = Duration::from_secs(2);
/// An order that was taken and is not in the log after this was lost with the server that took it.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// News that is so old, though the last question was answered: we were held up, not the store.
const SUSPEND_THRESHOLD: Duration = Duration::from_millis(600);
/// How long a request waits for the news after that.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(300);

/// What this replica knows of ended sessions.
pub struct RevocationSync {
    store: Arc<Store>,
    runtime: Handle,
    clock: Clock,
    metrics: Arc<Metrics>,
    view: ArcSwap<ActiveRevocations>,
    began: Instant,
    /// When all there was had been heard: milliseconds since we began, and one. Zero is never.
    heard: AtomicU64,
    /// How long orders are kept, in seconds: as long as a session can last.
    age: AtomicU64,
    /// An order could not be handed over.
    has_unsent: AtomicBool,
    /// Orders that the store took and the log has not shown yet.
    given: Mutex<HashMap<Revocation, Instant>>,
    /// The last question was answered, and so will the next be.
    expects: AtomicBool,
    /// There is news, or none to be had.
    synced: Notify,
}

impl RevocationSync {
    /// Nothing known yet. With a store that lasts this begins to listen at once.
    pub fn new(
        store: Arc<Store>,
        (runtime, clock): (Handle, Clock),
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let feed = Arc::new(Self {
            store,
            runtime,
            clock,
            metrics,
            view: ArcSwap::default(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            age: AtomicU64::new(0),
            has_unsent: AtomicBool::new(false),
            given: Mutex::default(),
            expects: AtomicBool::new(false),
            synced: Notify::new(),
        });
        if feed.store.is_persistent() {
            let listener = RevocationPoller::new(&feed);
            feed.runtime.spawn(listener.run());
        }
        feed
    }

    /// Keeps orders for as long as sessions last, which is never made shorter: those of before
    /// may be about.
    pub fn keep_for(&self, max: Duration) {
        self.age.fetch_max(Revocation::retention(max).as_secs(), Ordering::Relaxed);
    }

    /// Whether there may be other replicas.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Whether a session was ended.
    pub fn is_revoked(&self, session: &Session) -> bool {
        self.view.load().ends(session)
    }

    /// The last order that meant more than one login.
    pub fn latest_revocation(&self) -> Timestamp {
        self.view.load().latest()
    }

    /// An order that follows all those known, for sessions that last `max` at most.
    pub fn create_revocation(&self, whom: RevocationTarget, max: Duration) -> Revocation {
        Revocation::by_operator(whom, &self.view.load(), (self.clock)(), max)
    }

    /// How long ago we last knew everything; nothing when we never did.
    pub fn time_since_sync(&self) -> Option<Duration> {
        if !self.store.is_persistent() {
            return Some(Duration::ZERO);
        }
        let heard = self.heard.load(Ordering::Acquire).checked_sub(1)?;
        if !self.store.is_shared() {
            return Some(Duration::ZERO);
        }
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// Whether we have been left without news for longer than a site allows.
    pub fn is_stale(&self, staleness: RevocationPolicy) -> bool {
        if !self.store.is_shared() {
            // A file has been read a moment after the start.
            return self.time_since_sync().is_none();
        }
        let Some(allowed) = staleness.allowed() else { return false };
        self.time_since_sync().is_none_or(|age| age > allowed)
    }

    /// Whether this process was held up, and knows less than it seems to.
    pub fn was_suspended(&self) -> bool {
        self.expects.load(Ordering::Acquire)
            && self.time_since_sync().is_some_and(|age| age > SUSPEND_THRESHOLD)
    }

    /// Waits for the news that a process that was held up has missed; not for long, and not again
    /// when they do not come.
    pub async fn catch_up(&self) {
        let mut told = pin!(self.synced.notified());
        told.as_mut().enable();
        if self.was_suspended() && timeout(CATCH_UP_TIMEOUT, told).await.is_err() {
            self.expects.store(false, Ordering::Release);
        }
    }

    /// Gives an order: here at once, and to everybody else over the store. When that is away, the
    /// order is handed over later.
    pub async fn publish(self: &Arc<Self>, order: Revocation) -> Result<(), StoreUnavailable> {
        self.add(std::slice::from_ref(&order));
        if !self.store.is_persistent() {
            return Ok(());
        }
        let this = Arc::clone(self);
        if this.store.is_shared() {
            this.unconfirmed().insert(order.clone(), Instant::now());
        }
        // Not on the visitor's thread: a connection belongs to the runtime that made it.
        let handed = self.runtime.spawn(traces::with_current_span(async move {
            let handed = this.store.append_revocations(&[order], this.log_age()).await;
            if handed.is_err() {
                this.has_unsent.store(true, Ordering::Release);
            }
            handed
        }));
        handed.await.unwrap_or_else(|_| {
            Err(StoreUnavailable("background task ended without a result".to_owned()))
        })
    }

    fn log_age(&self) -> Duration {
        Duration::from_secs(self.age.load(Ordering::Relaxed))
    }

    fn add(&self, orders: &[Revocation]) {
        if orders.is_empty() {
            return;
        }
        let now = (self.clock)();
        self.view.rcu(|view| {
            let mut view = ActiveRevocations::clone(view);
            for order in orders {
                view.add(order.clone(), now);
            }
            view
        });
    }

    fn mark_synced(&self, when: Instant) {
        let since = when.duration_since(self.began).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        self.heard.store(since, Ordering::Release);
        self.expects.store(true, Ordering::Release);
        self.synced.notify_waiters();
    }

    /// Nobody need wait for news.
    fn give_up(&self) {
        self.expects.store(false, Ordering::Release);
        self.synced.notify_waiters();
    }

    fn unconfirmed(&self) -> MutexGuard<'_, HashMap<Revocation, Instant>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log shows these orders: they are safe there.
    fn shown(&self, orders: &[Revocation]) {
        let mut given = self.unconfirmed();
        for order in orders {
            given.remove(order);
        }
    }

    /// Whether the log does not show an order that the store took.
    fn misses_some(&self) -> bool {
        self.unconfirmed().values().any(|when| when.elapsed() > CONFIRM_TIMEOUT)
    }
}

/// The task that reads the log.
struct RevocationPoller {
    feed: Weak<RevocationSync>,
    mark: LogPosition,
    /// What the log holds, where it is being read from its beginning.
    found: Option<ActiveRevocations>,
    /// Whether the last try failed.
    deaf: bool,
    /// Until when the others may still hand over what they owe.
    settling: Option<Instant>,
    pulsed: Option<Instant>,
    looking: Option<JoinHandle<()>>,
}

impl RevocationPoller {
    fn new(feed: &Arc<RevocationSync>) -> Self {
        let found = Some(ActiveRevocations::default());
        Self {
            feed: Arc::downgrade(feed),
            mark: LogPosition::default(),
            found,
            deaf: false,
            settling: None,
            pulsed: None,
            looking: None,
        }
    }

    /// Listens as long as the gateway is there.
    async fn run(mut self) {
        let mut wait = INITIAL_RETRY_DELAY;
        while let Some(feed) = self.feed.upgrade() {
            let heard = self.listen(&feed).await;
            if heard.is_err() {
                feed.give_up();
            }
            let beat = if feed.store.is_shared() { POLL_INTERVAL } else { IDLE_POLL_INTERVAL };
            match &heard {
                Ok(()) => feed.metrics.health.set_healthy(Component::Store, "store"),
                Err(error) => {
                    feed.metrics.health.set_unhealthy(Component::Store, "store", &error.0);
                }
            }
            drop(feed);
            let pause = if heard.is_ok() {
                wait = INITIAL_RETRY_DELAY;
                beat
            } else {
                wait = (wait * 2).min(MAX_RETRY_DELAY);
                wait.mul_f64(rand::random_range(0.5..1.0))
            };
            self.tell(heard);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads to the end of the log.
    async fn listen(&mut self, feed: &RevocationSync) -> Result<(), StoreUnavailable> {
        if self.deaf || feed.has_unsent.swap(false, Ordering::AcqRel) || feed.misses_some() {
            // All that we know is compared with the log: what was given before is, too.
            feed.unconfirmed().clear();
            self.reread();
        }
        self.pulse(feed).await?;
        loop {
            let asked = Instant::now();
            match feed.store.read_log(&self.mark).await? {
                LogRead::Reset => self.reread(),
                LogRead::Next { orders, mark, more } => {
                    self.mark = mark;
                    self.note(&orders, (feed.clock)());
                    feed.add(&orders);
                    feed.shown(&orders);
                    if !more {
                        self.repair(feed).await?;
                        self.hear(feed, asked);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks the store from time to time to show that it takes orders.
    async fn pulse(&mut self, feed: &RevocationSync) -> Result<(), StoreUnavailable> {
        if self.deaf || self.pulsed.is_none_or(|last| last.elapsed() >= WRITE_CHECK_INTERVAL) {
            feed.store.check_writable().await?;
            self.pulsed = Some(Instant::now());
            // Beside the heartbeat: sentinels that are slow to answer must not make it late.
            if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
                let store = Arc::clone(&feed.store);
                self.looking = Some(feed.runtime.spawn(async move { store.check_master().await }));
            }
        }
        Ok(())
    }

    /// Believes what was read up to `asked`, once the others have had the time to hand over what
    /// they owe.
    fn hear(&mut self, feed: &RevocationSync, asked: Instant) {
        if self.deaf && feed.store.is_shared() {
            self.settling = Some(asked + RECOVERY_GRACE);
        }
        if self.settling.is_none_or(|until| until <= asked) {
            self.settling = None;
            feed.mark_synced(asked);
        }
    }

    fn note(&mut self, orders: &[Revocation], now: Timestamp) {
        let Some(found) = &mut self.found else { return };
        for order in orders {
            found.add(order.clone(), now);
        }
    }

    fn reread(&mut self) {
        self.mark = LogPosition::default();
        self.found = Some(ActiveRevocations::default());
    }

    /// Puts back what we know and the log does not hold.
    async fn repair(&mut self, feed: &RevocationSync) -> Result<(), StoreUnavailable> {
        let Some(found) = self.found.take() else { return Ok(()) };
        let now = (feed.clock)();
        let orders = feed.view.load().orders(now);
        let missing: Vec<Revocation> =
            orders.into_iter().filter(|order| !found.contains(order)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(orders = missing.len(), "store lost revocations, writing them again");
        let handed = feed.store.append_revocations(&missing, feed.log_age()).await;
        feed.unconfirmed().extend(missing.into_iter().map(|order| (order, Instant::now())));
        if handed.is_err() {
            self.reread();
        }
        handed
    }

    /// Says once that the store is away, and once that it is back.
    fn tell(&mut self, heard: Result<(), StoreUnavailable>) {
        match (heard, self.deaf) {
            (Err(error), false) => tracing::error!(%error, "revocation log unavailable"),
            (Ok(()), true) => tracing::info!("revocation log available and fully read"),
            (Err(_), true) | (Ok(()), false) => return,
        }
        self.deaf = !self.deaf;
    }
}
