//! The settings in force, compiled: one snapshot for all threads, and each thread's desk with it.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    path::Path,
    sync::Arc,
};

use http::{Method, Request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Settings, SetupError, broker, page::PageTemplates, session_cache::SessionCache,
    voice::PageResponder,
};
use crate::{
    auth::{self, KeyRing, ReturnTo},
    httputil::forwarded::TrustedProxies,
    metrics::{SiteCounters, ThreadMetrics},
    site::{Broker, Scope, Site, Sites},
    upstream::{BodyLimits, LoadBalancer, UpstreamClient},
};

/// Everything a reload replaces.
pub struct RuntimeConfig {
    /// The sites behind us.
    pub sites: Sites,
    /// How long sessions last.
    pub session: auth::Settings,
    /// What signs them.
    pub keys: KeyRing,
    /// The proxies in front of us.
    pub trusted: TrustedProxies,
    /// Where our own paths begin.
    pub prefix: String,
    /// What a request body may ask of us.
    pub body: BodyLimits,
    /// Logins that one client may start in a minute; zero is no limit.
    pub logins_per_minute: u32,
    /// The share of traces that begin here and are recorded, of ten thousand.
    pub sampled: u32,
    /// What we say ourselves.
    pub responder: PageResponder,
    /// Logins for sites that are not behind us, if there are any.
    pub broker: Option<Broker>,
    /// The document that describes them.
    pub broker_document: Value,
}

impl RuntimeConfig {
    /// Compiles the settings.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let templates = settings.pages.as_deref().map(read_templates).transpose()?;
        let pages = PageTemplates::new(&templates.unwrap_or_default())?;
        Ok(Self {
            keys: KeyRing::new(&settings.session.keys)?,
            sites: settings.sites,
            session: settings.session,
            trusted: settings.trusted,
            responder: PageResponder::new(pages, &settings.prefix),
            broker_document: settings.broker.as_ref().map(broker::document).unwrap_or_default(),
            broker: settings.broker,
            prefix: settings.prefix,
            body: settings.body,
            logins_per_minute: settings.logins_per_minute,
            sampled: settings.sampled,
        })
    }

    /// The content of a domain proof file, if that is what is asked for: by whomever, on whatever
    /// host, because WeChat's checker announces neither.
    pub fn verify_file<B>(&self, request: &Request<B>) -> Option<&str> {
        let name = request.uri().path().strip_prefix('/')?;
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        if !get || !name.starts_with("MP_verify_") {
            return None;
        }
        self.sites.verify_file(name).or_else(|| {
            let mut accounts = self.broker.iter().flat_map(Broker::accounts);
            accounts.find_map(|account| account.verify_files.get(name)).map(String::as_str)
        })
    }

    /// Where a request was going, to come back to after a login.
    pub fn return_target<B>(&self, request: &Request<B>) -> ReturnTo {
        let uri = request.uri();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        ReturnTo::parse(target, &self.prefix)
            .or_else(|| ReturnTo::parse(uri.path(), &self.prefix))
            .unwrap_or_else(ReturnTo::home)
    }

    /// A path as the value of a query field.
    pub fn encode(path: &str) -> String {
        const ENCODE_SET: &percent_encoding::AsciiSet =
            &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        utf8_percent_encode(path, ENCODE_SET).to_string()
    }

    /// The path that starts a login and comes back to `return_to`.
    pub fn login_url(&self, return_to: &ReturnTo, scope: Option<Scope>) -> String {
        let rd = Self::encode(return_to.as_str());
        match scope {
            Some(Scope::UserInfo) => {
                format!("{}/login?rd={rd}&scope={}", self.prefix, Scope::UserInfo.as_str())
            }
            Some(Scope::Base) | None => format!("{}/login?rd={rd}", self.prefix),
        }
    }
}

/// The operator's templates: every `*.html` of the folder, by its name.
fn read_templates(folder: &Path) -> Result<HashMap<String, String>, SetupError> {
    let failed = |error| SetupError::ReadPages(folder.to_owned(), error);
    let mut templates = HashMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "html") {
            templates.insert(name.to_owned(), std::fs::read_to_string(&path).map_err(failed)?);
        }
    }
    Ok(templates)
}

/// One thread's view of the rules, with what it has verified under them. A reload gives every
/// thread a new desk, so nothing that an old key signed is remembered under the new ring.
pub struct WorkerState {
    /// The rules.
    pub rules: Arc<RuntimeConfig>,
    /// Which reload they came with.
    pub generation: u64,
    /// The cookies that this thread has verified under them.
    pub verified: RefCell<SessionCache>,
    /// The servers of each site, by the site's number, once a request has gone there.
    balancers: Vec<OnceCell<LoadBalancer>>,
    /// This thread's counters of each site, and of what is for none.
    counters: Vec<Arc<SiteCounters>>,
    no_site: Arc<SiteCounters>,
    broker: Arc<SiteCounters>,
}

impl WorkerState {
    /// The state of one of so many `workers`, with nothing remembered.
    pub fn new(
        rules: Arc<RuntimeConfig>,
        generation: u64,
        thread: &ThreadMetrics,
        workers: usize,
    ) -> Self {
        let workers = u64::try_from(workers.max(1)).unwrap_or(u64::MAX);
        let share = rules.session.verified_cache / workers;
        let counters = rules.sites.all().iter().map(|site| thread.site(&site.name)).collect();
        let balancers = rules.sites.all().iter().map(|_| OnceCell::new()).collect();
        let broker = rules.broker.as_ref();
        let broker = broker.map_or("-", |broker| broker.public_url.host().as_str());
        Self {
            broker: thread.site(broker),
            rules,
            generation,
            verified: RefCell::new(SessionCache::new(share)),
            balancers,
            counters,
            no_site: thread.site("-"),
        }
    }

    /// This thread's counters of a site.
    pub fn counters(&self, site: Option<&Site>) -> &SiteCounters {
        site.and_then(|site| self.counters.get(site.number)).unwrap_or(&self.no_site)
    }

    /// This thread's counters of the code broker.
    pub fn broker_counters(&self) -> &SiteCounters {
        &self.broker
    }

    /// The servers of a site of these rules.
    pub fn group(&self, site: &Site, upstream: &UpstreamClient) -> Option<&LoadBalancer> {
        let group = self.balancers.get(site.number)?;
        Some(group.get_or_init(|| upstream.load_balancer(site)))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{logs::OpenidLogging, secret::Secret, store};

    /// The rules of a gateway without sites, in front of which stands this proxy.
    pub fn rules(proxy: &str) -> RuntimeConfig {
        let secret = Secret::new("0123456789abcdef0123456789abcdef");
        let keys = vec![auth::KeySettings { id: "k".to_owned(), secret }];
        let (idle, max) = (std::time::Duration::from_hours(1), std::time::Duration::from_hours(2));
        let settings = Settings {
            sites: Sites::new(Vec::new()),
            session: auth::Settings {
                cookie: "wxgate".to_owned(),
                idle,
                max,
                keys,
                verified_cache: 0,
            },
            trusted: TrustedProxies::new(vec![proxy.parse::<std::net::IpAddr>().unwrap().into()]),
            prefix: "/_wx".to_owned(),
            body: BodyLimits { size: 0, time: idle },
            logins_per_minute: 0,
            store: store::Settings::Memory,
            pages: None,
            broker: None,
            sampled: 0,
            collector: None,
            openids: OpenidLogging::Full,
        };
        RuntimeConfig::new(settings).unwrap()
    }
}
