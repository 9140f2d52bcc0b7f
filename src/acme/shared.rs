//! What replicas share of all this, over the store: the account, the certificates with their keys, how
//! often each name was tried, the challenge that is under way, and who may order.
//!
//! All of it is sealed with keys of the session keys' ring, each value for its own name: whoever reads
//! the store learns nothing, and whoever writes it can make us forget, and no more.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{
    Settings, Trouble,
    shelf::{Challenge, Shelf},
};
use crate::{
    auth::{Keys, token},
    store::{Away, Store},
};

/// How often a replica looks for a challenge.
pub const BEAT: Duration = Duration::from_secs(1);
/// After so long every replica answers a challenge.
const KNOWN: Duration = Duration::from_millis(2_500);
/// For how long one replica orders, unless it says again that it does; one that dies is not waited for
/// any longer.
const LEASE: Duration = Duration::from_secs(30);
/// How long a challenge is answered at most.
const CHALLENGE: Duration = Duration::from_mins(5);

/// The store, as this room uses it.
pub struct Shared {
    store: Arc<Store>,
    keys: Keys,
    prefix: String,
}

/// What stands under a name.
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something that our keys do not open.
    Sealed,
    /// This.
    Value(Zeroizing<Vec<u8>>),
}

/// A challenge that some replica has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The name to be proven.
    pub name: String,
    /// The digest that proves it.
    pub digest: Vec<u8>,
}

impl Shared {
    /// Nothing where there are no replicas.
    pub fn new(store: &Arc<Store>, settings: &Settings) -> Option<Self> {
        let keys = Keys::new(&settings.ring).ok()?;
        let prefix = format!("acme:{}", super::disk::label(&settings.directory));
        store.is_shared().then(|| Self { store: Arc::clone(store), keys, prefix })
    }

    /// What stands there.
    pub async fn get(&self, what: &str) -> Result<Found, Away> {
        let name = self.name(what);
        let Some(sealed) = self.store.get(&name).await? else { return Ok(Found::Nothing) };
        Ok(match self.keys.open_certificate(&sealed, &name) {
            Ok(value) => Found::Value(Zeroizing::new(value)),
            Err(token::Forged) => Found::Sealed,
        })
    }

    /// Puts something there.
    pub async fn put(&self, what: &str, value: &[u8], age: Duration) -> Result<(), Away> {
        let name = self.name(what);
        let sealed = self.keys.seal_certificate(value, &name, rand::random());
        let sealed = sealed.map_err(|error| Away(error.to_string()))?;
        self.store.put(&name, sealed.into_bytes(), age).await
    }

    /// Takes it away.
    pub async fn forget(&self, what: &str) {
        let _ = self.store.take(&self.name(what)).await; // it expires in any case
    }

    /// Whether we may order now; then nobody else may until [`Shared::release`].
    pub async fn lease(&self) -> Result<bool, Away> {
        self.store.put_new(&self.name("lease"), b"1".to_vec(), LEASE).await
    }

    /// Keeps the lease for as long as this is waited for.
    pub async fn hold(&self) {
        loop {
            sleep(LEASE / 3).await;
            // Where that fails, another may order beside us: no harm is done.
            let _ = self.store.put(&self.name("lease"), b"1".to_vec(), LEASE).await;
        }
    }

    /// Lets others order.
    pub async fn release(&self) {
        self.forget("lease").await;
    }

    /// The challenge that is under way, if one is.
    pub async fn asked(&self) -> Result<Option<Asked>, Away> {
        let Found::Value(json) = self.get("challenge").await? else { return Ok(None) };
        Ok(serde_json::from_slice(&json).ok())
    }

    fn name(&self, what: &str) -> String {
        format!("{}:{what}", self.prefix)
    }
}

/// Where challenges are answered: here, and at the other replicas if there are any.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    /// Here.
    pub shelf: &'a Arc<Shelf>,
    /// And there.
    pub shared: Option<&'a Shared>,
}

impl Stage<'_> {
    /// Answers a challenge until what comes back is dropped; once it comes back, everybody does.
    pub async fn answer(&self, name: &str, digest: &[u8]) -> Result<Challenge, Trouble> {
        let here = Shelf::challenge(self.shelf, name, digest)?;
        if let Some(shared) = self.shared {
            let asked = Asked { name: name.to_owned(), digest: digest.to_vec() };
            let json = serde_json::to_vec(&asked).map_err(|_| Trouble::Digest)?;
            shared.put("challenge", &json, CHALLENGE).await?;
            sleep(KNOWN).await;
        }
        Ok(here)
    }

    /// The authority has asked.
    pub async fn done(&self) {
        if let Some(shared) = self.shared {
            shared.forget("challenge").await;
        }
    }
}
