//! Several replicas, one gateway: any of them serves any visitor, and what ends on one ends on all.

use std::{path::Path, time::Duration};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::{
    fleet::{Fleet, sid},
    harness::{ROUTES, TestConfig, TestGateway},
    redis::Redis,
    visitor::Visitor,
};

const TOKEN: &str = "/sns/oauth2/access_token";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_whose_every_hop_is_another_replica_all_end_well() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 3).await;
    let (begun, mut calls_to_wechat) = (Instant::now(), 0);
    for number in 0..1_000 {
        let mut visitor = Visitor::wechat(fleet.next());
        let page = fleet.roam(&mut visitor, &format!("/orders/{number}")).await;
        assert_eq!(page.status, 200, "{number}: {page:?}");
        assert_eq!(page.received("x-wechat-openid").len(), 1);
        if number % 100 == 99 {
            calls_to_wechat += fleet.streets[0].calls(TOKEN).await;
            fleet.streets[0].forget_calls().await;
        }
    }
    assert_eq!(calls_to_wechat, 1_000, "one exchange for each");
    let stats = redis.ask("INFO commandstats").await;
    println!("1000 logins in {:?}; Redis: {}", begun.elapsed(), calls(&stats));
    // A write check sends one of each; a login takes no value away.
    let for_logins = count(&stats, "set") - count(&stats, "getdel");
    assert_eq!(for_logins, 2_000, "two for each: {stats}");
    fleet.close().await;
}

/// How often a command was called.
fn count(stats: &str, command: &str) -> u64 {
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

/// How often each command was called, but for the heartbeat.
fn calls(stats: &str) -> String {
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
    let lines = lines.filter(|line| !line.starts_with("info") && !line.starts_with("ping"));
    let lines = lines.filter_map(|line| line.split(',').next());
    lines.collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_puts_nothing_into_the_store() {
    let redis = Redis::start().await;
    let fleet = Fleet::at(&redis.url(), 2).await;
    for number in 0..200 {
        let away = Visitor::wechat(fleet.gateway(number)).get("/orders").await;
        assert_eq!(away.status, 302);
        let path = "/_wx/callback?code=0123456789&state=0123";
        assert_eq!(Visitor::wechat(fleet.gateway(number)).get(path).await.status, 400);
    }
    assert!(redis.ask("DBSIZE").await.starts_with(":0"), "{}", redis.ask("KEYS *").await);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_two_callbacks_of_one_login_on_two_replicas_are_one_exchange() {
    let redis = Redis::start().await;
    let fleet = Fleet::at(&redis.url(), 2).await;
    for round in 1..=10 {
        let mut visitor = Visitor::wechat(fleet.gateway(0));
        let away = visitor.get("/orders").await;
        let (_, back) = visitor.follow(&away, "/").await;
        let mut here = visitor.clone();
        let mut there = Visitor { gateway: fleet.gateway(1), ..visitor };
        let ((_, one), (_, two)) = tokio::join!(here.follow(&back, "/"), there.follow(&back, "/"));
        assert_eq!((one.location(), two.location()), ("/orders", "/orders"));
        assert_eq!(fleet.streets[0].calls(TOKEN).await, round, "one exchange");
        assert_eq!(sid(&here).await, sid(&there).await, "one session");
        // A refusal is shared as well: both start over, and both get in.
        let keys = redis.ask("KEYS wxgate:*").await;
        assert!(!keys.contains(back.location().split("code=").nth(1).unwrap()), "no code in it");
    }
    let keys = redis.ask("KEYS *").await;
    for key in keys.lines().filter(|line| line.starts_with("wxgate:")) {
        let left = redis.ask(&format!("PTTL {key}")).await;
        assert!(
            left.trim().strip_prefix(':').unwrap().parse::<i64>().unwrap() > 0,
            "{key}: {left}"
        );
    }
    assert_eq!(keys.matches("wxgate:code/").count(), 10, "{keys}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_a_logout_on_one_replica_counts_on_all_within_a_second() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 3).await;
    let mut visitor = fleet.somebody().await;
    let captured = visitor.clone();
    assert_eq!(fleet.statuses(&captured).await, [200, 200, 200]);
    visitor.gateway = fleet.gateway(0);
    let since = Instant::now();
    let bye = visitor.send("POST", "/_wx/logout", &[("origin", "http://h5.example.com")], "").await;
    assert_eq!(bye.status, 200);
    let refused = fleet.refused_after(&captured, since).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{refused:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_an_account_and_everybody() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    let visitor = fleet.somebody().await;
    let page = visitor.clone().get("/orders").await;
    let openid = page.received("x-wechat-openid")[0];
    let person = format!(r#"{{"account":"main","openid":"{openid}"}}"#);
    for json in [&person, r#"{"account":"main"}"#, r#"{"all":true}"#] {
        let visitor = fleet.somebody().await;
        let given = fleet.revoke(0, json).await;
        assert!(given.starts_with("HTTP/1.1 202"), "{given}");
        let refused = fleet.refused_after(&visitor, Instant::now()).await;
        assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{json}: {refused:?}");
        // Who logs in again is in, at once and everywhere: their session knows of the order.
        let again = fleet.somebody().await;
        assert_eq!(fleet.statuses(&again).await, [200, 200], "{json}");
    }
    let others = format!(r#"{{"account":"main","openid":"{openid}x"}}"#);
    assert!(fleet.revoke(1, &others).await.starts_with("HTTP/1.1 202"));
    let bad = [r#"{"account":"mian"}"#, "{}", r#"{"everybody":true}"#, "no JSON"];
    for json in bad {
        assert!(fleet.revoke(1, json).await.starts_with("HTTP/1.1 400"), "{json}");
    }
    // A replica that joins later knows all of it before it says that it is ready.
    let stale = visitor;
    fleet.join(&crate::fleet::store(&redis.url()), "").await;
    fleet.wait_until_ready(2).await;
    assert_eq!(fleet.statuses(&stale).await, [302, 302, 302]);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_tunnels_and_streams_end_with_their_session() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    let (visitor, other) = (fleet.somebody().await, fleet.somebody().await);
    let mut ends = Vec::new();
    for who in [&visitor, &other] {
        let cookie = format!("wxgate={}", who.cookie("wxgate"));
        let mut request = "ws://h5.example.com/ws".into_client_request().unwrap();
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let stream = TcpStream::connect(fleet.gateway(0)).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        let mut events = TcpStream::connect(fleet.gateway(1)).await.unwrap();
        let request = format!(
            "GET /events HTTP/1.1\r\nhost: h5.example.com\r\naccept: text/event-stream\r\ncookie: {cookie}\r\n\r\n"
        );
        events.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.contains("data: 1\n\n") {
            let mut buffer = [0; 1024];
            let count = events.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{seen}");
            seen += &String::from_utf8_lossy(&buffer[..count]);
        }
        ends.push((socket, events));
    }
    let since = Instant::now();
    let json = format!(r#"{{"session":"{}"}}"#, sid(&visitor).await);
    fleet.revoke(1, &json).await;
    let (mut socket, mut events) = ends.remove(0);
    let (socket_end, events_end) = tokio::join!(
        timeout(Duration::from_secs(5), async {
            while let Some(Ok(_)) = socket.next().await {}
            since.elapsed()
        }),
        timeout(Duration::from_secs(5), async {
            let mut rest = Vec::new();
            let _ = events.read_to_end(&mut rest).await;
            assert!(!rest.ends_with(b"0\r\n\r\n"), "it broke off, it did not end");
            since.elapsed()
        })
    );
    let (socket_end, events_end) = (socket_end.unwrap(), events_end.unwrap());
    println!("closed: WebSocket {socket_end:?}, events {events_end:?}");
    assert!(socket_end.max(events_end) < Duration::from_secs(1));
    // And nobody else's.
    let (mut socket, mut events) = ends.remove(0);
    assert!(timeout(Duration::from_millis(600), socket.next()).await.is_err());
    assert!(timeout(Duration::from_millis(600), events.read(&mut [0; 64])).await.is_err());
    fleet.close().await;
}

/// `wxgate revoke` with these words, and what became of it.
async fn run(file: &Path, words: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.arg("revoke").arg("--config").arg(file).args(words.split(' '));
    let output = command.output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_reaches_every_replica() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 2).await;
    let street = &fleet.streets[0];
    let more = format!("[store]\nkind = \"redis\"\nurl = \"{}\"", redis.url());
    let plan = TestConfig { more, ..TestConfig::site(ROUTES) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    std::fs::write(&file, &text).unwrap();
    let visitor = fleet.somebody().await;
    for words in ["--account mian", "--openid o1", "--all --account main", "--session 12"] {
        let (status, said) = run(&file, words).await;
        assert_eq!(status, Some(64), "{words}: {said}");
    }
    assert_eq!(fleet.statuses(&visitor).await, [200, 200]);
    let since = Instant::now();
    let (status, said) = run(&file, "--account main --json").await;
    assert_eq!(status, Some(0), "{said}");
    let refused = fleet.refused_after(&visitor, since).await;
    println!("wxgate revoke: refused after {refused:?}, its start included");
    let again = fleet.somebody().await;
    assert_eq!(fleet.statuses(&again).await, [200, 200], "who knows of the order stays");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_asks_a_gateway_that_is_alone() {
    let alone = TestGateway::usual().await;
    let admin = alone.admin().await;
    let mut visitor = Visitor::wechat(alone.gateway);
    let _ = visitor.open("/").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text =
        TestConfig::site(ROUTES).text(alone.wechat, &format!("\"http://{}\"", alone.site.addr));
    std::fs::write(&file, format!("{text}\n[admin]\nlisten = \"{admin}\"")).unwrap();
    assert_eq!(run(&file, "--all").await.0, Some(0));
    assert_eq!(visitor.get("/").await.status, 302);
    std::fs::write(&file, format!("{text}\n[admin]\nlisten = \"127.0.0.1:1\"")).unwrap();
    let (status, said) = run(&file, "--all").await;
    assert_eq!(status, Some(1));
    assert!(said.contains("inside the running gateway"), "{said}");
    std::fs::write(&file, "nonsense = true").unwrap();
    assert_eq!(run(&file, "--all").await.0, Some(78));
    alone.close().await;
}
