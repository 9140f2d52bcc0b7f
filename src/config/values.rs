//! Durations, sizes and what else an operator writes as a word. Pure.

use std::time::Duration;

/// Reads `"90s"` or `"12h"`. What is wrong comes back as advice.
pub fn duration(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("it needs a unit: write \"{text}s\" for seconds"));
    }
    humantime::parse_duration(text).map_err(|_| {
        "write a number and a unit: \"500ms\", \"30s\", \"5m\", \"12h\", \"7d\"".into()
    })
}

/// Reads `"64KiB"` or `"0"`. What is wrong comes back as advice.
pub fn size(text: &str) -> Result<u64, String> {
    match text.parse::<bytesize::ByteSize>() {
        Ok(size) if size.as_u64() == 0 => Ok(0),
        Ok(_) if text.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("it needs a unit: write \"{text}B\" for bytes, or \"64KiB\""))
        }
        Ok(size) => Ok(size.as_u64()),
        Err(_) => Err("write a number and a unit: \"512B\", \"64KiB\", \"10MiB\"".to_owned()),
    }
}

/// A duration as an operator writes it.
pub fn long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "\"0s\"".to_owned(),
        0 => format!("\"{}ms\"", duration.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("\"{}d\"", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("\"{}h\"", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("\"{}m\"", seconds / 60),
        _ => format!("\"{seconds}s\""),
    }
}

/// A size as an operator writes it.
pub fn bytes(size: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |(shift, _): &&(u64, &str)| size > 0 && size.is_multiple_of(1 << shift);
    match UNITS.iter().find(fits) {
        Some((shift, unit)) => format!("\"{}{unit}\"", size >> shift),
        None => format!("\"{size}B\""),
    }
}

/// `"a", "b" or "c"`, as advice.
pub fn choices(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("it can be {}", joined(&quoted, "or"))
}

/// `` `a`, `b` and `c` ``.
pub fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    joined(&quoted, "and")
}

fn joined(names: &[String], last: &str) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., end] => format!("{} {last} {end}", first.join(", ")),
    }
}

/// `an array`, `a string`.
pub fn indefinite_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// The candidate that `word` was probably meant to be: a few letters away, or the only one that
/// holds the word.
pub fn suggest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.collect();
    let mut holding = candidates.iter().copied().filter(|it| word.len() > 3 && it.contains(word));
    let only = holding.next().filter(|_| holding.next().is_none());
    let tolerated = |candidate: &str| (candidate.len().max(word.len()) / 3).clamp(1, 3);
    candidates
        .iter()
        .copied()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= tolerated(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
        .or(only)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let fold =
        |text: &str| -> Vec<char> { text.to_lowercase().replace('-', "_").chars().collect() };
    let (a, b) = (fold(a), fold(b));
    // Two rows of the usual table, and the one before them for swaps.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, to) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let next = j.saturating_add(1);
            let mut best = (at(&above, j) + usize::from(from != to))
                .min(at(&above, next) + 1)
                .min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_units() {
        let cases = [
            ("30s", Some(30)),
            ("12h", Some(43_200)),
            ("1h 30m", Some(5_400)),
            ("7d", Some(604_800)),
            ("30", None),
            ("", None),
            ("-1s", None),
            ("1.5h", Some(5_400)),
            ("5 parsecs", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text).ok().map(|it| it.as_secs()), expected, "{text:?}");
        }
        let cases = [
            ("0", Some(0)),
            ("64KiB", Some(65_536)),
            ("10 MiB", Some(10_485_760)),
            ("1kb", Some(1_000)),
            ("7B", Some(7)),
            ("64", None),
            ("", None),
            ("-1KiB", None),
            ("lots", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn ranges_read_as_they_are_written() {
        let cases = [(0, "\"0s\""), (90, "\"90s\""), (120, "\"2m\""), (7_200, "\"2h\"")];
        for (seconds, expected) in cases {
            assert_eq!(long(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(long(Duration::from_millis(10)), "\"10ms\"");
        assert_eq!(bytes(8_192), "\"8KiB\"");
        assert_eq!(bytes(1_000), "\"1000B\"");
    }

    #[test]
    fn nearest_word() {
        let keys = ["listen", "workers", "trusted_proxies", "tls", "app_id"];
        let cases = [
            ("lisen", Some("listen")),
            ("Listen", Some("listen")),
            ("worker", Some("workers")),
            ("trusted-proxies", Some("trusted_proxies")),
            ("trusted_proxy", Some("trusted_proxies")),
            ("appid", Some("app_id")),
            ("tsl", Some("tls")),
            ("proxies", Some("trusted_proxies")),
            ("port", None),
            ("x", None),
        ];
        for (word, expected) in cases {
            assert_eq!(suggest(word, keys.into_iter()), expected, "{word}");
        }
    }
}
