//! The orders to end sessions: ours go out to the other replicas, theirs come in.
//!
//! Requests look at a snapshot in memory. One task asks the store again and again what is new; each
//! answer, an empty one too, is a heartbeat, so that silence is noticed. After any silence the
//! whole log is read anew and compared with what we know: an order that the store has lost, or
//! never got, is put back. So nothing is lost while one replica that knows of it is alive.
//!
//! Three things look like news and are none. (1) A server that answers reads may take no revocations:
//! it is full, a replica, without disk, replicas or rights. A small write that needs what a revocation
//! needs is tried all the time, and a store that refuses it counts as away from the last one that it
//! accepted: nothing that was ended since can have been told. (2) A store that is back has not been told
//! yet what the other replicas owe it, so that its first answers are not believed to be whole. (3) A
//! process that was stopped for a while holds old news for new: its requests wait for the next.
//!
//! A revocation that could not be stored waits here and is sent again. It does not age what this replica
//! knows: of all replicas it is the one that knows of it.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
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
    store::{LogPosition, LogRead, Store, StoreUnavailable, UnavailableCause},
    traces,
};

/// How often the store is asked. An order is known everywhere after twice this and two trips.
const POLL_INTERVAL: Duration = Duration::from_millis(150);
/// The same where nobody else can add anything, so that what could not be written is written later.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after a failure: at first, and at most.
const INITIAL_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often a write is tried: four times within the shortest bound of the sites, and within these
/// limits. With the 0.4 seconds that the write may take, a store that takes none is found out within the
/// 0.9 seconds of `"strict"`, and elsewhere within two seconds.
const MIN_WRITE_CHECK_INTERVAL: Duration = Duration::from_millis(225);
const MAX_WRITE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the sentinels are asked who the master is.
const MASTER_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// A read that takes longer is reported before it has ended.
const REPORT_SILENCE_AFTER: Duration = Duration::from_millis(600);
/// Waiting revocations that are sent before the log is read again.
const MAX_SENT_AT_ONCE: usize = 1_000;
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
    /// When the log was last read to its end: milliseconds since the start, and one. Zero is never.
    read_at: AtomicU64,
    /// The same for the last moment up to which every revocation is known.
    synced_at: AtomicU64,
    /// How long orders are kept, in seconds: as long as a session can last.
    age: AtomicU64,
    /// The shortest time in milliseconds that a site goes on without news.
    shortest_bound: AtomicU64,
    /// Revocations that the store has not taken yet.
    unsent: Mutex<HashSet<Revocation>>,
    /// Orders that the store took and the log has not shown yet.
    given: Mutex<HashMap<Revocation, Instant>>,
    /// The last question was answered, and so will the next be.
    expects: AtomicBool,
    /// There is news, or none to be had.
    synced: Notify,
    /// What is the matter with the store, while something is.
    failure: ArcSwapOption<PollFailure>,
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
            read_at: AtomicU64::new(0),
            synced_at: AtomicU64::new(0),
            age: AtomicU64::new(0),
            shortest_bound: AtomicU64::new(u64::MAX),
            unsent: Mutex::default(),
            given: Mutex::default(),
            expects: AtomicBool::new(false),
            synced: Notify::new(),
            failure: ArcSwapOption::empty(),
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

    /// Sets the shortest time that one of the sites goes on without news, where one has a bound.
    pub fn set_shortest_bound(&self, bound: Option<Duration>) {
        let bound = bound.map_or(u64::MAX, millis);
        self.shortest_bound.store(bound, Ordering::Relaxed);
    }

    fn write_check_interval(&self) -> Duration {
        let bound = Duration::from_millis(self.shortest_bound.load(Ordering::Relaxed));
        (bound / 4).clamp(MIN_WRITE_CHECK_INTERVAL, MAX_WRITE_CHECK_INTERVAL)
    }

    /// What is the matter with the store, while something is.
    pub fn failure(&self) -> Option<StoreUnavailable> {
        self.failure.load().as_ref().map(|failed| failed.failure.clone())
    }

    /// Why the log cannot be read, while it cannot.
    fn read_failure(&self) -> Option<StoreUnavailable> {
        let failed = self.failure.load_full()?;
        (failed.stage == PollStage::Read).then(|| failed.failure.clone())
    }

    /// The number of revocations that wait to be stored.
    pub fn waiting(&self) -> usize {
        self.unsent().len()
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
        let age = self.age_of(&self.synced_at)?;
        Some(if self.store.is_shared() { age } else { Duration::ZERO })
    }

    fn age_of(&self, moment: &AtomicU64) -> Option<Duration> {
        let moment = moment.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(moment)))
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
            && self.store.is_shared()
            && self.age_of(&self.read_at).is_some_and(|age| age > SUSPEND_THRESHOLD)
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
            let handed =
                this.store.append_revocations(std::slice::from_ref(&order), this.log_age()).await;
            if handed.is_err() {
                this.unconfirmed().remove(&order);
                this.unsent().insert(order);
            }
            // It may be stored; where nobody can read it, it is not handed over.
            handed.and_then(|()| this.read_failure().map_or(Ok(()), Err))
        }));
        handed.await.unwrap_or_else(|_| {
            Err(StoreUnavailable::internal("background task ended without a result"))
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

    /// The log was read to its end by a read that began then.
    fn mark_read(&self, when: Instant) {
        self.read_at.store(self.moment(when), Ordering::Release);
        self.expects.store(true, Ordering::Release);
        self.synced.notify_waiters();
    }

    /// Every revocation up to then is known.
    fn mark_synced(&self, when: Instant) {
        self.synced_at.store(self.moment(when), Ordering::Release);
    }

    /// What was known later than then is in doubt: the store took no writes.
    fn fall_back(&self, when: Option<Instant>) {
        let moment = when.map_or(0, |when| self.moment(when));
        self.synced_at.fetch_min(moment, Ordering::AcqRel);
    }

    fn moment(&self, when: Instant) -> u64 {
        millis(when.duration_since(self.began)).saturating_add(1)
    }

    fn report(&self, failed: Option<&PollFailure>) {
        let health = &self.metrics.health;
        match failed {
            None => health.set_healthy(Component::Store, "store"),
            Some(failed) => {
                health.set_unhealthy(Component::Store, "store", &failed.failure.to_string());
            }
        }
        self.failure.store(failed.cloned().map(Arc::new));
    }

    /// Nobody need wait for news.
    fn give_up(&self) {
        self.expects.store(false, Ordering::Release);
        self.synced.notify_waiters();
    }

    fn unconfirmed(&self) -> MutexGuard<'_, HashMap<Revocation, Instant>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsent(&self) -> MutexGuard<'_, HashSet<Revocation>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log shows these orders: they are safe there.
    fn shown(&self, orders: &[Revocation]) {
        if orders.is_empty() {
            return;
        }
        let mut given = self.unconfirmed();
        let mut unsent = self.unsent();
        for order in orders {
            given.remove(order);
            unsent.remove(order);
        }
    }

    /// Whether the log does not show an order that the store took.
    fn misses_some(&self) -> bool {
        self.unconfirmed().values().any(|when| when.elapsed() > CONFIRM_TIMEOUT)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the task that reads the log could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollStage {
    /// Read the log.
    Read,
    /// Write what a revocation and a login write.
    WriteCheck,
    /// Store revocations that wait, though the write check passed.
    Send,
    /// Write values on a part of a cluster that does not keep the log.
    ClusterCheck,
}

/// A failure and where it was met.
#[derive(Clone, Debug)]
struct PollFailure {
    stage: PollStage,
    failure: StoreUnavailable,
}

impl PollStage {
    fn failed(self, failure: StoreUnavailable) -> PollFailure {
        PollFailure { stage: self, failure }
    }
}

/// The task that reads the log.
struct RevocationPoller {
    revocations: Weak<RevocationSync>,
    mark: LogPosition,
    /// What the log holds, where it is being read from its beginning.
    found: Option<ActiveRevocations>,
    /// Whether the log is to be read from its beginning next.
    must_reread: bool,
    /// Whether the last read or write check failed.
    failing: bool,
    /// Whether the last write check failed.
    refused: bool,
    /// Until when the others may still hand over what they owe.
    settling: Option<Instant>,
    /// When the last write check was sent that was accepted.
    accepted: Option<Instant>,
    /// What is the matter with another part of the cluster.
    cluster_failure: Option<StoreUnavailable>,
    /// What was logged last.
    logged: Option<(PollStage, UnavailableCause)>,
    /// When the sentinels were asked last, and the task that does it.
    looked: Option<Instant>,
    looking: Option<JoinHandle<()>>,
}

impl RevocationPoller {
    fn new(revocations: &Arc<RevocationSync>) -> Self {
        Self {
            revocations: Arc::downgrade(revocations),
            mark: LogPosition::default(),
            found: None,
            must_reread: true,
            failing: false,
            refused: false,
            settling: None,
            accepted: None,
            cluster_failure: None,
            logged: None,
            looked: None,
            looking: None,
        }
    }

    /// Listens as long as the gateway is there.
    async fn run(mut self) {
        let mut wait = INITIAL_RETRY_DELAY;
        while let Some(feed) = self.revocations.upgrade() {
            let polled = self.poll(&feed).await;
            let failed = polled.as_ref().err();
            feed.report(failed);
            self.log(&feed, failed);
            let pause = if self.failing {
                feed.give_up();
                wait = (wait * 2).min(MAX_RETRY_DELAY);
                wait.mul_f64(rand::random_range(0.5..1.0))
            } else {
                wait = INITIAL_RETRY_DELAY;
                match (feed.store.is_shared(), &polled) {
                    // The rest of what waits, and what came meanwhile.
                    (_, Ok(())) if feed.waiting() > 0 => Duration::ZERO,
                    (true, _) => POLL_INTERVAL,
                    (false, _) => IDLE_POLL_INTERVAL,
                }
            };
            drop(feed);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads to the end of the log, sends what waits, and makes sure that writes are accepted.
    async fn poll(&mut self, revocations: &RevocationSync) -> Result<(), PollFailure> {
        if self.must_reread || revocations.misses_some() {
            // All that we know is compared with the log: what was given before is, too.
            revocations.unconfirmed().clear();
            self.reread();
            self.must_reread = false;
        }
        let asked = match self.read(revocations).await {
            Ok(asked) => asked,
            Err(failure) => {
                self.must_reread = true;
                self.failing = true;
                return Err(PollStage::Read.failed(failure));
            }
        };
        revocations.mark_read(asked);
        if !revocations.store.is_shared() {
            // This process alone writes the file: it knows all there is.
            revocations.mark_synced(asked);
        }
        self.find_missing(revocations);
        let sent = self.send(revocations).await;
        let checked = match &sent {
            Err(failure) if failure.cause.is_silence() => Err(failure.clone()),
            _ => self.check_writable(revocations).await,
        };
        if let Err(failure) = checked {
            if revocations.store.is_shared() {
                revocations.fall_back(self.accepted);
            }
            self.refused = true;
            self.failing = true;
            return Err(PollStage::WriteCheck.failed(failure));
        }
        if std::mem::take(&mut self.refused) {
            self.must_reread = true;
        }
        self.believe(revocations, asked);
        sent.map_err(|failure| PollStage::Send.failed(failure))?;
        match &self.cluster_failure {
            Some(failure) => Err(PollStage::ClusterCheck.failed(failure.clone())),
            None => Ok(()),
        }
    }

    /// Reads to the end of the log, and says when the last read began.
    async fn read(&mut self, revocations: &RevocationSync) -> Result<Instant, StoreUnavailable> {
        loop {
            let (asked, from) = (Instant::now(), self.mark.clone());
            let mut reading = pin!(revocations.store.read_log(&from));
            let read = if let Ok(read) = timeout(REPORT_SILENCE_AFTER, &mut reading).await {
                read?
            } else {
                revocations.report(Some(&PollStage::Read.failed(revocations.store.no_answer())));
                reading.await?
            };
            match read {
                LogRead::Reset => self.reread(),
                LogRead::Next { orders, mark, more } => {
                    self.mark = mark;
                    self.note(&orders, (revocations.clock)());
                    revocations.add(&orders);
                    revocations.shown(&orders);
                    if !more {
                        return Ok(asked);
                    }
                }
            }
        }
    }

    /// Tries, from time to time, what a revocation and a login need.
    async fn check_writable(
        &mut self,
        revocations: &RevocationSync,
    ) -> Result<(), StoreUnavailable> {
        let interval = revocations.write_check_interval();
        let recent = self.accepted.is_some_and(|when| when.elapsed() < interval);
        if recent && !self.failing && !revocations.store.is_silent() {
            return Ok(());
        }
        let asked = Instant::now();
        revocations.store.check_writable().await?;
        self.accepted = Some(asked);
        self.cluster_failure = revocations.store.check_next_master().await.err();
        // Beside the heartbeat: sentinels that are slow to answer must not make it late.
        if self.looked.is_none_or(|when| when.elapsed() >= MASTER_CHECK_INTERVAL)
            && self.looking.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.looked = Some(asked);
            let store = Arc::clone(&revocations.store);
            self.looking =
                Some(revocations.runtime.spawn(async move { store.check_master().await }));
        }
        Ok(())
    }

    /// Believes what was read up to `asked`, once the others have had the time to hand over what
    /// they owe.
    fn believe(&mut self, revocations: &RevocationSync, asked: Instant) {
        if std::mem::take(&mut self.failing) && revocations.store.is_shared() {
            // Not from `asked`: the write that was accepted may have waited.
            self.settling = Some(Instant::now() + RECOVERY_GRACE);
        }
        if self.settling.is_none_or(|until| until <= asked) {
            self.settling = None;
            revocations.mark_synced(asked);
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

    /// Compares the log with what this replica knows, where it was read from its beginning.
    fn find_missing(&mut self, revocations: &RevocationSync) {
        let Some(found) = self.found.take() else { return };
        let known = revocations.view.load().orders((revocations.clock)());
        let mut unsent = revocations.unsent();
        unsent.retain(|order| !found.contains(order));
        let missing = known.into_iter().filter(|order| !found.contains(order));
        let before = unsent.len();
        unsent.extend(missing);
        let lost = unsent.len() - before;
        if lost > 0 {
            tracing::warn!(orders = lost, "store lost revocations, writing them again");
        }
    }

    /// Stores revocations that wait.
    async fn send(&self, revocations: &RevocationSync) -> Result<(), StoreUnavailable> {
        let now = (revocations.clock)();
        let orders: Vec<Revocation> = {
            let mut unsent = revocations.unsent();
            unsent.retain(|order| now < order.until);
            unsent.iter().take(MAX_SENT_AT_ONCE).cloned().collect()
        };
        if orders.is_empty() {
            return Ok(());
        }
        revocations.store.restore_revocations(&orders, revocations.log_age()).await?;
        tracing::info!(orders = orders.len(), "waiting revocations stored");
        let mut unsent = revocations.unsent();
        for order in &orders {
            unsent.remove(order);
        }
        drop(unsent);
        if revocations.store.is_shared() {
            let now = Instant::now();
            revocations.unconfirmed().extend(orders.into_iter().map(|order| (order, now)));
        }
        Ok(())
    }

    /// Logs each kind of failure once, and once that it is over. Of a file its thread does.
    fn log(&mut self, revocations: &RevocationSync, failed: Option<&PollFailure>) {
        let seen = failed.map(|failed| (failed.stage, failed.failure.cause));
        let before = std::mem::replace(&mut self.logged, seen);
        if seen == before || !revocations.store.is_shared() {
            return;
        }
        let Some(PollFailure { stage, failure }) = failed else {
            tracing::info!("revocation log available and fully read");
            return;
        };
        let remedy = failure.cause.remedy();
        let error = failure;
        match stage {
            PollStage::Read => tracing::error!(%error, remedy, "revocation log unavailable"),
            PollStage::WriteCheck | PollStage::Send => {
                tracing::error!(%error, remedy, "store accepts no revocations");
            }
            PollStage::ClusterCheck => {
                tracing::error!(%error, remedy, "a part of the Redis Cluster accepts no values");
            }
        }
    }
}
