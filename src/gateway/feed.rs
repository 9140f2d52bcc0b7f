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
    auth::{Revocation, Session, View, Whom},
    clock::{Clock, Timestamp},
    metrics::{Metrics, Part},
    site::Staleness,
    store::{Away, Heard, Mark, Store},
    traces,
};

/// How often the store is asked. An order is known everywhere after twice this and two trips.
const BEAT: Duration = Duration::from_millis(150);
/// The same where nobody else can add anything, so that what could not be written is written later.
const SLOW_BEAT: Duration = Duration::from_secs(1);
/// How long to wait after a failure: at first, and at most.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// How often the store is asked to show that it takes orders.
const PULSE: Duration = Duration::from_secs(2);
/// How long a store that is back may not have been told what the others owe it: they ask it again
/// after [`LONGEST`], and the question takes a while.
const SETTLE: Duration = Duration::from_secs(2);
/// An order that was taken and is not in the log after this was lost with the server that took it.
const UNHEARD: Duration = Duration::from_secs(1);
/// News that is so old, though the last question was answered: we were held up, not the store.
const DOZED: Duration = Duration::from_millis(600);
/// How long a request waits for the news after that.
const CATCH_UP: Duration = Duration::from_millis(300);

/// What this replica knows of ended sessions.
pub struct Feed {
    store: Arc<Store>,
    runtime: Handle,
    clock: Clock,
    metrics: Arc<Metrics>,
    view: ArcSwap<View>,
    began: Instant,
    /// When all there was had been heard: milliseconds since we began, and one. Zero is never.
    heard: AtomicU64,
    /// How long orders are kept, in seconds: as long as a session can last.
    age: AtomicU64,
    /// An order could not be handed over.
    owes: AtomicBool,
    /// Orders that the store took and the log has not shown yet.
    given: Mutex<HashMap<Revocation, Instant>>,
    /// The last question was answered, and so will the next be.
    expects: AtomicBool,
    /// There is news, or none to be had.
    told: Notify,
}

impl Feed {
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
            owes: AtomicBool::new(false),
            given: Mutex::default(),
            expects: AtomicBool::new(false),
            told: Notify::new(),
        });
        if feed.store.is_lasting() {
            let listener = Listener::new(&feed);
            feed.runtime.spawn(listener.run());
        }
        feed
    }

    /// Keeps orders for as long as sessions last, which is never made shorter: those of before
    /// may be about.
    pub fn keep_for(&self, max: Duration) {
        self.age.fetch_max(Revocation::kept_for(max).as_secs(), Ordering::Relaxed);
    }

    /// Whether there may be other replicas.
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Whether a session was ended.
    pub fn ends(&self, session: &Session) -> bool {
        self.view.load().ends(session)
    }

    /// The last order that meant more than one login.
    pub fn latest(&self) -> Timestamp {
        self.view.load().latest()
    }

    /// An order that follows all those known, for sessions that last `max` at most.
    pub fn order(&self, whom: Whom, max: Duration) -> Revocation {
        Revocation::ordered(whom, &self.view.load(), (self.clock)(), max)
    }

    /// How long ago we last knew everything; nothing when we never did.
    pub fn age(&self) -> Option<Duration> {
        if !self.store.is_lasting() {
            return Some(Duration::ZERO);
        }
        let heard = self.heard.load(Ordering::Acquire).checked_sub(1)?;
        if !self.store.is_shared() {
            return Some(Duration::ZERO);
        }
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// Whether we have been left without news for longer than a site allows.
    pub fn is_unsure(&self, staleness: Staleness) -> bool {
        if !self.store.is_shared() {
            // A file has been read a moment after the start.
            return self.age().is_none();
        }
        let Some(allowed) = staleness.allowed() else { return false };
        self.age().is_none_or(|age| age > allowed)
    }

    /// Whether this process was held up, and knows less than it seems to.
    pub fn has_dozed(&self) -> bool {
        self.expects.load(Ordering::Acquire) && self.age().is_some_and(|age| age > DOZED)
    }

    /// Waits for the news that a process that was held up has missed; not for long, and not again
    /// when they do not come.
    pub async fn catch_up(&self) {
        let mut told = pin!(self.told.notified());
        told.as_mut().enable();
        if self.has_dozed() && timeout(CATCH_UP, told).await.is_err() {
            self.expects.store(false, Ordering::Release);
        }
    }

    /// Gives an order: here at once, and to everybody else over the store. When that is away, the
    /// order is handed over later.
    pub async fn give(self: &Arc<Self>, order: Revocation) -> Result<(), Away> {
        self.add(std::slice::from_ref(&order));
        if !self.store.is_lasting() {
            return Ok(());
        }
        let this = Arc::clone(self);
        if this.store.is_shared() {
            this.given().insert(order.clone(), Instant::now());
        }
        // Not on the visitor's thread: a connection belongs to the runtime that made it.
        let handed = self.runtime.spawn(traces::carried(async move {
            let handed = this.store.revoke(&[order], this.log_age()).await;
            if handed.is_err() {
                this.owes.store(true, Ordering::Release);
            }
            handed
        }));
        handed.await.unwrap_or_else(|_| Err(Away("the call died".to_owned())))
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
            let mut view = View::clone(view);
            for order in orders {
                view.add(order.clone(), now);
            }
            view
        });
    }

    fn hear(&self, when: Instant) {
        let since = when.duration_since(self.began).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        self.heard.store(since, Ordering::Release);
        self.expects.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Nobody need wait for news.
    fn give_up(&self) {
        self.expects.store(false, Ordering::Release);
        self.told.notify_waiters();
    }

    fn given(&self) -> MutexGuard<'_, HashMap<Revocation, Instant>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log shows these orders: they are safe there.
    fn shown(&self, orders: &[Revocation]) {
        let mut given = self.given();
        for order in orders {
            given.remove(order);
        }
    }

    /// Whether the log does not show an order that the store took.
    fn misses_some(&self) -> bool {
        self.given().values().any(|when| when.elapsed() > UNHEARD)
    }
}

/// The task that reads the log.
struct Listener {
    feed: Weak<Feed>,
    mark: Mark,
    /// What the log holds, where it is being read from its beginning.
    found: Option<View>,
    /// Whether the last try failed.
    deaf: bool,
    /// Until when the others may still hand over what they owe.
    settling: Option<Instant>,
    pulsed: Option<Instant>,
    looking: Option<JoinHandle<()>>,
}

impl Listener {
    fn new(feed: &Arc<Feed>) -> Self {
        let found = Some(View::default());
        Self {
            feed: Arc::downgrade(feed),
            mark: Mark::default(),
            found,
            deaf: false,
            settling: None,
            pulsed: None,
            looking: None,
        }
    }

    /// Listens as long as the gateway is there.
    async fn run(mut self) {
        let mut wait = FIRST;
        while let Some(feed) = self.feed.upgrade() {
            let heard = self.listen(&feed).await;
            if heard.is_err() {
                feed.give_up();
            }
            let beat = if feed.store.is_shared() { BEAT } else { SLOW_BEAT };
            match &heard {
                Ok(()) => feed.metrics.health.well(Part::Store, "store"),
                Err(error) => feed.metrics.health.ill(Part::Store, "store", &error.0),
            }
            drop(feed);
            let pause = if heard.is_ok() {
                wait = FIRST;
                beat
            } else {
                wait = (wait * 2).min(LONGEST);
                wait.mul_f64(rand::random_range(0.5..1.0))
            };
            self.tell(heard);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads to the end of the log.
    async fn listen(&mut self, feed: &Feed) -> Result<(), Away> {
        if self.deaf || feed.owes.swap(false, Ordering::AcqRel) || feed.misses_some() {
            // All that we know is compared with the log: what was given before is, too.
            feed.given().clear();
            self.begin_anew();
        }
        self.pulse(feed).await?;
        loop {
            let asked = Instant::now();
            match feed.store.follow(&self.mark).await? {
                Heard::Another => self.begin_anew(),
                Heard::Next { orders, mark, more } => {
                    self.mark = mark;
                    self.note(&orders, (feed.clock)());
                    feed.add(&orders);
                    feed.shown(&orders);
                    if !more {
                        self.mend(feed).await?;
                        self.hear(feed, asked);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Asks the store from time to time to show that it takes orders.
    async fn pulse(&mut self, feed: &Feed) -> Result<(), Away> {
        if self.deaf || self.pulsed.is_none_or(|last| last.elapsed() >= PULSE) {
            feed.store.pulse().await?;
            self.pulsed = Some(Instant::now());
            // Beside the heartbeat: sentinels that are slow to answer must not make it late.
            if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
                let store = Arc::clone(&feed.store);
                self.looking = Some(feed.runtime.spawn(async move { store.look_round().await }));
            }
        }
        Ok(())
    }

    /// Believes what was read up to `asked`, once the others have had the time to hand over what
    /// they owe.
    fn hear(&mut self, feed: &Feed, asked: Instant) {
        if self.deaf && feed.store.is_shared() {
            self.settling = Some(asked + SETTLE);
        }
        if self.settling.is_none_or(|until| until <= asked) {
            self.settling = None;
            feed.hear(asked);
        }
    }

    fn note(&mut self, orders: &[Revocation], now: Timestamp) {
        let Some(found) = &mut self.found else { return };
        for order in orders {
            found.add(order.clone(), now);
        }
    }

    fn begin_anew(&mut self) {
        self.mark = Mark::default();
        self.found = Some(View::default());
    }

    /// Puts back what we know and the log does not hold.
    async fn mend(&mut self, feed: &Feed) -> Result<(), Away> {
        let Some(found) = self.found.take() else { return Ok(()) };
        let now = (feed.clock)();
        let orders = feed.view.load().orders(now);
        let missing: Vec<Revocation> =
            orders.into_iter().filter(|order| !found.holds(order)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        tracing::warn!(orders = missing.len(), "the store had lost orders to end sessions");
        let handed = feed.store.revoke(&missing, feed.log_age()).await;
        feed.given().extend(missing.into_iter().map(|order| (order, Instant::now())));
        if handed.is_err() {
            self.begin_anew();
        }
        handed
    }

    /// Says once that the store is away, and once that it is back.
    fn tell(&mut self, heard: Result<(), Away>) {
        match (heard, self.deaf) {
            (Err(error), false) => tracing::error!(%error, "no news of ended sessions"),
            (Ok(()), true) => tracing::info!("the store is back; every ended session is known"),
            (Err(_), true) | (Ok(()), false) => return,
        }
        self.deaf = !self.deaf;
    }
}
