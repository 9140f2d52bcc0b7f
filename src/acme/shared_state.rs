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
    OrderError, Settings,
    certificates::{CertificateSet, ChallengeGuard},
};
use crate::{
    auth::{KeyRing, token},
    store::{Store, StoreUnavailable},
};

/// How often a replica looks for a challenge.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// After so long every replica answers a challenge.
const KNOWN: Duration = Duration::from_millis(2_500);
/// For how long one replica orders, unless it says again that it does; one that dies is not waited for
/// any longer.
const LEASE_TTL: Duration = Duration::from_secs(30);
/// How long a challenge is answered at most.
const CHALLENGE: Duration = Duration::from_mins(5);

/// The store, as this room uses it.
pub struct SharedState {
    store: Arc<Store>,
    keys: KeyRing,
    prefix: String,
}

/// What stands under a name.
pub enum SharedValue {
    /// Nothing.
    Nothing,
    /// Something that our keys do not open.
    Sealed,
    /// This.
    Value(Zeroizing<Vec<u8>>),
}

/// A challenge that some replica has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingChallenge {
    /// The name to be proven.
    pub name: String,
    /// The digest that proves it.
    pub digest: Vec<u8>,
}

impl SharedState {
    /// Nothing where there are no replicas.
    pub fn new(store: &Arc<Store>, settings: &Settings) -> Option<Self> {
        let keys = KeyRing::new(&settings.ring).ok()?;
        let prefix = prefix(&settings.directory);
        store.is_shared().then(|| Self { store: Arc::clone(store), keys, prefix })
    }

    /// What stands there.
    pub async fn get(&self, what: &str) -> Result<SharedValue, StoreUnavailable> {
        let name = self.name(what);
        let Some(sealed) = self.store.get(&name).await? else { return Ok(SharedValue::Nothing) };
        Ok(match self.keys.open_certificate(&sealed, &name) {
            Ok(value) => SharedValue::Value(Zeroizing::new(value)),
            Err(token::InvalidToken) => SharedValue::Sealed,
        })
    }

    /// Puts something there.
    pub async fn put(
        &self,
        what: &str,
        value: &[u8],
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        let name = self.name(what);
        let sealed = self.keys.seal_certificate(value, &name, rand::random());
        let sealed = sealed.map_err(|error| StoreUnavailable::internal(error.to_string()))?;
        self.store.put(&name, sealed.into_bytes(), age).await
    }

    /// Takes it away.
    pub async fn remove(&self, what: &str) {
        let _ = self.store.take(&self.name(what)).await; // it expires in any case
    }

    /// Whether we may order now; then nobody else may until [`SharedState::release`].
    pub async fn lease(&self) -> Result<bool, StoreUnavailable> {
        self.store.put_new(&self.name("lease"), b"1".to_vec(), LEASE_TTL).await
    }

    /// Keeps the lease for as long as this is waited for.
    pub async fn keep_lease_alive(&self) {
        loop {
            sleep(LEASE_TTL / 3).await;
            // Where that fails, another may order beside us: no harm is done.
            let _ = self.store.put(&self.name("lease"), b"1".to_vec(), LEASE_TTL).await;
        }
    }

    /// Lets others order.
    pub async fn release(&self) {
        self.remove("lease").await;
    }

    /// The challenge that is under way, if one is.
    pub async fn pending_challenge(&self) -> Result<Option<PendingChallenge>, StoreUnavailable> {
        let SharedValue::Value(json) = self.get("challenge").await? else { return Ok(None) };
        Ok(serde_json::from_slice(&json).ok())
    }

    fn name(&self, what: &str) -> String {
        format!("{}:{what}", self.prefix)
    }
}

/// The beginning of the names of everything that is kept of one authority.
fn prefix(directory: &str) -> String {
    format!("acme:{}", super::storage::label(directory))
}

/// Where challenges are answered: here, and at the other replicas if there are any.
#[derive(Clone, Copy)]
pub struct ChallengeResponder<'a> {
    /// Here.
    pub certificates: &'a Arc<CertificateSet>,
    /// And there.
    pub shared: Option<&'a SharedState>,
}

impl ChallengeResponder<'_> {
    /// Answers a challenge until what comes back is dropped; once it comes back, everybody does.
    pub async fn answer(&self, name: &str, digest: &[u8]) -> Result<ChallengeGuard, OrderError> {
        let here = CertificateSet::serve_challenge(self.certificates, name, digest)?;
        if let Some(shared) = self.shared {
            let asked = PendingChallenge { name: name.to_owned(), digest: digest.to_vec() };
            let json = serde_json::to_vec(&asked).map_err(|_| OrderError::Digest)?;
            shared.put("challenge", &json, CHALLENGE).await?;
            sleep(KNOWN).await;
        }
        Ok(here)
    }

    /// The authority has asked.
    pub async fn done(&self) {
        if let Some(shared) = self.shared {
            shared.remove("challenge").await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store, test_support};

    #[tokio::test]
    async fn serialized_names_and_values_in_the_store() {
        let store = Arc::new(Store::new(&store::Settings::Memory).unwrap());
        let shared = SharedState {
            store: Arc::clone(&store),
            keys: test_support::keys(),
            prefix: prefix("https://ca.example/dir"),
        };
        shared.put("account", b"{}", CHALLENGE).await.unwrap();
        assert!(shared.lease().await.unwrap());
        let challenge = PendingChallenge { name: "h5.example.com".to_owned(), digest: vec![7, 8] };
        let json = r#"{"name":"h5.example.com","digest":[7,8]}"#;
        assert_eq!(serde_json::to_string(&challenge).unwrap(), json);
        let name = "acme:ca.example-dir:challenge";
        let sealed = shared.keys.seal_certificate(json.as_bytes(), name, [1; 12]).unwrap();
        store.put(name, sealed.into_bytes(), CHALLENGE).await.unwrap();
        assert_eq!(shared.pending_challenge().await.unwrap(), Some(challenge));
        let name = "acme:ca.example-dir:account";
        let account = store.get(name).await.unwrap().unwrap();
        assert_eq!(shared.keys.open_certificate(&account, name), Ok(b"{}".to_vec()));
        assert_eq!(store.get("acme:ca.example-dir:lease").await, Ok(Some(b"1".to_vec())));
    }
}
