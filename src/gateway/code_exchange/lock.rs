//! One exchange per code in the whole fleet: who claims a code first asks WeChat and publishes the
//! answer, sealed; the others wait for it.
//!
//! Without the store every replica asks for itself, as if it were alone: of two callbacks of one
//! login on two replicas, the second is then told by WeChat that the code is spent, and starts over.

use std::{future::Future, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::{Answer, ExchangeKey, RETENTION};
use crate::{
    auth::{Identity, token::NONCE},
    gateway::rules::RuntimeConfig,
    secret::Secret,
    store::Store,
    wechat::{AccessToken, Error, WeChatUser, protocol::ApiError},
};

/// How long a claim stands without an answer: longer than WeChat may take.
const LOCK_TTL: Duration = Duration::from_secs(10);
/// How long to wait for somebody else's answer, and how often to look.
const WAIT_TIMEOUT: Duration = Duration::from_millis(4_300);
const POLL_INTERVAL: Duration = Duration::from_millis(60);

/// One code of one login, in the store.
pub struct ExchangeLock {
    store: Arc<Store>,
    rules: Arc<RuntimeConfig>,
    /// Whoever reads the store learns neither the code nor the login.
    name: String,
}

impl ExchangeLock {
    /// Nothing is asked yet.
    pub fn new(key: &ExchangeKey, store: &Arc<Store>, rules: &Arc<RuntimeConfig>) -> Self {
        let text = format!("{:032x} {} {}", key.login, key.app_id, key.code);
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let name = format!("code/{}", const_hex::encode(digest));
        Self { store: Arc::clone(store), rules: Arc::clone(rules), name }
    }

    /// Asks WeChat, unless another replica has or does.
    pub async fn run_once(&self, ask: impl Future<Output = Answer>) -> Answer {
        match self.store.put_new(&self.name, Vec::new(), LOCK_TTL).await {
            Ok(true) => {
                let answer = ask.await;
                self.publish(&answer).await;
                answer
            }
            Ok(false) => match self.wait().await {
                Some(answer) => answer,
                None => {
                    Err(Error::NoResponse("another replica asked, and did not tell".to_owned()))
                }
            },
            Err(error) => {
                tracing::warn!(%error, "store unavailable, exchanging code without the shared lock");
                ask.await
            }
        }
    }

    async fn publish(&self, answer: &Answer) {
        let told = match SharedOutcome::of(answer).and_then(|told| self.seal(&told)) {
            Some(sealed) => self.store.put(&self.name, sealed, RETENTION).await,
            // The code never left: the next callback may send it.
            None => self.store.take(&self.name).await.map(|_| ()),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "cannot share exchange result with other replicas");
        }
    }

    async fn wait(&self) -> Option<Answer> {
        let until = Instant::now() + WAIT_TIMEOUT;
        while Instant::now() < until {
            match self.store.get(&self.name).await {
                Ok(Some(sealed)) if !sealed.is_empty() => return self.open(&sealed),
                Ok(Some(_)) => sleep(POLL_INTERVAL).await,
                Ok(None) => return Some(Err(Error::Unreachable("at another replica".to_owned()))),
                Err(_) => return None,
            }
        }
        None
    }

    fn seal(&self, told: &SharedOutcome) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(told).ok()?;
        let sealed = self.rules.keys.seal(&json, &self.name, rand::random::<[u8; NONCE]>());
        sealed.ok().map(String::into_bytes)
    }

    fn open(&self, sealed: &[u8]) -> Option<Answer> {
        let json = self.rules.keys.open_sealed(sealed, &self.name).ok()?;
        serde_json::from_slice::<SharedOutcome>(&json).ok().map(SharedOutcome::answer)
    }
}

/// An answer as it goes to the other replicas.
#[derive(Serialize, Deserialize)]
enum SharedOutcome {
    Person(Box<SharedUser>),
    Refused { code: i64, message: String },
    Nonsense,
    Silent(String),
}

/// A person on the way to another replica.
#[derive(Serialize, Deserialize)]
struct SharedUser {
    identity: Identity,
    snapshot: bool,
    refresh_token: Option<String>,
    access_token: String,
    expires_in: u64,
    rest: Map<String, Value>,
    stale: bool,
}

impl SharedUser {
    fn of(user: WeChatUser) -> Self {
        let WeChatUser { identity, snapshot, refresh_token, access, rest, stale } = user;
        let text = |secret: &Secret| secret.expose().to_owned();
        let (refresh_token, access_token) = (refresh_token.as_ref().map(text), text(&access.token));
        let expires_in = access.expires_in;
        Self { identity, snapshot, refresh_token, access_token, expires_in, rest, stale }
    }

    fn person(self) -> WeChatUser {
        let Self { identity, snapshot, refresh_token, access_token, expires_in, rest, stale } =
            self;
        let refresh_token = refresh_token.map(Secret::new);
        let access = AccessToken { token: Secret::new(access_token), expires_in };
        WeChatUser { identity, snapshot, refresh_token, access, rest, stale }
    }
}

impl SharedOutcome {
    fn of(answer: &Answer) -> Option<Self> {
        match answer.clone() {
            Ok(person) => Some(Self::Person(Box::new(SharedUser::of(person)))),
            Err(Error::Api(ApiError::Code { code, message })) => {
                Some(Self::Refused { code, message })
            }
            Err(Error::Api(ApiError::Nonsense(_))) => Some(Self::Nonsense),
            Err(Error::NoResponse(why)) => Some(Self::Silent(why)),
            Err(Error::Unreachable(_)) => None,
        }
    }

    fn answer(self) -> Answer {
        match self {
            Self::Person(portrait) => Ok(portrait.person()),
            Self::Refused { code, message } => Err(ApiError::Code { code, message }.into()),
            Self::Nonsense => Err(ApiError::Nonsense("as another replica read it").into()),
            Self::Silent(why) => Err(Error::NoResponse(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serialized::assert_serialized, site::Scope};

    #[test]
    fn an_answer_survives_the_way_to_another_replica() {
        let known = WeChatUser {
            identity: Identity {
                openid: "o1".to_owned(),
                unionid: None,
                nickname: Some("李雷".to_owned()),
                avatar: None,
                scope: Scope::UserInfo,
            },
            snapshot: false,
            refresh_token: Some(Secret::new("RT")),
            access: AccessToken { token: Secret::new("AT"), expires_in: 7_200 },
            rest: Map::from_iter([("sex".to_owned(), 0.into())]),
            stale: false,
        };
        let json = serde_json::to_string(&SharedOutcome::of(&Ok(known)).unwrap()).unwrap();
        let back = serde_json::from_str::<SharedOutcome>(&json).unwrap().answer().unwrap();
        assert_eq!(back.access.token.expose(), "AT");
        assert_eq!((back.access.expires_in, &back.rest["sex"]), (7_200, &0.into()));
        assert_eq!(back.identity.nickname.as_deref(), Some("李雷"));
        let answers: [Answer; 3] = [
            Err(ApiError::Code { code: 40_163, message: "code been used".to_owned() }.into()),
            Err(ApiError::Nonsense("no JSON").into()),
            Err(Error::NoResponse("deadline passed".to_owned())),
        ];
        for answer in answers {
            let json = serde_json::to_string(&SharedOutcome::of(&answer).unwrap()).unwrap();
            let back = serde_json::from_str::<SharedOutcome>(&json).unwrap().answer();
            let kind = |answer: &Answer| std::mem::discriminant(answer.as_ref().unwrap_err());
            assert_eq!(kind(&back), kind(&answer), "{json}");
        }
        assert!(SharedOutcome::of(&Err(Error::Unreachable("x".to_owned()))).is_none());
    }

    #[test]
    fn serialized_outcome_of_an_exchange() {
        let user = |full: bool| {
            let some = |text: &str| full.then(|| text.to_owned());
            let (scope, rest) = if full {
                (Scope::UserInfo, Map::from_iter([("sex".to_owned(), 0.into())]))
            } else {
                (Scope::Base, Map::new())
            };
            let (unionid, nickname) = (some("u1"), some("李雷"));
            let avatar = some("https://thirdwx.qlogo.cn/mmopen/a/132");
            WeChatUser {
                identity: Identity { openid: "o1".to_owned(), unionid, nickname, avatar, scope },
                snapshot: full,
                refresh_token: some("RT").map(Secret::new),
                access: AccessToken { token: Secret::new("AT"), expires_in: 7_200 },
                rest,
                stale: full,
            }
        };
        let refused = ApiError::Code { code: 40_163, message: "code been used".to_owned() };
        let rows: [(&str, Answer, &str); 5] = [
            (
                "full user",
                Ok(user(true)),
                r#"{"Person":{"identity":{"sub":"o1","unionid":"u1","nickname":"李雷","avatar":"https://thirdwx.qlogo.cn/mmopen/a/132","scope":"snsapi_userinfo"},"snapshot":true,"refresh_token":"RT","access_token":"AT","expires_in":7200,"rest":{"sex":0},"stale":true}}"#,
            ),
            (
                "minimal user",
                Ok(user(false)),
                r#"{"Person":{"identity":{"sub":"o1","scope":"snsapi_base"},"snapshot":false,"refresh_token":null,"access_token":"AT","expires_in":7200,"rest":{},"stale":false}}"#,
            ),
            (
                "refused",
                Err(refused.into()),
                r#"{"Refused":{"code":40163,"message":"code been used"}}"#,
            ),
            ("nonsense", Err(ApiError::Nonsense("no JSON").into()), r#""Nonsense""#),
            ("silent", Err(Error::NoResponse("late".to_owned())), r#"{"Silent":"late"}"#),
        ];
        for (what, answer, recorded) in rows {
            let now = SharedOutcome::of(&answer).unwrap();
            assert_serialized(&[(what, serde_json::to_string(&now).unwrap(), recorded)]);
            let read: SharedOutcome = serde_json::from_str(recorded).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), recorded, "{what}");
        }
    }

    #[test]
    fn serialized_lock_of_an_exchange() {
        let store = Arc::new(Store::new(&crate::store::Settings::Memory).unwrap());
        let rules = Arc::new(crate::gateway::rules::tests::rules("192.0.2.1"));
        let key = ExchangeKey { app_id: "wx1".to_owned(), code: "c1".to_owned(), login: 7 };
        let lock = ExchangeLock::new(&key, &store, &rules);
        let name = "code/3b2d93393a644533af9dfec960c58427882c94e8f497752e691a7bd60b814f8f";
        let sealed = rules.keys.seal(br#"{"Silent":"late"}"#, name, [1; NONCE]).unwrap();
        let recorded = "AQEBAQEBAQEBAQEBy1kYuKUGKIMeWVoQLGO-VzGJ-mQu6DmM9mhmig7EdTFg";
        assert_serialized(&[
            ("name of the lock", lock.name.clone(), name),
            ("sealed outcome", sealed, recorded),
        ]);
        let opened = lock.open(recorded.as_bytes());
        assert!(matches!(opened, Some(Err(Error::NoResponse(why))) if why == "late"));
    }
}
