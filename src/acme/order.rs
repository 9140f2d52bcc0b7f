//! One order, from the question to the certificate.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{OrderError, certificate_info::CertificateInfo, shared_state::ChallengeResponder};
use crate::clock;

/// How long an authority may think before each of the two answers that it takes its time for.
const POLL_POLICY: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(90));
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_mins(4);

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// As it is shown.
    pub certified: Arc<CertifiedKey>,
    /// What it says of itself.
    pub info: CertificateInfo,
}

/// Orders a certificate for a name. What comes back is PEM with the key in it, and the same read.
pub async fn place_order(
    account: &Account,
    name: &str,
    replaces: Option<&IssuedCertificate>,
    stage: ChallengeResponder<'_>,
) -> Result<(Zeroizing<String>, IssuedCertificate), OrderError> {
    let all = async {
        let identifiers = [Identifier::Dns(name.to_owned())];
        let mut order = open(account, &identifiers, replaces).await?;
        prove(&mut order, name, stage).await?;
        // A key of its own for each certificate, made by the library: P-256.
        let key = Zeroizing::new(order.finalize().await?);
        let chain = order.poll_certificate(&POLL_POLICY).await?;
        let pem = Zeroizing::new(format!("{}\n{}", chain.trim_end(), *key));
        let made = read(pem.as_bytes(), name)?;
        if made.info.expires <= clock::system() {
            return Err(OrderError::Wrong);
        }
        Ok((pem, made))
    };
    timeout(DEADLINE, all).await.unwrap_or(Err(OrderError::Late(DEADLINE.as_secs())))
}

/// Says which certificate shall be replaced, which spares it limits; where the authority cannot make
/// anything of that, it is not said.
async fn open(
    account: &Account,
    identifiers: &[Identifier],
    replaces: Option<&IssuedCertificate>,
) -> Result<Order, OrderError> {
    if let Some(id) = replaces.and_then(identifier) {
        match account.new_order(&NewOrder::new(identifiers).replaces(id)).await {
            Ok(order) => return Ok(order),
            Err(instant_acme::Error::Api(problem)) if !is_about_the_old(&problem) => {
                return Err(instant_acme::Error::Api(problem).into());
            }
            Err(error) => tracing::debug!(%error, "order sent without `replaces`"),
        }
    }
    Ok(account.new_order(&NewOrder::new(identifiers)).await?)
}

/// RFC 9773, section 5: a certificate is replaced once.
fn is_about_the_old(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    ["alreadyReplaced", "malformed", "notFound"].iter().any(|word| kind.ends_with(word))
}

/// What the authority calls a certificate (RFC 9773, section 4.1).
pub fn identifier(made: &IssuedCertificate) -> Option<CertificateIdentifier<'_>> {
    CertificateIdentifier::try_from(made.certified.cert.first()?).ok()
}

/// Shows that the name is ours.
async fn prove(
    order: &mut Order,
    name: &str,
    stage: ChallengeResponder<'_>,
) -> Result<(), OrderError> {
    let mut answered = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // The authority may remember the last time.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.ok_or(OrderError::NoChallenge)?;
        let digest = challenge.key_authorization().digest();
        answered = Some(stage.answer(name, digest.as_ref()).await?);
        challenge.set_ready().await?;
    }
    let ready = order.poll_ready(&POLL_POLICY).await;
    if answered.is_some() {
        stage.done().await;
    }
    drop(answered);
    match ready {
        Ok(OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid) => Ok(()),
        Ok(OrderStatus::Pending | OrderStatus::Invalid) => Err(reason(order).await),
        Err(instant_acme::Error::Api(_)) => Err(reason(order).await),
        Err(error) => Err(error.into()),
    }
}

/// Why the authority is not convinced: it says so at the challenge.
async fn reason(order: &mut Order) -> OrderError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let error = state.challenges.iter().find_map(|it| it.error.clone());
        if let Some(problem) = error {
            return OrderError::Refused(Box::new(problem));
        }
    }
    match order.state().error.clone() {
        Some(problem) => OrderError::Refused(Box::new(problem)),
        None => OrderError::Invalid,
    }
}

/// Reads a certificate with its key, which must be for this name.
pub fn read(pem: &[u8], name: &str) -> Result<IssuedCertificate, OrderError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|_| OrderError::NoCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| OrderError::NoCertificate)?;
    let certified =
        CertifiedKey::from_der(chain, key, &default_provider()).map_err(OrderError::Unusable)?;
    let leaf = CertificateInfo::of(&certified).ok_or(OrderError::NoCertificate)?;
    if !leaf.names.iter().any(|it| it == name) {
        return Err(OrderError::Wrong);
    }
    Ok(IssuedCertificate { certified: Arc::new(certified), info: leaf })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pair_for_the_name_is_read() {
        let made = rcgen::generate_simple_self_signed(["h5.example.com".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["h5.example.com".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let pair = |cert: &str, key: &str| format!("{cert}\n{key}");
        assert!(read(pair(&cert, &key).as_bytes(), "h5.example.com").is_ok());
        for (pem, name) in [
            (pair(&cert, &key), "www.example.com"),
            (pair(&cert, &other.signing_key.serialize_pem()), "h5.example.com"),
            (pair(&cert, ""), "h5.example.com"),
            (pair("", &key), "h5.example.com"),
            (pair(&cert.replace("-----END", ""), &key), "h5.example.com"),
            (String::new(), "h5.example.com"),
        ] {
            assert!(read(pem.as_bytes(), name).is_err(), "{name}: {pem}");
        }
    }
}
