//! Everything the status page shows at one moment, as JSON.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    diagnosis::{self, Bilingual, DiagnosisInput, Finding, FindingSeverity, SiteInput},
    recent_activity::{CounterSnapshot, RecentActivity, totals},
    runtime_status::RuntimeStatus,
};
use crate::{
    clock,
    gateway::Gateway,
    metrics::{Component, ComponentHealth, Label, SiteTotals},
    site::Site,
    wechat::protocol::errcodes,
};

/// A look at the gateway.
#[derive(Clone, Copy)]
pub struct StatusView<'a> {
    /// The gateway.
    pub gateway: &'a Gateway,
    /// What the program knows beside.
    pub status: &'a RuntimeStatus,
    /// Its counters.
    pub mark: &'a CounterSnapshot,
    /// And what of them is of the last minute.
    pub minute: &'a CounterSnapshot,
}

impl StatusView<'_> {
    /// What is wrong.
    pub fn findings(&self) -> Vec<Finding> {
        let health = &self.gateway.metrics().health;
        let (sites, file) = (self.gateway.sites(), self.status.file());
        let facts = |site: &Arc<Site>| site_facts(site, health.servers(&site.name));
        let sites: Vec<SiteInput> = sites.iter().map(facts).collect();
        let standing = self.gateway.status();
        let (wechat, accounts) = (health.of(Component::WeChat), health.of(Component::Account));
        diagnosis::diagnose(&DiagnosisInput {
            now: clock::system(),
            sites: &sites,
            wechat: &wechat,
            accounts: &accounts,
            store: health.of(Component::Store).values().next(),
            store_cause: standing.failure.as_ref().map(|failure| failure.cause),
            waiting: standing.waiting,
            news: standing.age,
            calls: &self.minute.calls,
            logins: &self.minute.logins,
            all_logins: &self.mark.logins,
            sessions: &self.minute.sessions,
            upstream_errors: &self.minute.errors,
            limits: &self.minute.limits,
            connections: self.gateway.metrics().connections(),
            connection_limit: self.gateway.metrics().connection_limit(),
            file: &file,
            orders: &health.of(Component::Certificate),
            certificates: &self.status.certificates(),
            ready: self.status.is_ready(),
        })
    }

    /// Everything.
    pub fn status(&self, findings: &[Finding], lately: &RecentActivity) -> Value {
        let (gateway, board) = (self.gateway, self.status);
        let metrics = gateway.metrics();
        let limits: Vec<(Label, u64)> =
            metrics.limits.counts().into_iter().map(|([key], count)| (key, count)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now": clock::system(),
            "began": metrics.began(),
            "ready": board.is_ready(),
            "connections": metrics.connections(),
            "connection_limit": metrics.connection_limit(),
            "findings": findings,
            "sites": self.sites(lately),
            "logins": flat(&self.mark.logins),
            "sessions": flat(&self.mark.sessions),
            "limits": limits,
            "wechat": self.wechat(),
            "store": self.store(),
            "certificates": self.certificates(),
            "audit": gateway.audit().last(),
            "file": board.file(),
            "level": board.levels().get(),
        })
    }

    fn sites(&self, lately: &RecentActivity) -> Vec<Value> {
        let health = &self.gateway.metrics().health;
        let configured = self.gateway.sites();
        let nothing = SiteTotals::default();
        let stray = self.mark.sites.contains_key("-").then_some(("-", None));
        let names = configured.iter().map(|site| (site.name.as_str(), Some(site))).chain(stray);
        let tell = |(name, site): (&str, Option<&Arc<Site>>)| {
            let vitals = health.servers(name);
            let minute = self.minute.sites.get(name).unwrap_or(&nothing);
            let servers = site.iter().flat_map(|site| site.upstream.endpoints());
            let servers = servers.map(|it| vital(&it.to_string(), &vitals));
            json!({
                "name": name,
                "url": site.map(|site| site.public_url.as_str()),
                "account": site.map(|site| site.account.name.as_str()),
                "servers": servers.collect::<Vec<_>>(),
                "protocol": site.map(|site| site.upstream.protocol.to_string()),
                "rate": lately.rate(name),
                "minute": minute_of(minute),
                "series": lately.curves.get(name).into_iter().flatten().collect::<Vec<_>>(),
            })
        };
        // Strangers' hosts are of interest only where there were any.
        let some = |(name, _): &(&str, _)| *name != "-" || lately.rate("-") > 0.0;
        names.filter(some).map(tell).collect()
    }

    fn wechat(&self) -> Value {
        let metrics = self.gateway.metrics();
        let calls = self.mark.calls.iter().map(|(labels, total)| {
            let [endpoint, errcode] = labels;
            let words = errcodes::of(errcode);
            json!({
                "endpoint": endpoint,
                "errcode": errcode,
                "total": total,
                "minute": self.minute.calls.get(labels),
                "meaning": words.map(|it| Bilingual::of(it.meaning)),
                "remedy": words.map(|it| Bilingual::of(it.remedy)),
            })
        });
        let all = |part| {
            let known = metrics.health.of(part);
            known.keys().map(|name| vital(name, &known)).collect::<Vec<_>>()
        };
        let took = metrics.wechat();
        let took =
            took.iter().map(|(name, times)| (name, times.quantile(0.5), times.quantile(0.95)));
        json!({
            "calls": calls.collect::<Vec<_>>(),
            "hosts": all(Component::WeChat),
            "accounts": all(Component::Account),
            "took": took.collect::<Vec<_>>(),
        })
    }

    fn store(&self) -> Value {
        let standing = self.gateway.status();
        let known = self.gateway.metrics().health.of(Component::Store);
        let vital = known.values().next();
        json!({
            "kind": self.gateway.store(),
            "shared": standing.shared,
            "lasting": vital.is_some(),
            "lag": standing.age.map(|age| age.as_secs_f64()),
            "well": vital.map(|vital| vital.healthy),
            "why": vital.map(|vital| vital.why.as_str()),
            "failures": vital.map_or(0, |vital| vital.failures),
            "waiting": standing.waiting,
        })
    }

    /// Those that are shown, and the names that wait for theirs.
    fn certificates(&self) -> Vec<Value> {
        const DAY: u64 = 86_400;
        let now = clock::system();
        let orders = self.gateway.metrics().health.of(Component::Certificate);
        let mut troubled: BTreeMap<&str, &str> = orders
            .iter()
            .filter(|(_, vital)| !vital.healthy)
            .map(|(name, vital)| (name.as_str(), vital.why.as_str()))
            .collect();
        let mut shown: Vec<Value> = Vec::new();
        for it in self.status.certificates() {
            let why: Vec<&str> =
                it.names.iter().filter_map(|name| troubled.remove(name.as_str())).collect();
            shown.push(json!({
                "names": it.names,
                "expires": it.expires,
                "days": it.expires.since(now) / DAY,
                "over": it.expires <= now,
                "severity": diagnosis::ends_soon(&it, now).map(FindingSeverity::word),
                "why": why.first(),
            }));
        }
        let missing = troubled.into_iter().map(|(name, why)| {
            json!({ "names": [name], "expires": null, "severity": "critical", "why": why })
        });
        missing.chain(shown).collect()
    }
}

/// The sites with servers that are not well, a line each. Such a replica is as ready as another: they
/// all have the same servers.
pub fn servers(gateway: &Gateway) -> String {
    let health = &gateway.metrics().health;
    let tell = |site: &Arc<Site>| {
        let (vitals, all) = (health.servers(&site.name), site.upstream.servers.len());
        let ill: Vec<_> = vitals.iter().filter(|(_, vital)| !vital.healthy).collect();
        let names = ill.iter().map(|(name, vital)| format!("{name}: {}", vital.why));
        let names = names.collect::<Vec<_>>().join("; ");
        let well = all.saturating_sub(ill.len());
        (!ill.is_empty())
            .then(|| format!("{}: {well} of {all} servers well ({names})\n", site.name))
    };
    gateway.sites().iter().filter_map(tell).collect()
}

fn site_facts(site: &Site, vitals: BTreeMap<String, ComponentHealth>) -> SiteInput {
    SiteInput {
        name: site.name.clone(),
        servers: site.upstream.endpoints().map(ToString::to_string).collect(),
        vitals,
        staleness: site.revocation,
    }
}

fn vital(name: &str, known: &BTreeMap<String, ComponentHealth>) -> Value {
    let vital = known.get(name);
    json!({
        "name": name,
        "well": vital.map(|it| it.healthy),
        "since": vital.map(|it| it.since),
        "why": vital.map(|it| it.why.as_str()),
    })
}

fn minute_of(sum: &SiteTotals) -> Value {
    let (requests, errors) = totals(sum);
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    for (_, status, count) in sum.requests() {
        let hundred = status.chars().take(1).chain("xx".chars()).collect();
        *statuses.entry(hundred).or_default() += count;
    }
    json!({
        "requests": requests,
        "errors": errors,
        "statuses": statuses,
        "half": sum.seconds.quantile(0.5),
        "most": sum.seconds.quantile(0.95),
        "worst": sum.seconds.quantile(0.99),
        "site": sum.upstream.quantile(0.95),
        "gateway": sum.own.quantile(0.95),
    })
}

fn flat(counts: &BTreeMap<[Label; 2], u64>) -> Vec<(&str, &str, u64)> {
    counts.iter().map(|([first, second], count)| (&**first, &**second, *count)).collect()
}
