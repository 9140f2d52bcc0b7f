//! The servers of one site, as one thread sees them.

use std::{cell::Cell, rc::Rc};

use super::{
    balance::{self, Candidate},
    pool::Pool,
};
use crate::site::Balance;

/// The servers of a site, and whose turn it is.
pub struct Group {
    seats: Vec<Seat>,
    balance: Balance,
}

/// A server's place among the others.
struct Seat {
    pool: Rc<Pool>,
    weight: u32,
    credit: Cell<i64>,
}

impl Group {
    /// These servers, each with its weight.
    pub(super) fn new(balance: Balance, servers: impl Iterator<Item = (Rc<Pool>, u32)>) -> Self {
        let seat = |(pool, weight)| Seat { pool, weight, credit: Cell::new(0) };
        Self { seats: servers.map(seat).collect(), balance }
    }

    /// The server that is next, of those that this request has not asked yet, and its place. Servers
    /// that were down a moment ago come last.
    pub(super) fn next(&self, asked: &[usize]) -> Option<(usize, &Rc<Pool>)> {
        if let ([only], []) = (self.seats.as_slice(), asked) {
            return Some((0, &only.pool));
        }
        let unasked = |place| !asked.contains(&place);
        let place = self
            .choose(|place, seat| unasked(place) && !seat.pool.is_down())
            .or_else(|| self.choose(|place, _| unasked(place)))?;
        Some((place, &self.seats.get(place)?.pool))
    }

    fn choose(&self, may_be: impl Fn(usize, &Seat) -> bool) -> Option<usize> {
        balance::choose(self.balance, &self.seats, |place, seat| {
            let Seat { pool, weight, credit } = seat;
            let candidate = || Candidate { weight: *weight, load: pool.load(), credit };
            may_be(place, seat).then(candidate)
        })
    }
}
