//! How much of a server a site may take at once, where the operator says: the whole process counts.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// The places at one server. Whoever waits for one is served in the order they came.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    places: Arc<Semaphore>,
    /// Places that are taken and are no more once they are given back: there are fewer since.
    surplus: AtomicUsize,
    size: Mutex<usize>,
}

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(0));
        Self { places, surplus: AtomicUsize::new(0), size: Mutex::new(0) }
    }
}

impl ConcurrencyLimit {
    /// There are so many places from now on. Nobody who has one loses it.
    pub fn resize(&self, size: usize) {
        let mut before = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let fewer = before.saturating_sub(size);
        let more = size.saturating_sub(*before);
        *before = size;
        let gone = self.places.forget_permits(fewer);
        self.surplus.fetch_add(fewer - gone, Relaxed);
        let add = (0..more).filter(|_| !self.is_surplus()).count();
        self.places.add_permits(add);
    }

    /// Whether there is a place that nobody waits for.
    pub fn has_permit(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// Takes a place, if there is one that nobody waits for.
    pub fn try_acquire(self: &Arc<Self>) -> Result<Permit, TryAcquireError> {
        let permit = Arc::clone(&self.places).try_acquire_owned()?;
        Ok(Permit { permit: Some(permit), limit: Arc::clone(self) })
    }

    /// Waits for a place. Whoever stops waiting loses it to the next, even if it had just become
    /// theirs.
    pub async fn acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Permit { permit: Some(permit), limit: Arc::clone(self) })
    }

    /// Whether a place that comes free is one too many; it is then counted off.
    fn is_surplus(&self) -> bool {
        let one_less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.load(Relaxed) > 0
            && self.surplus.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }
}

/// A place at a server, for one request or tunnel; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    limit: Arc<ConcurrencyLimit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.limit.is_surplus()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes all there are.
    fn all(limit: &Arc<ConcurrencyLimit>) -> Vec<Permit> {
        std::iter::from_fn(|| limit.try_acquire().ok()).collect()
    }

    #[test]
    fn a_room_grows_and_shrinks_under_those_who_are_in_it() {
        let room = Arc::new(ConcurrencyLimit::default());
        assert!(!room.has_permit());
        room.resize(3);
        let mut taken = all(&room);
        assert_eq!(taken.len(), 3);
        // Two are one too many each, and it grows again before they have left.
        room.resize(1);
        taken.pop();
        assert!(!room.has_permit());
        room.resize(4);
        taken.extend(all(&room));
        assert_eq!(taken.len(), 4);
        room.resize(2);
        taken.clear();
        assert_eq!(all(&room).len(), 2);
        room.resize(0);
        assert!(all(&room).is_empty());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_their_place_to_the_next() {
        let room = Arc::new(ConcurrencyLimit::default());
        room.resize(1);
        let taken = room.try_acquire().unwrap();
        let mut first = Box::pin(room.acquire());
        let mut second = Box::pin(room.acquire());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(taken);
        assert!(!room.has_permit(), "it is the first one's");
        assert!(room.try_acquire().is_err());
        drop(first);
        assert!(second.await.is_some());
    }
}
