//! What the store keeps of a login of the broker's: where the visitor goes afterwards, how it ended,
//! and the ticket that the client's server redeems.
//!
//! Everything is sealed, and no name in the store tells what it is about: whoever reads the store
//! learns neither address nor person, and cannot make up either.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::runtime::Handle;

use crate::{
    auth::{Identity, KeyRing, pending::STATE_LIFETIME, token::NONCE},
    clock::Timestamp,
    site::Scope,
    store::{Store, StoreUnavailable},
    traces,
};

/// A ticket stands in for WeChat's code, and lasts as long.
const TICKET: Duration = Duration::from_mins(5);

/// What a visitor has been sent to WeChat for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingBrokerLogin {
    /// The client, by name.
    pub client: String,
    /// Where they go afterwards. Of an errand that has ended: where they went, with what they
    /// brought.
    pub url: String,
    /// How much was asked.
    pub scope: Scope,
    /// The account whose login page they were sent to.
    pub app_id: String,
}

/// Who came, for whoever has the ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketIdentity {
    /// Who they are.
    pub identity: Identity,
    /// To which account.
    pub app_id: String,
    /// When they came.
    pub auth_time: Timestamp,
}

/// The errands under way, those that have ended, and the tickets that nobody has redeemed.
///
/// The store is asked on the runtime that built the gateway: a visitor who hangs up leaves nothing
/// half done, and the connection to it is nobody's in particular.
pub struct BrokerLoginStore {
    store: Arc<Store>,
    runtime: Handle,
}

impl BrokerLoginStore {
    /// Those of this store.
    pub fn new(store: Arc<Store>, runtime: Handle) -> Self {
        Self { store, runtime }
    }

    /// Keeps the errand of the login numbered `login`, for as long as WeChat may take.
    pub async fn begin(
        &self,
        keys: &KeyRing,
        login: u128,
        errand: &PendingBrokerLogin,
    ) -> Result<(), StoreUnavailable> {
        let name = under_way(login);
        self.put(seal(keys, &name, errand)?, name, STATE_LIFETIME).await
    }

    /// The errand of a login that has not ended.
    pub async fn find(
        &self,
        keys: &KeyRing,
        login: u128,
    ) -> Result<Option<PendingBrokerLogin>, StoreUnavailable> {
        self.get(keys, under_way(login)).await
    }

    /// The errand of a login that has ended. Callbacks repeat, and the answer to the first is
    /// often lost: the same browser gets the same answer.
    pub async fn find_finished(
        &self,
        keys: &KeyRing,
        login: u128,
    ) -> Result<Option<PendingBrokerLogin>, StoreUnavailable> {
        self.get(keys, ended(login)).await
    }

    /// Ends an errand, once in the whole fleet: whoever comes second gets what the first one said.
    pub async fn finish(
        &self,
        keys: &KeyRing,
        login: u128,
        errand: PendingBrokerLogin,
    ) -> Result<PendingBrokerLogin, StoreUnavailable> {
        let (name, begun) = (ended(login), under_way(login));
        let (store, sealed) = (Arc::clone(&self.store), seal(keys, &name, &errand)?);
        let first = self.run(async move {
            let first = store.put_new(&name, sealed, STATE_LIFETIME).await?;
            if first {
                store.take(&begun).await?;
            }
            Ok(first)
        });
        if first.await? {
            Ok(errand)
        } else {
            Ok(self.find_finished(keys, login).await?.unwrap_or(errand))
        }
    }

    /// Keeps who came for one client, and gives the ticket that stands for them.
    pub async fn issue_ticket(
        &self,
        keys: &KeyRing,
        client: &str,
        who: &TicketIdentity,
    ) -> Result<String, StoreUnavailable> {
        let ticket = const_hex::encode(rand::random::<[u8; 32]>());
        let name = stub(client, &ticket);
        self.put(seal(keys, &name, who)?, name, TICKET).await?;
        Ok(ticket)
    }

    /// Who a client's ticket stands for, once. Another client's is not touched.
    pub async fn redeem(
        &self,
        keys: &KeyRing,
        client: &str,
        ticket: &str,
    ) -> Result<Option<TicketIdentity>, StoreUnavailable> {
        let (store, name) = (Arc::clone(&self.store), stub(client, ticket));
        let place = name.clone();
        let kept = self.run(async move { store.take(&name).await }).await?;
        Ok(kept.and_then(|sealed| open(keys, &place, &sealed)))
    }

    async fn put(
        &self,
        sealed: Vec<u8>,
        name: String,
        age: Duration,
    ) -> Result<(), StoreUnavailable> {
        let store = Arc::clone(&self.store);
        self.run(async move { store.put(&name, sealed, age).await }).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        keys: &KeyRing,
        name: String,
    ) -> Result<Option<T>, StoreUnavailable> {
        let (store, place) = (Arc::clone(&self.store), name.clone());
        let kept = self.run(async move { store.get(&name).await }).await?;
        Ok(kept.and_then(|sealed| open(keys, &place, &sealed)))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreUnavailable>> + Send + 'static,
    ) -> Result<T, StoreUnavailable> {
        let done = self.runtime.spawn(traces::with_current_span(work)).await;
        done.unwrap_or_else(|_| {
            Err(StoreUnavailable::internal("background task ended without a result"))
        })
    }
}

fn under_way(login: u128) -> String {
    hidden("errand", &login.to_be_bytes())
}

fn ended(login: u128) -> String {
    hidden("errand-ended", &login.to_be_bytes())
}

/// A client's name has no space in it, so no two pairs read the same.
fn stub(client: &str, ticket: &str) -> String {
    hidden("ticket", format!("{client} {ticket}").as_bytes())
}

/// A name in the store that does not give away what it is made from.
fn hidden(kind: &str, secret: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, secret);
    format!("{kind}/{}", const_hex::encode(digest))
}

fn seal<T: Serialize>(keys: &KeyRing, name: &str, value: &T) -> Result<Vec<u8>, StoreUnavailable> {
    let away = |what: &str| StoreUnavailable::internal(what);
    let json = serde_json::to_vec(value).map_err(|_| away("a value cannot be written"))?;
    let sealed = keys.seal(&json, name, rand::random::<[u8; NONCE]>());
    sealed.map(String::into_bytes).map_err(|_| away("a value cannot be sealed"))
}

fn open<T: DeserializeOwned>(keys: &KeyRing, name: &str, sealed: &[u8]) -> Option<T> {
    serde_json::from_slice(&keys.open_sealed(sealed, name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serialized::assert_serialized, test_support::keys};

    #[test]
    fn serialized_names_in_the_store() {
        assert_serialized(&[
            (
                "under way",
                under_way(7),
                "errand/6bae426822df52caf9dc36c8319247d6debb080aa918fa7830ac1c5edabd22c1",
            ),
            (
                "ended",
                ended(7),
                "errand-ended/6bae426822df52caf9dc36c8319247d6debb080aa918fa7830ac1c5edabd22c1",
            ),
            (
                "ticket",
                stub("shop", "t1"),
                "ticket/789ca2585032118da40ad11db28d9e7dbab8346a0fce9671b5d8d7e22d51a8d3",
            ),
        ]);
    }

    #[test]
    fn serialized_login_of_the_broker() {
        let pending = PendingBrokerLogin {
            client: "shop".to_owned(),
            url: "https://shop.example.com/a?b=c".to_owned(),
            scope: Scope::UserInfo,
            app_id: "wx1".to_owned(),
        };
        let identity = Identity {
            openid: "o1".to_owned(),
            unionid: None,
            nickname: Some("李雷".to_owned()),
            avatar: None,
            scope: Scope::UserInfo,
        };
        let auth_time = Timestamp(10_000);
        let who = TicketIdentity { identity, app_id: "wx1".to_owned(), auth_time };
        let (login, person) = (
            r#"{"client":"shop","url":"https://shop.example.com/a?b=c","scope":"snsapi_userinfo","app_id":"wx1"}"#,
            r#"{"identity":{"sub":"o1","nickname":"李雷","scope":"snsapi_userinfo"},"app_id":"wx1","auth_time":10000}"#,
        );
        assert_serialized(&[
            ("login", serde_json::to_string(&pending).unwrap(), login),
            ("person", serde_json::to_string(&who).unwrap(), person),
        ]);
        let keys = keys();
        let sealed = |json: &str| {
            keys.seal(json.as_bytes(), &under_way(7), [1; NONCE]).unwrap().into_bytes()
        };
        assert_eq!(open(&keys, &under_way(7), &sealed(login)), Some(pending));
        assert_eq!(open(&keys, &under_way(7), &sealed(person)), Some(who));
    }
}
