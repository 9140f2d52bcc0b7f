//! Which of a site's servers is next. Pure.

use std::cell::Cell;

use crate::site::Balance;

/// A server that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its share beside the others.
    pub weight: u32,
    /// Requests under way.
    pub load: u32,
    /// How far it is behind its share.
    pub credit: &'a Cell<i64>,
}

/// Chooses the place of one of the candidates among `seats`; nothing where nobody is one.
pub fn choose<'a, S>(
    balance: Balance,
    seats: &'a [S],
    candidate: impl Fn(usize, &'a S) -> Option<Candidate<'a>>,
) -> Option<usize> {
    match balance {
        Balance::RoundRobin => in_turn(seats, candidate),
        Balance::LeastLoaded => {
            let all = seats.iter().enumerate().filter_map(|(place, seat)| candidate(place, seat));
            let least = all.reduce(|a, b| if has_less(b, a) { b } else { a })?;
            // Of equals nobody is the first for ever.
            in_turn(seats, |place, seat| candidate(place, seat).filter(|it| !has_less(least, *it)))
        }
    }
}

/// Smooth weighted round robin, as nginx has it: everybody earns their weight, and who is ahead is
/// chosen and pays for all. Over the sum of the weights everybody gets their share, and nobody gets
/// it all in a row.
fn in_turn<'a, S>(
    seats: &'a [S],
    candidate: impl Fn(usize, &'a S) -> Option<Candidate<'a>>,
) -> Option<usize> {
    let (mut price, mut ahead) = (0, None);
    for (place, seat) in seats.iter().enumerate() {
        let Some(Candidate { weight, credit, .. }) = candidate(place, seat) else { continue };
        price += i64::from(weight);
        credit.set(credit.get() + i64::from(weight));
        if ahead.is_none_or(|(_, other): (usize, &Cell<i64>)| credit.get() > other.get()) {
            ahead = Some((place, credit));
        }
    }
    let (place, credit) = ahead?;
    credit.set(credit.get() - price);
    Some(place)
}

/// Whether `a` would have less to do than `b` with one request more each, for their weights:
/// `a / wa < b / wb` without a division.
fn has_less(a: Candidate<'_>, b: Candidate<'_>) -> bool {
    let share = |a: Candidate<'_>, b: Candidate<'_>| (u64::from(a.load) + 1) * u64::from(b.weight);
    share(a, b) < share(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weight, and requests under way that never end.
    type Servers = &'static [(u32, u32)];

    /// Lets these servers serve, and says who did. One with a weight of zero may not be chosen. The
    /// requests that are handed out go on, where they `last`.
    fn served(balance: Balance, servers: Servers, (count, lasts): (usize, bool)) -> String {
        let seats: Vec<(u32, Cell<u32>, Cell<i64>)> = servers
            .iter()
            .map(|(weight, load)| (*weight, Cell::new(*load), Cell::new(0)))
            .collect();
        let mut names = String::new();
        for _ in 0..count {
            let chosen = choose(balance, &seats, |_, (weight, load, credit)| {
                (*weight > 0).then(|| Candidate { weight: *weight, load: load.get(), credit })
            });
            let Some(place) = chosen else {
                names.push('-');
                continue;
            };
            seats[place].1.update(|load| load + u32::from(lasts));
            names.push(char::from(b'a' + u8::try_from(place).unwrap()));
        }
        names
    }

    #[test]
    fn who_is_next() {
        use Balance::{LeastLoaded, RoundRobin};
        let cases: [(Balance, Servers, bool, &str); 14] = [
            (RoundRobin, &[], false, "--"),
            (RoundRobin, &[(0, 0)], false, "--"),
            (RoundRobin, &[(1, 0)], false, "aaa"),
            (RoundRobin, &[(1, 0), (1, 0), (1, 0)], false, "abcabc"),
            // The example of nginx's own commit message.
            (RoundRobin, &[(5, 0), (1, 0), (1, 0)], false, "aabacaaaabacaa"),
            (RoundRobin, &[(3, 0), (1, 0)], false, "aabaaaba"),
            (RoundRobin, &[(3, 9), (0, 0), (1, 0)], false, "aacaaaca"),
            (LeastLoaded, &[], false, "--"),
            (LeastLoaded, &[(0, 0), (0, 3)], false, "--"),
            (LeastLoaded, &[(1, 0), (1, 0)], false, "abab"),
            (LeastLoaded, &[(1, 2), (1, 0)], true, "bbab"),
            (LeastLoaded, &[(1, 1), (0, 0), (1, 1)], true, "acca"),
            (LeastLoaded, &[(3, 0), (1, 0)], true, "aaabaaab"),
            (LeastLoaded, &[(1_000, 999), (1, 0)], true, "abaa"),
        ];
        for (balance, servers, lasts, expected) in cases {
            let names = served(balance, servers, (expected.len(), lasts));
            assert_eq!(names, expected, "{balance:?} {servers:?}");
        }
    }

    #[test]
    fn in_the_long_run_everybody_has_their_share() {
        let names = served(Balance::RoundRobin, &[(7, 0), (2, 0), (1, 0)], (1_000, false));
        let count = |name| names.chars().filter(|it| *it == name).count();
        assert_eq!([count('a'), count('b'), count('c')], [700, 200, 100]);
    }
}
