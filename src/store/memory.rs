//! The keeper for a gateway that is alone: this process, and gone when it ends.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Values kept at most, and bytes of them. When it is full, whatever would expire first has to go.
const MAX_VALUES: usize = 100_000;
const BYTES: usize = 64 * 1024 * 1024;

/// Values with the moment they expire.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    by_name: HashMap<Arc<str>, (Instant, Vec<u8>)>,
    /// The same names, the first to expire first: making room takes no search.
    by_end: BTreeSet<(Instant, Arc<str>)>,
    bytes: usize,
}

impl MemoryStore {
    /// Keeps a value for `age`.
    pub fn put(&self, key: &str, value: Vec<u8>, age: Duration) {
        self.lock().insert(key, value, age);
    }

    /// Keeps a value for `age` unless there is one of that name; whether it was kept.
    pub fn put_new(&self, key: &str, value: Vec<u8>, age: Duration) -> bool {
        let mut values = self.lock();
        let taken = values.by_name.get(key).is_some_and(|(end, _)| Instant::now() < *end);
        if !taken {
            values.insert(key, value, age);
        }
        !taken
    }

    /// The value, which is then gone.
    pub fn take(&self, key: &str) -> Option<Vec<u8>> {
        let (end, value) = self.lock().remove(key)?;
        (Instant::now() < end).then_some(value)
    }

    /// The value, if it has not expired.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let values = self.lock();
        let (end, value) = values.by_name.get(key)?;
        (Instant::now() < *end).then(|| value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Values {
    /// Forgets what has expired, makes room where there is none, and keeps the value.
    fn insert(&mut self, key: &str, value: Vec<u8>, age: Duration) {
        let now = Instant::now();
        let _ = self.remove(key);
        let room = |values: &Self| {
            values.by_name.len() < MAX_VALUES && values.bytes.saturating_add(value.len()) <= BYTES
        };
        while let Some((end, first)) = self.by_end.first().cloned() {
            if now < end && room(self) {
                break;
            }
            let _ = self.remove(&first);
        }
        let (key, end) = (Arc::<str>::from(key), now + age);
        self.bytes = self.bytes.saturating_add(value.len());
        self.by_end.insert((end, Arc::clone(&key)));
        self.by_name.insert(key, (end, value));
    }

    fn remove(&mut self, key: &str) -> Option<(Instant, Vec<u8>)> {
        let (key, (end, value)) = self.by_name.remove_entry(key)?;
        self.bytes = self.bytes.saturating_sub(value.len());
        self.by_end.remove(&(end, key));
        Some((end, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn values_expire() {
        let store = MemoryStore::default();
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
        let (store, age) = (MemoryStore::default(), Duration::from_secs(10));
        assert!(store.put_new("a", b"1".to_vec(), age));
        assert!(!store.put_new("a", b"2".to_vec(), age));
        assert_eq!((store.take("a"), store.take("a")), (Some(b"1".to_vec()), None));
        assert!(store.put_new("a", b"3".to_vec(), age));
        tokio::time::advance(age).await;
        assert!(store.put_new("a", b"4".to_vec(), age), "a claim expires");
    }

    #[tokio::test(start_paused = true)]
    async fn g5_what_is_kept_is_bounded_and_the_first_to_expire_goes() {
        let (store, minute) = (MemoryStore::default(), Duration::from_mins(1));
        store.put("first", b"1".to_vec(), Duration::from_secs(1));
        store.put("last", b"1".to_vec(), Duration::from_hours(1));
        for number in 0..MAX_VALUES + 10 {
            store.put(&number.to_string(), vec![0; 8], minute);
        }
        let held = |store: &MemoryStore| {
            let values = store.lock();
            assert_eq!(values.by_name.len(), values.by_end.len());
            let bytes: usize = values.by_name.values().map(|(_, value)| value.len()).sum();
            assert_eq!(bytes, values.bytes);
            (values.by_name.len(), bytes)
        };
        assert_eq!(held(&store).0, MAX_VALUES);
        assert_eq!((store.get("first"), store.get("last").is_some()), (None, true));
        for number in 0..100 {
            store.put(&format!("large {number}"), vec![0; 1024 * 1024], minute);
        }
        assert!(held(&store).1 <= BYTES);
        assert!(store.get("large 99").is_some() && store.get("last").is_some());
        tokio::time::advance(minute).await;
        store.put("a", b"1".to_vec(), minute);
        assert_eq!(held(&store).0, 2, "what has expired makes room at once");
    }
}
