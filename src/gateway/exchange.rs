//! One exchange per code: repeats of a callback wait for the first and get its answer, on whatever
//! replica they arrive.
//!
//! Exchanges run on the runtime that built the gateway, not on the visitor's: a visitor who hangs
//! up would otherwise take the answer to a spent code with them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::OnceCell, time::Instant};

use super::rules::Rules;
use crate::{
    site::Account,
    store::Store,
    wechat::{Error, Person, WeChat},
};

mod shared;

use shared::Claim;

/// How long an answer is kept for repeats of the callback.
const KEPT: Duration = Duration::from_mins(2);
/// Answers kept at most; beyond that repeats are on their own.
const MOST: usize = 10_000;

/// Two visitors never share an answer: the login is part of the key.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    app_id: String,
    code: String,
    login: u128,
}

type Answer = Result<Person, Error>;

/// The exchanges under way and the answers of the last ones.
pub struct Exchanges {
    wechat: WeChat,
    store: Arc<Store>,
    runtime: Handle,
    recent: Mutex<Recent>,
}

/// When each was begun, and its answer once there is one.
type Recent = HashMap<Key, (Instant, Arc<OnceCell<Answer>>)>;

impl Exchanges {
    /// None yet.
    pub fn new(wechat: WeChat, store: Arc<Store>, runtime: Handle) -> Self {
        Self { wechat, store, runtime, recent: Mutex::default() }
    }

    /// Who comes back with `code` from the login numbered `login`.
    pub async fn identify(
        &self,
        rules: &Arc<Rules>,
        account: &Arc<Account>,
        code: &str,
        login: u128,
    ) -> Answer {
        let key = Key { app_id: account.app_id.clone(), code: code.to_owned(), login };
        let cell = self.cell(&key);
        let (wechat, account) = (self.wechat.clone(), Arc::clone(account));
        let code = code.to_owned();
        let claim = self.store.is_shared().then(|| Claim::new(&key, &self.store, rules));
        let exchange = self.runtime.spawn(async move {
            let answer = cell.get_or_init(|| async {
                let ask = wechat.identify(&account, &code);
                match claim {
                    Some(claim) => claim.once(ask).await,
                    None => ask.await,
                }
            });
            answer.await.clone()
        });
        let answer =
            exchange.await.unwrap_or_else(|_| Err(Error::Silent("the call died".to_owned())));
        // The code never left: the next callback may send it.
        if matches!(answer, Err(Error::Unreachable(_))) {
            self.lock().remove(&key);
        }
        answer
    }

    fn cell(&self, key: &Key) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        let mut recent = self.lock();
        if let Some((since, cell)) = recent.get(key)
            && now.duration_since(*since) < KEPT
        {
            return Arc::clone(cell);
        }
        if recent.len() >= MOST {
            recent.retain(|_, (since, _)| now.duration_since(*since) < KEPT);
        }
        let cell = Arc::default();
        if recent.len() < MOST {
            recent.insert(key.clone(), (now, Arc::clone(&cell)));
        }
        cell
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
