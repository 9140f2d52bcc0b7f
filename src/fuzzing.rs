//! What the fuzz targets in `fuzz/` call: one function per target, with what must hold of any
//! bytes whatever. Compiled for fuzzing, and for the test that tries the seeds. Panics when
//! something does not hold.
#![cfg_attr(
    test,
    expect(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a promise that is broken has to be seen"
    )
)]

use std::{net::IpAddr, sync::OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::percent_decode;
use url::Url;

use crate::{
    auth::{
        KeyRing, OAuthState, PartialLogin, PendingLogin, ReturnTo, Session, Settings,
        VerifiedSession, pending::StateError, token::NONCE,
    },
    config::Config,
    httputil::{
        Host, Path, WindowsNames, cookie,
        forwarded::{self, TrustedProxies},
        headers::{MethodOverridePolicy, ReservedHeaders, UnderscorePolicy},
        readings,
    },
    site::{Scope, Site},
    test_support::{self, FixedEnvironment, NOW, SECRET},
    wechat::protocol::{read_grant, read_profile},
};

mod http1;

pub use http1::http1;

const SITES: &str = r#"
[[site]]
hosts = ["h5.example.com"]
public_url = "https://h5.example.com"
account = "main"
upstream = ["http://10.0.0.5:8000"]
[site.headers]
extra = { "Remote-User" = "openid", "X-Nick" = "nickname" }
[[site.route]]
path = "/static/*"
auth = "none"
[[site.route]]
path = "/caf%C3%A9/@me"
auth = "optional"
"#;

fn config() -> &'static Config {
    static CONFIG_ONCE: OnceLock<Config> = OnceLock::new();
    CONFIG_ONCE.get_or_init(|| test_support::config(SITES))
}

fn site() -> &'static Site {
    &config().gateway.sites.all()[0]
}

fn settings() -> &'static Settings {
    &config().gateway.session
}

fn keys() -> &'static KeyRing {
    static KEYS: OnceLock<KeyRing> = OnceLock::new();
    KEYS.get_or_init(test_support::keys)
}

/// Lines of a `Cookie` header, one per line of input.
pub fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
        }
    }
    let segments = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let lines = headers.get_all(header::COOKIE).iter();
        let parts = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        parts.map(|part| part.trim_ascii().to_vec()).filter(|part| !part.is_empty()).collect()
    };
    let is_ours = |segment: &Vec<u8>| {
        let text = String::from_utf8_lossy(segment).to_ascii_lowercase();
        let text = text.trim_start_matches(|c: char| c == '=' || c.is_ascii_whitespace());
        let name =
            text.split('=').next().unwrap().trim_end_matches(|c: char| c.is_ascii_whitespace());
        let name = name.strip_prefix("__host-").unwrap_or(name);
        name == "wxgate" || name.starts_with("wxgate-flow-")
    };
    let theirs: Vec<Vec<u8>> =
        segments(&headers).into_iter().filter(|segment| !is_ours(segment)).collect();
    let names = &site().cookies;
    let _ = cookie::values(&headers, names.session()).count();
    let _ = names.flows(&headers).count();
    let kept = names.strip_own(&headers).map(|kept| HeaderValue::from_bytes(&kept).unwrap());
    let headers = kept.into_iter().map(|kept| (header::COOKIE, kept)).collect();
    assert_eq!(segments(&headers), theirs);
    assert_eq!(cookie::values(&headers, names.session()).count(), 0);
    assert_eq!(names.flows(&headers).count(), 0);

    let mut answer = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            answer.append(header::SET_COOKIE, value);
        }
    }
    names.strip_reserved_set_cookie(&mut answer);
    for value in answer.get_all(header::SET_COOKIE) {
        let pair = value.as_bytes().split(|b| *b == b';').next().unwrap();
        assert!(!is_ours(&pair.to_vec()), "{value:?}");
    }
}

/// A state as text, the fields of one, and a flow cookie with any content.
pub fn state(data: &[u8]) {
    let audience = site().public_url.as_str();
    let text = String::from_utf8_lossy(data);
    let _ = OAuthState::site(&text);
    if let Ok(state) = OAuthState::open(&text, keys(), audience, NOW) {
        assert_eq!(state.seal(keys(), audience), text, "one state, one text");
    }
    if let Some((&[at, flip, restarts, scope], nonce)) = data.split_first_chunk::<4>() {
        let nonce = nonce.iter().fold(7_u128, |sum, b| sum.wrapping_mul(257) + u128::from(*b) % 7);
        let scope = if scope % 2 == 0 { Scope::Base } else { Scope::UserInfo };
        let state = OAuthState { nonce, issued: NOW, restarts, scope };
        let sealed = state.seal(keys(), audience);
        assert_eq!(OAuthState::open(&sealed, keys(), audience, NOW), Ok(state));
        let mut bytes = sealed.into_bytes();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= flip;
        if flip != 0 {
            let opened = OAuthState::open(&String::from_utf8_lossy(&bytes), keys(), audience, NOW);
            assert_eq!(opened, Err(StateError::Forged));
        }
    }
    let _ = PendingLogin::open(data, keys(), audience, "/_wx");
    if let Ok(sealed) = keys().seal(data, &format!("flow of {audience}"), [7; NONCE])
        && let Some(pending) = PendingLogin::open(sealed.as_bytes(), keys(), audience, "/_wx")
    {
        stays(pending.return_to.as_str());
        let again = pending.seal(keys(), audience, [8; NONCE]).unwrap();
        if again.len() <= crate::auth::token::MAX_TOKEN_LEN {
            let opened = PendingLogin::open(again.as_bytes(), keys(), audience, "/_wx");
            assert_eq!(opened, Some(pending));
        }
    }
}

/// A return target.
pub fn return_target(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else { return };
    let Some(to) = ReturnTo::parse(target, "/_wx") else { return };
    stays(to.as_str());
    assert_eq!(ReturnTo::parse(to.as_str(), "/_wx"), Some(to), "accepted once, accepted again");
}

fn stays(location: &str) {
    let base = Url::parse("https://h5.example.com/x/y").unwrap();
    assert!(location.bytes().all(|b| b.is_ascii_graphic()), "{location:?}");
    let once = percent_decode(location.as_bytes()).decode_utf8_lossy().into_owned();
    let twice = percent_decode(once.as_bytes()).decode_utf8_lossy().into_owned();
    for location in [location, &format!("{location}#"), &once, &twice] {
        let resolved = base.join(location).unwrap();
        assert_eq!(resolved.origin(), base.origin(), "{location:?}");
    }
    let path = base.join(location).unwrap().path().to_owned();
    assert!(path != "/_wx" && !path.starts_with("/_wx/"), "{location:?}");
    let whole = Url::parse(&format!("https://h5.example.com{location}")).unwrap();
    assert_eq!(whole.origin(), base.origin(), "{location:?}");
}

/// `X-Forwarded-For`, one field per line, and the same bytes as `Forwarded` and as header names.
pub fn forwarded(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        headers.append(forwarded::FOR, value.clone());
        headers.append(forwarded::PROTO, value.clone());
        headers.append(header::FORWARDED, value.clone());
        if let Ok(name) = HeaderName::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let peer: IpAddr = [10, 0, 0, 1].into();
    let nobody = TrustedProxies::default();
    assert_eq!(nobody.client(peer, &headers), peer);
    let ours =
        TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
    let client = ours.client(peer, &headers);
    if !ours.includes(client) {
        assert_eq!(rightmost_stranger(&headers, &ours), Some(client), "{headers:?}");
    }
    let _ = forwarded::scheme(&headers);

    nothing_reserved_is_left(&headers);
    if let Ok(authority) = std::str::from_utf8(data)
        && let Some(host) = Host::parse(authority)
    {
        assert_eq!(Host::parse(host.as_str()).as_ref(), Some(&host), "a host has one form");
    }
}

/// The first hop from the right that is none of ours, if it is an address.
fn rightmost_stranger(headers: &HeaderMap, ours: &TrustedProxies) -> Option<IpAddr> {
    let read = |hop: &str| -> Option<IpAddr> {
        let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let with_port = || hop.parse().ok().map(|it: std::net::SocketAddr| it.ip());
        hop.parse().ok().or_else(with_port).or_else(bracketed)
    };
    let fields: Vec<&[u8]> =
        headers.get_all(forwarded::FOR).iter().map(HeaderValue::as_bytes).collect();
    let all = String::from_utf8_lossy(&fields.join(&b","[..])).into_owned();
    let hops = all.rsplit(',').map(|hop| read(hop.trim()));
    let mut strangers = hops.filter(|hop| !hop.is_some_and(|address| ours.includes(address)));
    strangers.next().flatten()
}

fn nothing_reserved_is_left(headers: &HeaderMap) {
    let custom = [HeaderName::from_static("remote-user")];
    let reserved =
        ReservedHeaders::new(custom.iter(), UnderscorePolicy::Pass, MethodOverridePolicy::Drop);
    let ours = [forwarded::FOR, forwarded::PROTO, header::FORWARDED];
    for name in headers.keys().chain(&ours) {
        let folded = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let families = ["x_wechat_", "x_wx_", "x_forwarded_", "x_original_", "x_rewrite_"];
        let exact = [
            "remote_user",
            "forwarded",
            "x_real_ip",
            "x_request_id",
            "client_ip",
            "proxy",
            "request_uri",
            "x_script_name",
            "x_scheme",
            "x_real_host",
        ];
        if families.iter().any(|it| folded.starts_with(it)) || exact.contains(&&*folded) {
            assert!(!reserved.keeps(name.as_str(), false), "{name}");
        }
    }
}

/// A request path.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for names in [WindowsNames::Ambiguous, WindowsNames::Plain] {
        let all = readings(text, names).unwrap_or_default();
        assert!(all.first().is_none_or(|first| first == data), "{text:?}");
        assert!(!text.starts_with('/') || all.iter().all(|it| it.starts_with(b"/")), "{text:?}");
    }
    let Ok(path) = Path::parse(text) else { return };
    assert_eq!(Path::parse_with(text, WindowsNames::Plain), Ok(path), "{text:?}");
    assert_eq!(path.as_str(), text);
    let decoded = path.decoded().into_owned();
    for segment in decoded.split(|b| *b == b'/') {
        let name = segment.split(|b| *b == b';').next().unwrap();
        assert!(name != b"." && name != b"..", "{text:?}");
        assert!(!matches!(name, [.., b'.' | b' ']), "{text:?}");
        assert!(!matches!(segment, [.., b'.' | b' ']), "{text:?}");
    }
    assert_eq!(
        memchr::memchr_iter(b'/', &decoded).count(),
        memchr::memchr_iter(b'/', data).count(),
        "{text:?}"
    );
    assert!(!decoded.iter().any(|b| *b == b'\\' || b.is_ascii_control()), "{text:?}");
    assert_eq!(percent_decode(&decoded).collect::<Vec<u8>>(), decoded, "{text:?}");
    // Every escape in the other case is the same path to the routes.
    let other = match_case(text);
    if let Ok(other) = Path::parse(&other) {
        let find = |path| site().route(path, &Method::GET).map(|route| route.access);
        assert_eq!(find(path), find(other), "{text:?}");
    }
}

/// The text with its escapes in the other case.
fn match_case(text: &str) -> String {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |done, part| {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        let flip = |c: char| {
            if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
        };
        format!("{done}%{}{rest}", code.chars().map(flip).collect::<String>())
    })
}

/// A token as bytes; and a header and claims, one per line, under a signature that is good.
pub fn jwt(data: &[u8]) {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    assert!(Session::open(data, keys()).is_err(), "nobody guesses a signature");
    let Some(at) = memchr::memchr(b'\n', data) else { return };
    let (head, claims) = data.split_at(at);
    let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("{}.{}", part(head), part(&claims[1..]));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let token = format!("{text}.{}", part(aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref()));
    let Ok(session) = Session::open(token.as_bytes(), keys()) else { return };
    let head: serde_json::Value = serde_json::from_slice(head).unwrap();
    assert_eq!((head["alg"].as_str(), head["kid"].as_str()), (Some("HS256"), Some("a")));
    assert!(session.auth_time <= session.iat && session.iat <= session.exp);
    let good = session.check(site(), NOW).is_ok();
    assert!(!good || NOW < session.exp);
    let _ = session.renewed(NOW, settings());
    let sealed = session.seal(keys()).unwrap();
    if sealed.len() <= crate::auth::token::MAX_TOKEN_LEN {
        assert_eq!(Session::open(sealed.as_bytes(), keys()).as_ref(), Ok(&session));
    }
    introduces_in_visible_ascii(session);
}

fn introduces_in_visible_ascii(session: Session) {
    for (name, value) in VerifiedSession::new(session, site()).identity_headers {
        assert!(value.as_bytes().iter().all(u8::is_ascii_graphic), "{name}: {value:?}");
        assert!(!value.is_empty() || name == "x-wechat-nickname" || name == "x-nick", "{name}");
    }
}

/// A configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let complaints = match Config::parse("config.toml", text, &FixedEnvironment) {
        Ok(config) => config.warnings,
        Err(complaints) => {
            assert!(!complaints.to_string().is_empty());
            complaints
        }
    };
    let _ = (complaints.to_string(), complaints.to_json());
    for complaint in &complaints {
        let _ = complaints.line(complaint);
        assert_eq!(complaints.position(complaint).is_some(), complaint.span.is_some());
    }
    assert!(!complaints.to_string().contains(SECRET), "a secret is quoted");
}

/// An answer of WeChat's, all the way to the headers that introduce its visitor.
pub fn wechat(data: &[u8]) {
    let grant = match read_grant(data) {
        Ok(grant) => grant,
        Err(refusal) => {
            let _ = (refusal.class(), refusal.remedy(), refusal.invalidates_access_token());
            assert!(!refusal.to_string().chars().any(char::is_control), "{refusal:?}");
            return;
        }
    };
    assert!((1..=128).contains(&grant.openid.len()));
    assert!(grant.openid.bytes().all(|b| b.is_ascii_graphic()));
    let identity = grant.identity(read_profile(data).unwrap_or_default());
    let app_id = site().account.app_id.clone();
    let login = PartialLogin { identity, app_id, also: [].into() };
    let session = Session::issue(site(), login, 7, NOW, settings());
    let sealed = session.seal(keys()).unwrap();
    assert!(sealed.len() <= crate::auth::token::MAX_TOKEN_LEN, "{} bytes", sealed.len());
    assert_eq!(Session::open(sealed.as_bytes(), keys()).as_ref(), Ok(&session));
    introduces_in_visible_ascii(session);
}

#[cfg(test)]
mod tests {
    /// What a run of the fuzzer found becomes a seed, and so a row of this test.
    #[test]
    fn whatever_the_seeds_say_holds() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 9] = [
            ("cookie", super::cookie),
            ("state", super::state),
            ("return_target", super::return_target),
            ("forwarded", super::forwarded),
            ("path", super::path),
            ("jwt", super::jwt),
            ("configuration", super::configuration),
            ("wechat", super::wechat),
            ("http1", super::http1),
        ];
        for (name, target) in targets {
            let mut seen = 0;
            for seed in std::fs::read_dir(format!("fuzz/seeds/{name}")).unwrap() {
                target(&std::fs::read(seed.unwrap().path()).unwrap());
                seen += 1;
            }
            assert!(seen >= 5, "{name} has {seen} seeds");
        }
    }
}
