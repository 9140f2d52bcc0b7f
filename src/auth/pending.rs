//! A login that has left for WeChat and not come back yet. Pure.
//!
//! Two values part at the gate: the `state` goes to WeChat and back in the URL, the flow cookie
//! stays with the browser. Only where the two meet again is a callback believed, so a callback
//! that somebody else started logs nobody in.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::{
    Identity, ReturnTo,
    token::{CryptoError, KeyRing, MacPurpose, NONCE},
};
use crate::{clock::Timestamp, site::Scope};

/// How long WeChat may keep a visitor.
pub const STATE_LIFETIME: Duration = Duration::from_mins(10);

/// Logins one browser may have under way at once, in as many tabs.
pub const MAX_PENDING_LOGINS: usize = 5;

/// How often a login may start again by itself.
pub const MAX_RESTARTS: u8 = 2;

/// The value that goes to WeChat and comes back: 84 lowercase hexadecimal digits. WeChat takes
/// letters and digits only, at most 128 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OAuthState {
    /// An unguessable number that the flow cookie knows too.
    pub nonce: u128,
    /// When the visitor left.
    pub issued: Timestamp,
    /// How often this login has started again. Here, not in a cookie, so that losing cookies
    /// cannot reset it.
    pub restarts: u8,
    /// How much was asked, so that a login whose cookie was lost can ask for it again.
    pub scope: Scope,
}

/// Why a state is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// Not ours, or for another site.
    Forged,
    /// Ours, but too long ago.
    Expired,
    /// Ours, and from the future: the clock of this replica and that of the replica which wrote it
    /// stand further apart than [`CLOCK_SKEW`].
    ClockSkew {
        /// How far in the future, in seconds.
        seconds: u64,
    },
}

impl OAuthState {
    /// The text for the authorize URL, good for `audience` alone.
    pub fn seal(&self, keys: &KeyRing, audience: &str) -> String {
        let body = self.body(audience);
        let code = keys.create_mac(MacPurpose::State, &message(&body, audience));
        const_hex::encode([body.as_slice(), &code].concat())
    }

    /// Reads the text that came back.
    pub fn open(
        text: &str,
        keys: &KeyRing,
        audience: &str,
        now: Timestamp,
    ) -> Result<Self, StateError> {
        let bytes = unhex(text).ok_or(StateError::Forged)?;
        let (body, code) = bytes.split_first_chunk::<BODY>().ok_or(StateError::Forged)?;
        if !keys.verify_mac(MacPurpose::State, &message(body, audience), code) {
            return Err(StateError::Forged);
        }
        let [nonce @ .., a, b, c, d, restarts, scope, _, _, _, _] = *body;
        let issued = Timestamp(u64::from(u32::from_be_bytes([a, b, c, d])));
        if issued.plus(STATE_LIFETIME) <= now {
            return Err(StateError::Expired);
        }
        if now.plus(CLOCK_SKEW) < issued {
            return Err(StateError::ClockSkew { seconds: issued.since(now) });
        }
        let scope = if scope == 0 { Scope::Base } else { Scope::UserInfo };
        Ok(Self { nonce: u128::from_be_bytes(nonce), issued, restarts, scope })
    }

    /// Which site a state says it is for, before anything is believed: where the callbacks of
    /// many sites arrive on one host, it tells whose they are.
    pub fn site(text: &str) -> Option<u32> {
        let bytes = unhex(text)?;
        let [.., a, b, c, d] = *bytes.first_chunk::<BODY>()?;
        Some(u32::from_be_bytes([a, b, c, d]))
    }

    /// What the flow cookie's name ends in.
    pub fn id(&self) -> String {
        let [a, b, c, d, ..] = self.nonce.to_be_bytes();
        const_hex::encode([a, b, c, d])
    }

    /// The id of the session that this login gives to `openid`. Repeats of a callback get the same
    /// one, so that a logout ends all of them and no repeat comes after it.
    pub fn sid(&self, keys: &KeyRing, openid: &str) -> u128 {
        let login = [self.nonce.to_be_bytes().as_slice(), openid.as_bytes()].concat();
        u128::from_be_bytes(keys.create_mac(MacPurpose::Session, &login))
    }

    fn body(&self, audience: &str) -> [u8; BODY] {
        let seconds = u32::try_from(self.issued.0).unwrap_or(u32::MAX);
        let mut body = [0; BODY];
        let parts = self.nonce.to_be_bytes().into_iter().chain(seconds.to_be_bytes());
        let scope = u8::from(self.scope == Scope::UserInfo);
        let parts = parts.chain([self.restarts, scope]).chain(site_number(audience).to_be_bytes());
        for (to, from) in body.iter_mut().zip(parts) {
            *to = from;
        }
        body
    }
}

/// How far the clocks of two replicas may stand apart.
pub const CLOCK_SKEW: Duration = Duration::from_mins(1);

const BODY: usize = 16 + 4 + 1 + 1 + 4;
const CODE: usize = 16;

/// A short number for a site's origin. Two sites may share one; the state's code tells them apart.
pub fn site_number(audience: &str) -> u32 {
    let digest = digest::digest(&digest::SHA256, audience.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

/// Fixed-length fields first, the audience last.
fn message(body: &[u8; BODY], audience: &str) -> Vec<u8> {
    [body.as_slice(), audience.as_bytes()].concat()
}

/// The bytes of a state, which is written in one way only.
fn unhex(text: &str) -> Option<[u8; BODY + CODE]> {
    let lower = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if !text.bytes().all(lower) {
        return None;
    }
    const_hex::decode_to_array(text).ok()
}

/// What the browser remembers of a login under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingLogin {
    /// The state it belongs to.
    pub nonce: u128,
    /// Where the visitor was going.
    pub return_to: ReturnTo,
    /// How much we asked for.
    pub scope: Scope,
    /// The account whose login page they were sent to.
    pub app_id: String,
    /// What earlier legs of the trip brought, where a site wants more than one openid.
    pub so_far: Option<PartialLogin>,
}

/// What a trip over several accounts has brought before its last leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialLogin {
    /// Who they are to the account they logged in with.
    pub identity: Identity,
    /// That account.
    pub app_id: String,
    /// Their openids at the others, by the names of the accounts.
    pub also: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct FlowCookiePayload<'a> {
    nonce: String,
    to: Cow<'a, str>,
    scope: Scope,
    app_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    so_far: Option<PartialLogin>,
}

impl PendingLogin {
    /// The value of the flow cookie, readable by us alone.
    pub fn seal(
        &self,
        keys: &KeyRing,
        audience: &str,
        random: [u8; NONCE],
    ) -> Result<String, CryptoError> {
        let cookie = FlowCookiePayload {
            nonce: const_hex::encode(self.nonce.to_be_bytes()),
            to: self.return_to.as_str().into(),
            scope: self.scope,
            app_id: self.app_id.as_str().into(),
            so_far: self.so_far.clone(),
        };
        let json = serde_json::to_vec(&cookie).map_err(|_| CryptoError)?;
        keys.seal(&json, &place(audience), random)
    }

    /// Reads a flow cookie.
    pub fn open(sealed: &[u8], keys: &KeyRing, audience: &str, prefix: &str) -> Option<Self> {
        let json = keys.open(sealed, &place(audience)).ok()?;
        let cookie: FlowCookiePayload<'_> = serde_json::from_slice(&json).ok()?;
        Some(Self {
            nonce: u128::from_str_radix(&cookie.nonce, 16).ok()?,
            return_to: ReturnTo::parse(&cookie.to, prefix).unwrap_or_else(ReturnTo::home),
            scope: cookie.scope,
            app_id: cookie.app_id.into_owned(),
            so_far: cookie.so_far,
        })
    }
}

fn place(audience: &str) -> String {
    ["flow of ", audience].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{auth::token::tests::keys, serialized::assert_serialized};

    const SITE: &str = "https://h5.example.com";

    #[test]
    fn state_survives_wechat_and_nothing_else_passes() {
        use StateError::{ClockSkew, Expired, Forged};
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let other = super::super::token::tests::keys(&[("a", "ffffffffffffffffffffffffffffffff")]);
        let state = OAuthState {
            nonce: u128::MAX - 7,
            issued: Timestamp(1_000),
            restarts: 2,
            scope: Scope::UserInfo,
        };
        let text = state.seal(&keys, SITE);
        assert!(text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
        assert_eq!(OAuthState::site(&text), Some(site_number(SITE)));
        let flip = |at: usize| {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            String::from_utf8(bytes).unwrap()
        };
        let cases = [
            (text.clone(), &keys, SITE, 1_000, Ok(state)),
            (text.clone(), &keys, SITE, 1_599, Ok(state)),
            (text.clone(), &keys, SITE, 1_600, Err(Expired)),
            (text.clone(), &keys, SITE, 940, Ok(state)),
            (text.clone(), &keys, SITE, 939, Err(ClockSkew { seconds: 61 })),
            (text.clone(), &keys, "https://h5.example.co", 1_000, Err(Forged)),
            (text.clone(), &other, SITE, 1_000, Err(Forged)),
            (text.to_uppercase(), &keys, SITE, 1_000, Err(Forged)),
            (format!("{text}0"), &keys, SITE, 1_000, Err(Forged)),
            (text.split_at(2).1.to_owned(), &keys, SITE, 1_000, Err(Forged)),
            (flip(0), &keys, SITE, 1_000, Err(Forged)),
            (flip(41), &keys, SITE, 1_000, Err(Forged)),
            (flip(51), &keys, SITE, 1_000, Err(Forged)),
            (flip(83), &keys, SITE, 1_000, Err(Forged)),
            (String::new(), &keys, SITE, 1_000, Err(Forged)),
            ("é".repeat(37), &keys, SITE, 1_000, Err(Forged)),
        ];
        for (text, keys, site, now, expected) in cases {
            assert_eq!(
                OAuthState::open(&text, keys, site, Timestamp(now)),
                expected,
                "{text} at {now}"
            );
        }
    }

    #[test]
    fn f3_bytes_shifted_between_fields_break_the_state() {
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let state =
            OAuthState { nonce: 1, issued: Timestamp(1_000), restarts: b'h', scope: Scope::Base };
        let text = state.seal(&keys, "ttps://h5.example.com");
        assert_eq!(
            OAuthState::open(&text, &keys, "https://h5.example.com", Timestamp(1_000)),
            Err(StateError::Forged)
        );
    }

    #[test]
    fn a_flow_cookie_opens_for_its_site_only() {
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let return_to = ReturnTo::parse("/a?b=c", "/_wx").unwrap();
        let identity = Identity {
            openid: "o1".to_owned(),
            unionid: None,
            nickname: Some("李雷".to_owned()),
            avatar: None,
            scope: Scope::Base,
        };
        let also = [("pay".to_owned(), "o2".to_owned())].into();
        let so_far = Some(PartialLogin { identity, app_id: "wx1".to_owned(), also });
        let app_id = "wx2".to_owned();
        let pending = PendingLogin { nonce: 7, return_to, scope: Scope::UserInfo, app_id, so_far };
        let sealed = pending.seal(&keys, SITE, [1; NONCE]).unwrap();
        assert_eq!(PendingLogin::open(sealed.as_bytes(), &keys, SITE, "/_wx"), Some(pending));
        assert_eq!(PendingLogin::open(sealed.as_bytes(), &keys, "https://x", "/_wx"), None);
        assert_eq!(PendingLogin::open(b"garbage", &keys, SITE, "/_wx"), None);
    }

    fn a_state() -> impl Strategy<Value = OAuthState> {
        (any::<u128>(), any::<u32>(), any::<u8>(), any::<bool>()).prop_map(
            |(nonce, issued, restarts, more)| OAuthState {
                nonce,
                issued: Timestamp(issued.into()),
                restarts,
                scope: if more { Scope::UserInfo } else { Scope::Base },
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn f3_no_byte_of_a_state_can_be_another(state in a_state(), bit in 0..7_u32) {
            let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
            let text = state.seal(&keys, SITE);
            prop_assert_eq!(OAuthState::open(&text, &keys, SITE, state.issued), Ok(state));
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let flipped = String::from_utf8(bytes).unwrap();
                let opened = OAuthState::open(&flipped, &keys, SITE, state.issued);
                prop_assert_eq!(opened, Err(StateError::Forged), "{}", flipped);
            }
        }

        #[test]
        fn f3_no_byte_moves_from_one_field_to_the_next(
            state in a_state(),
            origin in "https://[a-z]{1,9}[.]example",
            cut in 1..12_usize,
        ) {
            // The message that is vouched for ends in the origin. A body that takes the origin's
            // first bytes in, or gives its last bytes away, would be the same message.
            let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
            let text = state.seal(&keys, &origin);
            let (taken, left) = origin.split_at(cut);
            for other in [left, &format!("{taken}{origin}"), &format!("{origin}{taken}"), ""] {
                let opened = OAuthState::open(&text, &keys, other, state.issued);
                prop_assert_eq!(opened, Err(StateError::Forged), "{}", other);
            }
        }

        #[test]
        fn any_text_is_a_state_or_none(text in ".{0,100}", hex in "[0-9a-f]{84}") {
            let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
            for text in [text, hex] {
                let _ = OAuthState::site(&text);
                let opened = OAuthState::open(&text, &keys, SITE, Timestamp(0));
                prop_assert_eq!(opened, Err(StateError::Forged));
            }
        }
    }

    #[test]
    fn f3_no_byte_of_a_flow_cookie_can_be_another() {
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let return_to = ReturnTo::parse("/a", "/_wx").unwrap();
        let app_id = "wx1".to_owned();
        let pending =
            PendingLogin { nonce: 7, return_to, scope: Scope::Base, app_id, so_far: None };
        let sealed = pending.seal(&keys, SITE, [1; NONCE]).unwrap();
        let mut seen = 0;
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_eq!(PendingLogin::open(&bytes, &keys, SITE, "/_wx"), None, "{at} {bit}");
                seen += 1;
            }
        }
        assert_eq!(seen, sealed.len() * 8);
    }

    #[test]
    fn serialized_state() {
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let state = OAuthState {
            nonce: 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f,
            issued: Timestamp(1_000),
            restarts: 2,
            scope: Scope::UserInfo,
        };
        let sid = format!("{:032x}", state.sid(&keys, "o1"));
        let recorded =
            "000102030405060708090a0b0c0d0e0f000003e80201929ea7003f0ab4716742043e4e0535f9f347f333";
        assert_serialized(&[
            ("state", state.seal(&keys, SITE), recorded),
            ("suffix of the flow cookie's name", state.id(), "00010203"),
            ("id of the session that follows", sid, "5930a614a996a8ca8a4da582ff09844a"),
            ("number of a site", site_number(SITE).to_string(), "2459870976"),
        ]);
        assert_eq!(OAuthState::open(recorded, &keys, SITE, Timestamp(1_000)), Ok(state));
    }

    #[test]
    fn serialized_flow_cookie() {
        let keys = keys(&[("a", "0123456789abcdef0123456789abcdef")]);
        let return_to = ReturnTo::parse("/a?b=c#d", "/_wx").unwrap();
        let identity = Identity {
            openid: "o1".to_owned(),
            unionid: Some("u1".to_owned()),
            nickname: Some("李雷".to_owned()),
            avatar: Some("https://thirdwx.qlogo.cn/mmopen/a/132".to_owned()),
            scope: Scope::UserInfo,
        };
        let also = [("pay".to_owned(), "o2".to_owned())].into();
        let so_far = Some(PartialLogin { identity, app_id: "wx1".to_owned(), also });
        let app_id = "wx2".to_owned();
        let full = PendingLogin { nonce: 7, return_to, scope: Scope::UserInfo, app_id, so_far };
        let minimal = PendingLogin { scope: Scope::Base, so_far: None, ..full.clone() };
        let payload = |sealed: &str| {
            let opened = keys.open(sealed.as_bytes(), "flow of https://h5.example.com").unwrap();
            String::from_utf8(opened).unwrap()
        };
        let rows = [
            (
                full,
                "AQEBAQEBAQEBAQEBy1klvqcAI9UGQUhMfSfrRXz0sHEp18iG9ndiN6GZkrmbD2F1xuym-1uxXTWmI2U-PvfmDeJwnhmOay8e2FIm6SrRhwYs-FXPS7EXrYC01hWbxgRrJSmMq4lRioFfB377PBXKPwFv7DFAAkzH1izg-1RLbW7hfHhJ08zmXZf4fxmvXb2moUx3wA7sogNdoEr1z6g89CXdzRjoOZzK2-tkjKT1pLVq7nsHFV0obu_tcqWxlSMhnqnI1W_xlSgk7evCddrq_jE-WXHfsoPECdf2u4yEzhZ2p6jshN_mU46tRKm5a_b-mhFnCsNLflRbQAbkdlTjSteHYwo1hhMBS2UjYaVgqVYfTiI1lJYyQfP033QSFlN9FfqGZRNLtmlajSpvpp6_W8sJeA1c",
                r#"{"nonce":"00000000000000000000000000000007","to":"/a?b=c#d","scope":"snsapi_userinfo","app_id":"wx2","so_far":{"identity":{"sub":"o1","unionid":"u1","nickname":"李雷","avatar":"https://thirdwx.qlogo.cn/mmopen/a/132","scope":"snsapi_userinfo"},"app_id":"wx1","also":{"pay":"o2"}}}"#,
            ),
            (
                minimal,
                "AQEBAQEBAQEBAQEBy1klvqcAI9UGQUhMfSfrRXz0sHEp18iG9ndiN6GZkrmbD2F1xuym-1uxXTWmI2U-PvfmDeJwnhmOay8e2FIm6SrRhwYs-FXPS7EXrZemwALQhEBld3Xxo50D78pMXXb7NsP2-gkYhXT72xuffdG6m6s",
                r#"{"nonce":"00000000000000000000000000000007","to":"/a?b=c#d","scope":"snsapi_base","app_id":"wx2"}"#,
            ),
        ];
        for (pending, recorded, recorded_payload) in rows {
            let sealed = pending.seal(&keys, SITE, [1; NONCE]).unwrap();
            assert_serialized(&[
                ("payload", payload(&sealed), recorded_payload),
                ("cookie", sealed, recorded),
            ]);
            let opened = PendingLogin::open(recorded.as_bytes(), &keys, SITE, "/_wx");
            assert_eq!(opened, Some(pending));
        }
    }
}
