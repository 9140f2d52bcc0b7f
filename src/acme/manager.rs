//! All that belongs to one authority and the names that are ordered from it: which name is due, what
//! came of it, and when to look again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    ManagerContext, OrderError, Settings, StorageError, account,
    client::AcmeClient,
    order::{self, IssuedCertificate},
    schedule::{self, OrderAttempts},
    shared_state::{self, ChallengeResponder, SharedState},
    storage::CertificateStorage,
};
use crate::{
    clock::{self, Timestamp},
    error_chain,
    logs::{AuditEvent, AuditKind},
    metrics::Component,
    upstream,
};

mod renewal_info;
mod replication;

use replication::ReplicaSyncState;

/// How long we sleep at most: clocks are set, and machines wake up.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How often a process that does not order looks for what another one has got.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// What tells of other settings.
type Wish = watch::Receiver<Option<Arc<Settings>>>;

/// What is at hand of one name.
struct ManagedCertificate {
    made: IssuedCertificate,
    renew: Timestamp,
    /// When to ask the authority about that.
    ask: Timestamp,
}

impl ManagedCertificate {
    fn new(made: IssuedCertificate, now: Timestamp) -> Self {
        let renew = schedule::renewal(&made.info, rand::random_range(0.0..1.0));
        Self { made, renew, ask: now }
    }
}

/// One authority, and the names.
pub struct CertificateManager {
    settings: Arc<Settings>,
    around: ManagerContext,
    disk: CertificateStorage,
    shared: Option<Arc<SharedState>>,
    step: ReplicaSyncState,
    held: BTreeMap<String, ManagedCertificate>,
    tries: BTreeMap<String, OrderAttempts>,
    /// Whether we are the process of this machine that orders.
    orders: bool,
}

impl CertificateManager {
    /// Finds what is on disk.
    pub fn open(settings: Arc<Settings>, around: &ManagerContext) -> Result<Self, StorageError> {
        let disk = CertificateStorage::open(&settings.storage, &settings.directory)?;
        let mut house = Self {
            shared: SharedState::new(&around.store, &settings).map(Arc::new),
            settings,
            around: around.clone(),
            disk,
            step: ReplicaSyncState::default(),
            held: BTreeMap::new(),
            tries: BTreeMap::new(),
            orders: false,
        };
        house.reload_from_storage();
        let health = &house.around.metrics.health;
        let known = health.of(Component::Certificate);
        for (name, tries) in &mut house.tries {
            *tries = tries.reset_delay();
            if known.contains_key(name) {
                continue;
            }
            if tries.failures > 0 {
                health.set_unhealthy(
                    Component::Certificate,
                    name,
                    "the last tries were in vain: see the log",
                );
            } else if house.held.contains_key(name) {
                health.set_healthy(Component::Certificate, name);
            } else {
                health.set_unhealthy(Component::Certificate, name, "it has not come yet");
            }
        }
        Ok(house)
    }

    /// Takes over what was known before a reload of certificates that are still the same: when the
    /// authority wants to be asked, above all.
    pub fn inherit_schedule(&mut self, before: Option<Self>) {
        for (name, old) in before.into_iter().flat_map(|house| house.held) {
            if let Some(held) = self.held.get_mut(&name)
                && held.made.certified.cert == old.made.certified.cert
            {
                *held = old;
            }
        }
    }

    /// Reads what is on disk; certificates that we have in a younger form stay.
    fn reload_from_storage(&mut self) {
        let settings = Arc::clone(&self.settings);
        for name in &settings.domains {
            self.tries.insert(name.clone(), self.disk.tries(name));
            let Some(pem) = self.disk.certificate(name) else { continue };
            match order::read(&pem, name) {
                Ok(made) => {
                    let as_good =
                        |held: &ManagedCertificate| held.made.info.expires >= made.info.expires;
                    if !self.held.get(name).is_some_and(as_good) {
                        self.held
                            .insert(name.clone(), ManagedCertificate::new(made, clock::system()));
                    }
                }
                Err(error) => {
                    let error = error_chain::line(&error);
                    tracing::warn!(domain = name, error, "a certificate on disk cannot be used");
                }
            }
        }
    }

    /// Puts all that is at hand on the shelf.
    pub fn publish(&self) {
        let each = |(name, held): (&String, &ManagedCertificate)| {
            (name.clone(), Arc::clone(&held.made.certified))
        };
        self.around.certificates.publish(self.held.iter().map(each).collect());
    }

    /// Orders and renews until other settings are in force.
    pub async fn run(&mut self, wish: &mut Wish) {
        loop {
            let pause = match self.run_once(wish).await {
                Ok(pause) => pause,
                Err(OrderError::Store(error)) => {
                    // The store's own trouble is told elsewhere. Nothing is ordered while nobody
                    // knows what the others have.
                    tracing::debug!(%error, "store unavailable, not ordering certificates");
                    shared_state::POLL_INTERVAL
                }
                Err(error) => {
                    tracing::error!(error = error_chain::line(&error), "cannot order certificates");
                    MAX_SLEEP
                }
            };
            tokio::select! {
                changed = wish.changed() => {
                    if changed.is_ok() {
                        wish.mark_changed();
                    }
                    return;
                }
                () = sleep(pause) => (),
            }
        }
    }

    /// One look at everything, and for how long there is then nothing to do.
    async fn run_once(&mut self, wish: &Wish) -> Result<Duration, OrderError> {
        if let Some(shared) = self.shared.clone() {
            self.sync_with_replicas(&shared).await?;
            return Ok(self.process_due_names(wish).await?.min(shared_state::POLL_INTERVAL));
        }
        let first = self.disk.lock()?;
        if first != self.orders || !first {
            // Another process may have got something meanwhile.
            self.reload_from_storage();
            self.publish();
        }
        self.orders = first;
        if first { self.process_due_names(wish).await } else { Ok(POLL_INTERVAL) }
    }

    /// Sees to each name that is due.
    async fn process_due_names(&mut self, wish: &Wish) -> Result<Duration, OrderError> {
        let settings = Arc::clone(&self.settings);
        let now = clock::system();
        let due: Vec<&String> =
            settings.domains.iter().filter(|name| self.due(name) <= now).collect();
        if !due.is_empty() || self.renewal_info_due(now) {
            let tls = upstream::tls::with_credentials(&settings.believes, &self.around.tls);
            let client = AcmeClient::new(&tls)?;
            for name in due {
                if wish.has_changed().unwrap_or(true) || !self.process_name(name, &client).await? {
                    break;
                }
            }
            self.update_renewal_info(&client).await;
        }
        let next = settings.domains.iter().map(|name| self.due(name)).min();
        let next = next.map_or(MAX_SLEEP, |next| Duration::from_secs(next.since(clock::system())));
        Ok(next.clamp(Duration::from_millis(500), MAX_SLEEP))
    }

    /// When a name is to be ordered next.
    fn due(&self, name: &str) -> Timestamp {
        let renew = self.held.get(name).map(|held| held.renew).unwrap_or_default();
        renew.max(self.tries.get(name).map(|tries| tries.next).unwrap_or_default())
    }

    /// Orders, where another replica has not done it; nothing comes of it while one is about to.
    async fn process_name(&mut self, name: &str, client: &AcmeClient) -> Result<bool, OrderError> {
        let Some(shared) = self.shared.clone() else {
            Box::pin(self.order(name, client)).await;
            return Ok(true);
        };
        if !shared.lease().await? {
            return Ok(false);
        }
        let seen = self.adopt(&shared, name).await;
        if seen.is_ok() && self.due(name) <= clock::system() {
            tokio::select! {
                () = Box::pin(self.order(name, client)) => (),
                () = shared.keep_lease_alive() => (),
            }
        }
        shared.release().await;
        seen.map(|()| true)
    }

    /// Orders a certificate, and tells what came of it.
    async fn order(&mut self, name: &str, client: &AcmeClient) {
        let metrics = Arc::clone(&self.around.metrics);
        match self.obtain_certificate(name, client).await {
            Ok(()) => {
                self.note_tries(name, OrderAttempts::default()).await;
                metrics.health.set_healthy(Component::Certificate, name);
                metrics.order("issued");
                let line = AuditEvent::ok(AuditKind::Certificate, "certificate issued");
                (self.around.note)(line.with("site", name));
            }
            Err(trouble) => {
                if trouble.problem().is_some_and(|it| it.ends_with("accountDoesNotExist")) {
                    self.forget_account().await;
                }
                let wait = self.wait(name, client).await;
                let why = error_chain::line(&trouble);
                metrics.health.set_unhealthy(Component::Certificate, name, &why);
                metrics.order("failed");
                let line = AuditEvent::failed(AuditKind::Certificate, "certificate order failed");
                let line = line.with("site", name).with("error", why);
                let line = line.with("reason", format!("tried again in {wait} s"));
                let remedy = trouble.problem().map(schedule::remedy).unwrap_or_default();
                (self.around.note)(line.with("remedy", remedy));
            }
        }
    }

    /// How long a name that failed now waits.
    async fn wait(&mut self, name: &str, client: &AcmeClient) -> u64 {
        let now = clock::system();
        let mut tries = self.tries.get(name).copied().unwrap_or_default();
        if let Some(asked) = client.retry_after() {
            tries = tries.with_retry_after(now, asked);
            self.note_tries(name, tries).await;
        }
        tries.next.since(now)
    }

    /// Writes down how often a name was tried. Where that fails, what was written before the try
    /// holds.
    async fn note_tries(&mut self, name: &str, tries: OrderAttempts) {
        self.tries.insert(name.to_owned(), tries);
        if let Err(error) = self.disk.save_attempts(name, &tries) {
            let error = error_chain::line(&error);
            tracing::warn!(error, "a file of [server.acme] storage cannot be written");
        }
        let _ = self.share_tries(name).await;
    }

    async fn obtain_certificate(
        &mut self,
        name: &str,
        client: &AcmeClient,
    ) -> Result<(), OrderError> {
        let held = self.held.get(name).map(|held| held.made.clone());
        let tries = self.tries.get(name).copied().unwrap_or_default();
        let leaf = held.as_ref().map(|held| &held.info);
        let tries = tries.next_attempt(clock::system(), leaf, rand::random_range(0.0..1.0));
        self.tries.insert(name.to_owned(), tries);
        // First of all: what could not be written down is not ordered.
        self.disk.save_attempts(name, &tries)?;
        self.share_tries(name).await?;
        let _ = client.retry_after();
        let directory = &self.settings.directory;
        tracing::info!(domain = name, directory, "ordering a certificate");
        let account = account::open(&self.settings, &self.disk, client).await?;
        self.share_account().await?;
        let stage = ChallengeResponder {
            certificates: &self.around.certificates,
            shared: self.shared.as_deref(),
        };
        let (pem, made) = order::place_order(&account, name, held.as_ref(), stage).await?;
        self.held.insert(name.to_owned(), ManagedCertificate::new(made, clock::system()));
        self.publish();
        // It is good even where it could not be kept or shared.
        let shared = self.share_certificate(name, pem.as_bytes()).await;
        self.disk.save_certificate(name, pem.as_bytes())?;
        shared
    }
}
