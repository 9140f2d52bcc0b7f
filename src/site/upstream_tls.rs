//! Whom we believe and who we are, towards the servers of one site. Pure.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};

/// What a site's servers are shown and held to over TLS.
///
/// Two are equal when they come of the same files: connections are shared only then.
#[derive(Clone)]
pub struct UpstreamTls {
    /// The authorities that may have signed a server's certificate; the system's where there are
    /// none.
    pub roots: Option<Arc<RootCertStore>>,
    /// The certificate we show when a server asks for one.
    pub identity: Option<Arc<CertifiedKey>>,
    /// The name that a server's certificate must be good for; its host where there is none.
    pub name: Option<ServerName<'static>>,
    /// The files that all this was read from.
    source: Arc<[Vec<u8>]>,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It has no certificate that could be read.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// It has no private key that could be read.
    #[error("holds no private key in PEM")]
    NoKey,
    /// The certificate is not this key's, or of a kind that nobody can use.
    #[error("does not belong to the certificate, or is of a kind that cannot be used")]
    Mismatch,
}

impl UpstreamTls {
    /// Those of any client: the system's authorities, no certificate.
    pub fn new(name: Option<ServerName<'static>>) -> Self {
        Self { roots: None, identity: None, name, source: Arc::default() }
    }

    /// Believes these authorities (PEM) and no others.
    pub fn add_root(&mut self, pem: &[u8]) -> Result<(), PemError> {
        let mut roots = RootCertStore::empty();
        for authority in chain(pem)? {
            roots.add(authority).map_err(|_| PemError::NoCertificate)?;
        }
        self.roots = Some(Arc::new(roots));
        self.read_from(b"ca", pem);
        Ok(())
    }

    /// Shows this certificate: the chain, leaf first, and its key, both in PEM.
    pub fn set_client_certificate(&mut self, cert: &[u8], key: &[u8]) -> Result<(), PemError> {
        let chain = chain(cert)?;
        let der = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::NoKey)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let identity = CertifiedKey::from_der(chain, der, &provider);
        self.identity = Some(Arc::new(identity.map_err(|_| PemError::Mismatch)?));
        // A certificate names its key, so that there is no need to remember a secret.
        self.read_from(b"cert", cert);
        Ok(())
    }

    fn read_from(&mut self, what: &[u8], pem: &[u8]) {
        let more = [what.to_vec(), pem.to_vec()];
        self.source = self.source.iter().cloned().chain(more).collect();
    }
}

/// Every certificate of a file, of which there must be one.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or(PemError::NoCertificate)
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.source == other.source
    }
}

impl Eq for UpstreamTls {}

impl Hash for UpstreamTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, &self.source).hash(state);
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ca, cert) = (self.roots.is_some(), self.identity.is_some());
        write!(f, "Credentials {{ ca: {ca}, cert: {cert}, name: {:?} }}", self.name)
    }
}
