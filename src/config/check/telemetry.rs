//! `[log]` and `[trace]`: what an operator gets to see. Pure.

use crate::{
    config::{reader::TableReader, schema},
    httputil::trace_context::SAMPLE_SCALE,
    logs::{self, LogFormat, OpenidLogging, Settings},
};

/// Reads `[log]`.
pub fn log(file: &TableReader<'_>) -> Settings {
    let table = file.table("log", &schema::LOG);
    let default = Settings::default();
    let level = table.word("level").map_or(default.level, |word| {
        if let Err(error) = logs::check(word.text) {
            let message = format!("\"{}\" chooses no lines: {error}", word.text);
            let help = "write error, warn, info, debug or trace, or as RUST_LOG has it: \"info,wxgate=debug\"";
            table.context.error(word.at.clone(), message, help);
        }
        word.text.to_owned()
    });
    let forms = [("auto", None), ("json", Some(LogFormat::Json)), ("text", Some(LogFormat::Text))];
    let openids = [("full", OpenidLogging::Full), ("masked", OpenidLogging::Masked)];
    Settings {
        level,
        form: table.one_of("format", &forms).flatten(),
        openids: table.one_of("openid", &openids).unwrap_or_default(),
    }
}

/// Reads `[trace]`: the share of new traces that is recorded.
pub fn sampled(file: &TableReader<'_>) -> u32 {
    let table = file.table("trace", &schema::TRACE);
    let Some(word) = table.word("sample") else { return SAMPLE_SCALE };
    share(word.text).unwrap_or_else(|| {
        let help =
            "write a percentage from \"0%\" to \"100%\", with two decimals at most: \"0.5%\"";
        table.context.error(word.at, format!("\"{}\" is no share", word.text), help);
        SAMPLE_SCALE
    })
}

/// Reads `[trace] otlp`: the collector that gets the spans.
pub fn collector(file: &TableReader<'_>) -> Option<String> {
    let table = file.table("trace", &schema::TRACE);
    let word = table.word("otlp")?;
    let url = url::Url::parse(word.text).ok();
    let good = url.as_ref().is_some_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty()
    });
    if !good {
        let help = "write the address of its OTLP/HTTP receiver, as in \"http://127.0.0.1:4318\"";
        table.context.error(word.at.clone(), "this is no address of a collector", help);
    } else if !cfg!(feature = "otlp") {
        let help = "remove it, or build wxgate with the feature `otlp`";
        table.context.error(word.at.clone(), "this wxgate sends no spans", help);
    }
    Some(word.text.to_owned())
}

/// `0.25%` of ten thousand.
fn share(text: &str) -> Option<u32> {
    let (whole, part) =
        text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || !(1..=2).contains(&part.len()) {
        return None;
    }
    let hundredths = format!("{whole}{part:0<2}").parse().ok()?;
    (hundredths <= SAMPLE_SCALE).then_some(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        let cases = [
            ("100%", Some(10_000)),
            ("0%", Some(0)),
            ("0.5%", Some(50)),
            ("0.25%", Some(25)),
            ("12.34%", Some(1_234)),
            ("100.01%", None),
            ("0.125%", None),
            ("1", None),
            ("%", None),
            ("-1%", None),
            ("1.%", None),
        ];
        for (text, expected) in cases {
            assert_eq!(share(text), expected, "{text}");
        }
    }
}
