//! The orders to end sessions: ours go out to the other replicas, theirs come in.
//!
//! Requests look at a snapshot in memory. One task asks the store again and again what is new; each
//! answer, an empty one too, is a heartbeat, so that silence is noticed. After any silence the
//! whole log is read anew and compared with what we know: an order that the store has lost, or
//! never got, is put back. So nothing is lost while one replica that knows of it is alive.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    auth::{Revocation, Session, View, Whom},
    clock::{Clock, Timestamp},
    site::Staleness,
    store::{Away, Heard, Mark, Store},
};

/// How often the store is asked. An order is known everywhere after twice this and two trips.
const BEAT: Duration = Duration::from_millis(150);
/// The same where nobody else can add anything, so that what could not be written is written later.
const SLOW_BEAT: Duration = Duration::from_secs(1);
/// How long to wait after a failure: at first, and at most.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// What this replica knows of ended sessions.
pub struct Feed {
    store: Arc<Store>,
    runtime: Handle,
    clock: Clock,
    view: ArcSwap<View>,
    began: Instant,
    /// When all there was had been heard: milliseconds since we began, and one. Zero is never.
    heard: AtomicU64,
    /// How long orders are kept, in seconds: as long as a session can last.
    age: AtomicU64,
    /// An order could not be handed over.
    owes: AtomicBool,
}

impl Feed {
    /// Nothing known yet. With a store that lasts this begins to listen at once.
    pub fn new(store: Arc<Store>, runtime: Handle, clock: Clock) -> Arc<Self> {
        let feed = Arc::new(Self {
            store,
            runtime,
            clock,
            view: ArcSwap::default(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            age: AtomicU64::new(0),
            owes: AtomicBool::new(false),
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

    /// Gives an order: here at once, and to everybody else over the store. When that is away, the
    /// order is handed over later.
    pub async fn give(self: &Arc<Self>, order: Revocation) -> Result<(), Away> {
        self.add(std::slice::from_ref(&order));
        if !self.store.is_lasting() {
            return Ok(());
        }
        let this = Arc::clone(self);
        // Not on the visitor's thread: a connection belongs to the runtime that made it.
        let handed = self.runtime.spawn(async move {
            let handed = this.store.revoke(&[order], this.log_age()).await;
            if handed.is_err() {
                this.owes.store(true, Ordering::Release);
            }
            handed
        });
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
}

impl Listener {
    fn new(feed: &Arc<Feed>) -> Self {
        let found = Some(View::default());
        Self { feed: Arc::downgrade(feed), mark: Mark::default(), found, deaf: false }
    }

    /// Listens as long as the gateway is there.
    async fn run(mut self) {
        let mut wait = FIRST;
        while let Some(feed) = self.feed.upgrade() {
            let heard = self.listen(&feed).await;
            let beat = if feed.store.is_shared() { BEAT } else { SLOW_BEAT };
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
        if self.deaf || feed.owes.swap(false, Ordering::AcqRel) {
            self.begin_anew();
        }
        loop {
            let asked = Instant::now();
            match feed.store.follow(&self.mark).await? {
                Heard::Another => self.begin_anew(),
                Heard::Next { orders, mark, more } => {
                    self.mark = mark;
                    self.note(&orders, (feed.clock)());
                    feed.add(&orders);
                    if !more {
                        self.mend(feed).await?;
                        feed.hear(asked);
                        return Ok(());
                    }
                }
            }
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
