//! A visitor we know, and the cookie that says so. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{
    PartialLogin, Settings,
    assertion::AssertionCache,
    pending::CLOCK_SKEW,
    token::{CryptoError, KeyRing},
};
use crate::{
    clock::Timestamp,
    site::{IdentityField, SNAPSHOT, Scope, Site},
};

/// Who signs our tokens.
pub const ISSUER: &str = "wxgate";

/// How long a snapshot visitor is remembered: just long enough not to ask WeChat for each picture.
const SNAPSHOT_LIFE: Duration = Duration::from_mins(10);

/// Bytes of a nickname and of an avatar's address that are kept, so that the cookie stays small.
const LONGEST_NICKNAME: usize = 128;
const LONGEST_AVATAR: usize = 512;

/// Who a visitor is to one account, as WeChat told us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Stable for one visitor of one account.
    #[serde(rename = "sub")]
    pub openid: String,
    /// Stable across the accounts of one company, when WeChat tells us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unionid: Option<String>,
    /// What they call themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    /// The https address of their picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// How well we know them: what WeChat granted.
    pub scope: Scope,
}

/// A login that is still good: the claims of the session cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    iss: String,
    /// The origin of the one site it is good for.
    pub aud: String,
    /// Who they are.
    #[serde(flatten)]
    pub identity: Identity,
    /// This login's id, 32 hexadecimal digits; another at each login.
    pub sid: String,
    /// When this cookie was written.
    pub iat: Timestamp,
    /// When it ends unless it is renewed.
    pub exp: Timestamp,
    /// When the visitor logged in.
    pub auth_time: Timestamp,
    /// When nickname and picture were last asked for, if that was not at the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiled: Option<Timestamp>,
    /// When the login ends whatever happens.
    pub max: Timestamp,
    /// The account that the openid belongs to.
    pub appid: String,
    /// Openids at further accounts, by the names of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, String>,
    /// The last order to end sessions that whoever wrote this had heard of.
    #[serde(default, skip_serializing_if = "Timestamp::is_zero")]
    pub knows: Timestamp,
    /// Whether the identity is the virtual one of a snapshot page (快照页).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
}

/// Why we do not know a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// They carry no session.
    Missing,
    /// Theirs was not signed by us, or says what we never say.
    Invalid,
    /// Theirs was signed by us, and in the future: the clock of this replica and that of the replica
    /// which wrote it stand further apart than [`CLOCK_SKEW`].
    ClockSkew {
        /// How far in the future, in seconds.
        seconds: u64,
    },
    /// Theirs names a key that we do not have, or no longer.
    UnknownKey,
    /// Two of theirs are good, so somebody planted one.
    Ambiguous,
    /// Theirs is for another site or account.
    WrongSite,
    /// Theirs is over.
    Expired,
    /// Theirs was ended: a logout, or the operator.
    Revoked,
    /// Nobody can say whether theirs was ended: the other replicas have been silent for longer
    /// than the site allows.
    RevocationUnknown,
}

impl SessionError {
    /// The word for a session that was refused; somebody new brought none.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            Self::Invalid => Some("forged"),
            Self::ClockSkew { .. } => Some("clock_skew"),
            Self::UnknownKey => Some("unknown_key"),
            Self::Ambiguous => Some("several"),
            Self::WrongSite => Some("elsewhere"),
            Self::Expired => Some("expired"),
            Self::Revoked => Some("ended"),
            Self::RevocationUnknown => Some("unsure"),
        }
    }
}

impl Session {
    /// A fresh login to `site`. `sid` must be one that nobody can guess: [`super::OAuthState::sid`].
    pub fn issue(
        site: &Site,
        login: PartialLogin,
        sid: u128,
        now: Timestamp,
        settings: &Settings,
    ) -> Self {
        let max = now.plus(settings.max);
        Self {
            iss: ISSUER.to_owned(),
            aud: site.public_url.as_str().to_owned(),
            identity: login.identity.trimmed(),
            sid: format!("{sid:032x}"),
            iat: now,
            exp: now.plus(settings.idle).min(max),
            auth_time: now,
            profiled: None,
            max,
            appid: login.app_id,
            also: login.also,
            knows: Timestamp::default(),
            snapshot: false,
        }
    }

    /// The same, begun when the order of that moment had been heard of.
    #[must_use]
    pub fn with_known_revocation(mut self, order: Timestamp) -> Self {
        self.knows = order;
        self
    }

    /// The same for the virtual identity of a snapshot page: short, and never renewed.
    #[must_use]
    pub fn mark_snapshot(mut self) -> Self {
        self.snapshot = true;
        self.max = self.auth_time.plus(SNAPSHOT_LIFE).min(self.max);
        self.exp = self.max;
        self
    }

    /// Reads a cookie. This is the cryptography only, whose result may be kept: whether the
    /// session is good here and now is [`Session::check`]'s to say, each time.
    pub fn open(cookie: &[u8], keys: &KeyRing) -> Result<Self, SessionError> {
        let session: Self = keys.verify(cookie).map_err(|_| {
            if keys.has_unknown_key(cookie) {
                SessionError::UnknownKey
            } else {
                SessionError::Invalid
            }
        })?;
        let known_id =
            session.sid.len() == 32 && session.sid.bytes().all(|b| b.is_ascii_hexdigit());
        let ordered = session.auth_time <= session.iat
            && session.iat <= session.exp
            && session.exp <= session.max;
        let named = !session.identity.openid.is_empty()
            && session.identity.openid.bytes().all(|b| b.is_ascii_graphic());
        let ours = session.iss == ISSUER && known_id && ordered && named;
        if ours { Ok(session) } else { Err(SessionError::Invalid) }
    }

    /// Whether it is good for `site` at this moment. Replicas' clocks may differ by [`CLOCK_SKEW`]; a
    /// session from further in the future is refused, because nobody can tell how long it should
    /// still last (F1). `auth_time` is not after `iat` ([`Session::open`]).
    pub fn check(&self, site: &Site, now: Timestamp) -> Result<(), SessionError> {
        if self.aud != site.public_url.as_str() || site.login_account(&self.appid).is_none() {
            return Err(SessionError::WrongSite);
        }
        if now.plus(CLOCK_SKEW) < self.iat {
            return Err(SessionError::ClockSkew { seconds: self.iat.since(now) });
        }
        if self.exp <= now || self.max <= now {
            return Err(SessionError::Expired);
        }
        Ok(())
    }

    /// The same session with its idle time started anew, once half of it has passed.
    pub fn renewed(&self, now: Timestamp, settings: &Settings) -> Option<Self> {
        let due = now.since(self.iat) >= settings.idle.as_secs() / 2;
        let exp = now.plus(settings.idle).min(self.max);
        let longer = exp > self.exp && !self.snapshot;
        (due && longer).then(|| Self { iat: now, exp, ..self.clone() })
    }

    /// Whether nickname and picture are older than `age`.
    pub fn profile_is_stale(&self, age: Duration, now: Timestamp) -> bool {
        let since = self.profiled.unwrap_or(self.auth_time);
        self.identity.scope == Scope::UserInfo && !self.snapshot && since.plus(age) <= now
    }

    /// The same session with what the visitor now shows of themselves; nothing new leaves it as
    /// it is, but as of `now`.
    #[must_use]
    pub fn with_profile(
        &self,
        news: Option<(Option<String>, Option<String>)>,
        now: Timestamp,
    ) -> Self {
        let mut session = Self { profiled: Some(now), ..self.clone() };
        if let Some((nickname, avatar)) = news {
            let identity = Identity { nickname, avatar, ..session.identity };
            session.identity = identity.trimmed();
        }
        session
    }

    /// Its id as a number. [`Session::open`] takes 32 hexadecimal digits and nothing else.
    pub fn id(&self) -> u128 {
        u128::from_str_radix(&self.sid, 16).unwrap_or_default()
    }

    /// What logs call it: enough to tell it from all others, and of no use to whoever reads it.
    pub fn log_id(&self) -> SessionLogId {
        SessionLogId::of(&self.sid)
    }

    /// The value of the cookie.
    pub fn seal(&self, keys: &KeyRing) -> Result<String, CryptoError> {
        keys.sign(self)
    }

    /// How long the browser should keep the cookie.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::from_secs(self.exp.since(now))
    }
}

impl Identity {
    /// Nicknames and pictures come from strangers: cut to size, and a picture only from https.
    fn trimmed(mut self) -> Self {
        if let Some(nickname) = &mut self.nickname {
            nickname.truncate(nickname.floor_char_boundary(LONGEST_NICKNAME));
        }
        self.nickname = self.nickname.filter(|nickname| !nickname.is_empty());
        self.avatar = self.avatar.filter(|avatar| {
            let web = avatar.starts_with("https://") || avatar.starts_with("http://");
            web && avatar.len() <= LONGEST_AVATAR && avatar.bytes().all(|b| b.is_ascii_graphic())
        });
        self.unionid = self.unionid.filter(|id| !id.is_empty() && id.len() <= 128);
        self
    }
}

/// The first eight bytes of the SHA-256 of a session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLogId(u64);

impl SessionLogId {
    /// Of a session by its id.
    pub fn of(sid: &str) -> Self {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, sid.as_bytes());
        let start = hash.as_ref().first_chunk().copied().unwrap_or_default();
        Self(u64::from_be_bytes(start))
    }
}

impl SessionLogId {
    /// As a number, which is written in 16 hexadecimal digits.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionLogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A session whose signature has been checked, with the headers that introduce its visitor.
#[derive(Debug)]
pub struct VerifiedSession {
    /// The claims.
    pub session: Session,
    /// What logs call the session.
    pub tag: SessionLogId,
    /// What the site is told, ready to be sent.
    pub identity_headers: Vec<(HeaderName, HeaderValue)>,
    /// The last assertion about them.
    pub proof: AssertionCache,
    /// Whether the visitor's cookie does not say this yet.
    pub changed: bool,
    /// Bytes that it takes up, with its strings and its assertion.
    pub memory: usize,
}

impl VerifiedSession {
    /// Prepares the introduction of a visitor to `site`.
    pub fn new(session: Session, site: &Site) -> Self {
        let mut identity_headers = identity_headers(&session, site);
        identity_headers.shrink_to_fit();
        let memory = memory(&session, &identity_headers, site);
        let tag = session.log_id();
        let proof = AssertionCache::default();
        Self { session, tag, identity_headers, proof, changed: false, memory }
    }
}

/// What a verified session takes up. The assertion is counted before there is one: an entry of a cache
/// has to keep its weight.
fn memory(session: &Session, headers: &[(HeaderName, HeaderValue)], site: &Site) -> usize {
    /// Of an allocation, beside what was asked for: rounding, and the counters of shared bytes.
    const ALLOCATION: usize = 24;
    /// Of an assertion, beside the claims that it has from the session.
    const ASSERTION: usize = 512;
    /// A node of the map of further openids has room for eleven.
    const NODE: usize = 640;
    let identity = &session.identity;
    let claims = [&session.iss, &session.aud, &session.sid, &session.appid, &identity.openid];
    let known = [&identity.unionid, &identity.nickname, &identity.avatar];
    let claims = claims.into_iter().chain(known.into_iter().flatten());
    let claims: usize = claims.map(|claim| claim.len() + ALLOCATION).sum();
    let also: usize = session.also.iter().map(|(name, openid)| name.len() + openid.len()).sum();
    let also = if session.also.is_empty() { 0 } else { also + NODE };
    let headers: usize = headers
        .iter()
        .map(|(_, value)| size_of::<(HeaderName, HeaderValue)>() + value.len() + ALLOCATION)
        .sum();
    // Base64 makes four bytes of three.
    let assertion = if site.assertion { (claims + also) / 3 * 4 + ASSERTION } else { 0 };
    size_of::<VerifiedSession>() + claims + also + headers + assertion
}

/// Absent means absent: a fact WeChat did not give has no header, under no name.
fn identity_headers(session: &Session, site: &Site) -> Vec<(HeaderName, HeaderValue)> {
    let told = |fact: IdentityField| HeaderValue::try_from(field_value(fact, session, site)?).ok();
    let all = IdentityField::ALL;
    let standard = all.iter().map(|(fact, name, _)| (name, *fact));
    let extra = site.extra_headers.iter().map(|(name, fact)| (name, *fact));
    let facts = standard.chain(extra).filter_map(|(name, fact)| Some((name.clone(), told(fact)?)));
    let also = session.also.iter().filter_map(|(account, openid)| {
        Some((Site::also_name(account)?, HeaderValue::try_from(visible(openid)?).ok()?))
    });
    let snapshot = session.snapshot.then(|| (SNAPSHOT, HeaderValue::from_static("1")));
    facts.chain(also).chain(snapshot).collect()
}

/// Visible ASCII only: what is not becomes percent-encoded, or is left out.
fn field_value(fact: IdentityField, session: &Session, site: &Site) -> Option<String> {
    let identity = &session.identity;
    match fact {
        IdentityField::OpenId => visible(&identity.openid),
        IdentityField::UnionId => visible(identity.unionid.as_deref()?),
        IdentityField::AppId => visible(&session.appid),
        IdentityField::Account => Some(encode(&site.login_account(&session.appid)?.name)),
        IdentityField::Scope => Some(identity.scope.as_str().to_owned()),
        IdentityField::Nickname => Some(encode(identity.nickname.as_deref()?)),
        IdentityField::Avatar => visible(identity.avatar.as_deref()?),
        IdentityField::Session => visible(&session.sid),
        IdentityField::AuthTime => Some(session.auth_time.0.to_string()),
    }
}

fn visible(text: &str) -> Option<String> {
    text.bytes().all(|b| b.is_ascii_graphic()).then(|| text.to_owned())
}

fn encode(text: &str) -> String {
    const ENCODE_SET: &percent_encoding::AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, ENCODE_SET).to_string()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::auth::tests::site;

    /// The same, verified.
    pub fn verified_session(sid: u128, expiry: u64) -> VerifiedSession {
        VerifiedSession::new(session_with(sid, expiry), &site())
    }

    /// A session with this id and expiry, and nothing else of interest.
    pub fn session_with(sid: u128, expiry: u64) -> Session {
        let identity = Identity {
            openid: "o1".to_owned(),
            unionid: None,
            nickname: None,
            avatar: None,
            scope: Scope::Base,
        };
        Session {
            iss: ISSUER.to_owned(),
            aud: "https://h5.example.com".to_owned(),
            identity,
            sid: format!("{sid:032x}"),
            iat: Timestamp(1),
            exp: Timestamp(expiry),
            auth_time: Timestamp(1),
            profiled: None,
            max: Timestamp(expiry),
            appid: "wx1".to_owned(),
            also: BTreeMap::new(),
            knows: Timestamp::default(),
            snapshot: false,
        }
    }
}
