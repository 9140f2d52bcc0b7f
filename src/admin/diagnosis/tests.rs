//! Each trouble by its name, one at a time.

use super::*;

/// Everything there is to judge by, so that a case can change one thing of it.
struct World {
    sites: Vec<SiteInput>,
    wechat: BTreeMap<String, ComponentHealth>,
    accounts: BTreeMap<String, ComponentHealth>,
    store: Option<ComponentHealth>,
    store_cause: Option<UnavailableCause>,
    news: Option<Duration>,
    calls: Counts,
    logins: Counts,
    all_logins: Counts,
    sessions: Counts,
    errors: Counts,
    limits: LimitCounts,
    file: ConfigFileStatus,
    orders: BTreeMap<String, ComponentHealth>,
    certificates: Vec<CertificateView>,
    ready: bool,
}

const NOW: Timestamp = Timestamp(1_800_000_000);

fn vital(why: &str) -> ComponentHealth {
    let failures = u64::from(!why.is_empty());
    ComponentHealth { healthy: why.is_empty(), since: NOW, why: why.to_owned(), failures }
}

fn one(first: &'static str, second: &'static str, times: u64) -> Counts {
    Counts::from([([first.into(), second.into()], times)])
}

impl World {
    fn well() -> Self {
        let all_well =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), vital(""))).collect();
        let site = SiteInput {
            name: "h5.example.com".to_owned(),
            servers: vec!["http://a".to_owned(), "http://b".to_owned()],
            vitals: all_well(&["http://a", "http://b"]),
            staleness: RevocationPolicy::Bounded(Duration::from_secs(30)),
        };
        Self {
            sites: vec![site],
            wechat: all_well(&["https://api", "https://api2"]),
            accounts: all_well(&["main"]),
            store: Some(vital("")),
            store_cause: None,
            news: Some(Duration::ZERO),
            calls: one("access_token", "ok", 10),
            logins: one("returned", "", 10),
            all_logins: one("returned", "", 10),
            sessions: one("refused", "expired", 100),
            errors: Counts::new(),
            limits: LimitCounts::from([(["idle_time".into()], 30)]),
            file: ConfigFileStatus::default(),
            orders: all_well(&["h5.example.com"]),
            certificates: Vec::new(),
            ready: true,
        }
    }

    fn servers(&mut self) -> &mut BTreeMap<String, ComponentHealth> {
        &mut self.sites[0].vitals
    }

    fn judged(&self) -> Vec<Finding> {
        diagnose(&DiagnosisInput {
            now: NOW,
            sites: &self.sites,
            wechat: &self.wechat,
            accounts: &self.accounts,
            store: self.store.as_ref(),
            store_cause: self.store_cause,
            waiting: 1,
            news: self.news,
            calls: &self.calls,
            logins: &self.logins,
            all_logins: &self.all_logins,
            sessions: &self.sessions,
            upstream_errors: &self.errors,
            limits: &self.limits,
            connections: 10_000,
            connection_limit: 10_000,
            file: &self.file,
            orders: &self.orders,
            certificates: &self.certificates,
            ready: self.ready,
        })
    }
}

/// What is wrong with a world, the words of it and how bad it is.
type Case = (fn(&mut World), &'static [(&'static str, FindingSeverity)], &'static str);

#[test]
fn each_trouble_has_its_name() {
    use FindingSeverity::{Critical, Notice, Warning};
    fn ends_in(days: u64) -> Vec<CertificateView> {
        let expires = NOW.plus(Duration::from_hours(24 * days));
        let begins = Timestamp(expires.0 - 90 * 86_400);
        vec![CertificateView { names: vec!["h5.example.com".to_owned()], begins, expires }]
    }
    let cases: [Case; 34] = [
        (|_| (), &[], ""),
        (
            |it| it.wechat.values_mut().for_each(|host| *host = vital("connection refused")),
            &[("wechat_unreachable", Critical)],
            "https://api: connection refused",
        ),
        (
            |it| _ = it.wechat.insert("https://api".to_owned(), vital("timed out")),
            &[("wechat_host_down", Warning)],
            "timed out",
        ),
        (
            |it| {
                let why = "WeChat answered 40125: invalid appsecret, rid: 1-2-3";
                it.accounts.insert("main".to_owned(), vital(why));
            },
            &[("account_refused", Critical)],
            "Account main: Wrong AppSecret (WeChat answered 40125: invalid appsecret, rid: 1-2-3)",
        ),
        (|it| it.calls = one("access_token", "45009", 2), &[("wechat_quota", Warning)], "quota"),
        (|it| it.calls = one("userinfo", "garbled", 1), &[("wechat_garbled", Warning)], "JSON"),
        (
            |it| it.servers().values_mut().for_each(|server| *server = vital("connection refused")),
            &[("upstream_down", Critical)],
            "h5.example.com: http://a: connection refused; http://b: connection refused",
        ),
        (
            |it| _ = it.servers().insert("http://b".to_owned(), vital("timed out")),
            &[("upstream_degraded", Warning)],
            "http://b: timed out",
        ),
        (
            |it| it.errors = one("h5.example.com", "slow", 3),
            &[("upstream_slow", Warning)],
            "h5.example.com: 3 in the last minute",
        ),
        (|it| it.errors = one("h5.example.com", "full", 3), &[("upstream_full", Warning)], ""),
        (|it| it.errors = one("h5.example.com", "broken", 3), &[("upstream_broken", Warning)], ""),
        (|it| it.errors = one("h5.example.com", "unreachable", 3), &[], ""),
        (|it| it.store = Some(vital("refused")), &[("store_away", Warning)], "Sites go on"),
        (
            |it| (it.store, it.news) = (Some(vital("refused")), Some(Duration::from_secs(31))),
            &[("store_away", Critical)],
            "31 s old. h5.example.com takes no sessions any more",
        ),
        (|it| it.store = None, &[], ""),
        (
            |it| (it.store, it.store_cause) = (Some(vital("OOM")), Some(UnavailableCause::Full)),
            &[("store_away", Warning)],
            "Revocations that wait to be stored: 1.",
        ),
        (
            |it| {
                it.store = Some(vital("No space left on device"));
                it.store_cause = Some(UnavailableCause::FileDiskFull);
            },
            &[("store_away", Critical)],
            "a restart would lose those that wait to be written: 1.",
        ),
        (
            |it| _ = it.limits.insert(["connections".into()], 7),
            &[("connections_full", Warning)],
            "`connections` is 10000 and 10000 are open; 7 new connections",
        ),
        (
            |it| _ = it.limits.insert(["descriptors".into()], 3),
            &[("descriptors_exhausted", Critical)],
            "3 connections of the last minute could not be opened",
        ),
        (
            |it| it.sessions = one("refused", "unknown_key", 3),
            &[("key_missing", Critical)],
            "3 refused",
        ),
        (|it| it.sessions = one("refused", "unknown_key", 2), &[], "a stray browser"),
        (|it| it.sessions = one("refused", "forged", 9), &[("key_mismatch", Warning)], "9 refused"),
        (
            |it| it.sessions = one("refused", "clock_skew", 1),
            &[("clock_skew", Critical)],
            "1 refused",
        ),
        (|it| it.logins = one("failed", "clock_skew", 2), &[("clock_skew", Critical)], "2 refused"),
        (|it| it.all_logins = one("started", "", 5), &[("nobody_returns", Critical)], "5 logins"),
        (|it| it.logins = one("started", "", 10), &[("nobody_returns", Critical)], "10 logins"),
        (
            |it| it.logins = one("failed", "cookies_lost", 3),
            &[("cookies_lost", Warning)],
            "3 logins",
        ),
        (
            |it| it.file.refused = Some((NOW, vec!["config.toml:3:1: no".to_owned()])),
            &[("config_refused", Warning)],
            "config.toml:3:1: no",
        ),
        (|it| it.certificates = ends_in(20), &[("certificate_expiring", Warning)], "in 20 days"),
        (|it| it.certificates = ends_in(0), &[("certificate_expiring", Critical)], "expired"),
        (
            |it| {
                it.certificates = ends_in(2);
                it.certificates[0].begins = NOW; // a young one
            },
            &[],
            "",
        ),
        (
            |it| _ = it.orders.insert("h5.example.com".to_owned(), vital("no route to host")),
            &[("certificate_missing", Critical)],
            "h5.example.com: no route to host",
        ),
        (
            |it| {
                it.certificates = ends_in(28);
                it.orders.insert("h5.example.com".to_owned(), vital("no route to host"));
            },
            &[("certificate_not_renewed", Warning)],
            "The old one is used until it ends",
        ),
        (
            |it| {
                (it.file.wants_restart, it.ready) = (true, false);
                it.certificates = ends_in(21);
            },
            &[("restart_needed", Notice), ("not_ready", Notice)],
            "",
        ),
    ];
    for (number, (spoil, expected, said)) in cases.into_iter().enumerate() {
        let mut world = World::well();
        spoil(&mut world);
        let found = world.judged();
        let named: Vec<_> = found.iter().map(|it| (it.cause, it.severity)).collect();
        assert_eq!(named, expected, "case {number}");
        if let Some(first) = found.first() {
            assert!(first.detail.en.contains(said), "case {number}: {}", first.detail.en);
        }
        for Finding { cause, title, detail, remedy, .. } in &found {
            for text in [title, detail, remedy] {
                assert!(!text.zh.is_empty() && !text.en.is_empty(), "{cause} says nothing");
            }
        }
    }
}

#[test]
fn the_worst_comes_first() {
    let mut world = World::well();
    world.ready = false;
    world.errors = one("h5.example.com", "slow", 1);
    world.servers().values_mut().for_each(|server| *server = vital("connection refused"));
    let found = world.judged();
    let named: Vec<_> = found.iter().map(|it| it.cause).collect();
    assert_eq!(named, ["upstream_down", "upstream_slow", "not_ready"]);
}

#[test]
fn serialized_finding() {
    let of = |text: &str| Bilingual::new(format!("{text} zh"), format!("{text} en"));
    let severities = [
        (FindingSeverity::Critical, "critical"),
        (FindingSeverity::Warning, "warning"),
        (FindingSeverity::Notice, "notice"),
    ];
    for (severity, word) in severities {
        let finding = Finding {
            cause: "store_down",
            severity,
            title: of("t"),
            detail: of("d"),
            remedy: of("r"),
        };
        let recorded = format!(
            r#"{{"cause":"store_down","severity":"{word}","title":{{"zh":"t zh","en":"t en"}},"detail":{{"zh":"d zh","en":"d en"}},"remedy":{{"zh":"r zh","en":"r en"}}}}"#
        );
        assert_eq!(serde_json::to_string(&finding).unwrap(), recorded);
        assert_eq!(severity.word(), word);
    }
}
