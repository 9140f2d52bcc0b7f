//! Random letters.

use rand::{RngExt as _, distr::Alphanumeric};

/// So many letters and digits.
pub fn letters(count: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(count).map(char::from).collect()
}

/// The tail of an `errmsg`, by which WeChat's support finds a call: `65c17d8c-5cf05990-781aabe9`.
pub fn request_id() -> String {
    let [first, second, third] = rand::rng().random::<[u32; 3]>();
    format!("{first:08x}-{second:08x}-{third:08x}")
}
