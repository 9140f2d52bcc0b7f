//! Which site a host belongs to, which route a path falls on, and what it asks. Pure.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};

use crate::{
    httputil::{self, Host, Origin, Path, WindowsNames, headers::UnderscorePolicy, readings},
    secret::Secret,
};

pub mod broker;
mod health_check;
mod upstream_tls;
mod limit;
mod route;
mod upstreams;

pub use broker::Broker;
pub use health_check::{HealthCheckSettings, HealthState};
pub use limit::UpstreamLimit;
pub use route::{Access, Pattern, PatternError, Prompt, Route, Routes, Scope};
pub use upstream_tls::{PemError, UpstreamTls};
pub use upstreams::{Balance, Endpoint, Protocol, UpstreamServer, UpstreamSettings};

/// An account of WeChat's, under which visitors have their openids.
#[derive(Clone, Debug)]
pub struct Account {
    /// What the operator calls it.
    pub name: String,
    /// Where its visitors log in.
    pub kind: AccountKind,
    /// The one host that WeChat sends visitors back to, when that is not each site's own.
    pub callback: Option<CallbackHost>,
    /// WeChat's name for it.
    pub app_id: String,
    /// Known to WeChat and us alone.
    pub app_secret: Secret,
    /// Where visitors log in: scheme and host, no trailing slash.
    pub authorize_url: String,
    /// Where codes are exchanged, in the order they are tried.
    pub api_urls: Vec<String>,
    /// Files by which WeChat checks that a domain is ours: name and content.
    pub verify_files: HashMap<String, String>,
}

/// Where the visitors of an account log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccountKind {
    /// 公众号: inside WeChat.
    #[default]
    Official,
    /// 开放平台网站应用: in any browser, by scanning a code with WeChat.
    Website,
}

/// The host that an account has authorised for callbacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackHost {
    /// Its name.
    pub host: Host,
    /// The name as it stands in a URL, with the port where it is unusual.
    pub authority: String,
}

/// A set of hosts with one origin, one account and one upstream.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its place among the sites, from zero.
    pub number: usize,
    /// Its first host: how logs and metrics call it.
    pub name: String,
    /// Every host it answers to.
    pub hosts: Vec<Host>,
    /// Each of `hosts` as the site receives it in `Host`: with a port only if `public_url` has one.
    pub upstream_hosts: Vec<HeaderValue>,
    /// What the visitor types; the base of every URL we build, and the audience of its tokens.
    pub public_url: Origin,
    /// Who logs its visitors in.
    pub account: Arc<Account>,
    /// Further accounts whose openids are fetched silently in the same trip.
    pub also: Vec<Arc<Account>>,
    /// Where its pages come from.
    pub upstream: UpstreamSettings,
    /// What a browser outside WeChat meets on a page that needs a login.
    pub outside_wechat: OutsideWeChat,
    /// What visitors of a WeChat snapshot page (快照页) meet.
    pub snapshot: SnapshotPolicy,
    /// How old a nickname and a picture may grow before they are asked for again.
    pub profile_refresh: Option<Duration>,
    /// What becomes of sessions when nobody can say whether they were ended.
    pub revocation: RevocationPolicy,
    /// What happens to the `#/route` of a page that needs a login.
    pub fragment: FragmentPolicy,
    /// Other origins whose scripts may read what the gateway answers.
    pub cors: Vec<Origin>,
    /// Paths that two parsers could read in two ways.
    pub ambiguous_paths: AmbiguousPathPolicy,
    /// Names that Windows changes, which may be among those.
    pub windows_names: WindowsNames,
    /// Headers with an underscore in their names.
    pub underscores: UnderscorePolicy,
    /// Identity headers under further names.
    pub extra_headers: Vec<(HeaderName, IdentityField)>,
    /// Whether it is given a proof of who a visitor is ([`ASSERTION`]).
    pub assertion: bool,
    /// What each path asks.
    pub routes: Routes,
    /// The names of its cookies.
    pub cookies: httputil::cookie::CookieNames,
    /// The headers only we may set for it.
    pub reserved: httputil::headers::ReservedHeaders,
}

/// What a browser outside WeChat meets on a page that needs a login.
#[derive(Clone, Debug, Default)]
pub enum OutsideWeChat {
    /// Our page with the QR code of the URL.
    #[default]
    Page,
    /// The site, without an identity.
    Anonymous,
    /// A refusal.
    Deny,
    /// A login over this account: one of kind [`AccountKind::Website`]. The site's own account is for an
    /// emulated WeChat, because the real one turns other browsers away.
    Login(Arc<Account>),
}

/// What happens to the fragment of a page that needs a login. No server ever sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FragmentPolicy {
    /// It is lost, and the way to WeChat is a bare redirect.
    #[default]
    Drop,
    /// A small page remembers it and goes on to WeChat.
    Keep,
}

/// How long a replica may go on without news of the sessions that were ended elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationPolicy {
    /// For ever.
    Open,
    /// For this long; then pages that need a session are refused.
    Bounded(Duration),
    /// Not at all.
    Strict,
}

impl Default for RevocationPolicy {
    fn default() -> Self {
        Self::Bounded(Duration::from_secs(30))
    }
}

impl RevocationPolicy {
    /// The bound, if there is one. News that is a second old is no silence yet; but the strict want
    /// an order to count within a second, whatever happens to the store as it is given.
    pub fn allowed(self) -> Option<Duration> {
        match self {
            Self::Open => None,
            Self::Bounded(bound) => Some(bound.max(Duration::from_secs(1))),
            Self::Strict => Some(Duration::from_millis(900)),
        }
    }
}

/// What visitors of a WeChat snapshot page (快照页) meet: their openid is a virtual one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SnapshotPolicy {
    /// Our page, which asks them to press 使用完整服务.
    #[default]
    Page,
    /// The site, without an identity.
    Anonymous,
    /// The site, with the virtual identity and `X-WeChat-Snapshot: 1`.
    Allow,
}

/// What happens to a path that two parsers could read in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmbiguousPathPolicy {
    /// 400.
    #[default]
    Refuse,
    /// Passed on as it is to visitors with a session, whatever the routes say of it.
    Protect,
}

/// One thing the site may be told about a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityField {
    /// Who they are to the account.
    OpenId,
    /// Who they are across the accounts of one company.
    UnionId,
    /// WeChat's name of the account.
    AppId,
    /// Our name of the account.
    Account,
    /// How well we know them.
    Scope,
    /// What they call themselves.
    Nickname,
    /// Their picture.
    Avatar,
    /// The login's id.
    Session,
    /// When they logged in.
    AuthTime,
}

impl IdentityField {
    /// Every fact with its header and the word for it in `config.toml`.
    pub const ALL: [(Self, HeaderName, &'static str); 9] = [
        (Self::OpenId, HeaderName::from_static("x-wechat-openid"), "openid"),
        (Self::UnionId, HeaderName::from_static("x-wechat-unionid"), "unionid"),
        (Self::AppId, HeaderName::from_static("x-wechat-appid"), "appid"),
        (Self::Account, HeaderName::from_static("x-wechat-account"), "account"),
        (Self::Scope, HeaderName::from_static("x-wechat-scope"), "scope"),
        (Self::Nickname, HeaderName::from_static("x-wechat-nickname"), "nickname"),
        (Self::Avatar, HeaderName::from_static("x-wechat-avatar"), "avatar"),
        (Self::Session, HeaderName::from_static("x-wechat-session"), "session"),
        (Self::AuthTime, HeaderName::from_static("x-wechat-auth-time"), "auth_time"),
    ];

    /// The names Tencent's cloud gives three of them, which sites moved from there read.
    pub const TENCENT: [(Self, HeaderName); 3] = [
        (Self::OpenId, HeaderName::from_static("x-wx-openid")),
        (Self::UnionId, HeaderName::from_static("x-wx-unionid")),
        (Self::AppId, HeaderName::from_static("x-wx-appid")),
    ];
}

/// `1` on what a snapshot visitor sends.
pub const SNAPSHOT: HeaderName = HeaderName::from_static("x-wechat-snapshot");

/// A signed proof of the same facts.
pub const ASSERTION: HeaderName = HeaderName::from_static("x-wechat-assertion");

impl Site {
    /// The `Host` header for the site of a request for `host`, which is one of `hosts`. A site sees
    /// its own names only, in one spelling, whatever the visitor's client sent.
    pub fn upstream_host(&self, host: &str) -> Option<&HeaderValue> {
        let number = self.hosts.iter().position(|name| name.as_str() == host)?;
        self.upstream_hosts.get(number)
    }

    /// Every header that may speak of a visitor: what a proxy has to overwrite, so that nobody
    /// can send one of their own.
    pub fn identity_header_names(&self) -> impl Iterator<Item = HeaderName> {
        let standard = IdentityField::ALL.into_iter().map(|(_, name, _)| name);
        let tencent = IdentityField::TENCENT.into_iter().map(|(_, name)| name);
        let extra = self.extra_headers.iter().map(|(name, _)| name.clone());
        let also = self.also.iter().filter_map(|account| Self::also_name(&account.name));
        standard.chain([SNAPSHOT, ASSERTION]).chain(tencent).chain(extra).chain(also)
    }

    /// The header with the openid at a further account.
    pub fn also_name(account: &str) -> Option<HeaderName> {
        HeaderName::try_from(format!("x-wechat-openid-{account}")).ok()
    }

    /// The accounts that visitors log in with: the site's own, and the one for other browsers.
    pub fn login_accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        let outside = match &self.outside_wechat {
            OutsideWeChat::Login(account) => Some(account),
            OutsideWeChat::Page | OutsideWeChat::Anonymous | OutsideWeChat::Deny => None,
        };
        [&self.account].into_iter().chain(outside)
    }

    /// The account of this app id that visitors may have logged in with. An openid of an account
    /// in `also` is no login.
    pub fn login_account(&self, app_id: &str) -> Option<&Arc<Account>> {
        self.login_accounts().find(|account| account.app_id == app_id)
    }

    /// Every account of the site.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.login_accounts().chain(&self.also)
    }

    /// The one route a request falls on. A path with a parameter on its last segment must fall on
    /// the same route with and without it, or nobody can say which of the two the site sees.
    pub fn route(&self, path: Path<'_>, method: &Method) -> Option<&Route> {
        let route = self.routes.find(path, method);
        match path.without_parameter() {
            Some(bare) if !std::ptr::eq(self.routes.find(bare, method), route) => None,
            Some(_) | None => Some(route),
        }
    }

    /// The access rule of a path that a server could read in several ways: the strictest that any
    /// reading falls on, and the strictest of all where they cannot be listed.
    pub fn strictest_access(&self, path: &str, method: &Method) -> Access {
        match readings(path, self.windows_names) {
            Some(readings) => self.routes.strictest_among(&readings, method),
            None => self.routes.strictest(),
        }
    }
}

/// Every site of this gateway, by host.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    by_host: HashMap<Host, Arc<Site>>,
    all: Vec<Arc<Site>>,
}

impl Sites {
    /// These sites. A host that two of them claim goes to the first; `config` refuses that.
    pub fn new(sites: impl IntoIterator<Item = Site>) -> Self {
        let mut new = Self::default();
        for mut site in sites {
            site.number = new.all.len();
            let site = Arc::new(site);
            for host in &site.hosts {
                new.by_host.entry(host.clone()).or_insert_with(|| Arc::clone(&site));
            }
            new.all.push(site);
        }
        new
    }

    /// The site that a host in its plain form belongs to.
    pub fn find(&self, host: &str) -> Option<&Arc<Site>> {
        self.by_host.get(host)
    }

    /// Each site once, in the order of the configuration.
    pub fn all(&self) -> &[Arc<Site>] {
        &self.all
    }

    /// Whether WeChat sends visitors of some account back to this host.
    pub fn has_callback(&self, host: &str) -> bool {
        let mut callbacks = self.all.iter().flat_map(|site| site.accounts());
        callbacks
            .any(|account| account.callback.as_ref().is_some_and(|it| it.host.as_str() == host))
    }

    /// The content of a domain proof file that some account owns. WeChat asks for it on whatever
    /// host it checks, so every host answers.
    pub fn verify_file(&self, name: &str) -> Option<&str> {
        let mut accounts = self.all.iter().flat_map(|site| site.accounts());
        accounts.find_map(|account| account.verify_files.get(name)).map(String::as_str)
    }
}
