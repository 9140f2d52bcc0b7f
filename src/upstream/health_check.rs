//! Health checks: one server is asked again and again, by one task for the whole process.
//!
//! They run on a thread of their own: they travel the road that requests do, which belongs to a
//! thread, and a thread that serves visitors has better things to do.

use std::{sync::Arc, thread, time::Duration};

use http::Method;
use rustls::ClientConfig;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Backend,
    probe::{HealthCheckRequest, probe},
};
use crate::{
    descriptors, error_chain,
    site::{Endpoint, HealthCheckSettings, HealthState, Protocol, UpstreamTls},
};

/// One server and what it is asked.
#[derive(Clone)]
pub struct HealthCheckTarget {
    /// Who is told of the answer.
    pub backend: Arc<Backend>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Who we are to it.
    pub tls: Option<UpstreamTls>,
    /// What it is spoken to in.
    pub protocol: Protocol,
    /// Whose page is asked for.
    pub host: String,
    /// What is asked, and when.
    pub checkup: HealthCheckSettings,
}

impl HealthCheckTarget {
    fn is(&self, other: &Self) -> bool {
        self.is_of(other)
            && (&self.tls, self.protocol) == (&other.tls, other.protocol)
            && (&self.host, &self.checkup) == (&other.host, &other.checkup)
    }

    fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }
}

/// Checks what is wanted, until nobody can want anything any more.
pub fn start(wanted: watch::Receiver<Vec<HealthCheckTarget>>, tls: Arc<ClientConfig>) {
    let checks = move || -> std::io::Result<()> {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(follow(wanted, tls));
        Ok(())
    };
    let started = thread::Builder::new().name("checks".to_owned()).spawn(checks);
    if let Err(error) = started {
        tracing::error!(%error, "cannot start health-check thread");
    }
}

async fn follow(wanted: watch::Receiver<Vec<HealthCheckTarget>>, tls: Arc<ClientConfig>) {
    let mut wanted = wanted;
    let mut running: Vec<(HealthCheckTarget, JoinHandle<()>)> = Vec::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        running.retain(|(old, task)| {
            let stays = now.iter().any(|new| new.is(old));
            if !stays {
                task.abort();
            }
            if !now.iter().any(|new| new.is_of(old)) {
                old.backend.stop_health_check();
            }
            stays
        });
        for new in now {
            if !running.iter().any(|(old, _)| old.is(&new)) {
                let task = tokio::task::spawn_local(check(new.clone(), Arc::clone(&tls)));
                running.push((new, task));
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// Asks one server again and again.
async fn check(wanted: HealthCheckTarget, tls: Arc<ClientConfig>) {
    let HealthCheckTarget { backend, checkup, .. } = &wanted;
    let mut verdict = HealthState::new(!backend.is_unhealthy());
    loop {
        let Some(found) = ask(&wanted, &tls).await else {
            sleep(spread(checkup.interval)).await;
            continue;
        };
        let well = verdict.record(found.is_ok(), checkup);
        backend.record_health_check(well, found.as_ref().map_err(String::as_str).copied());
        sleep(spread(checkup.interval)).await;
    }
}

/// Asks one server. Nothing is found out when no file descriptor is left to ask with.
async fn ask(wanted: &HealthCheckTarget, tls: &Arc<ClientConfig>) -> Option<Result<(), String>> {
    let HealthCheckTarget { endpoint, tls: own, host, checkup, protocol, .. } = wanted;
    let (path, protocol) = (checkup.path.as_str(), *protocol);
    let question = HealthCheckRequest { method: Method::GET, path, host, protocol };
    let failed = |why: String| Err(format!("GET {}: {why}", checkup.path));
    let found =
        match timeout(checkup.timeout, probe(endpoint, &question, (own.as_ref(), tls))).await {
            Ok(Ok(heard)) if checkup.expects(heard.status.as_u16()) => Ok(()),
            Ok(Ok(heard)) => failed(heard.status.to_string()),
            Ok(Err(error)) if descriptors::is_cause_of(&error) => return None,
            Ok(Err(error)) => failed(error_chain::line(&error)),
            Err(_) => failed(format!("no answer in {:?}", checkup.timeout)),
        };
    Some(found)
}

/// A little more or less, so that the replicas do not ask in step.
fn spread(interval: Duration) -> Duration {
    interval * (230 + u32::from(rand::random::<u8>()) / 5) / 256
}
