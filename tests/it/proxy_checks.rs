//! What holds in front of a site, whichever proxy stands there.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::future::LocalBoxFuture;

use crate::{
    proxies::Proxy,
    visitor::{Answer, Visitor, raw},
};

/// What the checks share: the proxy, and somebody who logged in at the first of them.
pub struct Scene {
    pub proxy: Proxy,
    pub phone: Visitor,
    /// Seconds by which the gateway's clock is ahead.
    pub later: &'static AtomicU64,
}

type Check = for<'a> fn(&'a mut Scene) -> LocalBoxFuture<'a, ()>;

/// In this order: the first logs in, the last two leave nobody and nothing.
pub const CHECKS: &[(&str, Check)] = &[
    ("a login returns to the page, its query intact", |it| Box::pin(login_returns(it))),
    ("the site learns who it is", |it| Box::pin(site_learns(it))),
    ("names of which nothing is known are absent or empty", |it| Box::pin(empty_names(it))),
    ("who cannot follow a redirect gets 401 and the address of the login", |it| {
        Box::pin(told_where(it))
    }),
    ("a browser on a desk gets a code to scan", |it| Box::pin(code_to_scan(it))),
    ("public and optional pages are there for everybody", |it| Box::pin(open_pages(it))),
    ("forged names are worth nothing where no login is needed", |it| {
        Box::pin(forged_in_the_open(it))
    }),
    ("forged names are worth nothing where one is", |it| Box::pin(forged_inside(it))),
    ("cookies of ours stay here, the others go on as they are", |it| Box::pin(cookies(it))),
    ("the site sets no cookie of ours", |it| Box::pin(withheld_cookies(it))),
    ("no header can be named away", |it| Box::pin(named_away(it))),
    ("nothing behind a body says who somebody is", |it| Box::pin(trailers(it))),
    ("tricks with the path open no door", |it| Box::pin(path_tricks(it))),
    ("words about another request open no door", |it| Box::pin(other_words(it))),
    ("there is no other door: other hosts, the question itself", |it| Box::pin(other_doors(it))),
    ("pages and errors of the gateway and of the site arrive", |it| Box::pin(own_pages(it))),
    ("a button comes before WeChat's consent", |it| Box::pin(consent(it))),
    ("a body arrives whole, and no stranger's does", |it| Box::pin(bodies(it))),
    ("an upload of some megabytes arrives", |it| Box::pin(upload(it))),
    ("events arrive one by one", |it| Box::pin(events(it))),
    ("a WebSocket needs the same login", |it| Box::pin(websockets(it))),
    ("no other protocol than WebSocket is switched to", |it| Box::pin(other_upgrades(it))),
    ("large headers arrive, and too large ones are refused", |it| Box::pin(large_headers(it))),
    ("a cookie that is written anew reaches the browser and no cache", |it| Box::pin(renewal(it))),
    ("a logout ends the session, captured copies too", |it| Box::pin(logout(it))),
    ("without the gateway nothing passes", |it| Box::pin(alone(it))),
];

const PAGE: &str = "/orders?x=1&y=%2F&z=%E4%B8%AD";

async fn login_returns(Scene { proxy, phone, .. }: &mut Scene) {
    let first = phone.get(PAGE).await;
    assert_eq!((first.status, proxy.hits()), (proxy.program.login, 0), "{first:?}");
    let start = if proxy.program.asks {
        "http://h5.example.com/_wx/login?rd=/orders%3Fx%3D1%26y%3D%252F%26z%3D%25E4%25B8%25AD"
    } else {
        &format!("http://{}/connect/oauth2/authorize?appid=wx1&", proxy.street.wechat)
    };
    assert!(first.location().starts_with(start), "{first:?}");
    let (at, page) = phone.open(PAGE).await;
    assert_eq!((at.as_str(), page.status), (PAGE, 200), "{page:?}");
    assert!(page.text.starts_with(&format!("GET {PAGE} HTTP/1.1")), "{}", page.text);
    assert_eq!(page.received("host"), ["h5.example.com"]);
}

async fn site_learns(Scene { phone, .. }: &mut Scene) {
    let page = phone.get("/orders").await;
    let session = phone.script().get("/_wx/session").await;
    assert!(session.text.contains(page.received("x-wechat-openid")[0]), "{}", session.text);
    assert_eq!(page.received("x-wechat-appid"), ["wx1"]);
    assert_eq!(page.received("x-wechat-account"), ["main"]);
    assert_eq!(page.received("x-wechat-scope"), ["snsapi_base"]);
    assert_eq!(page.received("x-wechat-session")[0].len(), 32);
    assert_eq!(page.received("x-wechat-auth-time").len(), 1);
    assert_eq!(page.received("x-wechat-assertion")[0].split('.').count(), 3);
    for (name, expected) in WAY {
        assert_eq!(page.received(name), [expected], "{name}: {}", page.text);
    }
    assert_eq!(page.received("upgrade"), Vec::<&str>::new(), "{}", page.text);
}

/// What a site is told of the way here.
const WAY: [(&str, &str); 4] = [
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-host", "h5.example.com"),
    ("x-forwarded-proto", "http"),
    ("x-real-ip", "127.0.0.1"),
];

async fn empty_names(Scene { proxy, phone, .. }: &mut Scene) {
    let unknown = ["x-wechat-unionid", "x-wechat-nickname", "x-wechat-avatar", "x-wechat-snapshot"];
    let known = ["x-wechat-openid", "x-wechat-session", "x-wechat-assertion", "x-wechat-scope"];
    let page = phone.get("/orders").await;
    let public = phone.get("/static/a").await;
    let nobody = proxy.phone().get("/news/a").await;
    for (page, names) in [(page, &unknown[..]), (public, &known[..]), (nobody, &known[..])] {
        assert_eq!(page.status, 200, "{page:?}");
        for name in names {
            assert_eq!(page.received(name).concat(), "", "{name}: {}", page.text);
        }
    }
}

async fn told_where(Scene { proxy, .. }: &mut Scene) {
    let hits = proxy.hits();
    let script = proxy.phone().script().get("/api/cart?x=1").await;
    assert_eq!(script.status, 401, "{script:?}");
    let host = if proxy.program.asks { "http://h5.example.com" } else { "" };
    let told = format!(
        r#"{{"error":"login_required","login_url":"{host}/_wx/login?rd=/api/cart%3Fx%3D1"}}"#
    );
    assert_eq!(script.text.trim(), told);
    assert!(script.header("content-type").unwrap().starts_with("application/json"), "{script:?}");
    assert!(script.header("cache-control").is_some_and(|it| it.contains("no-store")), "{script:?}");
    let form = proxy.phone().send("POST", "/orders", &[], "a=1").await;
    assert_eq!(form.status, 401, "{form:?}");
    assert!(form.text.contains("login_required"), "{form:?}");
    assert_eq!(proxy.hits(), hits, "G3");
}

async fn code_to_scan(Scene { proxy, .. }: &mut Scene) {
    let (hits, mut desk) = (proxy.hits(), proxy.desktop());
    let mut page = desk.get("/orders").await;
    if proxy.program.asks {
        page = desk.follow(&page, "/").await.1;
    }
    assert!(page.text.contains("<svg"), "{}", page.text);
    assert_eq!(proxy.hits(), hits, "G3");
}

async fn open_pages(Scene { proxy, phone, .. }: &mut Scene) {
    for (mut visitor, known) in [(proxy.desktop(), false), (phone.clone(), true)] {
        for path in ["/static/a.js", "/news/today"] {
            let page = visitor.get(path).await;
            assert_eq!(page.status, 200, "{path}: {page:?}");
            let told = page.received("x-wechat-openid").concat();
            assert_eq!(!told.is_empty(), known && path.starts_with("/news"), "{path}: {told}");
        }
    }
}

/// Headers that the site must not get from a visitor, in spellings that PHP, CGI and the like cannot tell apart.
const FORGED: &[&str] = &[
    "X-WeChat-OpenId",
    "x_wechat_openid",
    "X-WeChat_OpenId",
    "X_WeChat-OpenId",
    "X.WeChat.OpenId",
    "X~WeChat~OpenId",
    "HTTP_X_WECHAT_OPENID",
    "x-wechat-unionid",
    "X-WeChat-Nickname",
    "X-WeChat-Snapshot",
    "X-WeChat-Assertion",
    "X-WX-OPENID",
    "X-WX-FROM-OPENID",
    "X_WX_SOURCE",
    "X!WX!OPENID",
    "X-WeChat-OpenId-Pay",
    "Remote-User",
    "Remote_User",
    "Remote.User",
    "Remote~User",
    "HTTP_REMOTE_USER",
    "X-Original-URL",
    "X_Original_URL",
    "X.Original.URL",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X_Rewrite_URL",
    "X-HTTP-DestinationURL",
    "X-HTTP-Destination-URL",
    "X-Destination-URL",
    "X-Override-URL",
    "X-Override-URI",
    "X_Override_URL",
    "X-Request-URI",
    "X-Request-URL",
    "X-Proxy-URL",
    "Proxy",
    "Proxy-URL",
    "Proxy-Host",
    "X-Forwarded-For",
    "X_Forwarded_For",
    "X.Forwarded.For",
    "X-Forwarded_For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X_Forwarded_Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X_Forwarded_Prefix",
    "X-Forwarded-User",
    "X_Forwarded_User",
    "X.Forwarded.User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Access-Token",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Path",
    "X-Forwarded-By",
    "X-Forwarded",
    "X_Forwarded",
    "Forwarded",
    "Forwarded-For",
    "Forwarded-Host",
    "Forwarded-Proto",
    "HTTP_FORWARDED_FOR",
    "X-Forward-For",
    "X-Request-Id",
    "X_Request_Id",
    "X-Host",
    "X-HTTP-Host-Override",
    "X-Forward",
    "X-Scheme",
    "X-Url-Scheme",
    "Front-End-Https",
    "X-Proxied-Https",
    "WL-Proxy-SSL",
    "X-Real-Host",
    "X-Real-Port",
    "X-Real-Proto",
    "X-Real-Scheme",
    "Client-Address",
    "X-Client-Address",
    "Remote-Address",
    "X-Remote-Address",
    "External-Address",
    "IP-Address",
    "X-IP-Address",
    "Remote-Host",
    "Coming-From",
    "X-Coming-From",
    "X-Forwarder-For",
    "X-IPAddr",
    "X-SrcIP",
    "X-Script-Name",
    "Script-Name",
    "X-Path-Info",
    "Path-Info",
    "X-Matched-Path",
    "X-Invoke-Path",
    "X-Real-URL",
    "X-Real-URI",
    "X-Real-Base-URL",
    "X-Route-Prefix",
    "Request-URI",
    "Request-URL",
    "X-Request-Base",
    "Request-Base",
    "Base-URL",
    "X-Real-IP",
    "X_Real_IP",
    "Real-IP",
    "Client-IP",
    "Client_IP",
    "Client.IP",
    "HTTP_CLIENT_IP",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "CF_Connecting_IP",
    "CF-Connecting-IPv6",
    "CF-Pseudo-IPv4",
    "X-Cluster-Client-IP",
    "X-Remote-IP",
    "X-Originating-IP",
    "X-User-IP",
    "X-Source-IP",
    "Proxy-Client-IP",
    "WL-Proxy-Client-IP",
    "Fastly-Client-IP",
    "Ali-CDN-Real-IP",
    "Cdn-Src-IP",
    "X-ProxyUser-IP",
    "X-Appengine-User-IP",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "X-Remote-Addr",
    "Remote-Addr",
    "REMOTE_ADDR",
    "X-Custom-IP-Authorization",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
];

async fn forged_in_the_open(Scene { proxy, phone, .. }: &mut Scene) {
    let openid = phone.get("/orders").await.received("x-wechat-openid")[0].to_owned();
    for (visitor, path, known) in [
        (proxy.desktop(), "/static/a", ""),
        (proxy.desktop(), "/news/a", ""),
        (phone.clone(), "/static/a", ""),
        (phone.clone(), "/news/a", &*openid),
    ] {
        forge(proxy, visitor, path, known).await;
    }
}

async fn forged_inside(Scene { proxy, phone, .. }: &mut Scene) {
    let openid = phone.get("/orders").await.received("x-wechat-openid")[0].to_owned();
    forge(proxy, phone.clone(), "/orders", &openid).await;
    let hits = proxy.hits();
    for name in FORGED {
        let stranger = proxy.phone().send("GET", "/orders", &[(name, "forged")], "").await;
        assert!((300..500).contains(&stranger.status), "{name}: {stranger:?}");
    }
    assert_eq!(proxy.hits(), hits);
}

/// Sends every forgery alone and all of them together; the site learns `known` and nothing else.
async fn forge(proxy: &Proxy, mut visitor: Visitor, path: &str, known: &str) {
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    for &forged in FORGED {
        for name in [forged.to_owned(), forged.to_uppercase(), forged.to_lowercase()] {
            let answer = visitor.send("GET", path, &[(&name, "forged")], "").await;
            assert!(!answer.text.contains("forged"), "{path} {name}: {}", answer.text);
            assert!([200, 403].contains(&answer.status), "{path} {name}: {answer:?}");
            let expected = if answer.status == 200 { known } else { "" };
            for told in ["x-wechat-openid", "x-wx-openid", "remote-user"] {
                assert_eq!(answer.received(told).concat(), expected, "{path} {name} {told}");
            }
            let group = if answer.status == 200 { &mut sent } else { &mut refused };
            group.push((forged, "forged"));
        }
    }
    // wxgate refuses what this proxy has no way to remove.
    assert_eq!(!refused.is_empty(), proxy.program.refuses_forgeries, "{path}: {refused:?}");
    refused.truncate(1);
    for (fields, status) in [(&sent, 200), (&refused, 403)] {
        // Not more headers at once than a proxy takes.
        for fields in fields.chunks(40) {
            let answer = visitor.send("GET", path, fields, "").await;
            assert_eq!(answer.status, status, "{path} {fields:?}: {answer:?}");
            assert!(!answer.text.contains("forged"), "{path}: {}", answer.text);
            let expected = if status == 200 { known } else { "" };
            assert_eq!(answer.received("x-wechat-openid").concat(), expected, "{path}");
            for (name, expected) in WAY.into_iter().filter(|_| status == 200) {
                assert_eq!(answer.received(name), [expected], "{path} {name}: {}", answer.text);
            }
        }
    }
}

async fn cookies(Scene { proxy, phone, .. }: &mut Scene) {
    let cases = [
        ("a=1; wxgate-flow-0123=x; b=2; c=3", "a=1; b=2; c=3"),
        ("wxgate=x; a=1; wxgate=y; b=2", "a=1; b=2"),
        ("wxgate=x; wxgate=y; a=1", "a=1"),
        ("a=1; __Host-wxgate=x; __Host-wxgate=y", "a=1"),
        ("a=1;wxgate-flow-1=x;wxgate-flow-2=y;b=2", "a=1; b=2"),
        ("WXGATE=x; a=wxgate=1; nowxgate=2; wxgate2=3", "a=wxgate=1; nowxgate=2; wxgate2=3"),
        ("wxgate=x; wxgate-flow-1=y", ""),
    ];
    for mut visitor in [proxy.phone(), phone.clone()] {
        for path in ["/static/a", "/news/a"] {
            for (sent, expected) in cases {
                let answer = visitor.send("GET", path, &[("cookie", sent)], "").await;
                assert_eq!(answer.status, 200, "{path} {sent}: {answer:?}");
                let cookies = answer.received("cookie").join("; ");
                let cookies: Vec<&str> = cookies.split(';').map(str::trim).collect();
                assert_eq!(cookies.join("; "), expected, "C2: {path} {sent}");
            }
        }
    }
    let lines = "cookie: a=1; wxgate=x\r\ncookie: wxgate-flow-1=y\r\ncookie: wxgate=z; b=2\r\n";
    let answer = proxy.raw("/static/a", lines).await;
    if answer.status == 200 {
        assert_eq!(answer.received("cookie"), ["a=1; b=2"], "C2: {}", answer.text);
    } else {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

async fn withheld_cookies(Scene { proxy, phone, .. }: &mut Scene) {
    let answer = phone.clone().get("/static/cookies").await;
    let names: Vec<&str> = answer
        .all("set-cookie")
        .filter_map(|cookie| cookie.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let expected: &[&str] = if proxy.program.withholds_cookies {
        &["a"]
    } else {
        &["a", "wxgate", "__Host-wxgate", "WXGATE", "wxgate-flow-x"]
    };
    assert_eq!(names, expected, "C2: {answer:?}");
}

/// `Connection` names what ends with the connection (RFC 9110, section 7.6.1): what a visitor sent, and not what a
/// proxy says to the next.
async fn named_away(Scene { proxy, phone, .. }: &mut Scene) {
    let openid = phone.get("/orders").await.received("x-wechat-openid")[0].to_owned();
    let cookie = format!("cookie: wxgate={}\r\n", phone.cookie("wxgate"));
    for name in [
        "X-WeChat-OpenId",
        "Remote-User",
        "X-Forwarded-For, X-Real-IP",
        "x-wechat-session",
        "Cookie",
        "Host",
    ] {
        let hits = proxy.hits();
        let answer = proxy.raw("/orders", &format!("connection: {name}\r\n{cookie}")).await;
        if answer.status != 200 {
            assert!((300..500).contains(&answer.status), "{name}: {answer:?}");
            assert_eq!(proxy.hits(), hits, "{name}");
            continue;
        }
        for (field, expected) in
            WAY.into_iter().chain([("x-wechat-openid", &*openid), ("remote-user", &*openid)])
        {
            assert_eq!(answer.received(field), [expected], "{name} {field}: {}", answer.text);
        }
        assert_eq!(answer.received("x-wechat-session").len(), 1, "{name}: {}", answer.text);
    }
}

async fn trailers(Scene { proxy, phone, .. }: &mut Scene) {
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\ncookie: wxgate={}\r\ntrailer: X-WeChat-OpenId\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-WeChat-OpenId: forged\r\n\r\n",
        phone.cookie("wxgate")
    );
    let answer = Answer::parse(&raw(proxy.addr, &request).await);
    if answer.status != 200 {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        return;
    }
    let arrived = answer.text.contains("forged");
    assert_eq!(arrived, proxy.program.forwards_trailers, "B6: {}", answer.text);
}

async fn path_tricks(Scene { proxy, .. }: &mut Scene) {
    let mut hits = proxy.hits();
    for target in [
        "/static/../orders",
        "/static/%2e%2e/orders",
        "/static/..%2forders",
        "/static/%252e%252e/orders",
        "/static\\..\\orders",
        "/static/..;/orders",
        "/static//../orders",
        "//static/a",
        "/static/a%00",
        "/%6frders",
        "/orders#/static/a",
        "/_wx/../orders",
        "/_wx/%2e%2e/orders",
        "/MP_verify_x.txt/../orders",
        "/_WX/../orders",
        "http://h5.example.com/orders",
    ] {
        let answer = proxy.raw(target, "").await;
        // One that tidies a path up before it asks has the tidy one judged, and forwards that.
        if proxy.program.tidies_paths && answer.status == 200 {
            assert!(answer.text.starts_with("GET /static/"), "{target}: {}", answer.text);
            hits = proxy.hits();
        } else {
            assert_ne!(answer.status, 200, "{target}: {answer:?}");
        }
        assert_eq!(proxy.hits(), hits, "{target} reached the site");
    }
}

async fn other_words(Scene { proxy, .. }: &mut Scene) {
    let hits = proxy.hits();
    for words in [
        "x-original-uri: /static/a\r\nx-original-method: GET\r\n",
        "x-original-url: http://h5.example.com/static/a\r\n",
        "x-forwarded-uri: /static/a\r\nx-forwarded-method: GET\r\n",
        "x-forwarded-uri: /static/a\r\nx-forwarded-uri: /static/a\r\n",
        "x-forwarded-host: h5.example.com\r\nx-forwarded-host: h5.example.com\r\n",
        "connection: x-original-uri, x-forwarded-uri\r\n",
        "x-http-method-override: HEAD\r\n",
    ] {
        let answer = proxy.raw("/orders", words).await;
        assert_ne!(answer.status, 200, "{words}: {answer:?}");
        assert!(answer.status < 500, "{words}: {answer:?}");
        assert_eq!(proxy.hits(), hits, "{words} reached the site");
    }
}

async fn other_doors(Scene { proxy, .. }: &mut Scene) {
    let hits = proxy.hits();
    let request = "GET /static/a HTTP/1.1\r\nhost: other.example.com\r\nconnection: close\r\n\r\n";
    let _ = raw(proxy.addr, request).await;
    assert_eq!(proxy.hits(), hits, "A4");
    for target in ["/_wx/verify", "/_wx/verify/static/a", "/_wx/verify?x"] {
        assert_eq!(proxy.raw(target, "").await.status, 404, "{target}");
    }
}

async fn own_pages(Scene { proxy, phone, .. }: &mut Scene) {
    let proof = proxy.desktop().get("/MP_verify_AbCd1234.txt").await;
    assert_eq!((proof.status, proof.text.as_str()), (200, "AbCd1234"));
    let keys = proxy.desktop().get("/_wx/jwks.json").await;
    assert!(keys.text.contains("\"kid\":\"k1\""), "{keys:?}");
    let hits = proxy.hits();
    let lost = proxy.desktop().get("/_wx/nothing").await;
    assert!(lost.status == 404 && lost.text.contains("<html"), "{lost:?}");
    let stale = proxy.phone().get("/_wx/callback?code=0123456789&state=0123").await;
    assert!(stale.status == 400 && stale.text.contains("<html"), "{stale:?}");
    assert_eq!(proxy.hits(), hits);
    // The site's own word, and its silence.
    let missing = phone.get("/static/missing").await;
    assert!(
        missing.status == 404 && missing.text.starts_with("GET /static/missing"),
        "{missing:?}"
    );
    let silent = phone.get("/static/hangup").await;
    assert_eq!(silent.status, proxy.program.site_gone, "{silent:?}");
}

async fn consent(Scene { proxy, .. }: &mut Scene) {
    let mut phone = proxy.phone();
    let mut button = phone.get("/club/x?y=1").await;
    if proxy.program.asks {
        button = phone.follow(&button, "/").await.1;
    }
    let next = "/_wx/login?rd=/club/x%3Fy%3D1&scope=snsapi_userinfo";
    assert!(button.links_to(next), "{button:?}");
    let page = crate::login::consent(&mut phone, next).await;
    assert_eq!(page.received("x-wechat-nickname"), ["%E6%9D%8E%E9%9B%B7"], "{page:?}");
    assert_eq!(page.received("x-wechat-avatar").len(), 1);
}

async fn bodies(Scene { proxy, phone, .. }: &mut Scene) {
    let body = format!("name={}", "v".repeat(200_000));
    let posted = phone.send("POST", "/orders?p=1", &[], &body).await;
    assert_eq!(posted.status, 200, "{posted:?}");
    assert!(posted.text.starts_with("POST /orders?p=1 HTTP/1.1"), "{}", posted.text);
    assert!(posted.text.ends_with(&body), "{}", posted.text.len());
    let hits = proxy.hits();
    let stranger = proxy.phone().send("POST", "/orders?p=1", &[], "name=value").await;
    assert_eq!((stranger.status, proxy.hits()), (401, hits), "{stranger:?}");
}

async fn upload(Scene { phone, .. }: &mut Scene) {
    let body = format!("name={}", "v".repeat(5 << 20));
    let posted = phone.send("POST", "/orders", &[], &body).await;
    assert_eq!(posted.status, 200, "{}", posted.status);
    assert!(posted.text.ends_with(&body), "{}", posted.text.len());
}

/// The site says one word and waits: it arrives without another one behind it.
async fn events(Scene { proxy, phone, .. }: &mut Scene) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(proxy.addr).await.unwrap();
    let request = format!(
        "GET /events HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/event-stream\r\ncookie: wxgate={}\r\n\r\n",
        phone.cookie("wxgate")
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let arrived = async {
        while !seen.windows(7).any(|it| it == b"data: 1") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the stream has ended");
        }
    };
    let arrived = tokio::time::timeout(std::time::Duration::from_secs(10), arrived).await;
    assert!(arrived.is_ok(), "{}", String::from_utf8_lossy(&seen));
}

async fn websockets(Scene { proxy, phone, .. }: &mut Scene) {
    let cookie = format!("cookie: wxgate={}\r\n", phone.cookie("wxgate"));
    for (cookie, status) in [("", "401"), (cookie.as_str(), "101")] {
        let hits = proxy.hits();
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: h5.example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{cookie}\r\n"
        );
        let (line, back) = speak(proxy.addr, &request).await;
        assert_eq!(line.split(' ').nth(1), Some(status), "{line}");
        assert_eq!(proxy.hits() - hits, usize::from(status == "101"));
        assert_eq!(back, (status == "101").then(|| b"\x81\x02hi".to_vec()), "what was said");
    }
}

/// The first line of the answer, and the frame that comes back for one that says "hi".
async fn speak(to: SocketAddr, request: &str) -> (String, Option<Vec<u8>>) {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    let mut stream = BufReader::new(tokio::net::TcpStream::connect(to).await.unwrap());
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut first, mut line) = (String::new(), String::new());
    let _ = stream.read_line(&mut first).await.unwrap();
    if !first.contains(" 101 ") {
        return (first, None);
    }
    while stream.read_line(&mut line).await.unwrap() > 2 {
        line.clear();
    }
    stream.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
    let mut frame = vec![0; 4];
    let _ = stream.read_exact(&mut frame).await.unwrap();
    (first, Some(frame))
}

/// A site that switches to HTTP/2 would be a tunnel for requests that nobody judges.
async fn other_upgrades(Scene { proxy, phone, .. }: &mut Scene) {
    let cookie = phone.cookie("wxgate");
    for protocol in [
        "h2c",
        "x",
        "websocket, h2c",
        "h2c, websocket",
        "websocket\r\nupgrade: h2c",
        "h2c\r\nupgrade: websocket",
        "x\r\nupgrade: websocket",
    ] {
        let request = format!(
            "GET /orders HTTP/1.1\r\nhost: h5.example.com\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {protocol}\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\ncookie: wxgate={cookie}\r\n\r\n"
        );
        let answer = first_answer(proxy.addr, &request).await;
        assert!(answer.status == 200 || (400..500).contains(&answer.status), "{answer:?}");
        let arrived = answer.received("upgrade");
        // Traefik asks for a WebSocket instead.
        assert!(arrived.is_empty() || arrived == ["websocket"], "B8: {protocol}: {}", answer.text);
    }
}

/// What comes back over a connection that stays open.
async fn first_answer(to: SocketAddr, request: &str) -> Answer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = match length {
                Some(length) => body.len() >= length.parse().unwrap(),
                None => !head.contains("chunked") || body.ends_with("0\r\n\r\n"),
            };
            if whole {
                return Answer::parse(&text);
            }
        }
        let read =
            tokio::time::timeout(std::time::Duration::from_secs(10), stream.read_buf(&mut seen));
        let count = read.await.expect("an answer in time").unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&seen));
    }
}

async fn large_headers(Scene { proxy, phone, .. }: &mut Scene) {
    let large = "l".repeat(4_096);
    let page = phone.send("GET", "/orders", &[("x-large", &large)], "").await;
    assert_eq!(page.status, 200, "{}", page.status);
    assert_eq!(page.received("x-large"), [large.as_str()]);
    // As much as a browser's line of cookies may be: it is asked about, and answered.
    let large = format!("large={}", "c".repeat(6_500));
    let page = phone.send("GET", "/orders", &[("cookie", &large)], "").await;
    assert_eq!(page.status, 200, "{}", page.status);
    assert_eq!(page.received("cookie"), [large.as_str()]);
    let hits = proxy.hits();
    let huge = "h".repeat(100_000);
    let refused = phone.send("GET", "/orders", &[("x-large", &huge)], "").await;
    assert!((400..500).contains(&refused.status), "{}", refused.status);
    assert_eq!(proxy.hits(), hits);
}

/// Half the idle time later the cookie is written anew, on an answer that nobody may keep.
async fn renewal(Scene { proxy, phone, later }: &mut Scene) {
    later.store(7 * 3600, Ordering::Relaxed);
    let old = phone.cookie("wxgate");
    let page = phone.get("/cached").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.all("set-cookie").count(), 1, "{page:?}");
    let expected = if proxy.program.says_no_store { "no-store" } else { "public, s-maxage=600" };
    assert_eq!(page.all("cache-control").collect::<Vec<_>>(), [expected], "C7: {page:?}");
    assert_ne!(old, phone.cookie("wxgate"));
    let page = phone.get("/cached").await;
    assert_eq!(page.all("set-cookie").count(), 0, "{page:?}");
    let kept = page.all("cache-control").collect::<Vec<_>>();
    assert_eq!(kept, ["public, s-maxage=600"], "the site's own word");
    assert_eq!(proxy.phone().get("/cached").await.status, proxy.program.login);
}

async fn logout(Scene { proxy, phone, .. }: &mut Scene) {
    let captured = phone.clone();
    let hits = proxy.hits();
    let bye = phone.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!((bye.status, phone.has_session()), (200, false), "{bye:?}");
    let login = proxy.program.login;
    assert_eq!(captured.clone().get("/orders").await.status, login, "E7");
    assert_eq!(phone.get("/orders").await.status, login);
    assert_eq!(proxy.hits(), hits);
}

async fn alone(Scene { proxy, phone, .. }: &mut Scene) {
    let hits = proxy.hits();
    proxy.street.begin_to_close();
    proxy.street.stopped().await;
    for path in ["/orders", "/static/a"] {
        let answer: Answer = phone.get(path).await;
        assert_eq!(answer.status, proxy.program.alone, "{path}: {answer:?}");
    }
    assert_eq!(proxy.hits(), hits);
}
