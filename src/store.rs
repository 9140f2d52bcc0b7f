//! What outlives a request and belongs to no visitor's cookie: small values that expire.
//!
//! A flood of anonymous visitors puts nothing in it. Values are sealed by whoever puts them here,
//! so that they are worth nothing to whoever reads them. Today everything is kept in this process
//! and is gone when it ends.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Values kept at most. When it is full, whatever would expire first has to go.
const MOST: usize = 100_000;

/// Values with the moment they expire.
#[derive(Debug, Default)]
pub struct Store(Mutex<HashMap<String, (Instant, Vec<u8>)>>);

impl Store {
    /// Keeps a value for `age`.
    pub fn put(&self, key: &str, value: Vec<u8>, age: Duration) {
        let now = Instant::now();
        let mut values = self.lock();
        if values.len() >= MOST && !values.contains_key(key) {
            values.retain(|_, (until, _)| now < *until);
        }
        if values.len() >= MOST && !values.contains_key(key) {
            let first = values.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                values.remove(&first);
            }
        }
        values.insert(key.to_owned(), (now + age, value));
    }

    /// The value, if it has not expired.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let values = self.lock();
        let (until, value) = values.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Vec<u8>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn values_expire() {
        let store = Store::default();
        store.put("a", b"1".to_vec(), Duration::from_secs(10));
        store.put("b", b"2".to_vec(), Duration::from_secs(20));
        assert_eq!(store.get("a"), Some(b"1".to_vec()));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((store.get("a"), store.get("b")), (None, Some(b"2".to_vec())));
        store.put("b", b"3".to_vec(), Duration::from_secs(20));
        assert_eq!(store.get("b"), Some(b"3".to_vec()));
    }
}
