//! `[[site]]`. Pure.

use std::{collections::HashMap, net::SocketAddr, ops::Range, sync::Arc};

use super::{account::Listed, address, headers, route, upstream};
use crate::{
    config::{
        complaint::Complaint,
        raw,
        reader::{Desk, Table},
        words,
    },
    site::{Account, Ambiguous, Outside, Scope, Site, Snapshot},
    wire::{
        Host, Origin,
        cookie::Names,
        headers::{Reserved, Underscores},
    },
};

/// What the rest of the file says that a site depends on.
pub struct Plan<'a> {
    /// Who can log visitors in.
    pub accounts: &'a [Listed<'a>],
    /// Where our own paths begin.
    pub prefix: &'a str,
    /// The name of the session cookie.
    pub cookie: &'a str,
    /// Where the gateway itself is.
    pub listeners: &'a [SocketAddr],
}

/// Reads every site, and which accounts they name.
pub fn sites<'a>(file: &Table<'a>, plan: &Plan<'_>) -> (Vec<Site>, Vec<&'a str>) {
    let tables = file.tables("site", &raw::SITE);
    if file.value("site").is_none() {
        let help = "add a [[site]] with `hosts`, `public_url`, `account` and `upstream`";
        file.desk.error(None, "there is no [[site]]: every request would be refused", help);
    }
    let mut claimed = HashMap::new();
    let sites = tables.iter().filter_map(|table| site(table, plan, &mut claimed)).collect();
    let named = |table: &Table<'a>| table.value("account").and_then(|it| it.get_ref().as_str());
    (sites, tables.iter().filter_map(named).collect())
}

fn site(
    table: &Table<'_>,
    plan: &Plan<'_>,
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
        &[("page", Snapshot::Page), ("anonymous", Snapshot::Anonymous), ("allow", Snapshot::Allow)],
    );
    let ambiguous = table.one_of(
        "ambiguous_paths",
        &[("refuse", Ambiguous::Refuse), ("protect", Ambiguous::Protect)],
    );
    let underscores = table.one_of(
        "underscores",
        &[
            ("drop", Underscores::Drop),
            ("refuse", Underscores::Refuse),
            ("pass", Underscores::Pass),
        ],
    );
    later(table);
    let extra_headers = headers::extras(&table.table("headers", &raw::HEADERS));
    let reserved = headers::reserved(&extra_headers);
    let routes = route::routes(table, scope, plan.prefix);
    let (public_url, underscores) = (public_url?, underscores.unwrap_or_default());
    Some(Site {
        name: hosts.first()?.to_string(),
        hosts,
        account: account?,
        upstream: upstream?,
        outside_wechat,
        snapshot: snapshot.unwrap_or_default(),
        ambiguous_paths: ambiguous.unwrap_or_default(),
        underscores,
        extra_headers,
        routes,
        cookies: Names::new(plan.cookie, public_url.is_secure()),
        reserved: Reserved::new(reserved.iter(), underscores),
        public_url,
    })
}

fn hosts(table: &Table<'_>, claimed: &mut HashMap<Host, Range<usize>>) -> Vec<Host> {
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
            let complaint = Complaint::error(word.at.clone(), message).help(help);
            table.desk.complain(complaint.related(first.clone(), "claimed here first"));
            continue;
        }
        claimed.insert(host.clone(), word.at);
        hosts.push(host);
    }
    hosts
}

fn public_url(table: &Table<'_>, hosts: &[Host]) -> Option<Origin> {
    let word = table.required("public_url")?;
    let Some(url) = Origin::parse(word.text) else {
        let message = format!("`public_url` must be a scheme and a host, not \"{}\"", word.text);
        let help = match address::origin_of(word.text) {
            Some(origin) => format!("write \"{origin}\""),
            None => "write what visitors type, as in \"https://h5.example.com\"".to_owned(),
        };
        table.desk.error(word.at, message, help);
        return None;
    };
    if !hosts.is_empty() && !hosts.contains(url.host()) {
        let message = format!("{} is not among the hosts of this site", url.host());
        let help =
            format!("visitors come back from WeChat to it: add \"{}\" to `hosts`", url.host());
        let complaint = Complaint::error(word.at.clone(), message).help(help);
        let hosts = table.place("hosts").map(|at| (at, "these are its hosts"));
        table.desk.complain(match hosts {
            Some((at, why)) => complaint.related(at, why),
            None => complaint,
        });
    }
    if !url.is_secure() && !address::is_loopback(url.host()) {
        let message = "over http anybody on the way can read and take over sessions";
        let help = "write https, if that is what visitors type; cookies are `Secure` only then";
        table.desk.warn(word.at, message, help);
    }
    Some(url)
}

/// Warns of a `public_url` that WeChat cannot send visitors back to.
fn callback(table: &Table<'_>, url: &Origin, plan: &Plan<'_>) {
    let name = table.value("account").and_then(|it| it.get_ref().as_str());
    let own = plan.accounts.iter().find(|listed| Some(listed.name.text) == name);
    if !own.is_some_and(|listed| listed.at_wechat) {
        return;
    }
    let Some(why) = address::never_authorised(url) else { return };
    let help = "网页授权域名 in the console is a domain name alone; for tests without one, let \
                `authorize_url` and `api_urls` of the account point at an emulated WeChat";
    let message = format!("WeChat sends nobody back to {why}");
    table.desk.warn(table.place("public_url"), message, help);
}

fn account(table: &Table<'_>, plan: &Plan<'_>) -> Option<Arc<Account>> {
    let word = table.required("account")?;
    let listed = plan.accounts.iter().find(|listed| listed.name.text == word.text);
    if listed.is_none() {
        unknown_account(table.desk, word.at, word.text, plan);
    }
    listed?.account.clone()
}

fn unknown_account(desk: &Desk<'_>, at: Range<usize>, name: &str, plan: &Plan<'_>) {
    let names = || plan.accounts.iter().map(|listed| listed.name.text);
    let help = match words::nearest(name, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if plan.accounts.is_empty() => "add an [[account]] of that name".to_owned(),
        None => words::choices(&names().collect::<Vec<_>>()),
    };
    desk.error(at, format!("there is no [[account]] called \"{name}\""), help);
}

fn outside(table: &Table<'_>, plan: &Plan<'_>) -> Outside {
    let Some(word) = table.word("outside_wechat") else { return Outside::Page };
    let Some(name) = word.text.strip_prefix("login:") else {
        return match word.text {
            "page" => Outside::Page,
            "anonymous" => Outside::Anonymous,
            "deny" => Outside::Deny,
            _ => {
                table.not_one_of("outside_wechat", &word, &["page", "anonymous", "deny"]);
                Outside::Page
            }
        };
    };
    let own = table.value("account").and_then(|it| it.get_ref().as_str()) == Some(name);
    match plan.accounts.iter().find(|listed| listed.name.text == name) {
        None => unknown_account(table.desk, word.at, name, plan),
        Some(listed) if own && !listed.at_wechat => return Outside::Login,
        Some(_) if own => {
            let message = "WeChat's own login page turns other browsers away";
            let help = "write \"page\": it shows a QR code to scan with WeChat. A login in other \
                        browsers works with an emulated WeChat as `authorize_url` of the account";
            table.desk.error(word.at, message, help);
        }
        Some(_) => {
            let help = "write \"page\": it shows a QR code to scan with WeChat";
            table.unsupported(word.at, "a login over another account", help);
        }
    }
    Outside::Page
}

/// Keys that a later version will know.
fn later(table: &Table<'_>) {
    if let Some(word) = table.word("fragment") {
        match word.text {
            "drop" => (),
            "keep" => {
                let help = "write `fragment = \"drop\"`, or remove it";
                table.unsupported(word.at, "`fragment = \"keep\"`", help);
            }
            _ => table.not_one_of("fragment", &word, &["drop"]),
        }
    }
    for key in ["also", "profile_refresh", "revocation"] {
        if let Some(at) = table.place(key) {
            table.unsupported(at, &format!("`{key}`"), "remove it");
        }
    }
}
