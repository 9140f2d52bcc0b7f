//! Every request of the attack. Pure: the same aim makes the same requests.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    attempt::{AlternateAddress, AttackKind, Attempt, Evidence, ProbeTarget},
    paths,
};

/// A browser of WeChat's that does not hide what it is.
const AGENT: &str = concat!(
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/126.0 Mobile MicroMessenger/8.0.50 wxgate-probe/",
    env!("CARGO_PKG_VERSION")
);

/// The names of the identity (product.md, section 7), and the family of Tencent's cloud.
const IDENTITY: [&str; 16] = [
    "X-WeChat-OpenId",
    "X-WeChat-UnionId",
    "X-WeChat-AppId",
    "X-WeChat-Account",
    "X-WeChat-Scope",
    "X-WeChat-Nickname",
    "X-WeChat-Avatar",
    "X-WeChat-Session",
    "X-WeChat-Auth-Time",
    "X-WeChat-Snapshot",
    "X-WeChat-Assertion",
    "X-WX-OPENID",
    "X-WX-UNIONID",
    "X-WX-APPID",
    "X-WX-FROM-OPENID",
    "X-WX-SOURCE",
];

/// The names by which proxies say where a visitor comes from, and those that old code asks for first.
const FORWARDED: [&str; 12] = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Real-IP",
    "X-Original-URL",
    "Forwarded",
    "X-Forwarded-User",
    "Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
];

/// The names from which sites take another path than the one that was judged. They stand alone: a
/// gateway beside the proxy refuses them, and would not show what becomes of the others.
const PATHS: [&str; 5] =
    ["X-Rewrite-URL", "X-HTTP-DestinationURL", "X-Override-URL", "Request-URI", "X-Script-Name"];

/// How a name is changed, and what that is called.
type HeaderVariant = (&'static str, fn(&str) -> String);

/// Ways to write a name that PHP, WSGI, CGI or a proxy may take for the plain one.
const SPELLINGS: [HeaderVariant; 9] = [
    ("as written", str::to_owned),
    ("in small letters", str::to_ascii_lowercase),
    ("in capitals", str::to_ascii_uppercase),
    ("with _", |name| name.replace('-', "_")),
    ("with one _", |name| name.replacen('-', "_", 1)),
    ("with .", |name| name.replace('-', ".")),
    ("with ~", |name| name.replace('-', "~")),
    ("with a space before the colon", |name| format!("{name} ")),
    ("on a folded line", |name| format!("X-Wxgate-Probe: 1\r\n {name}: 1\r\n{name}")),
];

/// A polite request by a script: whoever needs a login is told so in JSON.
pub fn as_script(aim: &ProbeTarget, path: &str) -> Vec<u8> {
    request("GET", path, &aim.authority, "")
}

/// A polite request for a page.
pub fn as_page(aim: &ProbeTarget) -> Vec<u8> {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\nAccept: text/html\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n",
        aim.path, aim.authority
    )
    .into_bytes()
}

/// A harmless header with a mark, which a page that prints its headers shows.
pub fn control(aim: &ProbeTarget, path: &str) -> Vec<u8> {
    let line = format!("X-Wxgate-Probe: {}\r\n", control_marker(aim));
    request("GET", path, &aim.authority, &line)
}

/// The mark of [`control`].
pub fn control_marker(aim: &ProbeTarget) -> String {
    format!("{}control", aim.tag)
}

/// All of it.
pub fn all(aim: &ProbeTarget) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let echo = aim.echo.iter().map(|path| (path, true));
    for (path, at_echo) in [(&aim.path, false)].into_iter().chain(echo) {
        let at = ForgedRequest { aim, path };
        let there = [identity(at), forwarded(at), cookies(at)].into_iter();
        attempts.extend(there.flatten().map(|attempt| Attempt { at_echo, ..attempt }));
    }
    attempts.extend(paths::path_attacks(aim).into_iter().map(|(what, target)| {
        let attempt = Attempt::new(AttackKind::Path, what, as_script(aim, &target));
        attempt.with_evidence(Evidence::Opened)
    }));
    attempts.extend(methods(aim));
    attempts.extend(hosts(aim));
    attempts.extend(doors(aim));
    attempts.extend(elsewhere(aim));
    attempts
}

fn identity(at: ForgedRequest<'_>) -> Vec<Attempt> {
    let names: Vec<&str> =
        IDENTITY.into_iter().chain(at.aim.headers.iter().map(String::as_str)).collect();
    let spelt = SPELLINGS.iter().enumerate().map(|(row, (what, spell))| {
        let what = format!("{} and {} more, {what}", IDENTITY[0], names.len() - 1);
        at.forged(AttackKind::Identity, what, row, names.iter().map(|name| spell(name)))
    });
    let mut attempts: Vec<Attempt> = spelt.collect();
    // Headers that a hop is told to drop are dropped before ours are set, not after.
    let mark = format!("{}named", at.aim.tag);
    let line = format!("Connection: close, X-WeChat-OpenId\r\nX-WeChat-OpenId: {mark}\r\n");
    attempts.push(at.marked(
        AttackKind::Identity,
        "X-WeChat-OpenId, named in Connection",
        &line,
        &mark,
    ));
    let mark = format!("{}trailer", at.aim.tag);
    let line = "Transfer-Encoding: chunked\r\nTrailer: X-WeChat-OpenId\r\n";
    let mut trailer = at.marked(AttackKind::Identity, "X-WeChat-OpenId, as a trailer", line, &mark);
    trailer.request.extend_from_slice(format!("0\r\nX-WeChat-OpenId: {mark}\r\n\r\n").as_bytes());
    attempts.push(trailer);
    attempts
}

fn forwarded(at: ForgedRequest<'_>) -> Vec<Attempt> {
    let spelt = SPELLINGS.iter().take(4).enumerate().map(|(row, (what, spell))| {
        let what = format!("{} and {} more, {what}", FORWARDED[0], FORWARDED.len() - 1);
        at.forged(AttackKind::Forwarded, what, 20 + row, FORWARDED.iter().map(|name| spell(name)))
    });
    let mut attempts: Vec<Attempt> = spelt.collect();
    let what = format!("{} and {} more", PATHS[0], PATHS.len() - 1);
    let names = PATHS.iter().map(|name| (*name).to_owned());
    attempts.push(at.forged(AttackKind::Forwarded, what, 30, names));
    // Values that a proxy would believe, where a mark is none.
    let lies = [
        ("X-Forwarded-For", "198.51.100.213".to_owned(), "198.51.100.213".to_owned()),
        ("X-Real-IP", "198.51.100.214".to_owned(), "198.51.100.214".to_owned()),
        ("Forwarded", "for=198.51.100.215;proto=http".to_owned(), "198.51.100.215".to_owned()),
        ("X-Forwarded-Host", format!("{}host.invalid", at.aim.tag), format!("{}host", at.aim.tag)),
    ];
    for (name, value, mark) in lies {
        let line = format!("{name}: {value}\r\n");
        attempts.push(at.marked(AttackKind::Forwarded, &format!("{name}: {value}"), &line, &mark));
    }
    attempts
}

/// Cookies of our name that we did not sign.
fn cookies(at: ForgedRequest<'_>) -> Vec<Attempt> {
    let mark = format!("{}cookie", at.aim.tag);
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let claims = part(format!(
        r#"{{"iss":"wxgate","aud":"https://{}","sub":"{mark}","sid":"{mark}","iat":1,"exp":9999999999,"auth_time":1,"max":9999999999,"appid":"{mark}","scope":"snsapi_userinfo"}}"#,
        at.aim.authority
    ));
    let unsigned = part(r#"{"alg":"none","typ":"JWT","kid":"1"}"#.to_owned());
    let signed = part(r#"{"alg":"HS256","typ":"JWT","kid":"1"}"#.to_owned());
    let (none, bad) =
        (format!("{unsigned}.{claims}."), format!("{signed}.{claims}.{}", part(mark.clone())));
    let plain = &at.aim.cookie;
    let capitals = plain.to_ascii_uppercase();
    let rows = [
        ("unsigned", format!("{plain}={none}"), &claims),
        ("unsigned, as __Host-", format!("__Host-{plain}={none}"), &claims),
        ("with a wrong signature", format!("__Host-{plain}={bad}; {plain}={bad}"), &claims),
        ("twice", format!("{plain}={bad}; {plain}={none}; __Host-{plain}={none}"), &claims),
        ("in capitals", format!("{capitals}={mark}; __HOST-{plain}={mark}"), &mark),
    ];
    // A page that prints its headers shows the cookie as it came; one that believes it, the openid.
    let attempts = rows.into_iter().map(|(what, cookie, whole)| {
        let (what, line) = (format!("the session cookie, {what}"), format!("Cookie: {cookie}\r\n"));
        let attempt = at.marked(AttackKind::Cookie, &what, &line, whole);
        if whole == &mark {
            return attempt;
        }
        let believed = Evidence::Mark { mark: mark.clone(), carrier: "its openid".to_owned() };
        attempt.with_evidence(believed)
    });
    attempts.collect()
}

fn methods(aim: &ProbeTarget) -> Vec<Attempt> {
    let mark = format!("{}trace", aim.tag);
    let line = format!("X-Wxgate-Probe: {mark}\r\n");
    let plain = [("HEAD", ""), ("get", ""), ("GE", ""), ("WXGATE", "")];
    let over = [
        "X-HTTP-Method-Override: GET\r\n",
        "X-HTTP-Method: OPTIONS\r\n",
        "X-Method-Override: HEAD\r\n",
    ];
    let plain = plain.into_iter().chain(over.into_iter().map(|line| ("OPTIONS", line)));
    let plain = plain.map(|(method, line)| {
        let what = format!("{method} {}", line.trim_end()).trim_end().to_owned();
        let attempt = Attempt::new(
            AttackKind::Method,
            what,
            request(method, &aim.path, &aim.authority, line),
        );
        // OPTIONS may well be answered: it says nothing of the page.
        if method == "OPTIONS" {
            attempt.with_evidence(Evidence::Words("<html"))
        } else {
            attempt.with_evidence(Evidence::Opened)
        }
    });
    let trace = Attempt::new(
        AttackKind::Method,
        "TRACE",
        request("TRACE", &aim.path, &aim.authority, &line),
    );
    let trace = trace.with_evidence(Evidence::Mark { mark, carrier: "TRACE".to_owned() });
    let connect = request("CONNECT", &format!("{}:{}", aim.host, aim.port), &aim.authority, "");
    let connect =
        Attempt::new(AttackKind::Method, "CONNECT", connect).with_evidence(Evidence::Opened);
    plain.chain([trace, connect]).collect()
}

fn hosts(aim: &ProbeTarget) -> Vec<Attempt> {
    let mark = format!("{}host", aim.tag);
    let (evil, host) = (format!("{mark}.invalid"), &aim.authority);
    let two = format!("Host: {evil}\r\n");
    let absolute = format!("http://{evil}{}", aim.path);
    let rows = [
        ("another Host", request("GET", &aim.path, &evil, "")),
        ("two Host headers", request("GET", &aim.path, host, &two)),
        ("another host in the target", request("GET", &absolute, host, "")),
        ("credentials in Host", request("GET", &aim.path, &format!("{host}@{evil}"), "")),
    ];
    let sign = Evidence::Mark { mark, carrier: "the host".to_owned() };
    let attempts = rows.into_iter().map(|(what, bytes)| {
        Attempt::new(AttackKind::Host, what, bytes).with_evidence(sign.clone())
    });
    attempts.collect()
}

/// Doors that are for the operator.
fn doors(aim: &ProbeTarget) -> Vec<Attempt> {
    let door = |path: &str, words| {
        let attempt = Attempt::new(AttackKind::Door, format!("GET {path}"), as_script(aim, path));
        attempt.with_evidence(Evidence::Words(words))
    };
    let mark = format!("{}verify", aim.tag);
    let line = format!("X-Original-URI: {}/\r\nX-WeChat-OpenId: {mark}\r\n", aim.public);
    let ask = |path: &str| {
        let at = ForgedRequest { aim, path };
        let what = format!("GET {path} with a forged identity");
        at.marked(AttackKind::Door, &what, &line, &mark)
    };
    vec![
        door("/metrics", "wxgate_"),
        door("/readyz", "news of ended sessions"),
        door("/revocations", "ends sessions"),
        ask("/_wx/verify"),
        ask("/_wx/session"),
    ]
}

fn elsewhere(aim: &ProbeTarget) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    if aim.https {
        let plain =
            Attempt::new(AttackKind::Plain, "the same page without TLS", as_script(aim, &aim.path));
        attempts.push(Attempt {
            elsewhere: Some(AlternateAddress::Plain),
            ..plain.with_evidence(Evidence::Answered)
        });
    }
    let at = ForgedRequest { aim, path: &aim.path };
    for place in &aim.upstreams {
        let mark = format!("{}direct", aim.tag);
        let line = format!("X-WeChat-OpenId: {mark}\r\n");
        let what = format!("{place}, past the gateway");
        let direct =
            at.marked(AttackKind::Upstream, &what, &line, &mark).with_evidence(Evidence::Answered);
        attempts
            .push(Attempt { elsewhere: Some(AlternateAddress::Upstream(place.clone())), ..direct });
    }
    attempts
}

/// A page that is asked for with something forged.
#[derive(Clone, Copy)]
struct ForgedRequest<'a> {
    aim: &'a ProbeTarget,
    path: &'a str,
}

impl ForgedRequest<'_> {
    /// One request with every one of these names, each with a mark of its own.
    fn forged(
        self,
        kind: AttackKind,
        what: String,
        row: usize,
        names: impl Iterator<Item = String>,
    ) -> Attempt {
        let (mut lines, mut signs) = (String::new(), vec![Evidence::Opened]);
        for (column, name) in names.enumerate() {
            let mark = format!("{}r{row}c{column}x", self.aim.tag);
            let _ = write!(lines, "{name}: {mark}\r\n");
            let carrier = name.rsplit('\n').next().unwrap_or_default().trim().to_owned();
            signs.push(Evidence::Mark { mark, carrier });
        }
        let bytes = request("GET", self.path, &self.aim.authority, &lines);
        Attempt { signs, ..Attempt::new(kind, what, bytes) }
    }

    /// One request with these lines, which hold one mark.
    fn marked(self, kind: AttackKind, what: &str, line: &str, mark: &str) -> Attempt {
        let carrier = what.split([',', ':']).next().unwrap_or_default().to_owned();
        let attempt =
            Attempt::new(kind, what, request("GET", self.path, &self.aim.authority, line));
        attempt
            .with_evidence(Evidence::Opened)
            .with_evidence(Evidence::Mark { mark: mark.to_owned(), carrier })
    }
}

fn request(method: &str, target: &str, host: &str, lines: &str) -> Vec<u8> {
    let close = if lines.starts_with("Connection:") { "" } else { "Connection: close\r\n" };
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: application/json\r\nSec-Fetch-Mode: cors\r\nAccept-Encoding: identity\r\n{lines}{close}\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn aim(path: &str) -> ProbeTarget {
        ProbeTarget {
            https: true,
            host: "h5.example.com".to_owned(),
            port: 443,
            authority: "h5.example.com".to_owned(),
            path: path.to_owned(),
            echo: Some("/static/echo".to_owned()),
            public: "/static".to_owned(),
            upstreams: vec!["10.0.0.5:8000".to_owned()],
            headers: vec!["Remote-User".to_owned()],
            cookie: "wxgate".to_owned(),
            tag: "wxp00000000".to_owned(),
        }
    }

    #[test]
    fn it_is_bounded_reads_only_and_says_who_it_is() {
        let attempts = all(&aim("/member/orders"));
        assert!((60..150).contains(&attempts.len()), "{}", attempts.len());
        for attempt in &attempts {
            let text = String::from_utf8_lossy(&attempt.request);
            let method = text.split(' ').next().unwrap();
            assert!(!matches!(method, "POST" | "PUT" | "PATCH" | "DELETE"), "{}", attempt.what);
            assert!(text.contains("wxgate-probe/"), "{}", attempt.what);
            assert!(!attempt.signs.is_empty(), "{} cannot be seen", attempt.what);
        }
        for name in ["X-WeChat-OpenId", "x_wechat_openid", "REMOTE-USER", "X.WeChat.OpenId"] {
            let sent = |attempt: &Attempt| {
                let text = String::from_utf8_lossy(&attempt.request).to_ascii_lowercase();
                text.contains(&format!("\n{}:", name.to_ascii_lowercase()))
            };
            assert!(attempts.iter().any(sent), "nobody tries {name}");
        }
    }

    #[test]
    fn no_mark_is_part_of_another_and_no_target_holds_one() {
        for attempt in all(&aim("/member/orders")) {
            let marks = attempt.signs.iter().filter_map(|sign| match sign {
                Evidence::Mark { mark, .. } => Some(mark),
                Evidence::Opened | Evidence::Words(_) | Evidence::Answered => None,
            });
            let marks: Vec<&String> = marks.collect();
            let text = String::from_utf8_lossy(&attempt.request).into_owned();
            let target = text.split(' ').nth(1).unwrap();
            for mark in &marks {
                let among = marks.iter().filter(|it| it.contains(mark.as_str())).count();
                assert_eq!(among, 1, "{}: {mark}", attempt.what);
                // A page may well say which path it has; the host trick is the one exception.
                assert!(
                    !target.contains(mark.as_str()) || attempt.kind == AttackKind::Host,
                    "{target}"
                );
                let sent = text.contains(mark.as_str()) || attempt.kind == AttackKind::Cookie;
                assert!(sent, "{}: {mark} is not sent", attempt.what);
            }
        }
    }
}
