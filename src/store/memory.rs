//! The keeper for a gateway that is alone: this process, and gone when it ends.

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
pub struct Memory(Mutex<Values>);

type Values = HashMap<String, (Instant, Vec<u8>)>;

impl Memory {
    /// Keeps a value for `age`.
    pub fn put(&self, key: &str, value: Vec<u8>, age: Duration) {
        insert(&mut self.lock(), key, value, age);
    }

    /// Keeps a value for `age` unless there is one of that name; whether it was kept.
    pub fn put_new(&self, key: &str, value: Vec<u8>, age: Duration) -> bool {
        let mut values = self.lock();
        let taken = values.get(key).is_some_and(|(until, _)| Instant::now() < *until);
        if !taken {
            insert(&mut values, key, value, age);
        }
        !taken
    }

    /// The value, which is then gone.
    pub fn take(&self, key: &str) -> Option<Vec<u8>> {
        let (until, value) = self.lock().remove(key)?;
        (Instant::now() < until).then_some(value)
    }

    /// The value, if it has not expired.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let values = self.lock();
        let (until, value) = values.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room where there is none, and keeps the value.
fn insert(values: &mut Values, key: &str, value: Vec<u8>, age: Duration) {
    let now = Instant::now();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn values_expire() {
        let store = Memory::default();
        store.put("a", b"1".to_vec(), Duration::from_secs(10));
        store.put("b", b"2".to_vec(), Duration::from_secs(20));
        assert_eq!(store.get("a"), Some(b"1".to_vec()));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((store.get("a"), store.get("b")), (None, Some(b"2".to_vec())));
        store.put("b", b"3".to_vec(), Duration::from_secs(20));
        assert_eq!(store.get("b"), Some(b"3".to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_given_once_and_a_ticket_taken_once() {
        let (store, age) = (Memory::default(), Duration::from_secs(10));
        assert!(store.put_new("a", b"1".to_vec(), age));
        assert!(!store.put_new("a", b"2".to_vec(), age));
        assert_eq!((store.take("a"), store.take("a")), (Some(b"1".to_vec()), None));
        assert!(store.put_new("a", b"3".to_vec(), age));
        tokio::time::advance(age).await;
        assert!(store.put_new("a", b"4".to_vec(), age), "a claim expires");
    }
}
