//! What a certificate says of itself: whom it is for, and from when to when. Pure.

use rustls::sign::CertifiedKey;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::clock::Timestamp;

/// A certificate as operators think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it begins.
    pub begins: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl CertificateInfo {
    /// Of the leaf of a chain; nothing where it cannot be read.
    pub fn of(certified: &CertifiedKey) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(certified.cert.first()?).ok()?;
        let time = |at: i64| Timestamp(u64::try_from(at).unwrap_or_default());
        Some(Self {
            names: names(certified),
            begins: time(leaf.validity().not_before.timestamp()),
            expires: time(leaf.validity().not_after.timestamp()),
        })
    }
}

/// The host names that the leaf of a chain lists.
pub fn names(certified: &CertifiedKey) -> Vec<String> {
    let leaf = certified.cert.first();
    let parsed = leaf.and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    let names = parsed.iter().flat_map(|leaf| leaf.valid_dns_names());
    names.map(str::to_ascii_lowercase).collect()
}
