//! Where a visitor goes after login: always a path on the site they came from. Pure.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Longer than this does not fit a cookie.
const LONGEST: usize = 1536;

/// What a `Location` may not hold as it is.
const LOCATION: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// A path, with query and fragment where it has them, that cannot leave the site. Visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// The site's first page.
    pub fn home() -> Self {
        Self("/".to_owned())
    }

    /// `target` if it stays on the site, also for a reader that decodes it once or twice more,
    /// and is none of the gateway's own paths below `prefix`.
    pub fn parse(target: &str, prefix: &str) -> Option<Self> {
        let once = percent_decode_str(target).decode_utf8_lossy();
        let twice = percent_decode_str(&once).decode_utf8_lossy();
        let stays = [target, &*once, &*twice].into_iter().all(stays_here);
        let own = target
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        let plain = !target.chars().any(|c| c.is_control() || c == '\\');
        if !(stays && plain && !own && target.len() <= LONGEST) {
            return None;
        }
        let location = utf8_percent_encode(target, LOCATION).to_string();
        (location.len() <= LONGEST).then_some(Self(location))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a browser that resolves `target` against our origin stays on it. URL parsers drop
/// tabs and line breaks wherever they stand and read a backslash as a slash (WHATWG URL, section
/// 4.4), so `/<tab>/evil` is `//evil`.
fn stays_here(target: &str) -> bool {
    let mut seen = target.chars().filter(|c| !matches!(c, '\t' | '\r' | '\n'));
    seen.next() == Some('/') && !matches!(seen.next(), Some('/' | '\\'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn d1_d2_never_leaves_the_site_and_keeps_deep_links() {
        let long = format!("/{}", "a".repeat(LONGEST));
        let chinese = format!("/{}", "中".repeat(LONGEST / 8)); // nine bytes each, once encoded
        let cases = [
            ("/", Some("/")),
            ("/cart?x=1", Some("/cart?x=1")),
            ("/a?u=https://x.com/y", Some("/a?u=https://x.com/y")),
            ("/a?b=%2F%2Fc", Some("/a?b=%2F%2Fc")),
            ("/a//b", Some("/a//b")),
            ("/中文?q=é", Some("/%E4%B8%AD%E6%96%87?q=%C3%A9")),
            ("/app#/route?x", Some("/app#/route?x")),
            ("/_wxa", Some("/_wxa")),
            ("", None),
            ("cart", None),
            ("//evil.example", None),
            ("///evil.example", None),
            ("/\\evil.example", None),
            ("\\\\evil.example", None),
            ("/\t/evil.example", None),
            ("/%09/evil.example", None),
            ("/%2F/evil.example", None),
            ("/%2Fevil.example", None),
            ("/%252Fevil.example", None),
            ("/%5Cevil.example", None),
            ("%2F%2Fevil.example", None),
            ("https://evil.example", None),
            ("javascript:alert(1)", None),
            (" /a", None),
            ("/a\r\nset-cookie: b", None),
            ("/a\0", None),
            ("/_wx/callback?code=1", None),
            ("/_wx", None),
            ("/_wx?x", None),
            (long.as_str(), None),
            (chinese.as_str(), None),
        ];
        for (target, expected) in cases {
            let parsed = ReturnTo::parse(target, "/_wx");
            assert_eq!(parsed.as_ref().map(ReturnTo::as_str), expected, "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn d1_whatever_is_given_stays_on_our_origin(target in "[/\\\\%25a-f09.:@?#\t\r\n é]{0,24}") {
            let base = Url::parse("https://h5.example.com/x/y").unwrap();
            if let Some(to) = ReturnTo::parse(&target, "/_wx") {
                let resolved = base.join(to.as_str()).unwrap();
                prop_assert_eq!(resolved.origin(), base.origin());
                prop_assert!(to.as_str().bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
