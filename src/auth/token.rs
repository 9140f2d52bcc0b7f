//! Signing, sealing and opening what we hand to a browser. Pure: expiry is the caller's to check,
//! random values are the caller's to bring.
//!
//! Each secret of the ring signs sessions as it stands, so that whoever shares it can read them
//! with any JWT library, and gives birth to one further key per purpose. A value made for one
//! door never opens another.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    KeySettings,
    assertion::{JwkSet, SigningKey},
};

/// Longer than any token of ours; nothing longer is looked at.
pub const MAX_TOKEN_LEN: usize = 4096;

/// Bytes of a nonce for [`KeyRing::seal`].
pub const NONCE: usize = NONCE_LEN;

/// A value is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid token")]
pub struct InvalidToken;

/// A key or a value could not be used with the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cryptography library refused")]
pub struct CryptoError;

/// What a short code vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPurpose {
    /// The `state` that goes to WeChat and back.
    State,
    /// The hidden field of the logout page.
    Logout,
    /// The id of the session that a login ends in.
    Session,
}

/// The ring: the first key signs and seals, every one opens.
#[derive(Debug)]
pub struct KeyRing {
    newest: RingKey,
    older: Vec<RingKey>,
    rules: Validation,
    public: JwkSet,
}

struct RingKey {
    id: String,
    sign: EncodingKey,
    verify: DecodingKey,
    flow: LessSafeKey,
    certificates: LessSafeKey,
    state: hmac::Key,
    logout: hmac::Key,
    session: hmac::Key,
    assertion: SigningKey,
}

impl std::fmt::Debug for RingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// The keys of a ring; [`CryptoError`] when there is none.
    pub fn new(ring: &[KeySettings]) -> Result<Self, CryptoError> {
        let mut keys = ring.iter().map(RingKey::new).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(CryptoError);
        }
        let mut rules = Validation::new(Algorithm::HS256);
        // The library would read the system clock, and check what is present only. Every claim
        // is checked by `Session`, against `now`.
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let public = JwkSet::of(keys.iter().map(|key| &key.assertion));
        Ok(Self { newest: keys.remove(0), older: keys, rules, public })
    }

    /// Signs `claims` as a JWT (HS256) that names its key.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that signs tokens")]
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, CryptoError> {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.newest.id.clone());
        jsonwebtoken::encode(&header, claims, &self.newest.sign).map_err(|_| CryptoError)
    }

    /// Signs `claims` as a JWT (ES256) that anybody can check with [`KeyRing::public`].
    pub fn sign_jwt<T: Serialize>(&self, claims: &T) -> Result<String, CryptoError> {
        self.newest.assertion.sign(claims)
    }

    /// What checks the signatures of [`KeyRing::sign_jwt`], whichever key of the ring made them.
    pub fn public(&self) -> &JwkSet {
        &self.public
    }

    /// The claims of a JWT signed by a key of the ring, and by the one it names.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that opens tokens")]
    pub fn verify<T: DeserializeOwned>(&self, token: &[u8]) -> Result<T, InvalidToken> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(InvalidToken);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidToken)?;
        let typ = header.typ.as_deref().ok_or(InvalidToken)?;
        let kid = header.kid.as_deref().ok_or(InvalidToken)?;
        let key = self.all().find(|key| key.id == kid).ok_or(InvalidToken)?;
        if !typ.eq_ignore_ascii_case("JWT") {
            return Err(InvalidToken);
        }
        let opened = jsonwebtoken::decode(token, &key.verify, &self.rules);
        opened.map(|data| data.claims).map_err(|_| InvalidToken)
    }

    /// Whether a token names a key that the ring does not have: one that was taken out too early,
    /// or somebody's guess.
    pub fn has_unknown_key(&self, token: &[u8]) -> bool {
        let header = Some(token).filter(|token| token.len() <= MAX_TOKEN_LEN);
        let kid = header.and_then(|token| jsonwebtoken::decode_header(token).ok()?.kid);
        kid.is_some_and(|kid| self.all().all(|key| key.id != kid))
    }

    /// Encrypts `value` (AES-256-GCM) so that only we can read it, for this `place` only. The
    /// nonce must never have been used before: 96 random bits.
    pub fn seal(
        &self,
        value: &[u8],
        place: &str,
        nonce: [u8; NONCE],
    ) -> Result<String, CryptoError> {
        close(&self.newest.flow, value, place, nonce)
    }

    /// Opens what [`KeyRing::seal`] closed for the same place.
    pub fn open(&self, sealed: &[u8], place: &str) -> Result<Vec<u8>, InvalidToken> {
        if sealed.len() > MAX_TOKEN_LEN {
            Err(InvalidToken)
        } else {
            self.open_sealed(sealed, place)
        }
    }

    /// The same, of whatever length: for what comes from our own store and from no visitor.
    pub fn open_sealed(&self, sealed: &[u8], place: &str) -> Result<Vec<u8>, InvalidToken> {
        self.all().find_map(|key| open(&key.flow, sealed, place)).ok_or(InvalidToken)
    }

    /// As [`KeyRing::seal`], for the certificates that replicas share, and under a key for these alone.
    pub fn seal_certificate(
        &self,
        value: &[u8],
        place: &str,
        nonce: [u8; NONCE],
    ) -> Result<String, CryptoError> {
        close(&self.newest.certificates, value, place, nonce)
    }

    /// Opens what [`KeyRing::seal_certificate`] closed for the same place.
    pub fn open_certificate(&self, sealed: &[u8], place: &str) -> Result<Vec<u8>, InvalidToken> {
        self.all().find_map(|key| open(&key.certificates, sealed, place)).ok_or(InvalidToken)
    }

    /// A code of 16 bytes that vouches for `message`. The message's fields must have fixed
    /// lengths, all but the last, or two messages could read the same.
    pub fn create_mac(&self, purpose: MacPurpose, message: &[u8]) -> [u8; 16] {
        let tag = hmac::sign(self.newest.mac(purpose), message);
        let mut code = [0; 16];
        for (to, from) in code.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        code
    }

    /// Whether a key of the ring vouched for `message`, compared in constant time.
    pub fn verify_mac(&self, purpose: MacPurpose, message: &[u8], code: &[u8]) -> bool {
        self.all().any(|key| {
            let tag = hmac::sign(key.mac(purpose), message);
            let expected = tag.as_ref().first_chunk::<16>();
            expected.is_some_and(|expected| {
                aws_lc_rs::constant_time::verify_slices_are_equal(expected, code).is_ok()
            })
        })
    }

    fn all(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }
}

impl RingKey {
    fn new(settings: &KeySettings) -> Result<Self, CryptoError> {
        let secret = settings.secret.expose().as_bytes();
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wxgate/v1").extract(secret);
        let derive = |label: &str| -> Result<[u8; 32], CryptoError> {
            let mut key = [0; 32];
            let info = [label.as_bytes()];
            let derived = root.expand(&info, Length32).map_err(|_| CryptoError)?;
            derived.fill(&mut key).map_err(|_| CryptoError)?;
            Ok(key)
        };
        let aead = |label: &str| -> Result<LessSafeKey, CryptoError> {
            let key = UnboundKey::new(&AES_256_GCM, &derive(label)?).map_err(|_| CryptoError)?;
            Ok(LessSafeKey::new(key))
        };
        Ok(Self {
            id: settings.id.clone(),
            sign: EncodingKey::from_secret(secret),
            verify: DecodingKey::from_secret(secret),
            flow: aead("flow")?,
            certificates: aead("certificates")?,
            state: hmac::Key::new(hmac::HMAC_SHA256, &derive("state")?),
            logout: hmac::Key::new(hmac::HMAC_SHA256, &derive("logout")?),
            session: hmac::Key::new(hmac::HMAC_SHA256, &derive("session id")?),
            assertion: SigningKey::new(&settings.id, derive)?,
        })
    }

    fn mac(&self, purpose: MacPurpose) -> &hmac::Key {
        match purpose {
            MacPurpose::State => &self.state,
            MacPurpose::Logout => &self.logout,
            MacPurpose::Session => &self.session,
        }
    }
}

fn close(
    key: &LessSafeKey,
    value: &[u8],
    place: &str,
    nonce: [u8; NONCE],
) -> Result<String, CryptoError> {
    let mut sealed = value.to_vec();
    let once = Nonce::assume_unique_for_key(nonce);
    let aad = Aad::from(place.as_bytes());
    key.seal_in_place_append_tag(once, aad, &mut sealed).map_err(|_| CryptoError)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
}

fn open(key: &LessSafeKey, sealed: &[u8], place: &str) -> Option<Vec<u8>> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, closed) = bytes.split_first_chunk::<NONCE>()?;
    let mut opened = closed.to_vec();
    let once = Nonce::assume_unique_for_key(*nonce);
    let aad = Aad::from(place.as_bytes());
    let length = key.open_in_place(once, aad, &mut opened).ok()?.len();
    opened.truncate(length);
    Some(opened)
}

struct Length32;

impl hkdf::KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{secret::Secret, serialized::assert_serialized};

    pub fn keys(ring: &[(&str, &str)]) -> KeyRing {
        let key = |(id, secret): &(&str, &str)| KeySettings {
            id: (*id).to_owned(),
            secret: Secret::new(*secret),
        };
        KeyRing::new(&ring.iter().map(key).collect::<Vec<_>>()).unwrap()
    }

    const A: (&str, &str) = ("a", "0123456789abcdef0123456789abcdef");
    const B: (&str, &str) = ("b", "fedcba9876543210fedcba9876543210");

    /// A token signed with secret A, whatever its header says.
    fn token(header: &Value, secret: &str) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(&json!({ "n": 1 })));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&key, text.as_bytes());
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    #[test]
    fn f1_header_is_pinned() {
        let keys = keys(&[A, B]);
        let cases = [
            (json!({ "alg": "HS256", "typ": "JWT", "kid": "a" }), A.1, true),
            (json!({ "alg": "HS256", "typ": "JWT", "kid": "b" }), B.1, true),
            (json!({ "alg": "HS256", "typ": "JWT", "kid": "b" }), A.1, false),
            (json!({ "alg": "HS256", "typ": "JWT", "kid": "c" }), A.1, false),
            (json!({ "alg": "HS256", "typ": "JWT" }), A.1, false),
            (json!({ "alg": "HS256", "kid": "a" }), A.1, false),
            (json!({ "alg": "HS256", "typ": "other", "kid": "a" }), A.1, false),
            (json!({ "alg": "HS512", "typ": "JWT", "kid": "a" }), A.1, false),
            (json!({ "alg": "none", "typ": "JWT", "kid": "a" }), A.1, false),
            (json!({ "typ": "JWT", "kid": "a" }), A.1, false),
        ];
        for (header, secret, good) in cases {
            let token = token(&header, secret);
            let opened = keys.verify::<Value>(token.as_bytes());
            assert_eq!(opened.is_ok(), good, "{header}");
            assert_eq!(keys.has_unknown_key(token.as_bytes()), header["kid"] == "c", "{header}");
        }
        for garbage in ["", ".", "..", "a.b.c", "....", "é"] {
            assert_eq!(keys.verify::<Value>(garbage.as_bytes()), Err(InvalidToken), "{garbage:?}");
        }
        assert_eq!(keys.verify::<Value>(&[b'a'; MAX_TOKEN_LEN + 1]), Err(InvalidToken));
    }

    #[test]
    fn the_first_signs_and_all_open() {
        let (old, new) = (keys(&[A]), keys(&[B, A]));
        let token = old.sign(&json!({ "n": 1 })).unwrap();
        assert!(new.verify::<Value>(token.as_bytes()).is_ok());
        assert!(old.verify::<Value>(new.sign(&json!({})).unwrap().as_bytes()).is_err());
        let sealed = old.seal(b"x", "here", [7; NONCE]).unwrap();
        assert_eq!(new.open(sealed.as_bytes(), "here"), Ok(b"x".to_vec()));
        let sealed = old.seal_certificate(b"x", "here", [7; NONCE]).unwrap();
        assert_eq!(new.open_certificate(sealed.as_bytes(), "here"), Ok(b"x".to_vec()));
        let code = old.create_mac(MacPurpose::State, b"m");
        assert!(new.verify_mac(MacPurpose::State, b"m", &code));
    }

    #[test]
    fn f2_a_value_of_one_purpose_opens_no_other_door() {
        let keys = keys(&[A]);
        let code = keys.create_mac(MacPurpose::State, b"m");
        assert!(!keys.verify_mac(MacPurpose::Logout, b"m", &code));
        assert!(!keys.verify_mac(MacPurpose::State, b"n", &code));
        assert!(!keys.verify_mac(MacPurpose::State, b"m", &code[..15]));
        let sealed = keys.seal(b"x", "here", [7; NONCE]).unwrap();
        assert_eq!(keys.open(sealed.as_bytes(), "there"), Err(InvalidToken));
        assert_eq!(keys.verify::<Value>(sealed.as_bytes()), Err(InvalidToken));
        let token = keys.sign(&json!({})).unwrap();
        assert_eq!(keys.open(token.as_bytes(), "here"), Err(InvalidToken));
        assert_eq!(keys.open(b"", "here"), Err(InvalidToken));
        assert_eq!(keys.open_certificate(sealed.as_bytes(), "here"), Err(InvalidToken));
        let sealed = keys.seal_certificate(b"x", "here", [7; NONCE]).unwrap();
        assert_eq!(keys.open_sealed(sealed.as_bytes(), "here"), Err(InvalidToken));
        assert_eq!(keys.open_certificate(sealed.as_bytes(), "there"), Err(InvalidToken));
    }

    #[test]
    fn f3_no_byte_of_a_token_can_be_another_or_stand_elsewhere() {
        let keys = keys(&[A, B]);
        let token = keys.sign(&json!({ "sub": "o1", "n": 12 })).unwrap();
        assert!(keys.verify::<Value>(token.as_bytes()).is_ok());
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_eq!(keys.verify::<Value>(&bytes), Err(InvalidToken), "{at} {bit}");
            }
            let mut swapped = token.clone().into_bytes();
            swapped.swap(at, (at + 1) % token.len());
            if swapped != token.as_bytes() {
                assert_eq!(keys.verify::<Value>(&swapped), Err(InvalidToken), "{at} swapped");
            }
            assert_eq!(
                keys.verify::<Value>(&token.as_bytes()[..at]),
                Err(InvalidToken),
                "{at} cut"
            );
        }
        // White space, padding and a second token are no part of one.
        for odd in [format!(" {token}"), format!("{token}="), format!("{token}.{token}")] {
            assert_eq!(keys.verify::<Value>(odd.as_bytes()), Err(InvalidToken), "{odd}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_token_or_none(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            parts in "[A-Za-z0-9_-]{0,40}[.][A-Za-z0-9_-]{0,40}[.][A-Za-z0-9_-]{0,43}",
        ) {
            let keys = keys(&[A]);
            for bytes in [bytes.as_slice(), parts.as_bytes()] {
                proptest::prop_assert_eq!(keys.verify::<Value>(bytes), Err(InvalidToken));
                proptest::prop_assert_eq!(keys.open(bytes, "here"), Err(InvalidToken));
            }
        }
    }

    #[test]
    fn serialized_keys_of_each_purpose() {
        let keys = keys(&[A]);
        let (flow, certificate) = (
            "BwcHBwcHBwcHBwcHa25it_qsd-XJTl7EtMAi9znIG-0o",
            "BwcHBwcHBwcHBwcHMj-0A9rju5ArMVeZSpEgQBqPLAj4",
        );
        let code = |purpose| const_hex::encode(keys.create_mac(purpose, b"message"));
        assert_serialized(&[
            ("sealed flow", keys.seal(b"value", "place", [7; NONCE]).unwrap(), flow),
            (
                "sealed certificate",
                keys.seal_certificate(b"value", "place", [7; NONCE]).unwrap(),
                certificate,
            ),
            ("code of a state", code(MacPurpose::State), "a1c7eeb8c112d58671af9f734e5f7afb"),
            ("code of a logout", code(MacPurpose::Logout), "27832a20c26ea5c6d65d16808c12d1cc"),
            ("code of a session id", code(MacPurpose::Session), "cb6f278bdadbe99909ef4523f93735e5"),
            (
                "signed",
                keys.sign(&json!({ "n": 1 })).unwrap(),
                "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.eyJuIjoxfQ.djsSTluHkSB13YiXXMv6q1ED8aysQLjHJlK2cyl9uXo",
            ),
        ]);
        assert_eq!(keys.open(flow.as_bytes(), "place"), Ok(b"value".to_vec()));
        assert_eq!(keys.open_certificate(certificate.as_bytes(), "place"), Ok(b"value".to_vec()));
    }
}
