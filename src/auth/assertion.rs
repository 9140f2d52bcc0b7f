//! Proof of who a visitor is, for sites that want more than a header: a JWT (ES256) that anybody
//! can check with our public keys. Pure, but for the random number of each signature, which the
//! library draws itself.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::Serialize;
use serde_json::{Value, json};

use super::{KeyRing, VerifiedSession, session::ISSUER, token::CryptoError};
use crate::{
    clock::Timestamp,
    site::{Scope, Site},
};

/// How long an assertion is good for.
const LIFETIME: Duration = Duration::from_mins(5);

/// One that is older is not handed out again, so that the site has two minutes to look at it.
const MAX_REUSE_AGE: Duration = Duration::from_mins(3);

/// One key's private half, which signs, and its public half.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    head: String,
    public: Value,
}

impl SigningKey {
    /// The key called `id`, from 32 bytes for each label: the same on every replica.
    pub fn new<F>(id: &str, derive: F) -> Result<Self, CryptoError>
    where
        F: Fn(&str) -> Result<[u8; 32], CryptoError>,
    {
        // One of four thousand million numbers of that size is too large for the curve.
        let labels = ["assertion", "assertion 1", "assertion 2"];
        labels
            .into_iter()
            .find_map(|label| Self::from_scalar(id, &derive(label).ok()?))
            .ok_or(CryptoError)
    }

    fn from_scalar(id: &str, scalar: &[u8; 32]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
        let public = private.compute_public_key().ok()?;
        let point = public.as_ref();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point).ok()?;
        // Uncompressed: 4, x, y (SEC 1, section 2.3.3).
        let (x, y) = point.strip_prefix(&[4])?.split_at_checked(32)?;
        let head = json!({ "alg": "ES256", "kid": id, "typ": "JWT" });
        let public = json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
            "x": encode(x), "y": encode(y),
        });
        Some(Self { pair, head: encode(head.to_string().as_bytes()), public })
    }

    /// Signs `claims` as a JWT (RFC 7515, appendix A.3: the signature is r and s, 32 bytes each).
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, CryptoError> {
        let claims = serde_json::to_vec(claims).map_err(|_| CryptoError)?;
        let text = format!("{}.{}", self.head, encode(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.map_err(|_| CryptoError)?;
        Ok(format!("{text}.{}", encode(signature.as_ref())))
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The public halves of a ring, as we publish them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwkSet {
    /// A JWK set (RFC 7517, section 5).
    pub json: String,
    /// What changes when it does: a strong entity tag.
    pub tag: String,
}

impl JwkSet {
    /// Those of these keys, in the order of the ring.
    pub fn of<'a>(ring: impl Iterator<Item = &'a SigningKey>) -> Self {
        let keys: Vec<&Value> = ring.map(|signer| &signer.public).collect();
        let json = json!({ "keys": keys }).to_string();
        let hash = digest::digest(&digest::SHA256, json.as_bytes());
        let tag = format!("\"{}\"", encode(hash.as_ref().get(..12).unwrap_or_default()));
        Self { json, tag }
    }
}

/// What an assertion says.
#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'static str,
    aud: &'a str,
    sub: &'a str,
    jti: String,
    iat: Timestamp,
    exp: Timestamp,
    appid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nickname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<&'a str>,
    sid: &'a str,
    auth_time: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    also: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
}

/// The last assertion about a visitor, kept while it is fresh: a signature takes longer than all
/// else we do for a request.
#[derive(Debug, Default)]
pub struct AssertionCache(RefCell<Option<(Timestamp, HeaderValue)>>);

impl VerifiedSession {
    /// The assertion for `site`, where it wants one. `random` is asked for the id of a new one.
    pub fn assertion(
        &self,
        site: &Site,
        keys: &KeyRing,
        now: Timestamp,
        random: impl FnOnce() -> u128,
    ) -> Result<Option<HeaderValue>, CryptoError> {
        if !site.assertion {
            return Ok(None);
        }
        let mut last = self.proof.0.borrow_mut();
        if let Some((made, proof)) = &*last
            && *made <= now
            && now.since(*made) < MAX_REUSE_AGE.as_secs()
        {
            return Ok(Some(proof.clone()));
        }
        let text = keys.sign_jwt(&claims(self, site, now, random()))?;
        let proof = HeaderValue::try_from(text).map_err(|_| CryptoError)?;
        *last = Some((now, proof.clone()));
        Ok(Some(proof))
    }
}

fn claims<'a>(
    known: &'a VerifiedSession,
    site: &'a Site,
    now: Timestamp,
    id: u128,
) -> AssertionClaims<'a> {
    let (session, identity) = (&known.session, &known.session.identity);
    AssertionClaims {
        iss: ISSUER,
        aud: site.public_url.as_str(),
        sub: &identity.openid,
        jti: format!("{id:032x}"),
        iat: now,
        exp: now.plus(LIFETIME),
        appid: &session.appid,
        account: site.login_account(&session.appid).map(|account| account.name.as_str()),
        scope: identity.scope,
        unionid: identity.unionid.as_deref(),
        nickname: identity.nickname.as_deref(),
        avatar: identity.avatar.as_deref(),
        sid: &session.sid,
        auth_time: session.auth_time,
        also: &session.also,
        snapshot: session.snapshot,
    }
}
