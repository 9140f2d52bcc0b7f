//! The task that orders, from outside: started once, told of each reload.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::ClientConfig;
use tokio::sync::watch;

use super::{
    Settings, StorageError, certificates::CertificateSet, manager::CertificateManager,
    storage::CertificateStorage,
};
use crate::{error_chain, logs::AuditEvent, metrics::Metrics, store::Store};

/// Whom the task tells.
#[derive(Clone)]
pub struct ManagerContext {
    /// Where handshakes find what it gets.
    pub certificates: Arc<CertificateSet>,
    /// Whom it believes when the configuration says nothing.
    pub tls: Arc<ClientConfig>,
    /// What other replicas share with us, where there are any.
    pub store: Arc<Store>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// The audit trail.
    pub note: Arc<dyn Fn(AuditEvent) + Send + Sync>,
}

impl fmt::Debug for ManagerContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").field("shelf", &self.certificates).finish_non_exhaustive()
    }
}

/// The task, from outside.
#[derive(Debug)]
pub struct ManagerHandle {
    wish: watch::Sender<Option<Arc<Settings>>>,
}

impl ManagerHandle {
    /// Shows what is on disk, and begins to order what is not. Must be called on the runtime that
    /// shall do that. Fails where the folder cannot be used: what cannot be kept is not ordered.
    pub fn start(settings: Option<Settings>, around: ManagerContext) -> Result<Self, StorageError> {
        if let Some(settings) = &settings {
            CertificateManager::open(Arc::new(settings.clone()), &around)?.publish();
        }
        let (wish, wished) = watch::channel(settings.map(Arc::new));
        tokio::spawn(run(around, wished));
        Ok(Self { wish })
    }

    /// Whether these settings could be put in force.
    pub fn check(settings: &Settings) -> Result<(), StorageError> {
        CertificateStorage::open(&settings.storage, &settings.directory).map(|_| ())
    }

    /// Puts others in force. An order under way is not broken off. What failed a while ago is tried
    /// again at once, for the operator may have mended what was wrong.
    pub fn update_settings(&self, settings: Option<Settings>) {
        let _ = self.wish.send(settings.map(Arc::new));
    }
}

async fn run(around: ManagerContext, mut wish: watch::Receiver<Option<Arc<Settings>>>) {
    let mut before = None;
    loop {
        let wanted = wish.borrow_and_update().clone();
        let names = wanted.as_ref().map(|it| it.domains.clone()).unwrap_or_default();
        around.metrics.health.keep_orders(&names);
        match wanted.map(|settings| CertificateManager::open(settings, &around)).transpose() {
            Ok(Some(mut house)) => {
                house.inherit_schedule(before.take());
                house.publish();
                house.run(&mut wish).await;
                before = Some(house);
            }
            Ok(None) => {
                before = None;
                around.certificates.publish(BTreeMap::new());
            }
            Err(error) => {
                tracing::error!(error = error_chain::line(&error), "cannot order certificates");
            }
        }
        if wish.changed().await.is_err() {
            return;
        }
    }
}
