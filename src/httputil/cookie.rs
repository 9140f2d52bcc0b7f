//! Reading our cookies, writing them, and keeping them from the site behind us. Pure.
//!
//! Cookies arrive as bytes (a legacy site may set raw UTF-8), so they are scanned as bytes: one
//! foreign cookie must never log a visitor out.

use std::{borrow::Cow, time::Duration};

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

/// The cookies one site of ours goes by, derived from the name the operator chose.
#[derive(Clone, Debug)]
pub struct CookieNames {
    base: Box<str>,
    session: Box<str>,
    flow: Box<str>,
    secure: bool,
}

/// The prefix with which a browser refuses a cookie set by anybody but this very host over https.
const HOST_PREFIX: &str = "__Host-";

impl CookieNames {
    /// `wxgate` becomes `__Host-wxgate` where the visitor types https.
    pub fn new(base: &str, secure: bool) -> Self {
        let prefix = if secure { HOST_PREFIX } else { "" };
        let session = format!("{prefix}{base}");
        Self {
            base: base.into(),
            flow: format!("{session}-flow-").into(),
            session: session.into(),
            secure,
        }
    }

    /// The session cookie.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// The cookie of the login called `id`.
    pub fn flow(&self, id: &str) -> String {
        format!("{}{id}", self.flow)
    }

    /// The logins whose cookies a request carries: name and value of each.
    pub fn flows<'a>(&self, headers: &'a HeaderMap) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        pairs(headers).filter_map(|(name, value)| {
            let name = std::str::from_utf8(name).ok()?;
            name.starts_with(&*self.flow).then_some((name, value))
        })
    }

    /// A `Set-Cookie` value that lasts `age`. `None` when `value` holds what no cookie may.
    pub fn set_cookie(&self, name: &str, value: &str, age: Duration) -> Option<HeaderValue> {
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let cookie = Cookie::build((name, value))
            .path("/")
            .secure(self.secure)
            .http_only(true)
            .same_site(SameSite::Lax)
            .max_age(cookie::time::Duration::seconds(age));
        HeaderValue::try_from(cookie.to_string()).ok()
    }

    /// A `Set-Cookie` value that ends the cookie, with the attributes it was set with.
    pub fn clear_cookie(&self, name: &str) -> Option<HeaderValue> {
        self.set_cookie(name, "", Duration::ZERO)
    }

    /// Whether a cookie of this name is the gateway's, with the prefix or without.
    fn are_ours(&self, name: &[u8]) -> bool {
        let name = strip_ignoring_case(name, HOST_PREFIX).unwrap_or(name);
        strip_ignoring_case(name, &self.base)
            .is_some_and(|rest| rest.is_empty() || strip_ignoring_case(rest, "-flow-").is_some())
    }

    /// The cookies of a request without ours, if any are left. What HTTP/2 sent as crumbs is joined
    /// (RFC 9113, section 8.2.3); a header that needs neither stays as it is.
    pub fn strip_own<'a>(&self, headers: &'a HeaderMap) -> Option<Cow<'a, [u8]>> {
        let mut fields = headers.get_all(header::COOKIE).iter();
        let (first, more) = (fields.next()?.as_bytes(), fields.next().is_some());
        if !more && !mentions(first, &self.base) {
            return Some(first.into());
        }
        let mut kept = Vec::with_capacity(first.len());
        for segment in segments(headers).filter(|segment| !self.are_ours(name_of(segment))) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(segment);
        }
        (!kept.is_empty()).then_some(kept.into())
    }

    /// Removes from a site's answer each `Set-Cookie` that would replace one of ours.
    pub fn strip_reserved_set_cookie(&self, headers: &mut HeaderMap) {
        let claims = |value: &HeaderValue| self.are_ours(name_of(value.as_bytes()));
        if !headers.get_all(header::SET_COOKIE).iter().any(claims) {
            return;
        }
        if let header::Entry::Occupied(entry) = headers.entry(header::SET_COOKIE) {
            let (name, values) = entry.remove_entry_mult();
            let kept: Vec<HeaderValue> = values.filter(|value| !claims(value)).collect();
            for value in kept {
                headers.append(name.clone(), value);
            }
        }
    }
}

/// Whether `word` stands anywhere in `text`, in any case: a site that folds the case of cookie
/// names would take `WXGATE` for ours.
fn mentions(text: &[u8], word: &str) -> bool {
    let Some(&first) = word.as_bytes().first() else { return true };
    let (lower, upper) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
    memchr::memchr2_iter(lower, upper, text)
        .any(|at| text.get(at..).is_some_and(|rest| strip_ignoring_case(rest, word).is_some()))
}

fn strip_ignoring_case<'a>(name: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

/// Every value sent for the cookie `name`; more than one when somebody tosses cookies.
pub fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).filter(move |(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    segments(headers).map(|segment| match memchr::memchr(b'=', segment) {
        Some(at) => {
            let (name, value) = segment.split_at(at);
            (name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii())
        }
        None => (&[][..], segment),
    })
}

fn segments(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    fields
        .flat_map(|value| CookieSplitter(Some(value.as_bytes())))
        .map(<[u8]>::trim_ascii)
        .filter(|segment| !segment.is_empty())
}

/// What stands between semicolons. A session cookie is most of a header, and `memchr` strides over
/// it where a closure would walk.
struct CookieSplitter<'a>(Option<&'a [u8]>);

impl<'a> Iterator for CookieSplitter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let (segment, after) = rest.split_at(end);
        self.0 = after.get(1..);
        Some(segment)
    }
}

/// The name in `name=value; …`. A browser sends the nameless cookie `=wxgate=x` back as
/// `wxgate=x`, so leading equals signs are no part of a name.
fn name_of(segment: &[u8]) -> &[u8] {
    let start = segment.iter().position(|b| !b.is_ascii_whitespace() && *b != b'=');
    let segment = start.and_then(|start| segment.get(start..)).unwrap_or_default();
    let end = memchr::memchr2(b'=', b';', segment).unwrap_or(segment.len());
    segment.get(..end).unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::COOKIE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn withheld(names: &CookieNames, headers: &HeaderMap) -> HeaderMap {
        let kept = names.strip_own(headers);
        let kept = kept.map(|kept| HeaderValue::from_bytes(&kept).unwrap());
        kept.into_iter().map(|kept| (header::COOKIE, kept)).collect()
    }

    #[test]
    fn c2_withhold_keeps_their_cookies_and_drops_ours() {
        let cases: [(&[&str], Option<&str>); 14] = [
            (&["a=1"], Some("a=1")),
            (&["a=1;b=2 "], Some("a=1;b=2 ")), // nothing of ours: untouched
            (&["__Host-wxgate=x"], None),
            (&["a=1; __Host-wxgate=x; b=2"], Some("a=1; b=2")),
            (&["a=1; wxgate=x; __Host-wxgate-flow-ab=y; wxgate-flow-cd=z"], Some("a=1")),
            (&["wxgater=1; xwxgate=2; wxgate=x"], Some("wxgater=1; xwxgate=2")),
            (&["nick=张三; wxgate=x"], Some("nick=张三")),
            (&["a=1", "b=2", "wxgate=x"], Some("a=1; b=2")),
            (&["=wxgate=x; a=1"], Some("a=1")),
            (&["__host-WXGATE=x; a=wxgate"], Some("a=wxgate")),
            (&[";;; wxgate ; ="], Some("=")),
            (&["__HOST-WXGATE=x"], None),
            (&["Wxgate=x; a=1"], Some("a=1")),
            (&["a=\"1; wxgate=x; b=2\""], Some("a=\"1; b=2\"")), // a sandwich of quotes
        ];
        let names = CookieNames::new("wxgate", true);
        for (sent, expected) in cases {
            let headers = header(sent);
            let kept = names.strip_own(&headers);
            assert_eq!(kept.as_deref(), expected.map(str::as_bytes), "{sent:?}");
        }
    }

    #[test]
    fn c2_protect_keeps_sites_from_setting_ours() {
        let cases = [
            ("a=1; Path=/", true),
            ("wxgate=x; Path=/", false),
            ("__Host-wxgate=x", false),
            ("wxgate-flow-1=x", false),
            ("=wxgate=x", false),
            (" wxgate =x", false),
            ("wxgate2=x", true),
            ("a=wxgate=x", true),
        ];
        let names = CookieNames::new("wxgate", true);
        for (value, kept) in cases {
            let mut headers = HeaderMap::new();
            headers.append(header::SET_COOKIE, HeaderValue::from_static("z=9"));
            headers.append(header::SET_COOKIE, HeaderValue::from_static(value));
            names.strip_reserved_set_cookie(&mut headers);
            let count = headers.get_all(header::SET_COOKIE).iter().count();
            assert_eq!(count, 1 + usize::from(kept), "{value:?}");
        }
    }

    #[test]
    fn c3_a_clearing_cookie_has_the_attributes_of_the_cookie_it_clears() {
        for secure in [true, false] {
            let names = CookieNames::new("wxgate", secure);
            let set = names.set_cookie(names.session(), "v", Duration::from_mins(1)).unwrap();
            let clear = names.clear_cookie(names.session()).unwrap();
            let set = set.to_str().unwrap().replace("=v;", "=;").replace("Max-Age=60", "Max-Age=0");
            assert_eq!(set, clear.to_str().unwrap());
            assert_eq!(set.contains("Secure"), secure);
        }
    }

    #[test]
    fn values_finds_each_of_that_name() {
        let headers = header(&["wxgate=a; x=1;wxgate=b", " wxgate = c ; wxgatex=d; wxgate"]);
        let found: Vec<&[u8]> = values(&headers, "wxgate").collect();
        assert_eq!(found, [b"a".as_slice(), b"b", b"c"]);
    }

    /// A segment, and whether its name is one of ours by a rule written down apart from the code.
    fn segment() -> impl Strategy<Value = String> {
        let case = |word: &'static str| {
            proptest::collection::vec(any::<bool>(), word.len()).prop_map(move |upper| {
                let letters = word.chars().zip(upper);
                letters.map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect()
            })
        };
        let ours = prop_oneof![
            case("wxgate"),
            case("__Host-wxgate"),
            case("wxgate-flow-0a"),
            case("__Host-wxgate-flow-")
        ];
        let near = proptest::sample::select(
            &["wxgates", "xwxgate", "__Secure-wxgate", "wxgate-flow", "-flow-wxgate", "a", ""][..],
        );
        let name = prop_oneof![ours, near.prop_map(str::to_owned), "[!-:<-~]{1,6}"];
        (name, "[ =]?", "[!-:<-~é]{0,6}").prop_map(|(name, sign, value)| match &*sign {
            "" => name,
            sign => format!("{name}{sign}{value}"),
        })
    }

    fn is_ours(segment: &str) -> bool {
        let name = segment.trim_start_matches(['=', ' ']).split('=').next().unwrap();
        let name = name.trim().to_ascii_lowercase();
        let name = name.strip_prefix("__host-").unwrap_or(&name);
        name == "wxgate" || name.starts_with("wxgate-flow-")
    }

    proptest! {
        #[test]
        fn c2_the_splitter_is_total(bytes in proptest::collection::vec(9_u8..=255, 0..200)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, value);
            let names = CookieNames::new("wxgate", true);
            let headers = withheld(&names, &headers);
            prop_assert!(values(&headers, "wxgate").next().is_none());
            prop_assert!(names.flows(&headers).next().is_none());
        }

        #[test]
        fn c2_ours_go_in_any_case_and_theirs_stay_in_order(
            lines in proptest::collection::vec(proptest::collection::vec(segment(), 0..5), 1..4),
            space in "( ?; ?){1,2}",
            secure in any::<bool>(),
        ) {
            let sent: Vec<String> = lines.iter().map(|line| line.join(&space)).collect();
            let headers = header(&sent.iter().map(String::as_str).collect::<Vec<_>>());
            let headers = withheld(&CookieNames::new("wxgate", secure), &headers);
            let split = |line: &str| -> Vec<String> {
                let parts = line.split(';').map(str::trim).filter(|part| !part.is_empty());
                parts.map(str::to_owned).collect()
            };
            let theirs: Vec<String> =
                sent.iter().flat_map(|line| split(line)).filter(|it| !is_ours(it)).collect();
            let kept: Vec<String> = headers
                .get_all(header::COOKIE)
                .iter()
                .flat_map(|line| split(std::str::from_utf8(line.as_bytes()).unwrap()))
                .collect();
            prop_assert_eq!(kept, theirs, "{:?}", sent);
        }
    }

    #[test]
    fn serialized_cookies() {
        let minute = Duration::from_mins(1);
        let rows = [
            (
                CookieNames::new("wxgate", true),
                "__Host-wxgate=v; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60",
                "__Host-wxgate-flow-00ff=v; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60",
            ),
            (
                CookieNames::new("wxgate", false),
                "wxgate=v; HttpOnly; SameSite=Lax; Path=/; Max-Age=60",
                "wxgate-flow-00ff=v; HttpOnly; SameSite=Lax; Path=/; Max-Age=60",
            ),
        ];
        for (names, session, flow) in rows {
            assert_eq!(names.set_cookie(names.session(), "v", minute).unwrap(), session);
            assert_eq!(names.set_cookie(&names.flow("00ff"), "v", minute).unwrap(), flow);
        }
    }
}
