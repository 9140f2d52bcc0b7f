//! Traces: `traceparent` (W3C Trace Context), which ties the spans of one request together. Pure.

use http::{HeaderMap, HeaderName};

/// Which trace a request belongs to, and whose call it is.
pub const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub id: u128,
    /// Our own span in it.
    pub span: u64,
    /// The span of who called us; zero when the trace begins here.
    pub parent: u64,
    /// Whether it is recorded, here and further on.
    pub sampled: bool,
}

/// The share of new traces that is recorded, of ten thousand.
pub const SAMPLE_SCALE: u32 = 10_000;

impl TraceContext {
    /// The trace that a caller we trust has begun; `span` is a fresh random number.
    pub fn from_headers(headers: &HeaderMap, span: u64) -> Option<Self> {
        let mut fields = headers.get_all(PARENT).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (id, parent, sampled) = parse(field.to_str().ok()?)?;
        Some(Self { id, span: span.max(1), parent, sampled })
    }

    /// A trace that begins here. Which ones are recorded depends on the id alone.
    pub fn new_root(id: u128, span: u64, sampled_of: u32) -> Self {
        let lot = u32::try_from(id % u128::from(SAMPLE_SCALE)).unwrap_or(SAMPLE_SCALE);
        Self { id: id.max(1), span: span.max(1), parent: 0, sampled: lot < sampled_of }
    }

    /// The header for whom we call: our span is the parent of theirs.
    pub fn text(&self) -> [u8; 55] {
        let mut text = *b"00-................................-................-00";
        let (id, span) = (hexadecimal(self.id), hexadecimal(self.span.into()));
        let (_, span) = span.split_at(16);
        for (place, part) in [
            (3..35, &id[..]),
            (36..52, span),
            (53..55, [b'0', b'0' + u8::from(self.sampled)].as_slice()),
        ] {
            if let Some(place) = text.get_mut(place) {
                place.copy_from_slice(part);
            }
        }
        text
    }
}

/// As ids are written.
pub fn hexadecimal(id: u128) -> [u8; 32] {
    let mut text = [0; 32];
    // There is room for all of it.
    let _ = const_hex::encode_to_slice(id.to_be_bytes(), &mut text);
    text
}

/// `00-{trace}-{span}-{flags}`, lower case. A later version may add fields behind (section 3.2.2.5);
/// version ff never is.
fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let hex = |text: &str, length| {
        let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == length && text.bytes().all(plain)).then_some(())
    };
    let mut fields = text.splitn(5, '-');
    let (version, id, parent, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    hex(version, 2).and(hex(id, 32)).and(hex(parent, 16)).and(hex(flags, 2))?;
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let (id, parent) = (u128::from_str_radix(id, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (id != 0 && parent != 0).then_some((id, parent, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = |version: &str, flags: &str| format!("{version}-{id}-00f067aa0ba902b7-{flags}");
        let cases = [
            (good("00", "01"), Some(true)),
            (good("00", "00"), Some(false)),
            (good("00", "03"), Some(true)),
            (good("cc", "01"), Some(true)),
            (good("cc", "01-what-follows"), Some(true)),
            (good("00", "01-what-follows"), None),
            (good("ff", "01"), None),
            (good("00", "01").to_uppercase(), None),
            (good("00", "1"), None),
            (format!("00-{:032}-00f067aa0ba902b7-01", 0), None),
            (format!("00-{id}-{:016}-01", 0), None),
            (format!("00-{id}-01"), None),
            (String::new(), None),
            ("-".repeat(55), None),
        ];
        for (text, sampled) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(PARENT, text.parse().unwrap());
            let trace = TraceContext::from_headers(&headers, 7);
            assert_eq!(trace.map(|trace| trace.sampled), sampled, "{text}");
            if let Some(trace) = trace {
                let flags = if trace.sampled { "01" } else { "00" };
                let expected = format!("00-{id}-0000000000000007-{flags}");
                assert_eq!(trace.text(), expected.as_bytes());
                assert_eq!(trace.parent, 0x00f0_67aa_0ba9_02b7);
            }
            headers.append(PARENT, text.parse().unwrap());
            assert_eq!(TraceContext::from_headers(&headers, 7), None, "two of them are none");
        }
    }

    #[test]
    fn which_are_recorded_depends_on_the_id() {
        for share in [0, 1, 100, SAMPLE_SCALE] {
            let recorded = |id: &u32| TraceContext::new_root((*id).into(), 1, share).sampled;
            let count = (0..SAMPLE_SCALE).filter(recorded).count();
            assert_eq!(count, usize::try_from(share).unwrap());
        }
        assert_ne!(TraceContext::new_root(0, 0, 1).text(), TraceContext::new_root(2, 2, 1).text());
    }
}
