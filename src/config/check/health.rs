//! `[site.health]`. Pure.

use std::{ops::RangeInclusive, time::Duration};

use http::uri::PathAndQuery;

use super::address;
use crate::{
    config::reader::{StrValue, TableReader},
    site::HealthCheckSettings,
};

/// Reads how the servers of a site are asked whether they are well; nothing where they are not.
pub fn checkup(table: &TableReader<'_>) -> Option<HealthCheckSettings> {
    const SECOND: Duration = Duration::from_secs(1);
    table.at.as_ref()?;
    let path = table.required("path").and_then(|word| path(table, &word));
    let host = table.word("host").and_then(|word| address::host(table, &word));
    let interval = table.duration("interval", 5 * SECOND, SECOND / 10..=3_600 * SECOND);
    let timeout = table.duration("timeout", 2 * SECOND, SECOND / 100..=60 * SECOND);
    let words = table.words("expect");
    let expect = match words {
        Some(words) => words.into_iter().filter_map(|word| statuses(table, &word)).collect(),
        None => vec![200..=399],
    };
    if let Some(at) = table.empty_array("expect") {
        table.context.error(at, "no status would be good enough", "write `expect = [\"200-399\"]`");
    }
    let (rise, fall) = (table.number("rise", 2, 1..=100), table.number("fall", 3, 1..=100));
    let host = host.map(|host| host.to_string());
    Some(HealthCheckSettings { path: path?, host, interval, timeout, expect, rise, fall })
}

/// A path as it stands in a request.
fn path(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<String> {
    let is_path = word.text.parse::<PathAndQuery>().is_ok() && !word.text.contains('#');
    if word.text.starts_with('/') && is_path {
        return Some(word.text.to_owned());
    }
    let message = format!("\"{}\" is no path", word.text);
    let help = "write it as it stands in a request, as in \"/healthz\"";
    table.context.error(word.at.clone(), message, help);
    None
}

/// One status, or a range of them.
fn statuses(table: &TableReader<'_>, word: &StrValue<'_>) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.parse().ok().filter(|status| (200..=599).contains(status));
    let (from, to) = word.text.split_once('-').unwrap_or((word.text, word.text));
    match (status(from), status(to)) {
        (Some(from), Some(to)) if from <= to => Some(from..=to),
        _ => {
            let message = format!("\"{}\" is no status, and no range of them", word.text);
            let help = "write \"200\", or \"200-399\"; from 200 to 599";
            table.context.error(word.at.clone(), message, help);
            None
        }
    }
}
