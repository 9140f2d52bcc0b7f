//! Keeping step with other replicas: their challenges are answered here, what they got is shown here,
//! and what the store has lost is put back. Of two certificates the one that lasts longer counts, so
//! that all end up with the same.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CertificateManager, ManagedCertificate, SharedState};
use crate::{
    acme::{
        OrderError,
        certificates::{CertificateSet, ChallengeGuard},
        order::{self, IssuedCertificate},
        schedule::OrderAttempts,
        shared_state::{PendingChallenge, SharedValue},
    },
    clock, error_chain,
    metrics::Component,
};

/// How often certificates are compared with what the store has.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the store keeps what says nothing of its own end: longer than any certificate lasts.
const RETENTION: Duration = Duration::from_hours(24 * 400);

/// Where we are.
#[derive(Default)]
pub struct ReplicaSyncState {
    compared: Option<Instant>,
    answering: Option<(PendingChallenge, ChallengeGuard)>,
}

impl CertificateManager {
    /// Does what other replicas need us for, and learns what they have.
    pub(super) async fn sync_with_replicas(
        &mut self,
        shared: &SharedState,
    ) -> Result<(), OrderError> {
        self.answer(shared.pending_challenge().await?);
        if self.step.compared.is_some_and(|when| when.elapsed() < COMPARE_INTERVAL) {
            return Ok(());
        }
        let names = self.settings.domains.clone();
        for name in &names {
            self.adopt(shared, name).await?;
        }
        match (shared.get("account").await?, self.disk.account()) {
            (SharedValue::Value(account), None) => {
                // Where this fails, an order will say so.
                let _ = self.disk.save_account(&account);
            }
            (SharedValue::Nothing, Some(account)) => {
                shared.put("account", &account, RETENTION).await?;
            }
            (SharedValue::Value(_) | SharedValue::Sealed | SharedValue::Nothing, _) => (),
        }
        self.step.compared = Some(Instant::now());
        Ok(())
    }

    /// Answers the challenge that is under way, and no other.
    fn answer(&mut self, asked: Option<PendingChallenge>) {
        let asked = asked.filter(|it| self.settings.domains.contains(&it.name));
        if self.step.answering.as_ref().map(|(now, _)| now) == asked.as_ref() {
            return;
        }
        self.step.answering = None;
        let Some(asked) = asked else { return };
        match CertificateSet::serve_challenge(&self.around.certificates, &asked.name, &asked.digest)
        {
            Ok(challenge) => self.step.answering = Some((asked, challenge)),
            Err(error) => {
                tracing::debug!(error = error_chain::line(&error), "no answer to a challenge");
            }
        }
    }

    /// Compares what is known of one name here and there.
    pub(super) async fn adopt(
        &mut self,
        shared: &SharedState,
        name: &str,
    ) -> Result<(), OrderError> {
        match shared.get(&certificate(name)).await? {
            SharedValue::Value(pem) => match order::read(&pem, name) {
                Ok(theirs) => self.compare(shared, name, (theirs, &pem)).await?,
                Err(error) => {
                    let error = error_chain::line(&error);
                    tracing::warn!(
                        domain = name,
                        error,
                        "a certificate in the store cannot be used"
                    );
                }
            },
            SharedValue::Nothing => self.restore_shared(shared, name).await?,
            SharedValue::Sealed => (),
        }
        if let SharedValue::Value(json) = shared.get(&tries(name)).await?
            && let Ok(theirs) = serde_json::from_slice::<OrderAttempts>(&json)
        {
            // The same try as ours may have been forgiven here.
            let ours = self.tries.entry(name.to_owned()).or_default();
            if theirs.last > ours.last || theirs.failures == 0 {
                *ours = theirs;
            }
        }
        Ok(())
    }

    /// The one that lasts longer counts, here and there.
    async fn compare(
        &mut self,
        shared: &SharedState,
        name: &str,
        (theirs, pem): (IssuedCertificate, &[u8]),
    ) -> Result<(), OrderError> {
        let ours = self.held.get(name).map(|held| held.made.info.expires).unwrap_or_default();
        match theirs.info.expires.cmp(&ours) {
            Ordering::Greater => {
                self.held.insert(name.to_owned(), ManagedCertificate::new(theirs, clock::system()));
                self.publish();
                self.around.metrics.health.set_healthy(Component::Certificate, name);
                if let Err(error) = self.disk.save_certificate(name, pem) {
                    let error = error_chain::line(&error);
                    tracing::warn!(error, "a file of [server.acme] storage cannot be written");
                }
                Ok(())
            }
            Ordering::Equal => Ok(()),
            Ordering::Less => self.restore_shared(shared, name).await,
        }
    }

    /// Gives the store what it does not have.
    async fn restore_shared(&self, shared: &SharedState, name: &str) -> Result<(), OrderError> {
        match self.disk.certificate(name).filter(|_| self.held.contains_key(name)) {
            Some(pem) => self.put_certificate(shared, name, &pem).await,
            None => Ok(()),
        }
    }

    pub(super) async fn share_tries(&self, name: &str) -> Result<(), OrderError> {
        let (Some(shared), Some(ours)) = (&self.shared, self.tries.get(name)) else {
            return Ok(());
        };
        let json = serde_json::to_vec(ours).unwrap_or_default();
        Ok(shared.put(&tries(name), &json, RETENTION).await?)
    }

    pub(super) async fn share_account(&self) -> Result<(), OrderError> {
        if let (Some(shared), Some(account)) = (&self.shared, self.disk.account()) {
            shared.put("account", &account, RETENTION).await?;
        }
        Ok(())
    }

    pub(super) async fn share_certificate(&self, name: &str, pem: &[u8]) -> Result<(), OrderError> {
        match &self.shared {
            Some(shared) => self.put_certificate(&Arc::clone(shared), name, pem).await,
            None => Ok(()),
        }
    }

    /// The authority knows the account no more.
    pub(super) async fn forget_account(&self) {
        self.disk.delete_account();
        if let Some(shared) = &self.shared {
            shared.remove("account").await;
        }
    }

    async fn put_certificate(
        &self,
        shared: &SharedState,
        name: &str,
        pem: &[u8],
    ) -> Result<(), OrderError> {
        let Some(held) = self.held.get(name) else { return Ok(()) };
        let left = held.made.info.expires.since(clock::system());
        // What is over is nobody's loss.
        if left > 0 {
            shared.put(&certificate(name), pem, Duration::from_secs(left)).await?;
        }
        Ok(())
    }
}

fn certificate(name: &str) -> String {
    format!("certificate:{name}")
}

fn tries(name: &str) -> String {
    format!("tries:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_names_in_the_store() {
        assert_eq!(certificate("h5.example.com"), "certificate:h5.example.com");
        assert_eq!(tries("h5.example.com"), "tries:h5.example.com");
    }
}
