//! What handshakes look at: certificates that were ordered, and answers to challenges. Read without
//! a lock; written by the task that orders.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use tokio::sync::Notify;

use super::{OrderError, certificate_info::CertificateInfo};

type ByName = BTreeMap<String, Arc<CertifiedKey>>;

/// Certificates by the one name that each was ordered for.
#[derive(Default)]
pub struct CertificateSet {
    ordered: ArcSwap<ByName>,
    /// Behind a lock, because it is empty nearly always and only an authority asks for it.
    challenges: RwLock<ByName>,
    changed: Notify,
}

impl CertificateSet {
    /// The certificate of a name in lower case.
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.ordered.load().get(name).cloned()
    }

    /// One of them, for whoever asks for no name of ours.
    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        self.ordered.load().values().next().cloned()
    }

    /// The answer to a challenge for a name in lower case, while there is one.
    pub fn challenge_certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Each of them in words.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.ordered.load().values().filter_map(|it| CertificateInfo::of(it)).collect()
    }

    /// Waits until others are shown.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Shows these from the next handshake on.
    pub(super) fn publish(&self, ordered: ByName) {
        self.ordered.store(Arc::new(ordered));
        self.changed.notify_one();
    }

    /// Answers a challenge for a name until what comes back is dropped.
    pub(super) fn serve_challenge(
        this: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<ChallengeGuard, OrderError> {
        let proof = Arc::new(proof(name, digest)?);
        let mut challenges = this.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(name.to_owned(), proof);
        Ok(ChallengeGuard { certificates: Arc::clone(this), name: name.to_owned() })
    }
}

impl fmt::Debug for CertificateSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.ordered.load().keys().cloned().collect();
        f.debug_struct("Shelf").field("ordered", &names).finish_non_exhaustive()
    }
}

/// A challenge while it is answered.
pub struct ChallengeGuard {
    certificates: Arc<CertificateSet>,
    name: String,
}

impl Drop for ChallengeGuard {
    fn drop(&mut self) {
        let challenges = self.certificates.challenges.write();
        challenges.unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// The certificate of RFC 8737, section 3: signed by itself, for this one name, with the digest of
/// the key authorization in a critical extension.
fn proof(name: &str, digest: &[u8]) -> Result<CertifiedKey, OrderError> {
    // The library asserts it.
    if digest.len() != 32 {
        return Err(OrderError::Digest);
    }
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let made = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key =
        default_provider().key_provider.load_private_key(key).map_err(OrderError::Unusable)?;
    // Not held against its key: whoever reads certificates refuses an extension that is critical and
    // that they do not know, as this one has to be.
    Ok(CertifiedKey::new(vec![made.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use x509_parser::{
        certificate::X509Certificate,
        prelude::{FromDer, GeneralName},
    };

    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_lasts_and_for_its_name_alone() {
        let shelf = Arc::new(CertificateSet::default());
        let challenge =
            CertificateSet::serve_challenge(&shelf, "h5.example.com", &[7; 32]).unwrap();
        let shown = shelf.challenge_certificate("h5.example.com").unwrap();
        assert!(shelf.challenge_certificate("www.example.com").is_none());
        let (_, leaf) = X509Certificate::from_der(&shown.cert[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(names, [GeneralName::DNSName("h5.example.com")]);
        let marks: Vec<_> = leaf
            .extensions()
            .iter()
            .filter(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .map(|it| (it.critical, it.value))
            .collect();
        assert_eq!(marks, [(true, [[4, 32].as_slice(), &[7; 32]].concat().as_slice())]);
        drop(challenge);
        assert!(shelf.challenge_certificate("h5.example.com").is_none());
        assert!(CertificateSet::serve_challenge(&shelf, "h5.example.com", b"short").is_err());
    }
}
