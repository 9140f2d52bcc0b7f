//! The servers of one site, as one thread sees them.

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    Backend, Error,
    backend::Turn,
    balance::{self, Candidate},
    pool::Pool,
    room::{Place, Room},
};
use crate::{
    metrics::Waiting,
    site::{Balance, Limit, Upstreams},
};

/// The servers of a site, and whose turn it is.
pub struct Group {
    seats: Vec<Seat>,
    balance: Balance,
    slow_start: Duration,
    queue: Option<Queue>,
}

/// A server's place among the others.
pub(super) struct Seat {
    /// This thread's connections to it.
    pub pool: Rc<Pool>,
    /// What all threads know of it.
    pub backend: Arc<Backend>,
    weight: u32,
    credit: Cell<i64>,
    /// How much of it the site may take, if the operator says.
    room: Option<Arc<Room>>,
}

/// Requests of all threads that wait for a server with room.
struct Queue {
    waiting: Waiting,
    most: i64,
    patience: Duration,
}

/// The server that is next.
pub(super) struct Chosen<'a> {
    /// The server.
    pub seat: &'a Seat,
    /// Its number.
    pub number: usize,
    /// How it is asked.
    pub turn: Turn,
    /// What says that it is being asked, where somebody counts.
    pub place: Option<Place>,
}

/// One request's way through the servers.
#[derive(Default)]
pub(super) struct Round {
    /// Those that did not take it.
    pub asked: Vec<usize>,
    /// When it has waited for long enough, once it has begun to.
    due: Option<Instant>,
}

/// What can be done next.
enum Pick<'a> {
    /// To ask this one.
    Ask(Chosen<'a>),
    /// To wait for one that has room.
    Wait,
    /// Nothing: all have been asked.
    Nothing,
}

impl Group {
    /// The servers of this site: the connections to each, and what is known of it.
    pub(super) fn new(
        site: &Upstreams,
        servers: impl Iterator<Item = (Rc<Pool>, Arc<Backend>)>,
        limit: Option<(Limit, Waiting)>,
    ) -> Self {
        let weights = site.servers.iter().map(|server| server.weight);
        let seats = servers.zip(weights).map(|((pool, backend), weight)| Seat {
            pool,
            weight,
            credit: Cell::new(0),
            room: limit.as_ref().map(|_| Arc::clone(&backend.room)),
            backend,
        });
        let queue = |(limit, waiting): (Limit, Waiting)| Queue {
            waiting,
            most: i64::from(limit.queue),
            patience: limit.queue_time,
        };
        Self {
            seats: seats.collect(),
            balance: site.balance,
            slow_start: site.slow_start,
            queue: limit.map(queue),
        }
    }

    /// The server that is next, of those that this request has not asked yet; nothing when it has
    /// asked all. Where all of them are full, it waits until one has room, but not for ever.
    pub(super) async fn next(&self, round: &mut Round) -> Result<Option<Chosen<'_>>, Error> {
        match self.pick(&round.asked) {
            Pick::Ask(chosen) => Ok(Some(chosen)),
            Pick::Nothing => Ok(None),
            // In a box, because it is rare.
            Pick::Wait => Box::pin(self.wait(round)).await.map(Some),
        }
    }

    /// One that is down is not asked while others are well. If none is, all of them are: the answer
    /// could not be worse than the error page, and a health page may fail where the site does not.
    fn pick(&self, asked: &[usize]) -> Pick<'_> {
        if let ([seat @ Seat { room: None, .. }], []) = (self.seats.as_slice(), asked) {
            return Pick::Ask(Chosen { seat, number: 0, turn: Turn::Usual, place: None });
        }
        let unasked = |number| !asked.contains(&number);
        let is_open = |number, seat: &Seat| unasked(number) && seat.backend.is_open();
        loop {
            let open = self.choose(|number, seat| is_open(number, seat) && seat.has_room());
            let any_open = || self.seats.iter().enumerate().any(|(it, seat)| is_open(it, seat));
            let number = match open {
                Some(number) => number,
                // They are full.
                None if any_open() => return Pick::Wait,
                None => match self.choose(|number, seat| unasked(number) && seat.has_room()) {
                    Some(number) => number,
                    None if asked.len() < self.seats.len() => return Pick::Wait,
                    None => return Pick::Nothing,
                },
            };
            let Some(seat) = self.seats.get(number) else { return Pick::Nothing };
            // Where another thread was faster, with the last place or the trial, there is one less to
            // choose from.
            let Ok(place) = seat.take() else { continue };
            let turn = if open.is_some() { seat.backend.enter() } else { Some(Turn::Usual) };
            if let Some(turn) = turn {
                return Pick::Ask(Chosen { seat, number, turn, place });
            }
        }
    }

    fn choose(&self, may_be: impl Fn(usize, &Seat) -> bool) -> Option<usize> {
        balance::choose(self.balance, &self.seats, |number, seat| {
            let Seat { pool, backend, weight, credit, .. } = seat;
            let weight = || backend.share(*weight, self.slow_start);
            let candidate = || Candidate { weight: weight(), load: pool.load(), credit };
            may_be(number, seat).then(candidate)
        })
    }

    /// Waits for whichever server has room first.
    async fn wait(&self, Round { asked, due }: &mut Round) -> Result<Chosen<'_>, Error> {
        let Some(queue) = &self.queue else { return Err(Error::Full) };
        let Some(_waiting) = queue.waiting.enter(queue.most) else { return Err(Error::Full) };
        let due = *due.get_or_insert_with(|| Instant::now() + queue.patience);
        let unasked = |(number, _): &(usize, &Seat)| !asked.contains(number);
        let seats = || self.seats.iter().enumerate().filter(unasked);
        let any_open = seats().any(|(_, seat)| seat.backend.is_open());
        let awaited = seats().filter(|(_, seat)| !any_open || seat.backend.is_open());
        let mut rooms: Vec<_> = awaited
            .filter_map(|(number, seat)| {
                let room = seat.room.as_ref()?;
                Some(Box::pin(async move { (number, seat, room.take().await) }))
            })
            .collect();
        let first = poll_fn(|cx| {
            let ready = rooms.iter_mut().find_map(|room| match room.as_mut().poll(cx) {
                Poll::Ready(found) => Some(found),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        let (number, seat, place) = timeout_at(due, first).await.map_err(|_| Error::Full)?;
        let turn = seat.backend.enter().unwrap_or(Turn::Usual);
        Ok(Chosen { seat, number, turn, place })
    }
}

impl Seat {
    fn has_room(&self) -> bool {
        self.room.as_ref().is_none_or(|room| room.has_place())
    }

    /// Takes a place, where places are counted.
    fn take(&self) -> Result<Option<Place>, Error> {
        let taken = self.room.as_ref().map(Room::try_take).transpose();
        taken.map_err(|_| Error::Full)
    }
}
