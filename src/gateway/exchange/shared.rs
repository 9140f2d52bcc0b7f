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

use super::{Answer, KEPT, Key};
use crate::{
    auth::{Identity, token::NONCE},
    gateway::rules::Rules,
    secret::Secret,
    store::Store,
    wechat::{Access, Error, Person, protocol::Refusal},
};

/// How long a claim stands without an answer: longer than WeChat may take.
const CLAIMED: Duration = Duration::from_secs(10);
/// How long to wait for somebody else's answer, and how often to look.
const WAIT: Duration = Duration::from_millis(4_300);
const LOOK: Duration = Duration::from_millis(60);

/// One code of one login, in the store.
pub struct Claim {
    store: Arc<Store>,
    rules: Arc<Rules>,
    /// Whoever reads the store learns neither the code nor the login.
    name: String,
}

impl Claim {
    /// Nothing is asked yet.
    pub fn new(key: &Key, store: &Arc<Store>, rules: &Arc<Rules>) -> Self {
        let text = format!("{:032x} {} {}", key.login, key.app_id, key.code);
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let name = format!("code/{}", const_hex::encode(digest));
        Self { store: Arc::clone(store), rules: Arc::clone(rules), name }
    }

    /// Asks WeChat, unless another replica has or does.
    pub async fn once(&self, ask: impl Future<Output = Answer>) -> Answer {
        match self.store.put_new(&self.name, Vec::new(), CLAIMED).await {
            Ok(true) => {
                let answer = ask.await;
                self.publish(&answer).await;
                answer
            }
            Ok(false) => match self.wait().await {
                Some(answer) => answer,
                None => Err(Error::Silent("another replica asked, and did not tell".to_owned())),
            },
            Err(error) => {
                tracing::warn!(%error, "a code is exchanged without asking the other replicas");
                ask.await
            }
        }
    }

    async fn publish(&self, answer: &Answer) {
        let told = match Told::of(answer).and_then(|told| self.seal(&told)) {
            Some(sealed) => self.store.put(&self.name, sealed, KEPT).await,
            // The code never left: the next callback may send it.
            None => self.store.take(&self.name).await.map(|_| ()),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the other replicas do not learn of an exchange");
        }
    }

    async fn wait(&self) -> Option<Answer> {
        let until = Instant::now() + WAIT;
        while Instant::now() < until {
            match self.store.get(&self.name).await {
                Ok(Some(sealed)) if !sealed.is_empty() => return self.open(&sealed),
                Ok(Some(_)) => sleep(LOOK).await,
                Ok(None) => return Some(Err(Error::Unreachable("at another replica".to_owned()))),
                Err(_) => return None,
            }
        }
        None
    }

    fn seal(&self, told: &Told) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(told).ok()?;
        let sealed = self.rules.keys.seal(&json, &self.name, rand::random::<[u8; NONCE]>());
        sealed.ok().map(String::into_bytes)
    }

    fn open(&self, sealed: &[u8]) -> Option<Answer> {
        let json = self.rules.keys.open_own(sealed, &self.name).ok()?;
        serde_json::from_slice::<Told>(&json).ok().map(Told::answer)
    }
}

/// An answer as it goes to the other replicas.
#[derive(Serialize, Deserialize)]
enum Told {
    Person(Box<Portrait>),
    Refused { code: i64, message: String },
    Nonsense,
    Silent(String),
}

/// A person on the way to another replica.
#[derive(Serialize, Deserialize)]
struct Portrait {
    identity: Identity,
    snapshot: bool,
    refresh_token: Option<String>,
    access_token: String,
    expires_in: u64,
    rest: Map<String, Value>,
    stale: bool,
}

impl Portrait {
    fn of(person: Person) -> Self {
        let Person { identity, snapshot, refresh_token, access, rest, stale } = person;
        let text = |secret: &Secret| secret.expose().to_owned();
        let (refresh_token, access_token) = (refresh_token.as_ref().map(text), text(&access.token));
        let expires_in = access.expires_in;
        Self { identity, snapshot, refresh_token, access_token, expires_in, rest, stale }
    }

    fn person(self) -> Person {
        let Self { identity, snapshot, refresh_token, access_token, expires_in, rest, stale } =
            self;
        let refresh_token = refresh_token.map(Secret::new);
        let access = Access { token: Secret::new(access_token), expires_in };
        Person { identity, snapshot, refresh_token, access, rest, stale }
    }
}

impl Told {
    fn of(answer: &Answer) -> Option<Self> {
        match answer.clone() {
            Ok(person) => Some(Self::Person(Box::new(Portrait::of(person)))),
            Err(Error::Refused(Refusal::Code { code, message })) => {
                Some(Self::Refused { code, message })
            }
            Err(Error::Refused(Refusal::Nonsense(_))) => Some(Self::Nonsense),
            Err(Error::Silent(why)) => Some(Self::Silent(why)),
            Err(Error::Unreachable(_)) => None,
        }
    }

    fn answer(self) -> Answer {
        match self {
            Self::Person(portrait) => Ok(portrait.person()),
            Self::Refused { code, message } => Err(Refusal::Code { code, message }.into()),
            Self::Nonsense => Err(Refusal::Nonsense("as another replica read it").into()),
            Self::Silent(why) => Err(Error::Silent(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Scope;

    #[test]
    fn an_answer_survives_the_way_to_another_replica() {
        let known = Person {
            identity: Identity {
                openid: "o1".to_owned(),
                unionid: None,
                nickname: Some("李雷".to_owned()),
                avatar: None,
                scope: Scope::UserInfo,
            },
            snapshot: false,
            refresh_token: Some(Secret::new("RT")),
            access: Access { token: Secret::new("AT"), expires_in: 7_200 },
            rest: Map::from_iter([("sex".to_owned(), 0.into())]),
            stale: false,
        };
        let json = serde_json::to_string(&Told::of(&Ok(known)).unwrap()).unwrap();
        let back = serde_json::from_str::<Told>(&json).unwrap().answer().unwrap();
        assert_eq!(back.access.token.expose(), "AT");
        assert_eq!((back.access.expires_in, &back.rest["sex"]), (7_200, &0.into()));
        assert_eq!(back.identity.nickname.as_deref(), Some("李雷"));
        let answers: [Answer; 3] = [
            Err(Refusal::Code { code: 40_163, message: "code been used".to_owned() }.into()),
            Err(Refusal::Nonsense("no JSON").into()),
            Err(Error::Silent("deadline passed".to_owned())),
        ];
        for answer in answers {
            let json = serde_json::to_string(&Told::of(&answer).unwrap()).unwrap();
            let back = serde_json::from_str::<Told>(&json).unwrap().answer();
            let kind = |answer: &Answer| std::mem::discriminant(answer.as_ref().unwrap_err());
            assert_eq!(kind(&back), kind(&answer), "{json}");
        }
        assert!(Told::of(&Err(Error::Unreachable("x".to_owned()))).is_none());
    }
}
