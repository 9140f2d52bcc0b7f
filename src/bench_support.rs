//! What `benches/` measures: the steps of one request's path, each with the very functions that the
//! gateway calls, on a request like those of a browser inside WeChat. In no build but theirs.
#![expect(clippy::unwrap_used, reason = "what is measured is known to be good")]

use std::{cell::RefCell, fmt::Write as _, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use quick_cache::unsync::Cache;

use crate::{
    auth::{Identity, KeyRing, PartialLogin, Session, VerifiedSession},
    config::Config,
    http1::head,
    httputil::{
        Path, Scheme, cookie,
        outbound::{ForwardedInfo, OutboundHeaders, OutboundRequest},
        trace_context::TraceContext,
    },
    site::{Scope, Site},
    test_support::{self, NOW},
};

const APP_ID: &str = "wx0123456789abcdef";

/// Sites, a visitor of the last of them, and what a thread remembers of that visitor.
pub struct BenchFixture {
    config: Config,
    keys: KeyRing,
    cookie: String,
    known: Rc<VerifiedSession>,
    verified: RefCell<Cache<Box<[u8]>, Rc<VerifiedSession>>>,
}

impl BenchFixture {
    /// So many sites, each with so many routes.
    pub fn new(sites: usize, routes: usize) -> Self {
        let (config, keys) =
            (test_support::config(&the_sites(sites, routes)), test_support::keys());
        let site = config.gateway.sites.all().last().unwrap();
        let login =
            PartialLogin { identity: visitor(), app_id: APP_ID.to_owned(), also: [].into() };
        let session = Session::issue(site, login, 7, NOW, &config.gateway.session);
        let cookie = session.seal(&keys).unwrap();
        let known = Rc::new(VerifiedSession::new(session, site));
        let verified = RefCell::new(Cache::new(16));
        verified.borrow_mut().insert(cookie.as_bytes().into(), Rc::clone(&known));
        Self { config, keys, cookie, known, verified }
    }

    fn site(&self) -> &Site {
        self.config.gateway.sites.all().last().unwrap()
    }

    /// The head of a request for one of the visitor's pages.
    pub fn head(&self) -> Bytes {
        let host = self.host();
        let cookie = &self.cookie;
        Bytes::from(format!(
            "GET /part-1/orders?page=2 HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\
             User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) MicroMessenger/8.0.49\r\n\
             Accept-Language: zh-CN\r\nAccept-Encoding: gzip, br\r\nX-WeChat-OpenId: forged\r\n\
             Cookie: theme=dark; wxgate={cookie}; lang=zh_CN\r\n\r\n"
        ))
    }

    /// The host of the last site.
    pub fn host(&self) -> &str {
        self.site().public_url.host().as_str()
    }

    /// Reads a head.
    pub fn parse(&self, head: &Bytes) -> Request<()> {
        head::request(head, 100).unwrap().request
    }

    /// Finds our cookie, and what is remembered of it.
    pub fn remembered(&self, headers: &HeaderMap) -> bool {
        let verified = self.verified.borrow();
        let found = self.values(headers).filter_map(|value| verified.get(value).map(Rc::clone));
        found.count() == 1
    }

    /// Finds our cookie, and checks its signature and claims.
    pub fn verified(&self, headers: &HeaderMap) -> bool {
        let found = self.values(headers).map(|value| Session::open(value, &self.keys));
        found.flatten().count() == 1
    }

    fn values<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> {
        cookie::values(headers, self.site().cookies.session())
    }

    /// Whether the session is good here and now.
    pub fn checked(&self) -> bool {
        self.known.session.check(self.site(), NOW).is_ok()
    }

    /// The site of a host and the route of a path, as the gateway looks them up.
    pub fn routed(&self, host: &str, path: &str) -> bool {
        let site = self.config.gateway.sites.find(host).unwrap();
        site.route(Path::parse(path).unwrap(), &http::Method::GET).is_some()
    }

    /// Writes the head of a request for the site: without what must not go on, with what we say of
    /// the visitor.
    pub fn write(&self, out: &mut Vec<u8>, request: &Request<()>, host: &HeaderValue) {
        let site = self.site();
        let trace = TraceContext { id: 7, span: 7, parent: 0, sampled: false };
        let (scheme, trusted) = (Scheme::Https, false);
        let fields = OutboundHeaders {
            sent: request.headers(),
            reserved: &site.reserved,
            cookies: &site.cookies,
            forwarded: ForwardedInfo {
                host,
                client: host,
                scheme,
                request_id: host,
                trace,
                trusted,
            },
            introduction: &self.known.identity_headers,
            proof: None,
            websocket: false,
            multiplexed: false,
        };
        let onward = OutboundRequest { method: request.method(), uri: request.uri(), fields };
        head::write_request(out, &onward, Some(0));
    }
}

fn the_sites(sites: usize, routes: usize) -> String {
    let mut text = String::new();
    for site in 1..=sites {
        let host = format!("site-{site}.example.com");
        write!(
            text,
            "[[site]]\nhosts = [\"{host}\"]\npublic_url = \"http://{host}\"\naccount = \"main\"\n\
             upstream = [\"http://10.0.0.5:8000\"]\n"
        )
        .unwrap();
        for route in 1..=routes {
            write!(text, "[[site.route]]\npath = \"/part-{route}/*\"\nauth = \"optional\"\n")
                .unwrap();
        }
    }
    text
}

fn visitor() -> Identity {
    Identity {
        openid: "o6_bmjrPTlm6_2sgVt7hMZOPfL2M".to_owned(),
        unionid: Some("oWgGz1AbCdEfGhIjKlMnOpQrStUv".to_owned()),
        nickname: Some("李雷".to_owned()),
        avatar: Some("https://thirdwx.qlogo.cn/mmopen/vi_32/lilei/132".to_owned()),
        scope: Scope::UserInfo,
    }
}
