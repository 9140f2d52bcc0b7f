//! The way back to the site: where it may lead, and how code and state are put on it. Pure.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Url, form_urlencoded};

/// Whether a callback may lead to `redirect_uri`: host and port exactly, the path as a prefix.
/// No domains: anywhere on http or https.
pub fn is_authorised(redirect_uri: &str, domains: &[String]) -> bool {
    let Ok(url) = Url::parse(redirect_uri) else {
        return false;
    };
    // The parser drops white space around an address, and then code and state would follow it.
    if redirect_uri.trim() != redirect_uri {
        return false;
    }
    if !matches!(url.scheme(), "http" | "https") {
        return false;
    }
    let Some(host) = url.host_str() else {
        return false;
    };
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    domains.is_empty() || domains.iter().any(|domain| covers(domain, &host, url.path()))
}

/// `redirect_uri` with `pairs` behind its query and before its fragment.
pub fn with_params(redirect_uri: &str, pairs: &[(&str, &str)]) -> String {
    let (base, fragment) = match redirect_uri.split_once('#') {
        Some((base, fragment)) => (base, Some(fragment)),
        None => (redirect_uri, None),
    };
    let (place, query) = match base.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (base, None),
    };
    let mut url = place.to_owned();
    let has_path = place.split_once("://").is_none_or(|(_, rest)| rest.contains('/'));
    if !has_path {
        url.push('/');
    }
    url.push('?');
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        url.push_str(query);
        url.push('&');
    }
    let added = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    url.push_str(&added);
    if let Some(fragment) = fragment {
        url.push('#');
        url.push_str(fragment);
    }
    visible(&url)
}

/// `state` as it comes back. Letters and digits survive; WeChat was seen to lose quotes.
pub fn returned_state(state: &str) -> String {
    state.chars().filter(|letter| !matches!(letter, '"' | '\'' | '\\')).collect()
}

fn covers(domain: &str, host: &str, path: &str) -> bool {
    let (name, prefix) = match domain.split_once('/') {
        Some((name, prefix)) => (name, prefix.trim_end_matches('/')),
        None => (domain, ""),
    };
    let rest = path.strip_prefix('/').unwrap_or(path);
    let below = rest
        .strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'));
    name.eq_ignore_ascii_case(host) && below
}

/// Percent-encodes what a header cannot carry, and leaves every other byte as the site wrote it.
fn visible(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for letter in url.chars() {
        if letter.is_ascii_graphic() {
            out.push(letter);
        } else {
            out.extend(utf8_percent_encode(letter.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        let rows = [
            ("https://h5.example.com/cb", "h5.example.com", true),
            ("http://H5.example.com/cb", "h5.example.com", true),
            ("https://h5.example.com:443/cb", "h5.example.com", true),
            ("https://h5.example.com:8443/cb", "h5.example.com", false),
            ("https://www.h5.example.com/cb", "h5.example.com", false),
            ("https://example.com/cb", "h5.example.com", false),
            ("https://h5.example.com@evil.test/cb", "h5.example.com", false),
            ("http://127.0.0.1:8080/cb", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8081/cb", "127.0.0.1:8080", false),
            ("https://wx.qq.com/mp", "wx.qq.com/mp", true),
            ("https://wx.qq.com/mp/cb?x=1", "wx.qq.com/mp/", true),
            ("https://wx.qq.com/mpx", "wx.qq.com/mp", false),
            ("https://wx.qq.com/", "wx.qq.com/mp", false),
            ("ftp://h5.example.com/cb", "h5.example.com", false),
            ("javascript:alert(1)", "", false),
            ("/cb", "h5.example.com", false),
        ];
        for (uri, domain, expected) in rows {
            assert_eq!(is_authorised(uri, &[domain.to_owned()]), expected, "{uri} {domain}");
        }
        assert!(is_authorised("http://any.test:1/", &[]) && !is_authorised("about:blank", &[]));
    }

    #[test]
    fn redirects() {
        let rows = [
            ("https://x.example/cb", "https://x.example/cb?code=C&state=S"),
            ("https://x.example", "https://x.example/?code=C&state=S"),
            ("https://x.example?a=b", "https://x.example/?a=b&code=C&state=S"),
            ("https://x.example/cb?", "https://x.example/cb?code=C&state=S"),
            ("https://x.example/cb?action=get", "https://x.example/cb?action=get&code=C&state=S"),
            ("https://x.example/app/#/orders", "https://x.example/app/?code=C&state=S#/orders"),
            ("https://x.example/#/a?b", "https://x.example/?code=C&state=S#/a?b"),
            (
                "https://x.example/中\r\n文 a+b",
                "https://x.example/%E4%B8%AD%0D%0A%E6%96%87%20a+b?code=C&state=S",
            ),
        ];
        for (uri, expected) in rows {
            assert_eq!(with_params(uri, &[("code", "C"), ("state", "S")]), expected, "{uri}");
        }
    }

    #[test]
    fn states_come_back() {
        let rows =
            [("abc123", "abc123"), ("a_b-c.d", "a_b-c.d"), (r#"{"a": 1}"#, "{a: 1}"), ("", "")];
        for (state, expected) in rows {
            assert_eq!(returned_state(state), expected, "{state}");
        }
        let url = with_params("https://x.example/", &[("state", &returned_state(r#"{"a": 1}"#))]);
        assert_eq!(url, "https://x.example/?state=%7Ba%3A+1%7D");
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_site_wrote_can_be_sent(uri in "(https://x\\.example)?\\PC{0,40}", state in "\\PC{0,40}") {
            let url = with_params(&uri, &[("code", "C"), ("state", &returned_state(&state))]);
            proptest::prop_assert!(http::HeaderValue::from_str(&url).is_ok(), "{url}");
            if is_authorised(&uri, &["x.example".to_owned()]) {
                let back = Url::parse(&url).unwrap();
                proptest::prop_assert_eq!(back.host_str(), Some("x.example"));
                proptest::prop_assert!(back.query_pairs().any(|(name, _)| name == "state"), "{}", url);
            }
        }
    }
}
