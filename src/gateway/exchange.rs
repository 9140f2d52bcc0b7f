//! One exchange per code: repeats of a callback wait for the first and get its answer, on whatever
//! replica they arrive.
//!
//! Exchanges run on the runtime that built the gateway, not on the visitor's: a visitor who hangs
//! up would otherwise take the answer to a spent code with them.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quick_cache::unsync::Cache;
use tokio::{runtime::Handle, sync::OnceCell, time::Instant};

use super::rules::Rules;
use crate::{
    site::Account,
    store::Store,
    traces,
    wechat::{Error, Person, WeChat},
};

mod shared;

use shared::Claim;

/// How long an answer is kept for repeats of the callback.
const KEPT: Duration = Duration::from_mins(2);
/// Answers kept at most, and logins; beyond that the oldest go.
const MOST: usize = 10_000;
/// Codes that one login may bring. WeChat hands out a second one when its page is loaded twice;
/// whoever tries more is guessing, and every guess would be a call.
const CODES: usize = 4;

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

struct Recent {
    /// When each was begun, and its answer once there is one.
    answers: Cache<Key, (Instant, Arc<OnceCell<Answer>>)>,
    /// The codes of each login, by their hashes.
    codes: Cache<u128, [Option<u64>; CODES]>,
    hasher: RandomState,
}

impl Exchanges {
    /// None yet.
    pub fn new(wechat: WeChat, store: Arc<Store>, runtime: Handle) -> Self {
        let (answers, codes) = (Cache::new(MOST), Cache::new(MOST));
        let recent = Mutex::new(Recent { answers, codes, hasher: RandomState::new() });
        Self { wechat, store, runtime, recent }
    }

    /// Whether the login numbered `login` may try this code, which counts it.
    pub fn admits(&self, code: &str, login: u128) -> bool {
        let recent = &mut *self.lock();
        let hash = recent.hasher.hash_one(code);
        let mut codes = recent.codes.get(&login).copied().unwrap_or_default();
        let Some(place) = codes.iter_mut().find(|it| it.is_none_or(|it| it == hash)) else {
            return false;
        };
        if place.replace(hash).is_none() {
            recent.codes.insert(login, codes);
        }
        true
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
        let exchange = self.runtime.spawn(traces::carried(async move {
            let answer = cell.get_or_init(|| async {
                let ask = wechat.identify(&account, &code);
                match claim {
                    Some(claim) => claim.once(ask).await,
                    None => ask.await,
                }
            });
            answer.await.clone()
        }));
        let answer =
            exchange.await.unwrap_or_else(|_| Err(Error::Silent("the call died".to_owned())));
        // The code never left: the next callback may send it.
        if matches!(answer, Err(Error::Unreachable(_))) {
            self.lock().answers.remove(&key);
        }
        answer
    }

    fn cell(&self, key: &Key) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        let mut recent = self.lock();
        if let Some((since, cell)) = recent.answers.get(key)
            && now.duration_since(*since) < KEPT
        {
            return Arc::clone(cell);
        }
        let cell = Arc::default();
        recent.answers.insert(key.clone(), (now, Arc::clone(&cell)));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
