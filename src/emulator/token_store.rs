//! Everything WeChat remembers: codes, tokens, tickets and consents. Time and luck come from outside.

use std::{collections::HashMap, time::Duration};

use super::errcode::Errcode;
use crate::clock::Timestamp;

/// Where random letters come from: so many, from `[A-Za-z0-9]`.
pub type RandomString = fn(usize) -> String;

const CODE_LIFE: Duration = Duration::from_mins(5);
const TOKEN_LIFE: Duration = Duration::from_hours(2);
const REFRESH_LIFE: Duration = Duration::from_hours(24 * 30);
const CONSENT_LIFE: Duration = Duration::from_hours(24 * 30);
/// How long a global token still works after a newer one was asked for.
const OVERLAP: Duration = Duration::from_mins(5);

/// What a code, and later its tokens, stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub app_id: String,
    pub user_id: String,
    /// As it was asked for, comma separated.
    pub scope: String,
    pub is_snapshot: bool,
}

impl Grant {
    /// Whether the profile may be read.
    pub fn covers_profile(&self) -> bool {
        self.scope.split(',').any(|scope| matches!(scope, "snsapi_userinfo" | "snsapi_login"))
    }
}

/// The two tokens of one login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPair {
    pub access: String,
    pub refresh: String,
}

/// The memory of the emulator.
#[derive(Debug)]
pub struct TokenStore {
    random: RandomString,
    codes: HashMap<String, IssuedCode>,
    access: HashMap<String, ExpiringValue<Grant>>,
    refresh: HashMap<String, ExpiringValue<RefreshGrant>>,
    consents: HashMap<(String, String), Timestamp>,
    globals: HashMap<String, ExpiringValue<String>>,
    stable: HashMap<String, String>,
    tickets: HashMap<(String, String), ExpiringValue<String>>,
}

#[derive(Debug)]
struct IssuedCode {
    grant: Grant,
    until: Timestamp,
    is_used: bool,
}

/// What a refresh token renews.
#[derive(Clone, Debug)]
struct RefreshGrant {
    grant: Grant,
    access: String,
}

#[derive(Debug)]
struct ExpiringValue<T> {
    value: T,
    until: Timestamp,
}

impl TokenStore {
    /// An empty book.
    pub fn new(random: RandomString) -> Self {
        Self {
            random,
            codes: HashMap::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
            consents: HashMap::new(),
            globals: HashMap::new(),
            stable: HashMap::new(),
            tickets: HashMap::new(),
        }
    }

    /// A new code: 32 letters and digits, the first of them a zero.
    pub fn issue_code(&mut self, grant: Grant, now: Timestamp) -> String {
        if is_full(&self.codes) {
            self.codes.retain(|_, code| code.until > now);
        }
        let code = format!("0{}", (self.random)(31));
        self.codes
            .insert(code.clone(), IssuedCode { grant, until: now.plus(CODE_LIFE), is_used: false });
        code
    }

    /// Takes a code, once.
    pub fn take_code(
        &mut self,
        code: &str,
        app_id: &str,
        now: Timestamp,
    ) -> Result<Grant, Errcode> {
        let known = self.codes.get_mut(code).filter(|known| known.grant.app_id == app_id);
        let known = known.ok_or(Errcode::INVALID_CODE)?;
        if known.is_used {
            return Err(Errcode::CODE_USED);
        }
        if now >= known.until {
            return Err(Errcode::CODE_EXPIRED);
        }
        known.is_used = true;
        Ok(known.grant.clone())
    }

    /// Tokens for a grant.
    pub fn issue_tokens(&mut self, grant: &Grant, now: Timestamp) -> TokenPair {
        if is_full(&self.access) {
            self.access.retain(|_, token| token.until > now);
        }
        if is_full(&self.refresh) {
            self.refresh.retain(|_, token| token.until > now);
        }
        let tokens = TokenPair { access: self.token(), refresh: self.token() };
        self.open_access(tokens.access.clone(), grant, now);
        let value = RefreshGrant { grant: grant.clone(), access: tokens.access.clone() };
        let entry = ExpiringValue { value, until: now.plus(REFRESH_LIFE) };
        self.refresh.insert(tokens.refresh.clone(), entry);
        tokens
    }

    /// A living access token is prolonged, a dead one replaced. The refresh token itself ages on.
    pub fn refresh(
        &mut self,
        token: &str,
        app_id: &str,
        now: Timestamp,
    ) -> Result<(Grant, TokenPair), Errcode> {
        let fresh = self.token();
        let known = self.refresh.get_mut(token).filter(|known| known.value.grant.app_id == app_id);
        let known = known.ok_or(Errcode::INVALID_REFRESH_TOKEN)?;
        if now >= known.until {
            return Err(Errcode::REFRESH_TOKEN_EXPIRED);
        }
        let is_alive =
            self.access.get(&known.value.access).is_some_and(|access| now < access.until);
        if !is_alive {
            known.value.access = fresh;
        }
        let RefreshGrant { grant, access } = known.value.clone();
        self.open_access(access.clone(), &grant, now);
        Ok((grant, TokenPair { access, refresh: token.to_owned() }))
    }

    /// Whose access token this is.
    pub fn find_by_access_token(
        &self,
        access_token: &str,
        now: Timestamp,
    ) -> Result<&Grant, Errcode> {
        let known = self.access.get(access_token).ok_or(Errcode::INVALID_CREDENTIAL)?;
        if now >= known.until {
            return Err(Errcode::ACCESS_TOKEN_EXPIRED);
        }
        Ok(&known.value)
    }

    /// Remembers that a user agreed to show their profile.
    pub fn consent(&mut self, user_id: &str, app_id: &str, now: Timestamp) {
        self.consents.insert((user_id.to_owned(), app_id.to_owned()), now.plus(CONSENT_LIFE));
    }

    /// Whether the user agreed lately.
    pub fn has_consent(&self, user_id: &str, app_id: &str, now: Timestamp) -> bool {
        let until = self.consents.get(&(user_id.to_owned(), app_id.to_owned()));
        until.is_some_and(|until| now < *until)
    }

    /// A new global token; the ones before it end soon. Answers its seconds to live, too.
    pub fn global_token(&mut self, app_id: &str, now: Timestamp) -> (String, i64) {
        let stable = self.stable.get(app_id);
        for (token, known) in &mut self.globals {
            if known.value == app_id && stable != Some(token) {
                known.until = known.until.min(now.plus(OVERLAP));
            }
        }
        self.open_global(app_id, now)
    }

    /// The stable global token: the same one as long as it lives, unless forced.
    pub fn stable_token(&mut self, app_id: &str, forced: bool, now: Timestamp) -> (String, i64) {
        if let Some(token) = self.stable.get(app_id).cloned()
            && let Some(known) = self.globals.get_mut(&token)
        {
            if !forced && now < known.until {
                return (token, left(known.until, now));
            }
            known.until = known.until.min(now.plus(OVERLAP));
        }
        let (token, seconds) = self.open_global(app_id, now);
        self.stable.insert(app_id.to_owned(), token.clone());
        (token, seconds)
    }

    /// The ticket that signs pages, the same one as long as it lives.
    pub fn ticket(
        &mut self,
        token: &str,
        kind: &str,
        now: Timestamp,
    ) -> Result<(String, i64), Errcode> {
        let known = self.globals.get(token).ok_or(Errcode::INVALID_CREDENTIAL)?;
        if now >= known.until {
            return Err(Errcode::ACCESS_TOKEN_EXPIRED);
        }
        let fresh = ExpiringValue { value: (self.random)(86), until: now.plus(TOKEN_LIFE) };
        let key = (known.value.clone(), kind.to_owned());
        let ticket = self
            .tickets
            .entry(key)
            .or_insert_with(|| ExpiringValue { value: String::new(), until: now });
        if now >= ticket.until {
            *ticket = fresh;
        }
        Ok((ticket.value.clone(), left(ticket.until, now)))
    }

    fn token(&self) -> String {
        format!("98_{}", (self.random)(96))
    }

    fn open_access(&mut self, token: String, grant: &Grant, now: Timestamp) {
        self.access
            .insert(token, ExpiringValue { value: grant.clone(), until: now.plus(TOKEN_LIFE) });
    }

    fn open_global(&mut self, app_id: &str, now: Timestamp) -> (String, i64) {
        self.globals.retain(|_, known| now < known.until);
        let token = self.token();
        let until = now.plus(TOKEN_LIFE);
        self.globals.insert(token.clone(), ExpiringValue { value: app_id.to_owned(), until });
        (token, left(until, now))
    }
}

/// Whether the next entry would make the map grow: the moment to sweep out the dead ones, which
/// keeps the cost per entry constant even under a load test.
fn is_full<K, V>(map: &HashMap<K, V>) -> bool {
    map.len() == map.capacity()
}

fn left(until: Timestamp, now: Timestamp) -> i64 {
    i64::try_from(until.since(now)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::random;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn grant(app_id: &str) -> Grant {
        let (user_id, scope) = ("lilei".to_owned(), "snsapi_base".to_owned());
        Grant { app_id: app_id.to_owned(), user_id, scope, is_snapshot: false }
    }

    #[test]
    fn codes() {
        let rows = [
            ("wx1", after(0), Ok(grant("wx1"))),
            ("wx1", after(299), Ok(grant("wx1"))),
            ("wx1", after(300), Err(Errcode::CODE_EXPIRED)),
            ("wx2", after(0), Err(Errcode::INVALID_CODE)),
        ];
        for (app_id, now, expected) in rows {
            let mut book = TokenStore::new(random::letters);
            let code = book.issue_code(grant("wx1"), NOW);
            assert!(code.len() == 32 && code.starts_with('0'), "{code}");
            assert_eq!(book.take_code(&code, app_id, now), expected, "{app_id} {now:?}");
            if expected.is_ok() {
                assert_eq!(book.take_code(&code, app_id, now), Err(Errcode::CODE_USED));
            }
            assert_eq!(book.take_code("0none", app_id, now), Err(Errcode::INVALID_CODE));
        }
    }

    #[test]
    fn tokens() {
        let mut book = TokenStore::new(random::letters);
        let first = book.issue_tokens(&grant("wx1"), NOW);
        assert_eq!(book.find_by_access_token(&first.access, after(7199)), Ok(&grant("wx1")));
        assert_eq!(
            book.find_by_access_token(&first.access, after(7200)),
            Err(Errcode::ACCESS_TOKEN_EXPIRED)
        );
        assert_eq!(
            book.find_by_access_token(&first.refresh, NOW),
            Err(Errcode::INVALID_CREDENTIAL)
        );
        let (_, same) = book.refresh(&first.refresh, "wx1", after(7000)).unwrap();
        assert_eq!(same, first);
        assert_eq!(book.find_by_access_token(&first.access, after(7200)), Ok(&grant("wx1")));
        let (_, next) = book.refresh(&first.refresh, "wx1", after(20_000)).unwrap();
        assert!(next.access != first.access && next.refresh == first.refresh);
        let month = after(30 * 24 * 3600);
        let ends = [
            ("wx1", month, Errcode::REFRESH_TOKEN_EXPIRED),
            ("wx2", NOW, Errcode::INVALID_REFRESH_TOKEN),
        ];
        for (app_id, now, errcode) in ends {
            assert_eq!(book.refresh(&first.refresh, app_id, now), Err(errcode), "{app_id}");
        }
    }

    #[test]
    fn consents_last_thirty_days() {
        let mut book = TokenStore::new(random::letters);
        book.consent("lilei", "wx1", NOW);
        let rows = [
            ("lilei", "wx1", 0, true),
            ("lilei", "wx1", 2_592_000, false),
            ("lilei", "wx2", 0, false),
        ];
        for (user, app_id, seconds, expected) in rows {
            assert_eq!(
                book.has_consent(user, app_id, after(seconds)),
                expected,
                "{user} {app_id} {seconds}"
            );
        }
    }

    #[test]
    fn global_tokens() {
        let mut book = TokenStore::new(random::letters);
        let (stable, _) = book.stable_token("wx1", false, NOW);
        assert_eq!(book.stable_token("wx1", false, after(60)), (stable.clone(), 7140));
        let (old, _) = book.global_token("wx1", NOW);
        let (new, _) = book.global_token("wx1", after(1));
        let rows =
            [(&stable, 4000, true), (&old, 300, true), (&old, 301, false), (&new, 4000, true)];
        for (token, seconds, works) in rows {
            assert_eq!(
                book.ticket(token, "jsapi", after(seconds)).is_ok(),
                works,
                "{token} {seconds}"
            );
        }
        let (forced, _) = book.stable_token("wx1", true, after(60));
        assert_ne!(forced, stable);
        let ticket = book.ticket(&forced, "jsapi", after(60)).unwrap();
        assert_eq!(ticket.0, book.ticket(&new, "jsapi", after(70)).unwrap().0);
    }
}
