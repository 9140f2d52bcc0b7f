//! Whom we believe when we are the client: the system's authorities, else Mozilla's.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::site::UpstreamTls;

/// One configuration for every connection we open over TLS.
pub fn client() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read a system root certificate");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The configuration for a site with credentials of its own, from that of all others.
pub fn with_credentials(credentials: &UpstreamTls, usual: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = match &credentials.roots {
        Some(roots) => {
            ClientConfig::builder().with_root_certificates(Arc::clone(roots)).with_no_client_auth()
        }
        None => ClientConfig::clone(usual),
    };
    if let Some(identity) = &credentials.identity {
        config.client_auth_cert_resolver =
            Arc::new(SingleCertAndKey::from(CertifiedKey::clone(identity)));
    }
    // A session that was opened under other credentials is never gone on with.
    config.resumption = Resumption::default();
    Arc::new(config)
}

/// The same configuration, which offers these protocols in the handshake (RFC 7301).
pub fn offering(protocols: &[&[u8]], config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    Arc::new(config)
}
