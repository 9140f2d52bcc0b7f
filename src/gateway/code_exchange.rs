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

use super::rules::RuntimeConfig;
use crate::{
    site::Account,
    store::Store,
    traces,
    wechat::{Error, WeChatClient, WeChatUser},
};

mod lock;

use lock::ExchangeLock;

/// How long an answer is kept for repeats of the callback.
const RETENTION: Duration = Duration::from_mins(2);
/// Answers kept at most, and logins; beyond that the oldest go.
const MAX_RECENT: usize = 10_000;
/// Codes that one login may bring. WeChat hands out a second one when its page is loaded twice;
/// whoever tries more is guessing, and every guess would be a call.
const CODES: usize = 4;

/// Two visitors never share an answer: the login is part of the key.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ExchangeKey {
    app_id: String,
    code: String,
    login: u128,
}

type Answer = Result<WeChatUser, Error>;

/// The exchanges under way and the answers of the last ones.
pub struct CodeExchanger {
    wechat: WeChatClient,
    store: Arc<Store>,
    runtime: Handle,
    recent: Mutex<RecentExchanges>,
}

struct RecentExchanges {
    /// When each was begun, and its answer once there is one.
    answers: Cache<ExchangeKey, (Instant, Arc<OnceCell<Answer>>)>,
    /// The codes of each login, by their hashes.
    codes: Cache<u128, [Option<u64>; CODES]>,
    hasher: RandomState,
}

impl CodeExchanger {
    /// None yet.
    pub fn new(wechat: WeChatClient, store: Arc<Store>, runtime: Handle) -> Self {
        let (answers, codes) = (Cache::new(MAX_RECENT), Cache::new(MAX_RECENT));
        let recent = Mutex::new(RecentExchanges { answers, codes, hasher: RandomState::new() });
        Self { wechat, store, runtime, recent }
    }

    /// Whether the login numbered `login` may try this code, which counts it.
    pub fn allow_code(&self, code: &str, login: u128) -> bool {
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
        rules: &Arc<RuntimeConfig>,
        account: &Arc<Account>,
        code: &str,
        login: u128,
    ) -> Answer {
        let key = ExchangeKey { app_id: account.app_id.clone(), code: code.to_owned(), login };
        let cell = self.cell(&key);
        let (wechat, account) = (self.wechat.clone(), Arc::clone(account));
        let code = code.to_owned();
        let claim = self.store.is_shared().then(|| ExchangeLock::new(&key, &self.store, rules));
        let exchange = self.runtime.spawn(traces::with_current_span(async move {
            let answer = cell.get_or_init(|| async {
                let ask = wechat.identify(&account, &code);
                match claim {
                    Some(claim) => claim.run_once(ask).await,
                    None => ask.await,
                }
            });
            answer.await.clone()
        }));
        let answer = exchange.await.unwrap_or_else(|_| {
            Err(Error::NoResponse("background task ended without a result".to_owned()))
        });
        // The code never left: the next callback may send it.
        if matches!(answer, Err(Error::Unreachable(_))) {
            self.lock().answers.remove(&key);
        }
        answer
    }

    fn cell(&self, key: &ExchangeKey) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        let mut recent = self.lock();
        if let Some((since, cell)) = recent.answers.get(key)
            && now.duration_since(*since) < RETENTION
        {
            return Arc::clone(cell);
        }
        let cell = Arc::default();
        recent.answers.insert(key.clone(), (now, Arc::clone(&cell)));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, RecentExchanges> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
