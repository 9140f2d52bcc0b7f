//! The servers of all sites as the process knows them, over reloads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::ClientConfig;
use tokio::sync::watch;

use super::{
    Backend,
    health_check::{self, HealthCheckTarget},
};
use crate::{
    metrics::{Metrics, WaitingGauge},
    site::{Endpoint, Site, Sites, UpstreamLimit},
};

/// Every server of every site, and who looks after them. Threads come here once per site and
/// reload, not per request.
pub struct BackendRegistry {
    known: Mutex<HashMap<BackendKey, Arc<Backend>>>,
    wanted: watch::Sender<Vec<HealthCheckTarget>>,
    tls: Arc<ClientConfig>,
    metrics: Arc<Metrics>,
}

/// A site and one of its servers.
type BackendKey = (String, Endpoint);

impl BackendRegistry {
    /// None yet, and these are the usual manners over TLS.
    pub fn new(tls: &Arc<ClientConfig>, metrics: &Arc<Metrics>) -> Self {
        let (wanted, tls) = (watch::Sender::default(), Arc::clone(tls));
        Self { known: Mutex::default(), wanted, tls, metrics: Arc::clone(metrics) }
    }

    /// One of them.
    pub fn of(&self, site: &str, endpoint: &Endpoint) -> Arc<Backend> {
        let mut known = self.lock();
        let new = || Arc::new(Backend::new((site, endpoint.to_string()), &self.metrics));
        Arc::clone(known.entry((site.to_owned(), endpoint.clone())).or_insert_with(new))
    }

    /// How much of its servers a site may take, and who waits for more.
    pub fn waiting(&self, site: &Site) -> Option<(UpstreamLimit, WaitingGauge)> {
        site.upstream.limit.map(|limit| (limit, self.metrics.waiting(&site.name)))
    }

    /// These sites are in force. What is known of a server that is still one of them is not
    /// forgotten, and a check that asks the same goes on.
    pub fn follow(&self, sites: &Sites) {
        let has = |site: &str, endpoint: &Endpoint| {
            let mut of_name = sites.all().iter().filter(|it| it.name == site);
            of_name.any(|site| site.upstream.endpoints().any(|it| it == endpoint))
        };
        self.lock().retain(|(site, endpoint), _| has(site, endpoint));
        self.metrics.health.retain_servers(|site, server| {
            let known = self.lock();
            known.values().any(|it| it.site == site && it.name == server)
        });
        for site in sites.all() {
            let Some(limit) = site.upstream.limit else { continue };
            let size = usize::try_from(limit.connections).unwrap_or(usize::MAX);
            for endpoint in site.upstream.endpoints() {
                self.of(&site.name, endpoint).limit.resize(size);
            }
        }
        let wanted: Vec<HealthCheckTarget> =
            sites.all().iter().flat_map(|site| self.wanted(site)).collect();
        // The thread is there from the first check on.
        if self.wanted.receiver_count() == 0 && !wanted.is_empty() {
            health_check::start(self.wanted.subscribe(), Arc::clone(&self.tls));
        }
        self.wanted.send_replace(wanted);
    }

    /// The checks of a site's servers.
    fn wanted(&self, site: &Site) -> impl Iterator<Item = HealthCheckTarget> {
        let checkup = site.upstream.checkup.as_ref();
        checkup.into_iter().flat_map(|checkup| {
            site.upstream.endpoints().map(|endpoint| HealthCheckTarget {
                backend: self.of(&site.name, endpoint),
                endpoint: endpoint.clone(),
                tls: site.upstream.tls.clone(),
                protocol: site.upstream.protocol,
                host: checkup.host.clone().unwrap_or_else(|| site.public_url.host().to_string()),
                checkup: checkup.clone(),
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackendKey, Arc<Backend>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
