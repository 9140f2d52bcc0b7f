//! The servers of one site, as one thread sees them.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use super::{
    Backend,
    backend::Turn,
    balance::{self, Candidate},
    pool::Pool,
};
use crate::site::{Balance, Upstreams};

/// The servers of a site, and whose turn it is.
pub struct Group {
    seats: Vec<Seat>,
    balance: Balance,
    slow_start: Duration,
}

/// A server's place among the others.
pub(super) struct Seat {
    /// This thread's connections to it.
    pub pool: Rc<Pool>,
    /// What all threads know of it.
    pub backend: Arc<Backend>,
    weight: u32,
    credit: Cell<i64>,
}

impl Group {
    /// The servers of this site: the connections to each, and what is known of it.
    pub(super) fn new(
        site: &Upstreams,
        servers: impl Iterator<Item = (Rc<Pool>, Arc<Backend>)>,
    ) -> Self {
        let weights = site.servers.iter().map(|server| server.weight);
        let seats = servers.zip(weights).map(|((pool, backend), weight)| Seat {
            pool,
            backend,
            weight,
            credit: Cell::new(0),
        });
        Self { seats: seats.collect(), balance: site.balance, slow_start: site.slow_start }
    }

    /// The server that is next, of those that this request has not asked yet, its place, and how it
    /// is asked.
    ///
    /// One that is down is not asked while others are well. If none is, all of them are: the answer
    /// could not be worse than the error page, and a health page may fail where the site does not.
    pub(super) fn next(&self, asked: &[usize]) -> Option<(usize, &Seat, Turn)> {
        if let ([only], []) = (self.seats.as_slice(), asked) {
            return Some((0, only, Turn::Usual));
        }
        let unasked = |place| !asked.contains(&place);
        while let Some(place) = self.choose(|place, seat| unasked(place) && seat.backend.is_open())
        {
            let seat = self.seats.get(place)?;
            if let Some(turn) = seat.backend.enter() {
                return Some((place, seat, turn));
            }
        }
        let place = self.choose(|place, _| unasked(place))?;
        Some((place, self.seats.get(place)?, Turn::Usual))
    }

    fn choose(&self, may_be: impl Fn(usize, &Seat) -> bool) -> Option<usize> {
        balance::choose(self.balance, &self.seats, |place, seat| {
            let Seat { pool, backend, weight, credit } = seat;
            let weight = || backend.share(*weight, self.slow_start);
            let candidate = || Candidate { weight: weight(), load: pool.load(), credit };
            may_be(place, seat).then(candidate)
        })
    }
}
