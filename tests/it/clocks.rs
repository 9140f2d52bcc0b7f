//! Replicas whose clocks stand a minute apart log nobody out and let nobody stay.

use std::time::Duration;

use tokio::time::Instant;
use wxgate::clock::{self, Clock, Timestamp};

use crate::{
    fleet::{Fleet, planned, sid, store},
    harness::TestConfig,
    redis::Redis,
    visitor::Visitor,
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
