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

use crate::{
    acme::{self, CertificateInfo, CertificateSet, names},
    httputil::Host,
};

/// What is spoken with visitors, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Encrypted listeners and their certificates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Chosen by the name the client asks for; the first for all others.
    pub certificates: Vec<CertificatePaths>,
    /// What is ordered beside those.
    pub acme: Option<acme::Settings>,
}

/// Where a certificate and its key are kept.
#[derive(Clone, Debug)]
pub struct CertificatePaths {
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

/// Every certificate, by the names it is good for. A reload replaces those of files between two
/// handshakes; those that were ordered come and go on their shelf.
#[derive(Debug)]
pub struct CertificateResolver {
    chosen: ArcSwap<FileCertificates>,
    certificates: Arc<CertificateSet>,
}

/// Certificates that were read from files and fit their keys.
#[derive(Debug)]
pub struct FileCertificates {
    first: Option<Arc<CertifiedKey>>,
    shown: Vec<CertificateInfo>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl CertificateResolver {
    /// Reads every file.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        let chosen = ArcSwap::from_pointee(FileCertificates::load(settings)?);
        Ok(Self { chosen, certificates: Arc::default() })
    }

    /// Where those are shown that were ordered.
    pub fn shelf(&self) -> &Arc<CertificateSet> {
        &self.certificates
    }

    /// What is to be ordered: the names that no file has a certificate for.
    pub fn missing_domains(&self, settings: Option<&acme::Settings>) -> Option<acme::Settings> {
        let (chosen, mut settings) = (self.chosen.load(), settings?.clone());
        settings.domains.retain(|name| chosen.find(name).is_none());
        Some(settings)
    }

    /// Shows others from the next handshake on.
    pub fn replace(&self, chosen: FileCertificates) {
        self.chosen.store(Arc::new(chosen));
    }

    /// Each of them in words.
    pub fn certificate_views(&self) -> Vec<CertificateInfo> {
        self.chosen.load().shown.iter().cloned().chain(self.certificates.certificates()).collect()
    }
}

impl FileCertificates {
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
            shown.extend(CertificateInfo::of(&certified));
            first.get_or_insert(certified);
        }
        if first.is_none() && settings.acme.is_none() {
            return Err(Error::None);
        }
        Ok(Self { first, shown, by_name })
    }

    /// For a name in lower case.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wild = || Some(format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(name).or_else(|| self.by_name.get(&wild()?))
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(Host::plain);
        if is_challenge(&hello) {
            let alone = hello.alpn().into_iter().flatten().count() == 1;
            return self.certificates.challenge_certificate(&name?).filter(|_| alone);
        }
        let chosen = self.chosen.load();
        let named = name
            .and_then(|name| chosen.find(&name).cloned().or_else(|| self.certificates.find(&name)));
        // Before the first order is filled there may be none; the handshake is refused then.
        named.or_else(|| chosen.first.clone()).or_else(|| self.certificates.first())
    }
}

/// Whether an authority asks, or somebody who could be one: who offers this protocol and none of
/// ours. Only who offers it alone gets an answer (RFC 8737, section 3).
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.any(|it| it == acme::PROTOCOL)
        && !hello.alpn().into_iter().flatten().any(|it| PROTOCOLS.contains(&it))
}

/// An acceptor that shows these certificates and offers HTTP/2 and HTTP/1.1.
pub fn acceptor(certificates: Arc<CertificateResolver>) -> TlsAcceptor {
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
    // The first of ours that the client knows is spoken: a challenge only where nothing else is.
    let protocols = PROTOCOLS.into_iter().chain([acme::PROTOCOL]);
    config.alpn_protocols = protocols.map(<[u8]>::to_vec).collect();
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
