//! What every thread shares, and how it is set up.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    AccessLog, BodyLimits,
    broker::{BrokerLoginStore, JssdkSigner},
    code_exchange::CodeExchanger,
    page,
    profile_refresh::ProfileRefresher,
    revocation_sync::RevocationSync,
    rules::RuntimeConfig,
    session_expiry::SessionExpiries,
    throttle::RateLimiter,
};
use crate::{
    auth,
    clock::Clock,
    httputil::forwarded::TrustedProxies,
    logs::{AuditLog, OpenidLogging},
    metrics::Metrics,
    site::{Broker, Site, Sites},
    store::{self, Store},
    traces::Tracer,
    upstream::{self, BackendRegistry},
    wechat::WeChatClient,
};

/// What the gateway needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sites behind us.
    pub sites: Sites,
    /// Sessions.
    pub session: auth::Settings,
    /// The proxies in front of us.
    pub trusted: TrustedProxies,
    /// Where our own paths begin, such as `/_wx`.
    pub prefix: String,
    /// What a request body may ask of us.
    pub body: BodyLimits,
    /// Logins that one client may start in a minute; zero is no limit.
    pub logins_per_minute: u32,
    /// What the replicas share; a reload leaves it as it is.
    pub store: store::Settings,
    /// The operator's own templates, which replace ours by name.
    pub pages: Option<PathBuf>,
    /// Logins for sites that are not behind us.
    pub broker: Option<Broker>,
    /// The share of traces that begin here and are recorded, of ten thousand.
    pub sampled: u32,
    /// The collector that gets the spans of those; a reload leaves it as it is.
    pub collector: Option<String>,
    /// How much of an openid the log says.
    pub openids: OpenidLogging,
}

/// What every thread shares: read-only snapshots, and the work that is no request.
pub struct Gateway {
    pub(super) rules: arc_swap::ArcSwap<RuntimeConfig>,
    /// Counts reloads, so that a thread sees one without touching the snapshot's counter.
    pub(super) edition: AtomicU64,
    pub(super) revocations: Arc<RevocationSync>,
    pub(super) expiries: Arc<SessionExpiries>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) backends: Arc<BackendRegistry>,
    pub(super) exchanges: CodeExchanger,
    pub(super) refreshes: Arc<ProfileRefresher>,
    pub(super) errands: BrokerLoginStore,
    pub(super) signers: JssdkSigner,
    pub(super) throttle: RateLimiter,
    pub(super) clock: Clock,
    pub(super) log: AccessLog,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: AuditLog,
    pub(super) traces: Tracer,
    store: Arc<Store>,
    /// The store in words, without its passwords.
    kept: String,
}

/// Why a gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS could not be set up for calls to WeChat.
    #[error("cannot set up the client for WeChat's API")]
    Client(#[from] reqwest::Error),
    /// A session key cannot be used.
    #[error("cannot use the session keys")]
    Keys(#[from] auth::token::CryptoError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The operator's templates cannot be read.
    #[error("cannot read the templates in {0}")]
    ReadPages(PathBuf, #[source] std::io::Error),
    /// The operator's templates make no sense.
    #[error(transparent)]
    Pages(#[from] page::TemplateError),
}

impl Gateway {
    /// Builds a gateway; nothing is opened until the first request. Must be called on the runtime
    /// that shall do the work that is no request, such as calls to WeChat.
    pub fn new(settings: Settings, clock: Clock, log: AccessLog) -> Result<Self, SetupError> {
        let tls = upstream::tls::client();
        let metrics = Arc::new(Metrics::default());
        let wechat = WeChatClient::new(&tls, Arc::clone(&metrics))?;
        let (runtime, store) = (Handle::current(), Arc::new(Store::new(&settings.store)?));
        let feed =
            RevocationSync::new(Arc::clone(&store), (runtime.clone(), clock), Arc::clone(&metrics));
        feed.keep_for(settings.session.max);
        let traces = Tracer::start(settings.collector.as_deref(), (&tls, &runtime), &metrics)?;
        let (audit, kept) = (AuditLog::default(), settings.store.to_string());
        audit.set_openid_logging(settings.openids);
        let (rules, backends) =
            (RuntimeConfig::new(settings)?, Arc::new(BackendRegistry::new(&tls, &metrics)));
        backends.follow(&rules.sites);
        feed.set_shortest_bound(shortest_bound(&rules.sites));
        Ok(Self {
            rules: arc_swap::ArcSwap::from_pointee(rules),
            edition: AtomicU64::new(0),
            revocations: feed,
            expiries: Arc::default(),
            tls,
            backends,
            exchanges: CodeExchanger::new(wechat.clone(), Arc::clone(&store), runtime.clone()),
            errands: BrokerLoginStore::new(Arc::clone(&store), runtime.clone()),
            signers: JssdkSigner::new(wechat.clone(), Arc::clone(&store), runtime.clone()),
            refreshes: Arc::new(ProfileRefresher::new(wechat, Arc::clone(&store), runtime)),
            throttle: RateLimiter::new(),
            clock,
            log,
            metrics,
            audit,
            traces,
            store,
            kept,
        })
    }

    /// Puts new settings in force between two requests. On an error the old ones stay.
    pub fn reload(&self, settings: Settings) -> Result<(), SetupError> {
        self.revocations.keep_for(settings.session.max);
        let openids = settings.openids;
        let rules = Arc::new(RuntimeConfig::new(settings)?);
        self.audit.set_openid_logging(openids);
        self.backends.follow(&rules.sites);
        self.revocations.set_shortest_bound(shortest_bound(&rules.sites));
        self.rules.store(rules);
        self.edition.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whom we believe when we are the client.
    pub fn tls(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    /// The trail of what was decided.
    pub fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// What replicas share.
    pub fn shared(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where is kept what replicas share, in words.
    pub fn store(&self) -> &str {
        &self.kept
    }

    /// The sites in force.
    pub fn sites(&self) -> Vec<Arc<Site>> {
        self.rules.load().sites.all().to_vec()
    }
}

/// The shortest time that one of the sites goes on without news of ended sessions.
fn shortest_bound(sites: &Sites) -> Option<Duration> {
    sites.all().iter().filter_map(|site| site.revocation.allowed()).min()
}
