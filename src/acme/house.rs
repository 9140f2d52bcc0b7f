//! All that belongs to one authority and the names that are ordered from it: which name is due, what
//! came of it, and when to look again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    Around, Error, Settings, Trouble, account,
    client::Client,
    disk::Disk,
    order::{self, Made},
    plan::{self, Tries},
    shared::{self, Shared, Stage},
};
use crate::{
    causes,
    clock::{self, Timestamp},
    logs::{Kind, Line},
    metrics::Part,
    upstream,
};

mod advice;
mod replicas;

use replicas::Step;

/// How long we sleep at most: clocks are set, and machines wake up.
const LONGEST: Duration = Duration::from_mins(1);
/// How often a process that does not order looks for what another one has got.
const LOOK: Duration = Duration::from_secs(10);

/// What tells of other settings.
type Wish = watch::Receiver<Option<Arc<Settings>>>;

/// What is at hand of one name.
struct Held {
    made: Made,
    renew: Timestamp,
    /// When to ask the authority about that.
    ask: Timestamp,
}

impl Held {
    fn new(made: Made, now: Timestamp) -> Self {
        let renew = plan::renewal(&made.leaf, rand::random_range(0.0..1.0));
        Self { made, renew, ask: now }
    }
}

/// One authority, and the names.
pub struct House {
    settings: Arc<Settings>,
    around: Around,
    disk: Disk,
    shared: Option<Arc<Shared>>,
    step: Step,
    held: BTreeMap<String, Held>,
    tries: BTreeMap<String, Tries>,
    /// Whether we are the process of this machine that orders.
    orders: bool,
}

impl House {
    /// Finds what is on disk.
    pub fn open(settings: Arc<Settings>, around: &Around) -> Result<Self, Error> {
        let disk = Disk::open(&settings.storage, &settings.directory)?;
        let mut house = Self {
            shared: Shared::new(&around.store, &settings).map(Arc::new),
            settings,
            around: around.clone(),
            disk,
            step: Step::default(),
            held: BTreeMap::new(),
            tries: BTreeMap::new(),
            orders: false,
        };
        house.look();
        let health = &house.around.metrics.health;
        let known = health.of(Part::Certificate);
        for (name, tries) in &mut house.tries {
            *tries = tries.forgiven();
            if known.contains_key(name) {
                continue;
            }
            if tries.failures > 0 {
                health.ill(Part::Certificate, name, "the last tries were in vain: see the log");
            } else if house.held.contains_key(name) {
                health.well(Part::Certificate, name);
            } else {
                health.ill(Part::Certificate, name, "it has not come yet");
            }
        }
        Ok(house)
    }

    /// Takes over what was known before a reload of certificates that are still the same: when the
    /// authority wants to be asked, above all.
    pub fn remember(&mut self, before: Option<Self>) {
        for (name, old) in before.into_iter().flat_map(|house| house.held) {
            if let Some(held) = self.held.get_mut(&name)
                && held.made.certified.cert == old.made.certified.cert
            {
                *held = old;
            }
        }
    }

    /// Reads what is on disk; certificates that we have in a younger form stay.
    fn look(&mut self) {
        let settings = Arc::clone(&self.settings);
        for name in &settings.domains {
            self.tries.insert(name.clone(), self.disk.tries(name));
            let Some(pem) = self.disk.certificate(name) else { continue };
            match order::read(&pem, name) {
                Ok(made) => {
                    let as_good = |held: &Held| held.made.leaf.expires >= made.leaf.expires;
                    if !self.held.get(name).is_some_and(as_good) {
                        self.held.insert(name.clone(), Held::new(made, clock::system()));
                    }
                }
                Err(error) => {
                    let error = causes::line(&error);
                    tracing::warn!(domain = name, error, "a certificate on disk cannot be used");
                }
            }
        }
    }

    /// Puts all that is at hand on the shelf.
    pub fn show(&self) {
        let each =
            |(name, held): (&String, &Held)| (name.clone(), Arc::clone(&held.made.certified));
        self.around.shelf.show(self.held.iter().map(each).collect());
    }

    /// Orders and renews until other settings are in force.
    pub async fn keep(&mut self, wish: &mut Wish) {
        loop {
            let pause = match self.turn(wish).await {
                Ok(pause) => pause,
                Err(Trouble::Store(error)) => {
                    // The store's own trouble is told elsewhere. Nothing is ordered while nobody
                    // knows what the others have.
                    tracing::debug!(%error, "no orders without the store");
                    shared::BEAT
                }
                Err(error) => {
                    tracing::error!(error = causes::line(&error), "no certificates can be ordered");
                    LONGEST
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
    async fn turn(&mut self, wish: &Wish) -> Result<Duration, Trouble> {
        if let Some(shared) = self.shared.clone() {
            self.keep_step(&shared).await?;
            return Ok(self.round(wish).await?.min(shared::BEAT));
        }
        let first = self.disk.lock()?;
        if first != self.orders || !first {
            // Another process may have got something meanwhile.
            self.look();
            self.show();
        }
        self.orders = first;
        if first { self.round(wish).await } else { Ok(LOOK) }
    }

    /// Sees to each name that is due.
    async fn round(&mut self, wish: &Wish) -> Result<Duration, Trouble> {
        let settings = Arc::clone(&self.settings);
        let now = clock::system();
        let due: Vec<&String> =
            settings.domains.iter().filter(|name| self.due(name) <= now).collect();
        if !due.is_empty() || self.wants_advice(now) {
            let tls = upstream::tls::with(&settings.believes, &self.around.tls);
            let client = Client::new(&tls)?;
            for name in due {
                if wish.has_changed().unwrap_or(true) || !self.see_to(name, &client).await? {
                    break;
                }
            }
            self.take_advice(&client).await;
        }
        let next = settings.domains.iter().map(|name| self.due(name)).min();
        let next = next.map_or(LONGEST, |next| Duration::from_secs(next.since(clock::system())));
        Ok(next.clamp(Duration::from_millis(500), LONGEST))
    }

    /// When a name is to be ordered next.
    fn due(&self, name: &str) -> Timestamp {
        let renew = self.held.get(name).map(|held| held.renew).unwrap_or_default();
        renew.max(self.tries.get(name).map(|tries| tries.next).unwrap_or_default())
    }

    /// Orders, where another replica has not done it; nothing comes of it while one is about to.
    async fn see_to(&mut self, name: &str, client: &Client) -> Result<bool, Trouble> {
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
                () = shared.hold() => (),
            }
        }
        shared.release().await;
        seen.map(|()| true)
    }

    /// Orders a certificate, and tells what came of it.
    async fn order(&mut self, name: &str, client: &Client) {
        let metrics = Arc::clone(&self.around.metrics);
        match self.obtain(name, client).await {
            Ok(()) => {
                self.note_tries(name, Tries::default()).await;
                metrics.health.well(Part::Certificate, name);
                metrics.order("issued");
                let line = Line::good(Kind::Certificate, "a certificate has come");
                (self.around.note)(line.with("site", name));
            }
            Err(trouble) => {
                if trouble.problem().is_some_and(|it| it.ends_with("accountDoesNotExist")) {
                    self.forget_account().await;
                }
                let wait = self.wait(name, client).await;
                let why = causes::line(&trouble);
                metrics.health.ill(Part::Certificate, name, &why);
                metrics.order("failed");
                let line = Line::bad(Kind::Certificate, "no certificate came");
                let line = line.with("site", name).with("error", why);
                let line = line.with("reason", format!("tried again in {wait} s"));
                let remedy = trouble.problem().map(plan::remedy).unwrap_or_default();
                (self.around.note)(line.with("remedy", remedy));
            }
        }
    }

    /// How long a name that failed now waits.
    async fn wait(&mut self, name: &str, client: &Client) -> u64 {
        let now = clock::system();
        let mut tries = self.tries.get(name).copied().unwrap_or_default();
        if let Some(asked) = client.asked_to_wait() {
            tries = tries.told(now, asked);
            self.note_tries(name, tries).await;
        }
        tries.next.since(now)
    }

    /// Writes down how often a name was tried. Where that fails, what was written before the try
    /// holds.
    async fn note_tries(&mut self, name: &str, tries: Tries) {
        self.tries.insert(name.to_owned(), tries);
        if let Err(error) = self.disk.keep_tries(name, &tries) {
            let error = causes::line(&error);
            tracing::warn!(error, "a file of [server.acme] storage cannot be written");
        }
        let _ = self.share_tries(name).await;
    }

    async fn obtain(&mut self, name: &str, client: &Client) -> Result<(), Trouble> {
        let held = self.held.get(name).map(|held| held.made.clone());
        let tries = self.tries.get(name).copied().unwrap_or_default();
        let leaf = held.as_ref().map(|held| &held.leaf);
        let tries = tries.another(clock::system(), leaf, rand::random_range(0.0..1.0));
        self.tries.insert(name.to_owned(), tries);
        // First of all: what could not be written down is not ordered.
        self.disk.keep_tries(name, &tries)?;
        self.share_tries(name).await?;
        let _ = client.asked_to_wait();
        let directory = &self.settings.directory;
        tracing::info!(domain = name, directory, "ordering a certificate");
        let account = account::open(&self.settings, &self.disk, client).await?;
        self.share_account().await?;
        let stage = Stage { shelf: &self.around.shelf, shared: self.shared.as_deref() };
        let (pem, made) = order::place(&account, name, held.as_ref(), stage).await?;
        self.held.insert(name.to_owned(), Held::new(made, clock::system()));
        self.show();
        // It is good even where it could not be kept or shared.
        let shared = self.share_certificate(name, pem.as_bytes()).await;
        self.disk.keep_certificate(name, pem.as_bytes())?;
        shared
    }
}
