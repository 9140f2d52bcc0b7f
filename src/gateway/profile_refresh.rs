//! Nicknames and pictures that are renewed behind the visitors' backs.
//!
//! At a login the refresh token goes into the store, sealed. When a session's profile has grown
//! old, the request that notices it goes on as it is, WeChat is asked meanwhile, and the next
//! request of the same visitor takes the answer home in its cookie.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;

use super::rules::RuntimeConfig;
use crate::{
    auth::{Session, token::NONCE},
    secret::Secret,
    site::Account,
    store::Store,
    wechat::{Error, WeChatClient, protocol::Profile},
};

/// How long WeChat honours a refresh token.
const TOKEN_LIFE: Duration = Duration::from_hours(30 * 24);
/// Visitors whose profile is asked for or waits to be taken home.
const MAX_PENDING: usize = 10_000;

/// What became of a profile.
#[derive(Clone, Debug)]
pub enum RefreshOutcome {
    /// Here it is.
    Updated(Profile),
    /// Nothing new could be learnt; ask again when it has grown old once more.
    Unchanged,
    /// WeChat wants the visitor to log in again.
    LoginRequired,
}

/// The profiles under way, by account and openid; `None` while WeChat is asked.
type UnderWay = HashMap<(String, String), Option<RefreshOutcome>>;

/// Asks WeChat for profiles.
pub struct ProfileRefresher {
    wechat: WeChatClient,
    store: Arc<Store>,
    runtime: Handle,
    under_way: Mutex<UnderWay>,
}

impl ProfileRefresher {
    /// Nothing under way.
    pub fn new(wechat: WeChatClient, store: Arc<Store>, runtime: Handle) -> Self {
        Self { wechat, store, runtime, under_way: Mutex::default() }
    }

    /// Keeps the refresh token of a visitor who has just logged in.
    pub async fn remember(
        &self,
        rules: &RuntimeConfig,
        account: &Account,
        openid: &str,
        token: &Secret,
    ) {
        let key = key(account, openid);
        let sealed =
            rules.keys.seal(token.expose().as_bytes(), &key, rand::random::<[u8; NONCE]>());
        if let Ok(sealed) = sealed {
            let kept = self.store.put(&key, sealed.into_bytes(), TOKEN_LIFE).await;
            if let Err(error) = kept {
                tracing::warn!(%error, "cannot store refresh token, profile stays until the next login");
            }
        }
    }

    /// What is known of a profile that has grown old. The first to ask gets nothing yet.
    pub fn outcome(
        self: &Arc<Self>,
        rules: &Arc<RuntimeConfig>,
        account: &Arc<Account>,
        session: &Session,
    ) -> Option<RefreshOutcome> {
        let id = (account.app_id.clone(), session.identity.openid.clone());
        let mut under_way = self.lock();
        match under_way.get(&id) {
            Some(Some(_)) => return under_way.remove(&id).flatten(),
            Some(None) => return None,
            None if under_way.len() >= MAX_PENDING => return None,
            None => under_way.insert(id.clone(), None),
        };
        let (this, rules, account) = (Arc::clone(self), Arc::clone(rules), Arc::clone(account));
        self.runtime.spawn(async move {
            let news = this.ask(&rules, &account, &id.1).await;
            this.lock().insert(id, Some(news));
        });
        None
    }

    async fn ask(&self, rules: &RuntimeConfig, account: &Account, openid: &str) -> RefreshOutcome {
        let key = key(account, openid);
        let Ok(Some(sealed)) = self.store.get(&key).await else { return RefreshOutcome::Unchanged };
        let token = rules.keys.open(&sealed, &key).ok().and_then(|it| String::from_utf8(it).ok());
        let Some(token) = token.map(Secret::new) else { return RefreshOutcome::Unchanged };
        match self.wechat.refresh(account, &token).await {
            Ok((profile, token)) => {
                self.remember(rules, account, openid, &token).await;
                RefreshOutcome::Updated(profile)
            }
            Err(Error::Api(refusal)) if refusal.invalidates_refresh_token() => {
                RefreshOutcome::LoginRequired
            }
            Err(error) => {
                tracing::warn!(account = account.name, %error, "cannot refresh profile");
                RefreshOutcome::Unchanged
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(account: &Account, openid: &str) -> String {
    format!("refresh/{}/{openid}", account.app_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    #[test]
    fn serialized_key_of_a_refresh_token() {
        let config = test_support::config(test_support::SITE);
        assert_eq!(key(&config.accounts[0], "o1"), "refresh/wx0123456789abcdef/o1");
    }
}
