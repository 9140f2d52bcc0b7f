//! Faces for people who brought no picture: drawn from their id, always the same. Pure.

use aws_lc_rs::digest;

/// The picture of somebody who has none.
pub const NOBODY: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="96" height="96" fill="#d8d8d8"/><circle cx="48" cy="38" r="17" fill="#fff"/><path d="M14 96c0-22 15-35 34-35s34 13 34 35z" fill="#fff"/></svg>"##;

/// Of many salts this one suits the built-in people best.
const SALT: &str = "face 111130 of ";
const SKIES: [&str; 6] = ["#ffd9a8", "#bfe3ff", "#c9efd0", "#ffd0d6", "#dcd3ff", "#fff0b3"];
const COATS: [&str; 6] = ["#e4572e", "#2e86ab", "#2b9348", "#c2185b", "#5e548e", "#f08c00"];
const HAIRS: [&str; 4] = ["#2b2118", "#3d2b1f", "#1d1d2b", "#5a3a22"];
const CUTS: [&str; 4] = [
    // A crew cut, a bob, a bun, and a fringe.
    "M26 42c-2-18 9-27 22-27s24 9 22 27c-4-9-9-13-22-13s-18 4-22 13z",
    "M24 62c-4-32 6-47 24-47s28 15 24 47h-7c2-16 0-24-3-29-10 3-22 3-31-2-3 6-3 16-1 31z",
    "M48 4a9 9 0 0 1 6 15c10 3 17 11 16 24-5-9-10-14-22-14s-17 5-22 14c-1-13 6-21 16-24A9 9 0 0 1 48 4z",
    "M25 46c-4-20 7-31 23-31s27 11 23 31c-2-5-3-8-5-11-13 3-29 3-36 0-2 3-3 6-5 11z",
];

/// The face of `id`.
pub fn face(id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{SALT}{id}").as_bytes());
    let mut bytes = digest.as_ref().iter().copied();
    let (sky, coat) = (pick(&SKIES, bytes.next()), pick(&COATS, bytes.next()));
    let (hair, cut) = (pick(&HAIRS, bytes.next()), pick(&CUTS, bytes.next()));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="96" height="96" fill="{sky}"/><path d="M14 98c0-20 14-30 34-30s34 10 34 30z" fill="{coat}"/><path d="M41 60h14v12a7 7 0 0 1-14 0z" fill="#f0b98d"/><circle cx="48" cy="44" r="21" fill="#ffd3ac"/><path d="{cut}" fill="{hair}"/><circle cx="40" cy="46" r="2.6" fill="#2b2118"/><circle cx="56" cy="46" r="2.6" fill="#2b2118"/><circle cx="35" cy="53" r="3.5" fill="#ffb39b"/><circle cx="61" cy="53" r="3.5" fill="#ffb39b"/><path d="M41 54q7 7 14 0" fill="none" stroke="#9c4a32" stroke-width="2.4" stroke-linecap="round"/></svg>"##
    )
}

fn pick<'a>(choices: &[&'a str], byte: Option<u8>) -> &'a str {
    let count = choices.len().max(1);
    choices.get(usize::from(byte.unwrap_or(0)) % count).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces() {
        assert_eq!(face("lilei"), face("lilei"));
        assert_ne!(face("lilei"), face("hanmeimei"));
        assert!(face("<&>").starts_with("<svg") && !face("<&>").contains("<&>"));
    }
}
