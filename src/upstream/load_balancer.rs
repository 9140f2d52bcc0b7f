//! The servers of one site, as one thread sees them.

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    Backend, Error,
    backend::AttemptKind,
    balance::{self, Candidate},
    concurrency_limit::{ConcurrencyLimit, Permit},
    pool::Pool,
};
use crate::{
    metrics::WaitingGauge,
    site::{Balance, UpstreamLimit, UpstreamSettings},
};

/// The servers of a site, and whose turn it is.
pub struct LoadBalancer {
    members: Vec<Member>,
    balance: Balance,
    slow_start: Duration,
    queue: Option<WaitQueue>,
}

/// A server's place among the others.
pub(super) struct Member {
    /// This thread's connections to it.
    pub pool: Rc<Pool>,
    /// What all threads know of it.
    pub backend: Arc<Backend>,
    weight: u32,
    credit: Cell<i64>,
    /// How much of it the site may take, if the operator says.
    limit: Option<Arc<ConcurrencyLimit>>,
}

/// Requests of all threads that wait for a server with room.
struct WaitQueue {
    waiting: WaitingGauge,
    most: i64,
    timeout: Duration,
}

/// The server that is next.
pub(super) struct Selection<'a> {
    /// The server.
    pub member: &'a Member,
    /// Its number.
    pub number: usize,
    /// How it is asked.
    pub attempt: AttemptKind,
    /// What says that it is being asked, where somebody counts.
    pub permit: Option<Permit>,
}

/// One request's way through the servers.
#[derive(Default)]
pub(super) struct AttemptState {
    /// Those that did not take it.
    pub tried: Vec<usize>,
    /// When it has waited for long enough, once it has begun to.
    due: Option<Instant>,
}

/// What can be done next.
enum PickResult<'a> {
    /// To ask this one.
    Selected(Selection<'a>),
    /// To wait for one that has room.
    Wait,
    /// Nothing: all have been asked.
    Exhausted,
}

impl LoadBalancer {
    /// The servers of this site: the connections to each, and what is known of it.
    pub(super) fn new(
        site: &UpstreamSettings,
        servers: impl Iterator<Item = (Rc<Pool>, Arc<Backend>)>,
        limit: Option<(UpstreamLimit, WaitingGauge)>,
    ) -> Self {
        let weights = site.servers.iter().map(|server| server.weight);
        let seats = servers.zip(weights).map(|((pool, backend), weight)| Member {
            pool,
            weight,
            credit: Cell::new(0),
            limit: limit.as_ref().map(|_| Arc::clone(&backend.limit)),
            backend,
        });
        let queue = |(limit, waiting): (UpstreamLimit, WaitingGauge)| WaitQueue {
            waiting,
            most: i64::from(limit.queue),
            timeout: limit.queue_time,
        };
        Self {
            members: seats.collect(),
            balance: site.balance,
            slow_start: site.slow_start,
            queue: limit.map(queue),
        }
    }

    /// The server that is next, of those that this request has not asked yet; nothing when it has
    /// asked all. Where all of them are full, it waits until one has room, but not for ever.
    pub(super) async fn select(
        &self,
        attempt: &mut AttemptState,
    ) -> Result<Option<Selection<'_>>, Error> {
        match self.pick(&attempt.tried) {
            PickResult::Selected(chosen) => Ok(Some(chosen)),
            PickResult::Exhausted => Ok(None),
            // In a box, because it is rare.
            PickResult::Wait => Box::pin(self.wait(attempt)).await.map(Some),
        }
    }

    /// One that is down is not asked while others are well. If none is, all of them are: the answer
    /// could not be worse than the error page, and a health page may fail where the site does not.
    fn pick(&self, asked: &[usize]) -> PickResult<'_> {
        if let ([seat @ Member { limit: None, .. }], []) = (self.members.as_slice(), asked) {
            return PickResult::Selected(Selection {
                member: seat,
                number: 0,
                attempt: AttemptKind::Normal,
                permit: None,
            });
        }
        let unasked = |number| !asked.contains(&number);
        let is_open = |number, member: &Member| unasked(number) && member.backend.is_available();
        loop {
            let open = self.choose(|number, seat| is_open(number, seat) && seat.has_room());
            let any_open = || self.members.iter().enumerate().any(|(it, seat)| is_open(it, seat));
            let number = match open {
                Some(number) => number,
                // They are full.
                None if any_open() => return PickResult::Wait,
                None => match self.choose(|number, seat| unasked(number) && seat.has_room()) {
                    Some(number) => number,
                    None if asked.len() < self.members.len() => return PickResult::Wait,
                    None => return PickResult::Exhausted,
                },
            };
            let Some(seat) = self.members.get(number) else { return PickResult::Exhausted };
            // Where another thread was faster, with the last place or the trial, there is one less to
            // choose from.
            let Ok(place) = seat.take() else { continue };
            let turn =
                if open.is_some() { seat.backend.try_acquire() } else { Some(AttemptKind::Normal) };
            if let Some(turn) = turn {
                return PickResult::Selected(Selection {
                    member: seat,
                    number,
                    attempt: turn,
                    permit: place,
                });
            }
        }
    }

    fn choose(&self, may_be: impl Fn(usize, &Member) -> bool) -> Option<usize> {
        balance::choose(self.balance, &self.members, |number, seat| {
            let Member { pool, backend, weight, credit, .. } = seat;
            let weight = || backend.effective_weight(*weight, self.slow_start);
            let candidate = || Candidate { weight: weight(), load: pool.in_flight(), credit };
            may_be(number, seat).then(candidate)
        })
    }

    /// Waits for whichever server has room first.
    async fn wait(
        &self,
        AttemptState { tried: asked, due }: &mut AttemptState,
    ) -> Result<Selection<'_>, Error> {
        let Some(queue) = &self.queue else { return Err(Error::Overloaded) };
        let Some(_waiting) = queue.waiting.enter(queue.most) else { return Err(Error::Overloaded) };
        let due = *due.get_or_insert_with(|| Instant::now() + queue.timeout);
        let unasked = |(number, _): &(usize, &Member)| !asked.contains(number);
        let seats = || self.members.iter().enumerate().filter(unasked);
        let any_open = seats().any(|(_, seat)| seat.backend.is_available());
        let awaited = seats().filter(|(_, seat)| !any_open || seat.backend.is_available());
        let mut rooms: Vec<_> = awaited
            .filter_map(|(number, seat)| {
                let room = seat.limit.as_ref()?;
                Some(Box::pin(async move { (number, seat, room.acquire().await) }))
            })
            .collect();
        let first = poll_fn(|cx| {
            let ready = rooms.iter_mut().find_map(|room| match room.as_mut().poll(cx) {
                Poll::Ready(found) => Some(found),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        let (number, seat, place) = timeout_at(due, first).await.map_err(|_| Error::Overloaded)?;
        let turn = seat.backend.try_acquire().unwrap_or(AttemptKind::Normal);
        Ok(Selection { member: seat, number, attempt: turn, permit: place })
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.limit.as_ref().is_none_or(|room| room.has_permit())
    }

    /// Takes a place, where places are counted.
    fn take(&self) -> Result<Option<Permit>, Error> {
        let taken = self.limit.as_ref().map(ConcurrencyLimit::try_acquire).transpose();
        taken.map_err(|_| Error::Overloaded)
    }
}
