//! Certificates that are ordered from an authority and renewed in time: ACME (RFC 8555), proven by
//! TLS-ALPN-01 (RFC 8737), with the authority's advice on renewals (RFC 9773).
//!
//! One task on the control runtime orders, a name at a time, each name a certificate of its own: one
//! whose DNS record is wrong keeps no other from theirs. What comes is kept on disk, and put on a
//! shelf where handshakes find it. Requests wait for none of this.
//!
//! Where replicas share a store, one of them orders, under a lease; all answer the authority, and all
//! show what came. Each keeps a copy on its disk.
//!
//! An authority that fails costs nothing but lines in the log while the certificate at hand lasts.
//! Each try is written down before it is made, so that neither a failing authority nor a gateway
//! that is started again and again turns into a stream of orders.

use std::{io, path::PathBuf};

use instant_acme::Problem;

use crate::{auth::KeySettings, secret::Secret, site::UpstreamTls, store::StoreUnavailable};

mod account;
pub mod client;
mod storage;
mod manager;
mod handle;
mod certificate_info;
mod order;
mod schedule;
mod shared_state;
mod certificates;

pub use account::mac_key;
pub use certificate_info::{CertificateInfo, names};
pub use certificates::CertificateSet;
pub use handle::{ManagerContext, ManagerHandle};

/// The protocol of a challenge, which nothing else is spoken under (RFC 8737, section 6.2).
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// What is ordered, from whom, and where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The names, in lower case.
    pub domains: Vec<String>,
    /// Whom the authority may write to, as URLs.
    pub contact: Vec<String>,
    /// By what the authority knows us, where it has its customers' names already.
    pub customer: Option<ExternalAccountBinding>,
    /// Where the authority begins.
    pub directory: String,
    /// Whom we believe to be it.
    pub believes: UpstreamTls,
    /// The folder where keys and certificates are kept.
    pub storage: PathBuf,
    /// What seals that which replicas share; nothing where there are none.
    pub ring: Vec<KeySettings>,
}

/// A customer of an authority (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccountBinding {
    /// Its word for them.
    pub kid: String,
    /// The key that goes with it, in base64 as the authority gives it out.
    pub key: Secret,
}

/// The folder, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {0}, which [server.acme] keeps its keys in")]
pub struct StorageError(PathBuf, #[source] io::Error);

/// Why a certificate order failed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// TLS could not be set up for calls to the authority.
    #[error("cannot set up the client for the authority")]
    Client(#[from] reqwest::Error),
    /// The authority answered, and the answer was no.
    #[error("CA returned a problem: {}", said(.0))]
    Refused(Box<Problem>),
    /// It did not answer, or nothing that makes sense.
    #[error("{0}")]
    Authority(instant_acme::Error),
    /// It wants the name proven in other ways only.
    #[error("the authority offers no tls-alpn-01 for this name")]
    NoChallenge,
    /// It gave no reason.
    #[error("CA marked the order invalid")]
    Invalid,
    /// A digest is not what RFC 8737 says.
    #[error("the digest of the challenge has a wrong length")]
    Digest,
    /// The answer to a challenge could not be made.
    #[error("cannot create challenge certificate")]
    Proof(#[from] rcgen::Error),
    /// What came cannot be read.
    #[error("CA response is not a PEM certificate")]
    NoCertificate,
    /// What came does not fit.
    #[error("cannot use the certificate that came")]
    Unusable(#[source] rustls::Error),
    /// What came is for others, or over.
    #[error("issued certificate has the wrong name or validity")]
    Wrong,
    /// It could not be kept.
    #[error(transparent)]
    Disk(#[from] StorageError),
    /// The other replicas could not be told of it.
    #[error(transparent)]
    Store(#[from] StoreUnavailable),
    /// It took too long.
    #[error("order not completed within {0} s")]
    Late(u64),
}

impl OrderError {
    /// The authority's word for it.
    fn problem(&self) -> Option<&str> {
        let Self::Refused(problem) = self else { return None };
        problem.r#type.as_deref()
    }
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        if let instant_acme::Error::Api(problem) = error {
            return Self::Refused(Box::new(problem));
        }
        Self::Authority(error)
    }
}

/// A problem document without the library's words around it.
fn said(problem: &Problem) -> String {
    let text = problem.to_string();
    let text = text.strip_prefix("API error").unwrap_or(&text);
    text.trim_start_matches([':', ' ']).to_owned()
}
