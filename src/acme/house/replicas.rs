//! Keeping step with other replicas: their challenges are answered here, what they got is shown here,
//! and what the store has lost is put back. Of two certificates the one that lasts longer counts, so
//! that all end up with the same.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Held, House, Shared};
use crate::{
    acme::{
        Trouble,
        order::{self, Made},
        plan::Tries,
        shared::{Asked, Found},
        shelf::{Challenge, Shelf},
    },
    causes, clock,
    metrics::Part,
};

/// How often certificates are compared with what the store has.
const COMPARE: Duration = Duration::from_secs(5);
/// How long the store keeps what says nothing of its own end: longer than any certificate lasts.
const KEPT: Duration = Duration::from_hours(24 * 400);

/// Where we are.
#[derive(Default)]
pub struct Step {
    compared: Option<Instant>,
    answering: Option<(Asked, Challenge)>,
}

impl House {
    /// Does what other replicas need us for, and learns what they have.
    pub(super) async fn keep_step(&mut self, shared: &Shared) -> Result<(), Trouble> {
        self.answer(shared.asked().await?);
        if self.step.compared.is_some_and(|when| when.elapsed() < COMPARE) {
            return Ok(());
        }
        let names = self.settings.domains.clone();
        for name in &names {
            self.adopt(shared, name).await?;
        }
        match (shared.get("account").await?, self.disk.account()) {
            (Found::Value(account), None) => {
                // Where this fails, an order will say so.
                let _ = self.disk.keep_account(&account);
            }
            (Found::Nothing, Some(account)) => shared.put("account", &account, KEPT).await?,
            (Found::Value(_) | Found::Sealed | Found::Nothing, _) => (),
        }
        self.step.compared = Some(Instant::now());
        Ok(())
    }

    /// Answers the challenge that is under way, and no other.
    fn answer(&mut self, asked: Option<Asked>) {
        let asked = asked.filter(|it| self.settings.domains.contains(&it.name));
        if self.step.answering.as_ref().map(|(now, _)| now) == asked.as_ref() {
            return;
        }
        self.step.answering = None;
        let Some(asked) = asked else { return };
        match Shelf::challenge(&self.around.shelf, &asked.name, &asked.digest) {
            Ok(challenge) => self.step.answering = Some((asked, challenge)),
            Err(error) => tracing::debug!(error = causes::line(&error), "no answer to a challenge"),
        }
    }

    /// Compares what is known of one name here and there.
    pub(super) async fn adopt(&mut self, shared: &Shared, name: &str) -> Result<(), Trouble> {
        match shared.get(&certificate(name)).await? {
            Found::Value(pem) => match order::read(&pem, name) {
                Ok(theirs) => self.compare(shared, name, (theirs, &pem)).await?,
                Err(error) => {
                    let error = causes::line(&error);
                    tracing::warn!(
                        domain = name,
                        error,
                        "a certificate in the store cannot be used"
                    );
                }
            },
            Found::Nothing => self.put_back(shared, name).await?,
            Found::Sealed => (),
        }
        if let Found::Value(json) = shared.get(&tries(name)).await?
            && let Ok(theirs) = serde_json::from_slice::<Tries>(&json)
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
        shared: &Shared,
        name: &str,
        (theirs, pem): (Made, &[u8]),
    ) -> Result<(), Trouble> {
        let ours = self.held.get(name).map(|held| held.made.leaf.expires).unwrap_or_default();
        match theirs.leaf.expires.cmp(&ours) {
            Ordering::Greater => {
                self.held.insert(name.to_owned(), Held::new(theirs, clock::system()));
                self.show();
                self.around.metrics.health.well(Part::Certificate, name);
                if let Err(error) = self.disk.keep_certificate(name, pem) {
                    let error = causes::line(&error);
                    tracing::warn!(error, "a file of [server.acme] storage cannot be written");
                }
                Ok(())
            }
            Ordering::Equal => Ok(()),
            Ordering::Less => self.put_back(shared, name).await,
        }
    }

    /// Gives the store what it does not have.
    async fn put_back(&self, shared: &Shared, name: &str) -> Result<(), Trouble> {
        match self.disk.certificate(name).filter(|_| self.held.contains_key(name)) {
            Some(pem) => self.put_certificate(shared, name, &pem).await,
            None => Ok(()),
        }
    }

    pub(super) async fn share_tries(&self, name: &str) -> Result<(), Trouble> {
        let (Some(shared), Some(ours)) = (&self.shared, self.tries.get(name)) else {
            return Ok(());
        };
        let json = serde_json::to_vec(ours).unwrap_or_default();
        Ok(shared.put(&tries(name), &json, KEPT).await?)
    }

    pub(super) async fn share_account(&self) -> Result<(), Trouble> {
        if let (Some(shared), Some(account)) = (&self.shared, self.disk.account()) {
            shared.put("account", &account, KEPT).await?;
        }
        Ok(())
    }

    pub(super) async fn share_certificate(&self, name: &str, pem: &[u8]) -> Result<(), Trouble> {
        match &self.shared {
            Some(shared) => self.put_certificate(&Arc::clone(shared), name, pem).await,
            None => Ok(()),
        }
    }

    /// The authority knows the account no more.
    pub(super) async fn forget_account(&self) {
        self.disk.forget_account();
        if let Some(shared) = &self.shared {
            shared.forget("account").await;
        }
    }

    async fn put_certificate(
        &self,
        shared: &Shared,
        name: &str,
        pem: &[u8],
    ) -> Result<(), Trouble> {
        let Some(held) = self.held.get(name) else { return Ok(()) };
        let left = held.made.leaf.expires.since(clock::system());
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
