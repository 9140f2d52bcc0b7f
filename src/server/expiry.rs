//! When a certificate ends, and whom it is for. Pure.

use rustls::sign::CertifiedKey;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::tls;
use crate::clock::Timestamp;

/// A certificate as operators think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it ends.
    pub expires: Timestamp,
}

impl Shown {
    /// Of the leaf of a chain; nothing where it cannot be read.
    pub fn of(certified: &CertifiedKey) -> Option<Self> {
        let leaf = certified.cert.first()?;
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let expires = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        Some(Self { names: tls::names(certified), expires: Timestamp(expires) })
    }
}
