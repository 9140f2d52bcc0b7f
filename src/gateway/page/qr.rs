//! The QR code that carries a visitor from their screen into WeChat. Pure.

use std::fmt::Write as _;

use fast_qr::{ECL, Mode, QRBuilder, QRCode};

/// Longer addresses make a code too fine for a phone's camera, and cost time to draw.
const MAX_URL_LEN: usize = 600;
/// Up to here there is room for the stronger error correction.
const SHORT: usize = 150;
/// The white frame that ISO 18004 asks for, in modules.
const QUIET: usize = 4;
/// About this wide on the page, in CSS pixels.
const WIDTH: usize = 260;
/// The thinnest module a camera reads from a screen, in CSS pixels.
const FINEST: usize = 3;

/// A drawing of an address.
#[derive(Debug)]
pub(super) struct QrCode {
    /// An inline SVG.
    pub svg: String,
    /// Whether the query had to be left out.
    pub shortened: bool,
}

impl QrCode {
    /// Draws the address; without its query where it would be too long, and not at all where
    /// that does not help.
    pub fn draw(url: &str) -> Option<Self> {
        let (url, shortened) = match url.split_once(['?', '#']) {
            Some((page, _)) if url.len() > MAX_URL_LEN => (page, true),
            _ => (url, false),
        };
        if url.is_empty() || url.len() > MAX_URL_LEN {
            return None;
        }
        let level = if url.len() <= SHORT { ECL::M } else { ECL::L };
        // Bytes, always: nothing is gained for an address by the library's guess.
        let code = QRBuilder::new(url).mode(Mode::Byte).ecl(level).build().ok()?;
        Some(Self { svg: svg(&code)?, shortened })
    }
}

/// One white square and one path of horizontal strokes: a fifth of what a square per module
/// takes. The size is a whole number of pixels per module, so that no edge is blurred.
fn svg(code: &QRCode) -> Option<String> {
    let size = code.size + 2 * QUIET;
    let width = size * (WIDTH / size).max(FINEST);
    let mut out = format!(
        r##"<svg class="qr" width="{width}" height="{width}" viewBox="0 0 {size} {size}" shape-rendering="crispEdges" aria-hidden="true"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path stroke="#000" d=""##
    );
    let modules = code.data.get(..code.size * code.size)?;
    for (y, row) in modules.chunks_exact(code.size).enumerate() {
        let mut x = QUIET;
        for run in row.chunk_by(|a, b| a.value() == b.value()) {
            if run.first()?.value() {
                write!(out, "M{x} {}.5h{}", y + QUIET, run.len()).ok()?;
            }
            x += run.len();
        }
    }
    out.push_str(r#""/></svg>"#);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_addresses_lose_their_query() {
        let query = format!("https://h5.example.com/a?{}", "q".repeat(600));
        let fragment = format!("https://h5.example.com/a#{}", "q".repeat(600));
        let path = format!("https://h5.example.com/{}?q", "a".repeat(600));
        let rows = [
            ("https://h5.example.com/a?q=1", Some(false)),
            (query.as_str(), Some(true)),
            (fragment.as_str(), Some(true)),
            (path.as_str(), None),
            ("", None),
        ];
        for (url, shortened) in rows {
            assert_eq!(QrCode::draw(url).map(|qr| qr.shortened), shortened, "{url}");
        }
    }

    #[test]
    fn a_shortened_address_is_drawn_as_the_page() {
        let page = "https://h5.example.com/a";
        let long = format!("{page}?{}", "q".repeat(600));
        assert_eq!(QrCode::draw(&long).unwrap().svg, QrCode::draw(page).unwrap().svg);
    }

    #[test]
    fn the_drawing_is_whole_pixels_and_small() {
        for length in [1, 20, 60, 150, 151, 300, 600] {
            let svg = QrCode::draw(&"a".repeat(length)).unwrap().svg;
            let number = |name: &str| -> usize {
                let rest = svg.split_once(name).unwrap().1;
                rest.split(['"', ' ']).next().unwrap().parse().unwrap()
            };
            let (width, size) = (number("width=\""), number("viewBox=\"0 0 "));
            assert_eq!(width % size, 0, "{length} bytes: {width} pixels for {size} modules");
            assert!((200..=300).contains(&width), "{length} bytes: {width} pixels");
            assert!(svg.len() < 24_000, "{length} bytes: {} bytes of SVG", svg.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_draws_or_does_not(url in any::<String>()) {
            let drawn = QrCode::draw(&url);
            prop_assert!(drawn.is_none_or(|qr| qr.svg.ends_with("/></svg>")));
        }
    }
}
