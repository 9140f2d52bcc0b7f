//! Redis goes away, forgets, and comes back, and nobody restarts anything; a gateway with a file is
//! killed, and has forgotten nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    fleet::{Fleet, Process, sid, store},
    harness::{ROUTES, TestConfig, TestGateway},
    redis::{Redis, Wire},
    visitor::Visitor,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_stops_and_starts_and_nothing_is_lost() {
    let mut redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 3).await;
    let (inside, leaving) = (fleet.somebody().await, fleet.somebody().await);
    redis.kill().await;
    let gone = Instant::now();

    assert_eq!(fleet.statuses(&inside).await, [200; 3], "good sessions go on");
    for _ in 0..10 {
        let begun = Instant::now();
        let _ = fleet.somebody().await;
        assert!(begun.elapsed() < Duration::from_secs(3), "logins go on: {:?}", begun.elapsed());
    }
    let given = fleet.revoke(1, &format!(r#"{{"session":"{}"}}"#, sid(&leaving).await)).await;
    assert!(given.contains("\"handed_over\":false"), "{given}");
    assert_eq!(fleet.statuses(&leaving).await, [200, 302, 200], "known where it was ordered");
    assert!(fleet.ready(0).await.contains("news of ended sessions"), "{}", fleet.ready(0).await);
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let least = gone.elapsed();
    let metrics = crate::visitor::raw(fleet.admins[0], request).await;
    let lag = metrics.lines().find_map(|line| line.strip_prefix("wxgate_revocation_lag_seconds "));
    let lag = Duration::from_secs_f64(lag.unwrap().parse().unwrap());
    assert!(lag >= least, "nothing was heard since: {lag:?}, {least:?}");

    redis.start_again().await;
    let since = Instant::now();
    let refused = fleet.refused_after(&leaving, since).await;
    println!("Redis back: the order of meanwhile is known after {refused:?}");
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(3)), "{refused:?}");
    assert_eq!(fleet.statuses(&inside).await, [200; 3]);
    // The fleet works as one again.
    let visitor = fleet.somebody().await;
    let since = Instant::now();
    fleet.revoke(2, &format!(r#"{{"session":"{}"}}"#, sid(&visitor).await)).await;
    let refused = fleet.refused_after(&visitor, since).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{refused:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_holds_nobody_up_for_long() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    let (inside, leaving) = (fleet.somebody().await, fleet.somebody().await);
    redis.signal("STOP").await;
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let begun = Instant::now();
        let _ = fleet.somebody().await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("Redis hangs: the slowest of 5 logins took {slowest:?}");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert_eq!(fleet.statuses(&inside).await, [200; 2]);
    fleet.revoke(1, &format!(r#"{{"session":"{}"}}"#, sid(&leaving).await)).await;
    redis.signal("CONT").await;
    let refused = fleet.refused_after(&leaving, Instant::now()).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(3)), "{refused:?}");
    assert_eq!(fleet.statuses(&inside).await, [200; 2]);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_has_forgotten_is_told_again() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    let visitor = fleet.somebody().await;
    fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&visitor).await)).await;
    let _ = fleet.refused_after(&visitor, Instant::now()).await;
    assert!(redis.ask("FLUSHALL").await.starts_with("+OK"));
    let begun = Instant::now();
    while redis.ask("XLEN wxgate:revocations").await.starts_with(":0") {
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody told it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fleet.join(&store(&redis.url()), "").await;
    fleet.wait_until_ready(2).await;
    assert_eq!(fleet.statuses(&visitor).await, [302; 3]);
    // And its numbers may begin anew: what comes next is not missed.
    let visitor = fleet.somebody().await;
    let since = Instant::now();
    fleet.revoke(1, &format!(r#"{{"session":"{}"}}"#, sid(&visitor).await)).await;
    let refused = fleet.refused_after(&visitor, since).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{refused:?}");
    fleet.close().await;
}

/// As in a failover: the master had said yes, and the one that follows it never heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_redis_took_and_lost_is_put_back() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    for _ in 0..3 {
        let (first, second) = (fleet.somebody().await, fleet.somebody().await);
        fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&first).await)).await;
        let _ = fleet.refused_after(&first, Instant::now()).await;
        let given = fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&second).await)).await;
        assert!(given.contains("\"handed_over\":true"), "{given}");
        let last = redis.ask("XREVRANGE wxgate:revocations + - COUNT 1").await;
        let id = last.lines().find(|line| line.contains('-')).unwrap();
        assert!(redis.ask(&format!("XDEL wxgate:revocations {id}")).await.starts_with(":1"));
        let refused = fleet.refused_after(&second, Instant::now()).await;
        assert!(refused.iter().all(|wait| *wait < Duration::from_secs(3)), "{refused:?}");
    }
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_cut_off_hears_what_it_missed() {
    let redis = Redis::start().await;
    let wire = Wire::to(redis.addr()).await;
    let mut fleet =
        Fleet::open(&[store(&redis.url()), store(&redis.url()), store(&wire.url())], "").await;
    let visitor = fleet.somebody().await;
    wire.set(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&visitor).await)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fleet.statuses(&visitor).await, [302, 302, 200], "bounded: it goes on for a while");
    wire.set(true);
    let refused = fleet.refused_after(&visitor, Instant::now()).await;
    println!("the wire is whole again: the order arrives after {:?}", refused[2]);
    assert!(refused[2] < Duration::from_secs(3), "{refused:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_silence_is_answered_as_each_site_wants_it() {
    let mut redis = Redis::start().await;
    let cases = [
        ("revocation = \"open\"", Duration::MAX),
        ("revocation = \"bounded:2s\"", Duration::from_secs(2)),
        ("revocation = \"strict\"", Duration::from_secs(1)),
    ];
    let mut fleets = Vec::new();
    for (line, bound) in cases {
        let mut fleet = Fleet::open(&[store(&redis.url())], line).await;
        let visitor = fleet.somebody().await;
        fleets.push((fleet, visitor, bound));
    }
    redis.kill().await;
    let since = Instant::now();
    for (fleet, visitor, bound) in &fleets {
        let mut visitor = visitor.clone();
        while since.elapsed() < Duration::from_millis(2_500) {
            let page = visitor.get("/orders").await;
            let (late, early) = (since.elapsed() > *bound, since.elapsed() < *bound / 2);
            assert!(page.status == 200 || (page.status == 503 && !early), "{bound:?}: {page:?}");
            if page.status == 503 {
                assert!(page.header("retry-after").is_some());
                break;
            }
            assert!(!late || since.elapsed() < bound.saturating_add(Duration::from_millis(500)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let open = *bound == Duration::MAX;
        assert_eq!(visitor.get("/orders").await.status, if open { 200 } else { 503 });
        // Nobody is named who may have been logged out; nobody is kept from what is public.
        let news = visitor.get("/news/1").await;
        assert_eq!((news.status, news.received("x-wechat-openid").len()), (200, usize::from(open)));
        assert_eq!(Visitor::desktop(fleet.gateway(0)).get("/static/a").await.status, 200);
        let ready = fleet.ready(0).await;
        assert_eq!(ready.starts_with("HTTP/1.1 200"), open, "{ready}");
    }
    redis.start_again().await;
    for (fleet, visitor, _) in fleets {
        let back = fleet.wait_until_ready(0).await;
        assert!(back < Duration::from_secs(5), "{back:?}");
        assert_eq!(fleet.statuses(&visitor).await, [200], "the session is still good");
        fleet.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_redis_and_waits_for_it() {
    let mut redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 1).await;
    let visitor = fleet.somebody().await;
    redis.kill().await;
    fleet.join(&store(&redis.url()), "").await;
    let ready = fleet.ready(1).await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert_eq!(fleet.statuses(&visitor).await, [200, 503], "it does not know who was logged out");
    redis.start_again().await;
    let _ = fleet.wait_until_ready(1).await;
    assert_eq!(fleet.statuses(&visitor).await, [200, 200]);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_a_file_is_killed_and_has_forgotten_nothing() {
    let street = TestGateway::usual().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, store) = (folder.path().join("config.toml"), folder.path().join("store"));
    let port = crate::redis::free_port().await;
    let admin = crate::redis::free_port().await;
    let more = format!(
        "[store]\nkind = \"file\"\npath = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"",
        store.display()
    );
    let plan = TestConfig { more, ..TestConfig::site(ROUTES) };
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    std::fs::write(&file, text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).unwrap();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port));

    let mut gone: Vec<Visitor> = Vec::new();
    for round in 0..3 {
        let mut process = Process::start(&file, addr, admin).await;
        for visitor in &gone {
            assert_eq!(visitor.clone().get("/orders").await.status, 302, "round {round}");
        }
        let mut inside = Visitor::wechat(process.gateway);
        let _ = inside.open("/orders").await;
        for _ in 0..10 {
            let mut visitor = Visitor::wechat(process.gateway);
            let _ = visitor.open("/orders").await;
            gone.push(visitor.clone());
            let origin = ("origin", "http://h5.example.com");
            let bye = visitor.send("POST", "/_wx/logout", &[origin], "").await;
            assert_eq!(bye.status, 200);
        }
        assert_eq!(inside.get("/orders").await.status, 200);
        process.child.kill().await.unwrap();
    }
    // And a file that was torn is refused, with words that help.
    let whole = std::fs::read(&store).unwrap();
    std::fs::write(&store, &whole[..whole.len() / 2]).unwrap();
    let refused = tokio::process::Command::new(env!("CARGO_BIN_EXE_wxgate"))
        .args(["serve", "--config"])
        .arg(&file)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("damaged"), "{said}");
    street.close().await;
}
