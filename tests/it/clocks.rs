//! Replicas whose clocks stand a minute apart log nobody out and let nobody stay.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use wxgate::clock::{self, Clock, Timestamp};

use crate::{
    broker::{self, BROKER},
    fleet::{Fleet, planned, sid, store},
    harness::{ROUTES, TestConfig, TestGateway},
    redis::Redis,
    visitor::{Visitor, raw},
};

fn behind() -> Timestamp {
    Timestamp(clock::system().0 - 30)
}

fn ahead() -> Timestamp {
    Timestamp(clock::system().0 + 30)
}

const CLOCKS: [Clock; 3] = [behind, clock::system, ahead];

/// Three replicas: one whose clock is behind, one that is right, one ahead.
async fn fleet(redis: &Redis, plan: impl Fn(TestConfig) -> TestConfig) -> Fleet {
    let mut fleet = Fleet::open(&[], "").await;
    for clock in CLOCKS {
        fleet.join_with(plan(planned(&store(&redis.url()), "")), clock).await;
    }
    for replica in 0..3 {
        fleet.wait_until_ready(replica).await;
    }
    fleet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_over_all_of_them_end_well_and_last() {
    let redis = Redis::start().await;
    let mut fleet = fleet(&redis, |plan| plan).await;
    for number in 0..30 {
        let mut visitor = Visitor::wechat(fleet.next());
        let page = fleet.roam(&mut visitor, "/orders").await;
        assert_eq!((page.status, page.received("x-wechat-openid").len()), (200, 1), "{number}");
        assert_eq!(fleet.statuses(&visitor).await, [200; 3], "{number}");
    }
    assert_eq!(fleet.streets[0].calls("/sns/oauth2/access_token").await, 30, "each at once");
    fleet.close().await;
}

/// Somebody who logged in at each replica.
async fn one_of_each(fleet: &Fleet) -> Vec<Visitor> {
    let mut all = Vec::new();
    for gateway in &fleet.gateways {
        let mut visitor = Visitor::wechat(*gateway);
        assert_eq!(visitor.open("/orders").await.1.status, 200);
        all.push(visitor);
    }
    all
}

/// The same order for everybody, or one for each of their sessions.
async fn order(fleet: &Fleet, at: usize, json: &str, whose: &[Visitor]) {
    let mut orders = vec![json.to_owned()];
    if json == "session" {
        orders.clear();
        for visitor in whose {
            orders.push(format!(r#"{{"session":"{}"}}"#, sid(visitor).await));
        }
    }
    for json in orders {
        let given = fleet.revoke(at, &json).await;
        assert!(given.starts_with("HTTP/1.1 202"), "{given}");
    }
}

/// Each order at each replica ends the sessions that each of them began, and none that began
/// afterwards at any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_end_what_was_before_them_and_nothing_after() {
    let redis = Redis::start().await;
    let mut fleet = fleet(&redis, |plan| plan).await;
    let visitor = fleet.somebody().await;
    let page = visitor.clone().get("/orders").await;
    let openid = page.received("x-wechat-openid")[0].to_owned();
    let person = format!(r#"{{"account":"main","openid":"{openid}"}}"#);
    for at in 0..3 {
        for json in [&person, r#"{"account":"main"}"#, r#"{"all":true}"#, "session"] {
            let before = one_of_each(&fleet).await;
            let since = Instant::now();
            order(&fleet, at, json, &before).await;
            for visitor in &before {
                let refused = fleet.refused_after(visitor, since).await;
                let quick = refused.iter().all(|wait| *wait < Duration::from_secs(1));
                assert!(quick, "{json} at {at}: {refused:?}");
            }
            for visitor in one_of_each(&fleet).await {
                assert_eq!(fleet.statuses(&visitor).await, [200; 3], "{json} at {at}");
            }
        }
    }
    fleet.close().await;
}

/// Over the one domain of an account: the ticket that one clock wrote is read by the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_good_whoever_reads_it_and_works_once() {
    let redis = Redis::start().await;
    let callback =
        |plan| TestConfig { account: "callback_host = \"auth.example.net\"".to_owned(), ..plan };
    let fleet = fleet(&redis, callback).await;
    for (written, read) in [(0, 2), (2, 0), (0, 1), (1, 2), (1, 1)] {
        let mut visitor = Visitor::wechat(fleet.gateway(written));
        let away = visitor.get("/orders").await;
        let back = visitor.follow(&away, "/").await.1;
        let handed = visitor.follow(&back, "/").await.1;
        assert!(handed.location().contains("/_wx/accept?ticket="), "{handed:?}");
        fleet.streets[0].forget_calls().await;

        // Twice at once, at two replicas: one exchange, one session, two good answers.
        let mut here = Visitor { gateway: fleet.gateway(read), ..visitor.clone() };
        let mut there = Visitor { gateway: fleet.gateway(read + 1), ..visitor.clone() };
        let ((_, one), (_, two)) =
            tokio::join!(here.follow(&handed, "/"), there.follow(&handed, "/"));
        assert_eq!((one.location(), two.location()), ("/orders", "/orders"), "{written} {read}");
        assert_eq!(fleet.streets[0].calls("/sns/oauth2/access_token").await, 1, "{written} {read}");
        assert_eq!(sid(&here).await, sid(&there).await);
        assert_eq!(fleet.statuses(&here).await, [200; 3]);

        // In another browser it is worth nothing, anywhere.
        for replica in 0..3 {
            let mut thief = Visitor::wechat(fleet.gateway(replica));
            let refused = thief.follow(&handed, "/").await.1;
            assert!(refused.location().contains("/connect/oauth2/authorize"), "{refused:?}");
        }
        // And nobody comes back with it after the session has ended, not even with its flow cookie.
        fleet.revoke(written, &format!(r#"{{"session":"{}"}}"#, sid(&here).await)).await;
        let _ = fleet.refused_after(&here, Instant::now()).await;
        for replica in 0..3 {
            let mut again = Visitor { gateway: fleet.gateway(replica), ..visitor.clone() };
            let _ = again.follow(&handed, "/").await;
            assert_eq!(fleet.statuses(&again).await, [302; 3], "{written} {read} {replica}");
        }
        assert_eq!(fleet.streets[0].calls("/sns/oauth2/access_token").await, 1);
    }
    fleet.close().await;
}

fn far_behind() -> Timestamp {
    Timestamp(clock::system().0 - 70)
}

async fn ask(admin: SocketAddr, path: &str) -> String {
    raw(admin, &format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).await
}

/// Waits until the status page says so, or no longer.
async fn until_page(admin: SocketAddr, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let page = ask(admin, "/status.json").await;
        if words.iter().all(|word| page.contains(word)) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no {words:?} in {page}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A clock that is 70 seconds off: its sessions are called what they are, and still let nobody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_session_from_the_future_is_refused_and_the_operator_hears_of_the_clock() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::open(&[], "").await;
    for clock in [clock::system, far_behind] {
        fleet.join_with(planned(&store(&redis.url()), ""), clock).await;
    }
    for replica in 0..2 {
        fleet.wait_until_ready(replica).await;
    }
    let late = fleet.admins[1];
    assert!(!ask(late, "/status.json").await.contains("\"cause\":\"clock_skew\""));
    let mut visitor = Visitor::wechat(fleet.gateway(0));
    assert_eq!(visitor.open("/orders").await.1.status, 200);
    let hits = fleet.streets[0].site.hits();
    visitor.gateway = fleet.gateway(1);
    assert_eq!(visitor.clone().get("/orders").await.status, 302);
    assert_eq!(visitor.script().get("/orders").await.status, 401);
    assert_eq!(visitor.script().get("/_wx/session").await.status, 401);
    assert_eq!(fleet.streets[0].site.hits(), hits, "the site hears nothing of it");
    // On a page that needs no login they are nobody.
    let page = visitor.clone().get("/news/a").await;
    assert_eq!((page.status, page.received("x-wechat-openid").len()), (200, 0));

    let metrics = ask(late, "/metrics").await;
    let counted = "wxgate_sessions_total{event=\"refused\",reason=\"clock_skew\"} 4";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains("reason=\"forged\""), "{metrics}");
    let said = ["\"cause\":\"clock_skew\"", "chronyc tracking", "s in the future of this replica"];
    until_page(late, &said).await;
    let problem = "wxgate_problem{cause=\"clock_skew\",severity=\"critical\"} 1";
    assert!(ask(late, "/metrics").await.contains(problem));

    // The replica whose clock is right takes the sessions of the late one, and has no complaint.
    let mut visitor = Visitor::wechat(fleet.gateway(1));
    assert_eq!(visitor.open("/orders").await.1.status, 200);
    assert_eq!(fleet.status(&visitor, 0).await, 200);
    assert!(!ask(fleet.admins[0], "/metrics").await.contains("clock_skew"));
    fleet.close().await;
}

static BACK: AtomicU64 = AtomicU64::new(0);

/// As if each request came to another replica, whose clock is behind by `BACK`.
fn set_back() -> Timestamp {
    Timestamp(clock::system().0 - BACK.load(Ordering::Relaxed))
}

/// What a login leaves in the browser is from the future, too: the state, and the ticket of an
/// account's own host. The visitor gets the page with a button; WeChat is not asked.
#[tokio::test]
async fn logins_from_the_future_are_refused_by_that_name() {
    let callback_host = "callback_host = \"auth.example.net\"";
    // The account, the host and path that begin, and which of two hops meets the late clock.
    let cases = [
        ("the state", "", "h5.example.com", "/orders", 1),
        ("the state, at the account's host", callback_host, "h5.example.com", "/orders", 1),
        ("the ticket", callback_host, "h5.example.com", "/orders", 2),
        ("the broker's state", "", broker::HOST, "", 1),
    ];
    for (what, account, host, path, hop) in cases {
        BACK.store(0, Ordering::Relaxed);
        let (account, more) = (account.to_owned(), BROKER.to_owned());
        let street = TestGateway::open(TestConfig {
            account,
            more,
            clock: set_back,
            ..TestConfig::site(ROUTES)
        })
        .await;
        let admin = street.admin().await;
        let mut visitor = Visitor { host, ..Visitor::wechat(street.gateway) };
        let begin = broker::auth("https://shop.example.com/a", "snsapi_base");
        let away = visitor.get(if path.is_empty() { &begin } else { path }).await;
        let mut back = visitor.follow(&away, "/").await.1;
        for _ in 1..hop {
            back = visitor.follow(&back, "/").await.1;
        }
        street.forget_calls().await;
        BACK.store(70, Ordering::Relaxed);
        let refused = visitor.follow(&back, "/").await.1;
        assert_eq!(refused.status, 400, "{what}: {refused:?}");
        assert!(!visitor.has_session(), "{what}");
        assert_eq!(street.calls("/sns/oauth2/access_token").await, 0, "{what}");
        assert_eq!(street.site.hits(), 0, "{what}");
        let metrics = ask(admin, "/metrics").await;
        let counted = "wxgate_logins_total{event=\"failed\",reason=\"clock_skew\"} 1";
        assert!(metrics.contains(counted), "{what}: {metrics}");
        assert!(!metrics.contains("reason=\"login_expired\""), "{what}: {metrics}");
        until_page(admin, &["\"cause\":\"clock_skew\"", "s in the future of this replica"]).await;

        // With a clock that was set right the same link still works.
        BACK.store(0, Ordering::Relaxed);
        let again = visitor.follow(&back, "/").await.1;
        assert_eq!(again.status, 302, "{what}: {again:?}");
        street.close().await;
    }
}
