//! A web address that somebody gave us to send a visitor to: where it leads, and what is added to
//! its query. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Url, form_urlencoded};

use super::{Origin, path::overlong};

/// Longer than this is not looked at.
const MAX_URL_LEN: usize = 8 * 1024;

/// What `encodeURIComponent` leaves as it is, so that `decodeURIComponent` gives it back: a space
/// is `%20`, never `+`.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An absolute http or https address without credentials, as a browser reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Reads an address in full. Whatever a browser would repair in silence is refused, because
    /// somebody else might repair it in another way: control characters, backslashes, missing or
    /// surplus slashes, a host with escapes, and anything that could be a user name.
    pub fn parse(text: &str) -> Option<Self> {
        let strange = |c: char| c.is_control() || c == '\\';
        if text.len() > MAX_URL_LEN || text.trim() != text || text.chars().any(strange) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let known = ["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !known || authority.is_empty() || authority.contains(['@', '%']) {
            return None;
        }
        let url = Url::parse(text).ok()?;
        (url.has_host() && url.as_str().len() <= MAX_URL_LEN).then_some(Self(url))
    }

    /// The address, with everything escaped that a header cannot hold.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its path, as a browser asks for it.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// Whether it leads to this origin: scheme, host and port, each exactly.
    pub fn is_at(&self, origin: &Origin) -> bool {
        self.0.origin().ascii_serialization() == origin.as_str()
    }

    /// Whether its path is `prefix` or lies below it, also for a server that decodes it once or
    /// twice more, takes overlong forms for dots and slashes, or drops `;parameters` before it
    /// resolves dots. Everything lies below `/`.
    pub fn is_below(&self, prefix: &str) -> bool {
        prefix == "/"
            || self
                .decoded_variants()
                .is_some_and(|it| it.iter().all(|path| path_below(path, prefix)))
    }

    /// Every path that a server might take it for, if there is an end to that.
    fn decoded_variants(&self) -> Option<Vec<String>> {
        let path = self.0.path();
        let once = percent_decode_str(path).decode_utf8_lossy().into_owned();
        let twice = percent_decode_str(&once).decode_utf8_lossy().into_owned();
        overlong(path).ok()?;
        overlong(&once).ok()?;
        let resolved = |path: &str| {
            let mut url = self.0.clone();
            url.set_path(path);
            url.path().to_owned()
        };
        let readings = [once, twice];
        let bare = readings.iter().map(|path| resolved(&without_parameters(path)));
        let plain = readings.iter().map(|path| resolved(path));
        Some(plain.chain(bare).chain([path.to_owned()]).collect())
    }

    /// The address with these fields in its query, before any fragment. A field that is there
    /// already, under one of `names`, is replaced and not doubled; the rest stays as it is, byte
    /// for byte.
    pub fn with(&self, fields: &[(&str, &str)], names: &[&str]) -> String {
        let ours = |pair: &str| {
            let name = form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name);
            name.is_some_and(|name| names.contains(&&*name))
        };
        let old = self.0.query().unwrap_or_default();
        let kept: Vec<&str> = old.split('&').filter(|pair| !ours(pair)).collect();
        let kept = kept.join("&");
        // Every `&` at the end, or an address that comes round again would lose one each time.
        let mut query = kept.trim_end_matches('&').to_owned();
        for (name, value) in fields {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            query.extend(utf8_percent_encode(value, VALUE));
        }
        let mut url = self.0.clone();
        url.set_query((!query.is_empty()).then_some(&query));
        url.into()
    }

    /// The address up to its fragment, as it was given. What the JS-SDK signs is the page's own
    /// spelling, not ours.
    pub fn page(text: &str) -> &str {
        text.split('#').next().unwrap_or_default()
    }
}

/// Whether one path is another, or lies below it.
pub fn path_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is put, and the result, for one registered place.
    fn allowed(url: &str, origin: &str, prefix: &str) -> bool {
        let origin = Origin::parse(origin).unwrap();
        HttpUrl::parse(url).is_some_and(|link| link.is_at(&origin) && link.is_below(prefix))
    }

    #[test]
    fn d3_only_the_very_origin_and_path_prefix() {
        let long = format!("https://shop.example.com/app/{}", "a".repeat(MAX_URL_LEN));
        let cases = [
            ("https://shop.example.com/app/", true),
            ("https://shop.example.com/app/cart?x=1#/y?z", true),
            ("HTTPS://Shop.Example.COM:443/app/", true),
            ("https://shop.example.com/app/a/../b", true),
            ("https://shop.example.com/app//b", true),
            ("https://shop.example.com/app/中文?q=é", true),
            ("https://shop.example.com/app/a%2Fb?u=https://x.com/..%2f", true),
            ("https://shop.example.com/app/;v=1", true),
            ("https://shop.example.com/app/?@evil.example", true),
            ("https://shop.example.com/app/@evil.example", true),
            ("https://shop.example.com/app", false),
            ("https://shop.example.com/apple", false),
            ("https://shop.example.com/App/", false),
            ("https://shop.example.com/", false),
            ("https://shop.example.com", false),
            ("http://shop.example.com/app/", false),
            ("https://shop.example.com:8443/app/", false),
            ("https://shop.example.com./app/", false),
            ("https://www.shop.example.com/app/", false),
            ("https://shop.example.com.evil.example/app/", false),
            ("https://shop.example.comevil.example/app/", false),
            ("https://evil.example/app/", false),
            ("https://evil.example/https://shop.example.com/app/", false),
            ("https://shop.example.com@evil.example/app/", false),
            ("https://user@shop.example.com/app/", false),
            ("https://@shop.example.com/app/", false),
            ("https://:@shop.example.com/app/", false),
            ("https://evil.example\\@shop.example.com/app/", false),
            ("https://evil.example\\.shop.example.com/app/", false),
            ("https:\\\\shop.example.com\\app\\", false),
            ("https:/shop.example.com/app/", false),
            ("https:shop.example.com/app/", false),
            ("https:///shop.example.com/app/", false),
            ("//shop.example.com/app/", false),
            ("/app/", false),
            ("", false),
            ("javascript://shop.example.com/app/%0aalert(1)", false),
            ("data:text/html,x", false),
            (" https://shop.example.com/app/", false),
            ("https://shop.example.com/app/\t", false),
            ("https://shop.exam\tple.com/app/", false),
            ("https://shop.example.com/app/\r\nset-cookie: a", false),
            ("https://shop%2eexample.com/app/", false),
            ("https://shop.example.com%2fevil.example/app/", false),
            ("https://shop.example.com/app/../admin", false),
            ("https://shop.example.com/app/%2e%2e/admin", false),
            ("https://shop.example.com/app/.%2E/admin", false),
            ("https://shop.example.com/app/..%2fadmin", false),
            ("https://shop.example.com/app/..%5cadmin", false),
            ("https://shop.example.com/app/..\\admin", false),
            ("https://shop.example.com/app/%252e%252e/admin", false),
            ("https://shop.example.com/app/..%252fadmin", false),
            ("https://shop.example.com/app/%3F/../../admin", false),
            ("https://shop.example.com/app/..;/admin", false),
            ("https://shop.example.com/app/..;x=1/admin", false),
            ("https://shop.example.com/app/%2e%2e;/admin", false),
            ("https://shop.example.com/app/%c0%ae%c0%ae/admin", false),
            ("https://shop.example.com/app/%25c0%25ae%25c0%25ae/admin", false),
            ("https://shop.example.com/app/%e0%80%af..", false),
            ("https://shop.example.com/app/%B5%EA", true), // 店 in GBK
            (long.as_str(), false),
        ];
        for (url, expected) in cases {
            let found = allowed(url, "https://shop.example.com", "/app/");
            assert_eq!(found, expected, "{url:?}");
        }
    }

    #[test]
    fn d3_a_prefix_ends_where_a_segment_ends_and_names_are_compared_as_browsers_write_them() {
        let cases = [
            ("https://shop.example.com/app", "/app", true),
            ("https://shop.example.com/app/x", "/app", true),
            ("https://shop.example.com/apple", "/app", false),
            ("https://shop.example.com/app;x", "/app", false),
            ("https://shop.example.com", "/", true),
            ("https://shop.example.com?x", "/", true),
            ("https://shop.example.com/anything/%2e%2e/at/all", "/", true),
        ];
        for (url, prefix, expected) in cases {
            assert_eq!(allowed(url, "https://shop.example.com", prefix), expected, "{url}");
        }
        assert!(allowed("https://例子.com/", "https://xn--fsqu00a.com", "/"));
        assert!(allowed("https://xn--fsqu00a.com/", "https://xn--fsqu00a.com", "/"));
        assert!(allowed("http://127.0.0.1:8000/a", "http://127.0.0.1:8000", "/"));
        assert!(allowed("http://[::1]:8000/a", "http://[::1]:8000", "/"));
        // Cyrillic letters that look like Latin ones are another name.
        assert!(!allowed("https://shоp.example.com/", "https://shop.example.com", "/"));
        assert!(!allowed("http://2130706433/", "http://127.0.0.2", "/"));
    }

    #[test]
    fn fields_are_added_to_any_address() {
        let cases = [
            ("https://a.com", "https://a.com/?openid=o1"),
            ("https://a.com/", "https://a.com/?openid=o1"),
            ("https://a.com/p?", "https://a.com/p?openid=o1"),
            ("https://a.com/p?x=1", "https://a.com/p?x=1&openid=o1"),
            ("https://a.com/p?x=1&", "https://a.com/p?x=1&openid=o1"),
            ("https://a.com/p?&&", "https://a.com/p?openid=o1"),
            ("https://a.com/p?x", "https://a.com/p?x&openid=o1"),
            ("https://a.com/p?x=1&&y=2", "https://a.com/p?x=1&&y=2&openid=o1"),
            ("https://a.com/#/x?y", "https://a.com/?openid=o1#/x?y"),
            (
                "https://a.com/p?x=1#/x?y=2&openid=z",
                "https://a.com/p?x=1&openid=o1#/x?y=2&openid=z",
            ),
            ("https://a.com/p#", "https://a.com/p?openid=o1#"),
            ("https://a.com/中?q=文#片", "https://a.com/%E4%B8%AD?q=%E6%96%87&openid=o1#%E7%89%87"),
            (
                "https://a.com/p?u=https://b.com/?z=1",
                "https://a.com/p?u=https://b.com/?z=1&openid=o1",
            ),
            ("https://a.com/p?q=a+b%20c%2B", "https://a.com/p?q=a+b%20c%2B&openid=o1"),
            ("https://a.com/p?openid=old", "https://a.com/p?openid=o1"),
            ("https://a.com/p?openid=old&x=1&openid=older", "https://a.com/p?x=1&openid=o1"),
            ("https://a.com/p?x=1&openid", "https://a.com/p?x=1&openid=o1"),
            ("https://a.com/p?open%69d=old&x=1", "https://a.com/p?x=1&openid=o1"),
            (
                "https://a.com/p?openid2=a&xopenid=b",
                "https://a.com/p?openid2=a&xopenid=b&openid=o1",
            ),
            ("https://a.com/p?OpenID=a", "https://a.com/p?OpenID=a&openid=o1"),
        ];
        for (url, expected) in cases {
            let link = HttpUrl::parse(url).unwrap();
            assert_eq!(link.with(&[("openid", "o1")], &["openid"]), expected, "{url}");
        }
        let link = HttpUrl::parse("https://a.com/p?nickname=x&y=1").unwrap();
        let nickname = "李 雷&🐧+#\u{7}\r\n";
        let added = link.with(&[("nickname", nickname)], &["nickname", "headimgurl"]);
        assert_eq!(
            added,
            "https://a.com/p?y=1&nickname=%E6%9D%8E%20%E9%9B%B7%26%F0%9F%90%A7%2B%23%07%0D%0A"
        );
        let gone = HttpUrl::parse("https://a.com/p?openid=x").unwrap().with(&[], &["openid"]);
        assert_eq!(gone, "https://a.com/p");
    }

    fn pieces() -> impl Strategy<Value = String> {
        let words = "/ // \\ %2f %2F %5c %252f %255C %25 .. . %2e %2E %252e ; ..;/ @ : ? # & = app \
                     /app/ /app/../ admin openid=x evil.example é ／ 。 中";
        let words: Vec<&str> = words.split_whitespace().chain(["\t", "\n", " "]).collect();
        let piece = prop_oneof![
            9 => proptest::sample::select(words).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The judge is the parser of a browser, before and after our fields are added.
        #[test]
        fn d1_whatever_is_given_stays_where_it_may(tail in pieces(), value in ".{0,20}") {
            let origin = Origin::parse("https://shop.example.com").unwrap();
            for text in [format!("https://shop.example.com{tail}"), format!("https://shop.example.com/app/{tail}")] {
                let Some(link) = HttpUrl::parse(&text) else { continue };
                if !(link.is_at(&origin) && link.is_below("/app/")) {
                    continue;
                }
                let location = link.with(&[("openid", &value)], &["openid"]);
                prop_assert!(location.bytes().all(|b| b.is_ascii_graphic()), "{}", location);
                let url = Url::parse(&location).unwrap();
                prop_assert_eq!(url.origin().ascii_serialization(), origin.as_str());
                prop_assert!(url.path().starts_with("/app/"), "{}", location);
                let openids: Vec<String> = url
                    .query_pairs()
                    .filter(|(name, _)| name == "openid")
                    .map(|(_, value)| value.into_owned())
                    .collect();
                prop_assert_eq!(openids, [value.as_str()], "{}", location);
                let asked = Url::parse(&text).unwrap();
                prop_assert_eq!(url.fragment(), asked.fragment());
                // What came out goes in again, as after a callback whose cookie was lost.
                let again = HttpUrl::parse(&location).map(|it| it.with(&[("openid", &value)], &["openid"]));
                prop_assert!(again.is_none_or(|again| again == location));
            }
        }
    }
}
