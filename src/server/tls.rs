//! The certificates we show and the protocols we speak under them.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use super::expiry::Shown;
use crate::wire::Host;

/// Encrypted listeners and their certificates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Chosen by the name the client asks for; the first for all others.
    pub certificates: Vec<Files>,
}

/// Where a certificate and its key are kept.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, leaf first, in PEM.
    pub cert: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}

/// A certificate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read as PEM.
    #[error("cannot read {0}")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// The certificate and the key do not belong together, or one is unusable.
    #[error("cannot use the certificate {0} with its key")]
    Certificate(PathBuf, #[source] rustls::Error),
    /// None is configured.
    #[error("no certificate is configured")]
    None,
}

/// Every certificate, by the names it is good for. A reload replaces them between two handshakes.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Chosen>);

/// Certificates that were read and fit their keys.
#[derive(Debug)]
pub struct Chosen {
    first: Arc<CertifiedKey>,
    shown: Vec<Shown>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads every file.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        Ok(Self(ArcSwap::from_pointee(Chosen::load(settings)?)))
    }

    /// Shows others from the next handshake on.
    pub fn replace(&self, chosen: Chosen) {
        self.0.store(Arc::new(chosen));
    }

    /// Each of them in words.
    pub fn shown(&self) -> Vec<Shown> {
        self.0.load().shown.clone()
    }
}

impl Chosen {
    /// Reads every file.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let (mut first, mut shown) = (None, Vec::new());
        let mut by_name = HashMap::new();
        for files in &settings.certificates {
            let pem = |path: &PathBuf| {
                let path = path.clone();
                move |error| Error::Pem(path, error)
            };
            let chain = CertificateDer::pem_file_iter(&files.cert)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(pem(&files.cert))?;
            let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
            let certified = CertifiedKey::from_der(chain, key, &provider)
                .map_err(|error| Error::Certificate(files.cert.clone(), error))?;
            let certified = Arc::new(certified);
            for name in names(&certified) {
                by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            shown.extend(Shown::of(&certified));
            first.get_or_insert(certified);
        }
        Ok(Self { first: first.ok_or(Error::None)?, shown, by_name })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = Host::parse(name)?;
        let wild = || Some(format!("*.{}", name.as_str().split_once('.')?.1));
        self.by_name.get(name.as_str()).or_else(|| self.by_name.get(&wild()?))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.0.load();
        let named = hello.server_name().and_then(|name| chosen.find(name));
        Some(Arc::clone(named.unwrap_or(&chosen.first)))
    }
}

/// The host names that the leaf certificate lists.
pub fn names(certified: &CertifiedKey) -> Vec<String> {
    let leaf = certified.cert.first();
    let parsed = leaf.and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    let names = parsed.iter().flat_map(|leaf| leaf.valid_dns_names());
    names.map(str::to_ascii_lowercase).collect()
}

/// An acceptor that shows these certificates and offers HTTP/2 and HTTP/1.1.
pub fn acceptor(certificates: Arc<Certificates>) -> TlsAcceptor {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Ok(ticketer) = rustls::crypto::aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    TlsAcceptor::from(Arc::new(config))
}

/// How a handshake ended, for the metrics.
pub fn outcome(connection: &ServerConnection) -> &'static str {
    match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => "full",
    }
}

/// Which version it agreed on.
pub fn version(connection: &ServerConnection) -> &'static str {
    if connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) { "1.3" } else { "1.2" }
}
