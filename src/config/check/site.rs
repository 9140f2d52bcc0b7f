//! `[[site]]`. Pure.

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use super::{account::DeclaredAccount, address, headers, route, upstream};
use crate::{
    config::{
        diagnostic::Diagnostic,
        reader::{LoadContext, StrValue, TableReader},
        schema, values,
    },
    httputil::{
        Host, Origin, WindowsNames,
        cookie::CookieNames,
        headers::{MethodOverridePolicy, ReservedHeaders, UnderscorePolicy},
    },
    site::{
        Account, AccountKind, AmbiguousPathPolicy, FragmentPolicy, OutsideWeChat, RevocationPolicy,
        Scope, Site, SnapshotPolicy,
    },
};

/// What the rest of the file says that a site depends on.
pub struct SiteContext<'a> {
    /// Who can log visitors in.
    pub accounts: &'a [DeclaredAccount<'a>],
    /// Where our own paths begin.
    pub prefix: &'a str,
    /// The name of the session cookie.
    pub cookie: &'a str,
    /// Where the gateway itself is.
    pub listeners: &'a [SocketAddr],
    /// Whether there may be other gateways, which end sessions that live here, too.
    pub replicas: bool,
}

/// Reads every site, and which accounts they name.
pub fn sites<'a>(file: &TableReader<'a>, plan: &SiteContext<'_>) -> (Vec<Site>, Vec<&'a str>) {
    let tables = file.tables("site", &schema::SITE);
    if file.value("site").is_none() && file.value("broker").is_none() {
        let help = "add a [[site]] with `hosts`, `public_url`, `account` and `upstream`";
        file.context.error(None, "there is no [[site]]: every request would be refused", help);
    }
    let mut claimed = HashMap::new();
    let sites = tables.iter().filter_map(|table| site(table, plan, &mut claimed)).collect();
    let used = tables.iter().flat_map(|table| named(table).into_iter().chain(named_also(table)));
    (sites, used.collect())
}

/// The accounts that a table logs visitors in with.
pub fn named<'a>(table: &TableReader<'a>) -> Vec<&'a str> {
    let word = |key| table.value(key).and_then(|it| it.get_ref().as_str());
    let outside = word("outside_wechat").and_then(|it| it.strip_prefix("login:"));
    word("account").into_iter().chain(outside).collect()
}

fn named_also<'a>(table: &TableReader<'a>) -> impl Iterator<Item = &'a str> {
    let also = table.value("also").map(toml::Spanned::get_ref);
    let list = also.and_then(|it| it.as_array()).into_iter().flatten();
    let words = list.filter_map(|it| it.get_ref().as_str());
    also.and_then(|it| it.as_str()).into_iter().chain(words)
}

fn site(
    table: &TableReader<'_>,
    plan: &SiteContext<'_>,
    claimed: &mut HashMap<Host, Range<usize>>,
) -> Option<Site> {
    let hosts = hosts(table, claimed);
    let public_url = public_url(table, &hosts);
    let account = account(table, plan);
    if let Some(url) = &public_url {
        callback(table, url, plan);
    }
    let upstream = upstream::upstreams(table, plan.listeners);
    let scope = table.one_of("scope", &route::SCOPES).unwrap_or(Scope::Base);
    let outside_wechat = outside(table, plan);
    let snapshot = table.one_of(
        "snapshot",
        &[
            ("page", SnapshotPolicy::Page),
            ("anonymous", SnapshotPolicy::Anonymous),
            ("allow", SnapshotPolicy::Allow),
        ],
    );
    let ambiguous = table.one_of(
        "ambiguous_paths",
        &[("refuse", AmbiguousPathPolicy::Refuse), ("protect", AmbiguousPathPolicy::Protect)],
    );
    let windows_names = table.one_of(
        "windows_names",
        &[("ambiguous", WindowsNames::Ambiguous), ("plain", WindowsNames::Plain)],
    );
    let windows_names = windows_names.unwrap_or_default();
    let underscores = underscores(table);
    let fragment =
        table.one_of("fragment", &[("drop", FragmentPolicy::Drop), ("keep", FragmentPolicy::Keep)]);
    let profile_refresh = profile_refresh(table);
    let also = also(table, plan);
    let cors = cors(&table.table("cors", &schema::CORS));
    let revocation = revocation(table, plan);
    let (extra_headers, assertion) = headers::headers(&table.table("headers", &schema::HEADERS));
    let routes = route::routes(table, scope, plan.prefix, windows_names);
    let method_overrides = if routes.depend_on_method() {
        MethodOverridePolicy::Drop
    } else {
        MethodOverridePolicy::Pass
    };
    let custom = extra_headers.iter().map(|(name, _)| name);
    let reserved = ReservedHeaders::new(custom, underscores, method_overrides);
    let public_url = public_url?;
    let upstream_hosts = hosts.iter().filter_map(|host| public_url.host_header(host)).collect();
    Some(Site {
        number: 0,
        name: hosts.first()?.to_string(),
        hosts,
        upstream_hosts,
        account: account?,
        also,
        profile_refresh,
        revocation,
        fragment: fragment.unwrap_or_default(),
        cors,
        upstream: upstream?,
        outside_wechat,
        snapshot: snapshot.unwrap_or_default(),
        ambiguous_paths: ambiguous.unwrap_or_default(),
        windows_names,
        underscores,
        extra_headers,
        assertion,
        routes,
        cookies: CookieNames::new(plan.cookie, public_url.is_secure()),
        reserved,
        public_url,
    })
}

fn hosts(table: &TableReader<'_>, claimed: &mut HashMap<Host, Range<usize>>) -> Vec<Host> {
    if table.value("hosts").is_none() || table.empty_array("hosts").is_some() {
        table.missing("hosts");
    }
    let mut hosts: Vec<Host> = Vec::new();
    for word in table.words("hosts").unwrap_or_default() {
        let Some(host) = address::host(table, &word) else { continue };
        if let Some(first) = claimed.get(&host) {
            let message = format!("{host} is claimed twice");
            let help = if hosts.contains(&host) {
                "once is enough"
            } else {
                "a host belongs to one site: merge the two, or take it out of one"
            };
            let complaint = Diagnostic::error(word.at.clone(), message).help(help);
            table.context.report(complaint.related(first.clone(), "claimed here first"));
            continue;
        }
        claimed.insert(host.clone(), word.at);
        hosts.push(host);
    }
    hosts
}

fn public_url(table: &TableReader<'_>, hosts: &[Host]) -> Option<Origin> {
    let word = table.required("public_url")?;
    let Some(url) = Origin::parse(word.text) else {
        let message = format!("`public_url` must be a scheme and a host, not \"{}\"", word.text);
        let help = match address::origin_of(word.text) {
            Some(origin) => format!("write \"{origin}\""),
            None => "write what visitors type, as in \"https://h5.example.com\"".to_owned(),
        };
        table.context.error(word.at, message, help);
        return None;
    };
    if !hosts.is_empty() && !hosts.contains(url.host()) {
        let message = format!("{} is not among the hosts of this site", url.host());
        let help =
            format!("visitors come back from WeChat to it: add \"{}\" to `hosts`", url.host());
        let complaint = Diagnostic::error(word.at.clone(), message).help(help);
        let hosts = table.place("hosts").map(|at| (at, "these are its hosts"));
        table.context.report(match hosts {
            Some((at, why)) => complaint.related(at, why),
            None => complaint,
        });
    }
    if !url.is_secure() && !address::is_loopback(url.host()) {
        let message = "over http anybody on the way can read and take over sessions";
        let help = "write https, if that is what visitors type; cookies are `Secure` only then";
        table.context.warn(word.at, message, help);
    }
    Some(url)
}

/// Warns of a `public_url` that WeChat cannot send visitors back to.
fn callback(table: &TableReader<'_>, url: &Origin, plan: &SiteContext<'_>) {
    let name = table.value("account").and_then(|it| it.get_ref().as_str());
    let own = plan.accounts.iter().find(|listed| Some(listed.name.text) == name);
    if !own.is_some_and(|listed| listed.at_wechat) {
        return;
    }
    let Some(why) = address::callback_problem(url) else { return };
    let help = "网页授权域名 in the console is a domain name alone; for tests without one, let \
                `authorize_url` and `api_urls` of the account point at an emulated WeChat";
    let message = format!("WeChat sends nobody back to {why}");
    table.context.warn(table.place("public_url"), message, help);
}

/// The account that a table names.
pub fn account(table: &TableReader<'_>, plan: &SiteContext<'_>) -> Option<Arc<Account>> {
    let word = table.required("account")?;
    let listed = plan.accounts.iter().find(|listed| listed.name.text == word.text);
    if listed.is_none() {
        unknown_account(table.context, word.at, word.text, plan);
    }
    listed?.account.clone()
}

fn unknown_account(
    context: &LoadContext<'_>,
    at: Range<usize>,
    name: &str,
    plan: &SiteContext<'_>,
) {
    let names = || plan.accounts.iter().map(|listed| listed.name.text);
    let help = match values::suggest(name, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if plan.accounts.is_empty() => "add an [[account]] of that name".to_owned(),
        None => values::choices(&names().collect::<Vec<_>>()),
    };
    context.error(at, format!("there is no [[account]] called \"{name}\""), help);
}

/// What browsers outside WeChat meet.
pub fn outside(table: &TableReader<'_>, plan: &SiteContext<'_>) -> OutsideWeChat {
    let Some(word) = table.word("outside_wechat") else { return OutsideWeChat::Page };
    let Some(name) = word.text.strip_prefix("login:") else {
        return match word.text {
            "page" => OutsideWeChat::Page,
            "anonymous" => OutsideWeChat::Anonymous,
            "deny" => OutsideWeChat::Deny,
            _ => {
                table.not_one_of("outside_wechat", &word, &["page", "anonymous", "deny"]);
                OutsideWeChat::Page
            }
        };
    };
    let own = table.value("account").and_then(|it| it.get_ref().as_str()) == Some(name);
    match plan.accounts.iter().find(|listed| listed.name.text == name) {
        None => unknown_account(table.context, word.at, name, plan),
        Some(listed) if listed.kind == AccountKind::Website || (own && !listed.at_wechat) => {
            return listed.account.clone().map_or(OutsideWeChat::Page, OutsideWeChat::Login);
        }
        Some(_) if own => {
            let message = "WeChat's own login page turns other browsers away";
            let help = "write \"page\": it shows a QR code to scan with WeChat. A login in other \
                        browsers works with an emulated WeChat as `authorize_url` of the account";
            table.context.error(word.at, message, help);
        }
        Some(_) => {
            let message = format!("visitors outside WeChat cannot log in over {name}");
            let help = "name an account of `kind = \"website\"` (网站应用), or write \"page\": it \
                        shows a QR code to scan with WeChat";
            table.context.error(word.at, message, help);
        }
    }
    OutsideWeChat::Page
}

/// Off unless it is there.
fn profile_refresh(table: &TableReader<'_>) -> Option<Duration> {
    const DAY: Duration = Duration::from_hours(24);
    table.value("profile_refresh")?;
    Some(table.duration("profile_refresh", DAY, Duration::from_mins(1)..=30 * DAY))
}

fn underscores(table: &TableReader<'_>) -> UnderscorePolicy {
    let choices = [
        ("drop", UnderscorePolicy::Drop),
        ("refuse", UnderscorePolicy::Refuse),
        ("pass", UnderscorePolicy::Pass),
    ];
    table.one_of("underscores", &choices).unwrap_or_default()
}

/// Further accounts, whose openids come in headers named after them.
fn also(table: &TableReader<'_>, plan: &SiteContext<'_>) -> Vec<Arc<Account>> {
    let own = table.value("account").and_then(|it| it.get_ref().as_str());
    let mut also: Vec<Arc<Account>> = Vec::new();
    for word in table.words("also").unwrap_or_default() {
        let Some(listed) = plan.accounts.iter().find(|listed| listed.name.text == word.text) else {
            unknown_account(table.context, word.at, word.text, plan);
            continue;
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let help = if own == Some(word.text) || also.iter().any(|it| it.name == word.text) {
            "once is enough: remove it here"
        } else if listed.kind != AccountKind::Official {
            "only a 公众号 gives an openid without a question"
        } else if !word.text.bytes().all(plain) {
            "its name ends a header: use letters, digits and `-`"
        } else {
            also.extend(listed.account.clone());
            continue;
        };
        let message = format!("the account {} cannot be asked as well", word.text);
        table.context.error(word.at, message, help);
    }
    also
}

/// Other origins whose scripts may read our answers.
fn cors(table: &TableReader<'_>) -> Vec<Origin> {
    let words = table.words("origins").unwrap_or_default();
    let read = |word: StrValue<'_>| {
        let origin = Origin::parse(word.text).filter(|origin| origin.as_str() == word.text);
        if origin.is_none() {
            let message = format!("\"{}\" is no origin", word.text);
            let help = match address::origin_of(word.text) {
                Some(near) if !word.text.contains('*') => format!("write \"{near}\""),
                _ => "write each one as a browser sends it, as in \"https://app.example.com\""
                    .to_owned(),
            };
            table.context.error(word.at, message, help);
        }
        origin
    };
    words.into_iter().filter_map(read).collect()
}

/// How long to go on without news of ended sessions.
fn revocation(table: &TableReader<'_>, plan: &SiteContext<'_>) -> RevocationPolicy {
    const CHOICES: [&str; 3] = ["open", "bounded:30s", "strict"];
    let Some(word) = table.word("revocation") else { return RevocationPolicy::default() };
    if !plan.replicas {
        let help = "remove it, or let replicas share a [store] of kind \"redis\"";
        table.context.warn(
            word.at.clone(),
            "`revocation` has no effect without a shared store",
            help,
        );
    }
    let bound = word.text.strip_prefix("bounded:").map(values::duration);
    match (word.text, bound) {
        ("open", _) => return RevocationPolicy::Open,
        ("strict", _) => return RevocationPolicy::Strict,
        (_, Some(Ok(bound))) if BOUNDS.contains(&bound) => return RevocationPolicy::Bounded(bound),
        (_, Some(Ok(_))) => {
            let help = format!(
                "from {} to {}",
                values::long(*BOUNDS.start()),
                values::long(*BOUNDS.end())
            );
            table.context.error(word.at, "the bound of `revocation` is out of range", help);
        }
        (_, Some(Err(help))) => {
            table.context.error(word.at, "the bound of `revocation` is no duration", help);
        }
        (_, None) => table.not_one_of("revocation", &word, &CHOICES),
    }
    RevocationPolicy::default()
}

/// Under a second no news is no silence yet; after a day it is "open" by another name.
const BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
