//! Servers that die and come back, and those that say that they are ill.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    harness::{TestConfig, TestGateway},
    upstream_server::Server,
    visitor::raw,
};

const OPEN: &str = "[[site.route]]\npath = \"/*\"\nauth = \"none\"\n";
const CHECKED: &str = "[site.health]\npath = \"/healthz\"\ninterval = \"100ms\"\n";

/// Asks so many times over one connection, and brings back how many were answered with 200.
async fn ask(street: &TestGateway, times: usize) -> usize {
    let request = "GET / HTTP/1.1\r\nhost: h5.example.com\r\n";
    let last = format!("{request}connection: close\r\n\r\n");
    let requests = format!("{request}\r\n").repeat(times - 1) + &last;
    raw(street.gateway, &requests).await.matches("HTTP/1.1 200").count()
}

/// One thread, so that shares can be counted; these servers, and these lines in the site.
fn plan(servers: &[&Server], lines: &str) -> TestConfig {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    TestConfig {
        workers: 1,
        upstream: Some(urls.join(", ")),
        ..TestConfig::site(&format!("{lines}\n{OPEN}"))
    }
}

async fn get(admin: SocketAddr, path: &str) -> String {
    raw(admin, &format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).await
}

/// Looks at the admin listener until it says that.
async fn until(admin: SocketAddr, (path, said): (&str, &str)) -> String {
    let begun = Instant::now();
    loop {
        let answer = get(admin, path).await;
        if answer.contains(said) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no {said} in {answer}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_gets_its_share_slowly() {
    let (mut a, b) = (Server::start().await, Server::start().await);
    let street = TestGateway::open(plan(&[&a, &b], "slow_start = \"1h\"")).await;
    let admin = street.admin().await;
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (10, 10));

    a.kill().await;
    assert_eq!(ask(&street, 20).await, 20, "nobody notices");
    assert_eq!((a.pages(), b.pages()), (0, 20));
    let ready = get(admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let line = format!("h5.example.com: 1 of 2 servers well (http://{}: ", a.addr);
    assert!(ready.contains(&line), "{ready}");
    let up = |addr, up| {
        format!("wxgate_upstream_up{{server=\"http://{addr}\",site=\"h5.example.com\"}} {up}\n")
    };
    let metrics = get(admin, "/metrics").await;
    assert!(metrics.contains(&up(a.addr, 0)) && metrics.contains(&up(b.addr, 1)), "{metrics}");

    a.revive().await;
    let begun = Instant::now();
    while a.pages() == 0 {
        assert_eq!(ask(&street, 1).await, 1);
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not tried again");
        sleep(Duration::from_millis(20)).await;
    }
    b.pages();
    assert_eq!(ask(&street, 110).await, 110);
    let (few, most) = (a.pages(), b.pages());
    assert!((9..=11).contains(&few) && few + most == 110, "{few} and {most}");
    let ready = get(admin, "/readyz").await;
    assert!(!ready.contains("servers well"), "{ready}");
    street.close().await;
}

#[tokio::test]
async fn a_port_that_is_forwarded_to_nobody_costs_nobody_their_page() {
    let (a, b) = (Server::start().await, Server::start().await);
    let street = TestGateway::open(plan(&[&a, &b], "")).await;
    a.answers(0);
    assert_eq!(ask(&street, 40).await, 40);
    assert_eq!((a.pages(), b.pages()), (3, 40), "three in a row are enough");
    street.close().await;

    // A request that takes a server down is not passed on to all of them.
    let c = Server::start().await;
    let street = TestGateway::open(plan(&[&a, &b, &c], "")).await;
    b.answers(0);
    assert_eq!(ask(&street, 1).await, 0);
    assert_eq!((a.pages(), b.pages(), c.pages()), (1, 1, 0));
    street.close().await;
    b.answers(200);

    // What may have been done is not done again elsewhere.
    let street = TestGateway::open(plan(&[&a, &b], "")).await;
    let post = "POST / HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\
                content-length: 0\r\n\r\n";
    let answer = raw(street.gateway, post).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!((a.pages(), b.pages()), (1, 0));
    street.close().await;
}

#[tokio::test]
async fn if_all_are_down_all_are_asked() {
    let (mut a, mut b) = (Server::start().await, Server::start().await);
    let street = TestGateway::open(plan(&[&a, &b], "slow_start = \"0s\"")).await;
    a.kill().await;
    b.kill().await;
    assert_eq!(ask(&street, 5).await, 0);
    // They are back before anybody would have tried them again.
    a.revive().await;
    b.revive().await;
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!(a.pages() + b.pages(), 20);
    street.close().await;
}

#[tokio::test]
async fn a_server_that_says_it_is_ill_is_left_alone() {
    let (a, b) = (Server::start().await, Server::start().await);
    let street =
        TestGateway::open(plan(&[&a, &b], &format!("slow_start = \"0s\"\n{CHECKED}"))).await;
    let admin = street.admin().await;
    a.feels(503);
    let line = format!("1 of 2 servers well (http://{}: GET /healthz: 503 Service", a.addr);
    until(admin, ("/readyz", &line)).await;
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (0, 20));
    let page = until(admin, ("/status.json", "GET /healthz: 503")).await;
    assert!(page.contains("upstream_degraded"), "{page}");

    // The page of the other fails, too. The site itself is as well as ever.
    b.feels(500);
    until(admin, ("/readyz", "0 of 2 servers well")).await;
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (10, 10));

    // Twice in a row, and they are believed again.
    b.feels(204);
    until(admin, ("/readyz", "1 of 2 servers well")).await;
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (0, 20));
    a.feels(200);
    let begun = Instant::now();
    while get(admin, "/readyz").await.contains("servers well") {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not believed");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (10, 10));
    street.close().await;
}

#[tokio::test]
async fn a_reload_forgets_nothing_and_ends_the_checks_that_are_no_more() {
    let (a, b, other) = (Server::start().await, Server::start().await, Server::start().await);
    // A site beside it, whose checks are the clock of this test.
    let beside = format!(
        "[[site]]\nhosts = [\"b.example.com\"]\npublic_url = \"http://b.example.com\"\n\
         account = \"main\"\nupstream = {}\n{CHECKED}",
        other.url()
    );
    let with = |lines: &str| TestConfig { more: beside.clone(), ..plan(&[&a, &b], lines) };
    let street = TestGateway::open(with(&format!("slow_start = \"0s\"\n{CHECKED}"))).await;
    let admin = street.admin().await;
    let ticks = async |count| {
        let (begun, before) = (Instant::now(), other.checks());
        while other.checks() < before + count {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody is checked");
            sleep(Duration::from_millis(20)).await;
        }
    };
    a.feels(503);
    until(admin, ("/readyz", "1 of 2 servers well")).await;

    // The same check goes on, and what is known stays known: not one request goes astray.
    street.reload(&with(&format!("slow_start = \"1s\"\n{CHECKED}")));
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (0, 20));
    // So it does under another check that has not had its say yet.
    let patient = CHECKED.replace("/healthz", "/other").replace("100ms", "1h");
    street.reload(&with(&patient));
    ticks(2).await;
    a.pages();
    b.pages();
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (0, 20));

    // Nobody looks any more, and nobody holds anything against it.
    street.reload(&with("slow_start = \"0s\""));
    ticks(2).await;
    let before = a.checks();
    ticks(5).await;
    assert_eq!(a.checks(), before, "the old check goes on");
    assert_eq!(ask(&street, 20).await, 20);
    assert_eq!((a.pages(), b.pages()), (10, 10));
    street.close().await;
}

#[tokio::test]
async fn a_server_is_checked_once_however_many_threads_there_are() {
    let (a, b) = (Server::start().await, Server::start().await);
    let lines = CHECKED.replace("100ms", "1h");
    let street = TestGateway::open(TestConfig { workers: 4, ..plan(&[&a, &b], &lines) }).await;
    let begun = Instant::now();
    while a.checks() + b.checks() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody is checked");
        sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..20 {
        assert_eq!(ask(&street, 2).await, 2);
    }
    assert_eq!((a.checks(), b.checks()), (1, 1));
    street.close().await;
}
