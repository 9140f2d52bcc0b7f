//! Where a visitor goes after login: always a path on the site they came from. Pure.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use url::Url;

/// Longer than this does not fit a cookie.
const MAX_LEN: usize = 1536;

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
        if is_simple(target) {
            return (!is_below(target, prefix)).then(|| Self(target.to_owned()));
        }
        Self::judged(target, prefix)
    }

    fn judged(target: &str, prefix: &str) -> Option<Self> {
        let once = percent_decode_str(target).decode_utf8_lossy();
        let twice = percent_decode_str(&once).decode_utf8_lossy();
        let stays = [target, &*once, &*twice].into_iter().all(stays_here);
        let own = [target, &*resolved(target)].into_iter().any(|it| is_below(it, prefix));
        let plain = !target.chars().any(|c| c.is_control() || c == '\\');
        if !(stays && plain && !own && target.len() <= MAX_LEN) {
            return None;
        }
        let location = utf8_percent_encode(target, LOCATION).to_string();
        (location.len() <= MAX_LEN).then_some(Self(location))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a target is what it looks like, as nearly all are: nothing in it that is decoded, resolved,
/// or read otherwise by anybody.
fn is_simple(target: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/?=&-_,:+@!.".contains(&b);
    target.starts_with('/')
        && target.len() <= MAX_LEN
        && target.bytes().all(plain)
        && !["//", "/."].into_iter().any(|it| target.contains(it))
}

/// Whether a browser that resolves `target` against our origin stays on it. URL parsers drop
/// tabs and line breaks wherever they stand and read a backslash as a slash (WHATWG URL, section
/// 4.4), so `/<tab>/evil` is `//evil`.
fn stays_here(target: &str) -> bool {
    let mut seen = target.chars().filter(|c| !matches!(c, '\t' | '\r' | '\n'));
    seen.next() == Some('/') && !matches!(seen.next(), Some('/' | '\\'))
}

/// The target's path as a browser asks for it: without dot segments, so `/a/../_wx/x` is `/_wx/x`.
fn resolved(target: &str) -> String {
    let url = Url::parse("https://site.invalid").and_then(|site| site.join(target));
    url.map_or_else(|_| String::new(), |url| url.path().to_owned())
}

fn is_below(target: &str, prefix: &str) -> bool {
    let rest = target.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn d1_d2_never_leaves_the_site_and_keeps_deep_links() {
        let long = format!("/{}", "a".repeat(MAX_LEN));
        let chinese = format!("/{}", "中".repeat(MAX_LEN / 8)); // nine bytes each, once encoded
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
            ("/a/../_wx/callback?code=1", None),
            ("/./_wx", None),
            ("/%2e%2e/_wx/login", None),
            ("/a/../b", Some("/a/../b")),
            (long.as_str(), None),
            (chinese.as_str(), None),
        ];
        for (target, expected) in cases {
            let parsed = ReturnTo::parse(target, "/_wx");
            assert_eq!(parsed.as_ref().map(ReturnTo::as_str), expected, "{target:?}");
        }
    }

    /// What attackers play with, in any order; most begin as a target does.
    fn targets() -> impl Strategy<Value = String> {
        let words = "/ // \\ %2f %2F %5c %252f %255C %25 % %09 %0a %00 . .. %2e : @ ? # \
                     evil.example https: javascript: h5.example.com _wx /../_wx /./_wx/ callback ; é ／ 。";
        let pieces: Vec<&str> =
            words.split_whitespace().chain(["\t", "\n", "\r", " ", "\u{2028}"]).collect();
        let piece = prop_oneof![
            9 => proptest::sample::select(pieces).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        let tail = proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat());
        (proptest::bool::weighted(0.8), tail)
            .prop_map(|(slash, tail)| if slash { format!("/{tail}") } else { tail })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The judge is the parser of a browser (WHATWG), not a rule of our own.
        #[test]
        fn d1_whatever_is_given_stays_on_our_origin(target in targets()) {
            let base = Url::parse("https://h5.example.com/x/y").unwrap();
            if let Some(to) = ReturnTo::parse(&target, "/_wx") {
                prop_assert!(to.as_str().bytes().all(|b| b.is_ascii_graphic()));
                let once = percent_decode_str(to.as_str()).decode_utf8_lossy();
                let twice = percent_decode_str(&once).decode_utf8_lossy();
                for location in [to.as_str(), &format!("{}#", to.as_str()), &once, &twice] {
                    let resolved = base.join(location).unwrap();
                    prop_assert_eq!(resolved.origin(), base.origin(), "{:?}", location);
                }
                // As it stands behind an origin, where a login moves to the site's own host.
                let whole = Url::parse(&format!("https://h5.example.com{}", to.as_str())).unwrap();
                prop_assert_eq!(whole.origin(), base.origin());
                let path = base.join(to.as_str()).unwrap().path().to_owned();
                prop_assert!(path != "/_wx" && !path.starts_with("/_wx/"), "{}", path);
                // What was accepted once is accepted again, as a flow cookie needs.
                prop_assert_eq!(ReturnTo::parse(to.as_str(), "/_wx"), Some(to));
            }
        }

        #[test]
        fn d1_what_looks_simple_is_judged_alike(
            target in "/?([a-zA-Z0-9=&,:+@!_-]|[/?.]{1,3}|_wx){0,12}",
            prefix in proptest::sample::select(&["/_wx", "/a", "/a/b"][..]),
        ) {
            prop_assert_eq!(ReturnTo::parse(&target, prefix), ReturnTo::judged(&target, prefix));
        }

        #[test]
        fn d2_what_a_browser_asked_for_comes_back_as_it_was(
            path in "(/[A-Za-z0-9_~é中-]{1,8}){1,4}",
            query in "([?][a-z]{1,4}=(https://x[.]com/y|%2F%2Fc|[A-Za-z0-9&=:@+]{0,20}))?",
        ) {
            // Paths of the gateway itself are nobody's destination.
            prop_assume!(path != "/_wx" && !path.starts_with("/_wx/"));
            let base = Url::parse("https://h5.example.com/").unwrap();
            let asked = base.join(&format!("{path}{query}")).unwrap();
            let target = asked.as_str().strip_prefix("https://h5.example.com").unwrap();
            let to = ReturnTo::parse(target, "/_wx");
            prop_assert_eq!(to.as_ref().map(ReturnTo::as_str), Some(target));
        }
    }
}
