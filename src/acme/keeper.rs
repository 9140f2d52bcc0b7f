//! The task that orders: which name is due, what came of it, and when to look again.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use instant_acme::Account;
use rustls::ClientConfig;
use tokio::{sync::watch, time::sleep};

use super::{
    Error, Settings, Trouble, account,
    client::Client,
    disk::Disk,
    order::{self, Made},
    plan::{self, Tries},
    shelf::Shelf,
};
use crate::{
    causes,
    clock::{self, Timestamp},
    logs::{Kind, Line},
    metrics::{Metrics, Part},
    upstream,
};

/// How long we sleep at most: clocks are set, and machines wake up.
const LONGEST: Duration = Duration::from_mins(1);
/// How often a process that does not order looks for what another one has got.
const LOOK: Duration = Duration::from_secs(10);
/// How often the authority is asked when to renew: what it says, within reason.
const ADVICE: [u64; 2] = [3_600, 86_400];

/// Whom the task tells.
#[derive(Clone)]
pub struct Around {
    /// Where handshakes find what it gets.
    pub shelf: Arc<Shelf>,
    /// Whom it believes when the configuration says nothing.
    pub tls: Arc<ClientConfig>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// The audit trail.
    pub note: Arc<dyn Fn(Line) + Send + Sync>,
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}

/// The task, from outside.
#[derive(Debug)]
pub struct Keeper {
    wish: watch::Sender<Option<Arc<Settings>>>,
}

impl Keeper {
    /// Shows what is on disk, and begins to order what is not. Must be called on the runtime that
    /// shall do that. Fails where the folder cannot be used: what cannot be kept is not ordered.
    pub fn start(settings: Option<Settings>, around: Around) -> Result<Self, Error> {
        if let Some(settings) = &settings {
            House::open(Arc::new(settings.clone()), &around)?.show();
        }
        let (wish, wished) = watch::channel(settings.map(Arc::new));
        tokio::spawn(run(around, wished));
        Ok(Self { wish })
    }

    /// Whether these settings could be put in force.
    pub fn check(settings: &Settings) -> Result<(), Error> {
        Disk::open(&settings.storage, &settings.directory).map(|_| ())
    }

    /// Puts others in force. An order under way is not broken off. What failed a while ago is tried
    /// again at once, for the operator may have mended what was wrong.
    pub fn change(&self, settings: Option<Settings>) {
        let _ = self.wish.send(settings.map(Arc::new));
    }
}

async fn run(around: Around, mut wish: watch::Receiver<Option<Arc<Settings>>>) {
    loop {
        let wanted = wish.borrow_and_update().clone();
        let names = wanted.as_ref().map(|it| it.domains.clone()).unwrap_or_default();
        around.metrics.health.keep_orders(&names);
        let house = wanted.map(|settings| House::open(settings, &around)).transpose();
        match house {
            Ok(Some(mut house)) => {
                house.show();
                house.keep(&mut wish).await;
            }
            Ok(None) => around.shelf.show(BTreeMap::new()),
            Err(error) => {
                tracing::error!(error = causes::line(&error), "no certificates can be ordered");
            }
        }
        if wish.changed().await.is_err() {
            return;
        }
    }
}

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

/// All that belongs to one authority and the names that are ordered from it.
struct House {
    settings: Arc<Settings>,
    around: Around,
    disk: Disk,
    held: BTreeMap<String, Held>,
    tries: BTreeMap<String, Tries>,
    /// Whether we are the process that orders.
    orders: bool,
}

impl House {
    /// Finds what is on disk.
    fn open(settings: Arc<Settings>, around: &Around) -> Result<Self, Error> {
        let disk = Disk::open(&settings.storage, &settings.directory)?;
        let (held, tries) = (BTreeMap::new(), BTreeMap::new());
        let around = around.clone();
        let mut house = Self { settings, around, disk, held, tries, orders: false };
        house.look();
        let health = &house.around.metrics.health;
        for (name, tries) in &mut house.tries {
            *tries = tries.forgiven();
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

    /// Reads what is on disk; certificates that we have in a younger form stay.
    fn look(&mut self) {
        let now = clock::system();
        for name in &self.settings.domains {
            self.tries.insert(name.clone(), self.disk.tries(name));
            let Some(pem) = self.disk.certificate(name) else { continue };
            match order::read(&pem, name) {
                Ok(made) => {
                    let younger = |held: &Held| held.made.leaf.expires >= made.leaf.expires;
                    if !self.held.get(name).is_some_and(younger) {
                        self.held.insert(name.clone(), Held::new(made, now));
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
    fn show(&self) {
        let each =
            |(name, held): (&String, &Held)| (name.clone(), Arc::clone(&held.made.certified));
        self.around.shelf.show(self.held.iter().map(each).collect());
    }

    /// Orders and renews until other settings are in force.
    async fn keep(&mut self, wish: &mut watch::Receiver<Option<Arc<Settings>>>) {
        loop {
            let pause = match self.disk.lock() {
                Ok(true) => {
                    if !std::mem::replace(&mut self.orders, true) {
                        // The one before us may have got something meanwhile.
                        self.look();
                        self.show();
                    }
                    self.round(wish).await
                }
                Ok(false) => {
                    self.look();
                    self.show();
                    LOOK
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

    /// Sees to each name that is due, and says how long there is nothing to do.
    async fn round(&mut self, wish: &watch::Receiver<Option<Arc<Settings>>>) -> Duration {
        let settings = Arc::clone(&self.settings);
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(error = causes::line(&error), "no certificates can be ordered");
                return LONGEST;
            }
        };
        for name in &settings.domains {
            if wish.has_changed().unwrap_or(true) {
                break;
            }
            if self.due(name) <= clock::system() {
                self.see_to(name, &client).await;
            }
        }
        self.take_advice(&client).await;
        let now = clock::system();
        let next = settings.domains.iter().map(|name| self.due(name)).min().unwrap_or_default();
        Duration::from_secs(next.since(now)).clamp(Duration::from_millis(500), LONGEST)
    }

    fn client(&self) -> Result<Client, Trouble> {
        let tls = upstream::tls::with(&self.settings.believes, &self.around.tls);
        Ok(Client::new(&tls)?)
    }

    /// When a name is to be ordered next.
    fn due(&self, name: &str) -> Timestamp {
        let renew = self.held.get(name).map(|held| held.renew).unwrap_or_default();
        renew.max(self.tries.get(name).map(|tries| tries.next).unwrap_or_default())
    }

    /// Orders a certificate, and tells what came of it.
    async fn see_to(&mut self, name: &str, client: &Client) {
        let health = Arc::clone(&self.around.metrics);
        match self.obtain(name, client).await {
            Ok(()) => {
                self.tries.insert(name.to_owned(), Tries::default());
                if let Err(error) = self.disk.keep_tries(name, &Tries::default()) {
                    tracing::warn!(
                        error = causes::line(&error),
                        "a file of [server.acme] storage cannot be written"
                    );
                }
                health.health.well(Part::Certificate, name);
                health.order("issued");
                self.show();
                let line = Line::good(Kind::Certificate, "a certificate has come");
                (self.around.note)(line.with("site", name));
            }
            Err(trouble) => {
                if trouble.problem().is_some_and(|it| it.ends_with("accountDoesNotExist")) {
                    self.disk.forget_account();
                }
                let wait = self.wait(name, client);
                let why = causes::line(&trouble);
                health.health.ill(Part::Certificate, name, &why);
                health.order("failed");
                let line = Line::bad(Kind::Certificate, "no certificate came");
                let line = line.with("site", name).with("error", why);
                let line = line.with("reason", format!("tried again in {wait} s"));
                let remedy = trouble.problem().map(plan::remedy).unwrap_or_default();
                (self.around.note)(line.with("remedy", remedy));
            }
        }
    }

    /// How long a name that failed now waits.
    fn wait(&mut self, name: &str, client: &Client) -> u64 {
        let now = clock::system();
        let mut tries = self.tries.get(name).copied().unwrap_or_default();
        if let Some(asked) = client.asked_to_wait() {
            tries = tries.told(now, asked);
            self.tries.insert(name.to_owned(), tries);
            // Not kept: it is asked of us again. What was kept before the try holds.
            let _ = self.disk.keep_tries(name, &tries);
        }
        tries.next.since(now)
    }

    async fn obtain(&mut self, name: &str, client: &Client) -> Result<(), Trouble> {
        let held = self.held.get(name).map(|held| held.made.clone());
        let dice = rand::random_range(0.0..1.0);
        let tries = self.tries.get(name).copied().unwrap_or_default();
        let tries = tries.another(clock::system(), held.as_ref().map(|held| &held.leaf), dice);
        self.tries.insert(name.to_owned(), tries);
        // First on disk: what could not be written down is not ordered.
        self.disk.keep_tries(name, &tries)?;
        let _ = client.asked_to_wait();
        tracing::info!(
            domain = name,
            directory = self.settings.directory,
            "ordering a certificate"
        );
        let account = account::open(&self.settings, &self.disk, client).await?;
        let shelf = Arc::clone(&self.around.shelf);
        let (pem, made) = order::place(&account, name, held.as_ref(), &shelf).await?;
        self.disk.keep_certificate(name, pem.as_bytes())?;
        self.held.insert(name.to_owned(), Held::new(made, clock::system()));
        Ok(())
    }

    /// Asks the authority when to renew what is at hand. Without an answer the usual rule holds.
    async fn take_advice(&mut self, client: &Client) {
        let now = clock::system();
        if self.held.values().all(|held| held.ask > now) {
            return;
        }
        let account = match account::known(&self.settings, &self.disk, client).await {
            Ok(Some(account)) => Some(account),
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(error = causes::line(&error), "no advice on renewals");
                None
            }
        };
        for (name, held) in &mut self.held {
            if held.ask <= now {
                let [soonest, latest] = ADVICE;
                let again = match &account {
                    Some(account) => advice(account, name, held).await,
                    None => soonest,
                };
                held.ask = now.plus(Duration::from_secs(again.clamp(soonest, latest)));
            }
        }
    }
}

/// Takes an authority's advice about one certificate, and says after how many seconds to ask again.
async fn advice(account: &Account, name: &str, held: &mut Held) -> u64 {
    let Some(identifier) = order::identifier(&held.made) else { return u64::MAX };
    match account.renewal_info(&identifier).await {
        Ok((info, again)) => {
            let at = |moment: i64| Timestamp(u64::try_from(moment).unwrap_or_default());
            let window = info.suggested_window;
            let window = [at(window.start.unix_timestamp()), at(window.end.unix_timestamp())];
            let outside = held.renew < window[0] || window[1] < held.renew;
            if outside {
                held.renew = plan::advised(&held.made.leaf, window, rand::random_range(0.0..1.0));
                let why = info.explanation_url.unwrap_or_default();
                tracing::info!(
                    domain = name,
                    renewal = held.renew.0,
                    why,
                    "the authority has said when to renew"
                );
            }
            again.as_secs()
        }
        Err(instant_acme::Error::Unsupported(_)) => u64::MAX,
        Err(error) => {
            tracing::debug!(domain = name, %error, "no advice on renewals");
            0
        }
    }
}
