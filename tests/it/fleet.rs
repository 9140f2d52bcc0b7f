//! Several gateways that share one Redis, one site and one emulated WeChat.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use wxgate::clock::{self, Clock};

use crate::{
    echo::{BEGAN, RECEIVED},
    harness::{ROUTES, TestConfig, TestGateway, until_ready},
    redis::free_port,
    visitor::{Answer, Visitor, raw},
};

/// The replicas, each with its admin listener. The first street has the site and the WeChat of all.
pub struct Fleet {
    pub streets: Vec<TestGateway>,
    pub gateways: Vec<SocketAddr>,
    pub admins: Vec<SocketAddr>,
    pub processes: Vec<Process>,
    turn: usize,
}

/// A gateway as a process of its own.
pub struct Process {
    pub child: Child,
    pub gateway: SocketAddr,
}

impl Process {
    pub async fn start(file: &Path, gateway: SocketAddr, admin: u16) -> Self {
        Self::start_into(file, gateway, admin, Stdio::null()).await
    }

    /// One whose log goes there.
    pub async fn start_into(file: &Path, gateway: SocketAddr, admin: u16, log: Stdio) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_wxgate"))
            .args(["serve", "--config"])
            .arg(file)
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until_ready(admin).await;
        Self { child, gateway }
    }

    /// Sends it a signal: `STOP`, `CONT`, `HUP`, `TERM`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(sent.success());
    }
}

impl Fleet {
    /// One replica for each of these `[store]` tables, with these lines in its site.
    pub async fn open(stores: &[String], site: &str) -> Self {
        let mut fleet = Self::none();
        for store in stores {
            fleet.join(store, site).await;
        }
        for replica in 0..fleet.admins.len() {
            fleet.wait_until_ready(replica).await;
        }
        fleet
    }

    fn none() -> Self {
        let (streets, processes) = (Vec::new(), Vec::new());
        Self { streets, processes, gateways: Vec::new(), admins: Vec::new(), turn: 0 }
    }

    /// So many replicas, each a process, with this `[store]` table and these lines in their site.
    pub async fn of_processes(store: &str, site: &str, count: usize) -> Self {
        let (mut fleet, street) = (Self::none(), TestGateway::usual().await);
        let folder = tempfile::tempdir().unwrap();
        for number in 0..count {
            let (port, admin) = (free_port().await, free_port().await);
            let store = format!("{store}\n[admin]\nlisten = \"127.0.0.1:{admin}\"");
            let plan = planned(&store, site);
            let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
            let file = folder.path().join(format!("{number}.toml"));
            std::fs::write(&file, text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")))
                .unwrap();
            let gateway = SocketAddr::from(([127, 0, 0, 1], port));
            fleet.processes.push(Process::start(&file, gateway, admin).await);
            fleet.gateways.push(gateway);
            fleet.admins.push(SocketAddr::from(([127, 0, 0, 1], admin)));
        }
        fleet.streets.push(street);
        fleet
    }

    /// So many replicas at one Redis.
    pub async fn at(url: &str, count: usize) -> Self {
        Self::open(&vec![store(url); count], "").await
    }

    /// One replica more.
    pub async fn join(&mut self, store: &str, site: &str) {
        self.join_with(planned(store, site), clock::system).await;
    }

    /// One replica more, by this plan and with another clock.
    pub async fn join_with(&mut self, mut plan: TestConfig, clock: Clock) {
        plan.clock = clock;
        if let Some(first) = self.streets.first() {
            plan.wechat = Some(first.wechat);
            plan.upstream = Some(format!("\"http://{}\"", first.site.addr));
        }
        let street = TestGateway::open(plan).await;
        self.admins.push(street.admin().await);
        self.gateways.push(street.gateway);
        self.streets.push(street);
    }

    pub async fn wait_until_ready(&self, replica: usize) -> Duration {
        let begun = Instant::now();
        while !self.ready(replica).await.starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", self.ready(replica).await);
            sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    pub async fn ready(&self, replica: usize) -> String {
        let request = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        raw(self.admins[replica], request).await
    }

    /// The next replica, in turn.
    pub fn next(&mut self) -> SocketAddr {
        self.turn += 1;
        self.gateway(self.turn)
    }

    pub fn gateway(&self, number: usize) -> SocketAddr {
        self.gateways[number % self.gateways.len()]
    }

    /// Opens a page, each hop on another replica.
    pub async fn roam(&mut self, visitor: &mut Visitor, path: &str) -> Answer {
        visitor.gateway = self.next();
        let mut answer = visitor.get(path).await;
        for _ in 0..8 {
            if !(300..400).contains(&answer.status) {
                return answer;
            }
            visitor.gateway = self.next();
            answer = visitor.follow(&answer, path).await.1;
        }
        panic!("redirected for ever: {answer:?}");
    }

    /// Somebody who has logged in somewhere.
    pub async fn somebody(&mut self) -> Visitor {
        let mut visitor = Visitor::wechat(self.next());
        let page = self.roam(&mut visitor, "/orders").await;
        assert_eq!(page.status, 200, "{page:?}");
        visitor
    }

    /// What a visitor meets at one replica.
    pub async fn status(&self, visitor: &Visitor, replica: usize) -> u16 {
        let mut visitor = Visitor { gateway: self.gateway(replica), ..visitor.clone() };
        visitor.get("/orders").await.status
    }

    pub async fn statuses(&self, visitor: &Visitor) -> Vec<u16> {
        let mut all = Vec::new();
        for replica in 0..self.gateways.len() {
            all.push(self.status(visitor, replica).await);
        }
        all
    }

    /// How long each replica goes on letting a visitor in.
    pub async fn refused_after(&self, visitor: &Visitor, since: Instant) -> Vec<Duration> {
        let mut waits = Vec::new();
        for replica in 0..self.gateways.len() {
            let mut visitor = Visitor { gateway: self.gateway(replica), ..visitor.clone() };
            waits.push(tokio::spawn(async move {
                while visitor.get("/orders").await.status == 200 {
                    assert!(since.elapsed() < Duration::from_secs(20), "still let in");
                    sleep(Duration::from_millis(1)).await;
                }
                since.elapsed()
            }));
        }
        let mut refused = Vec::new();
        for wait in waits {
            refused.push(wait.await.unwrap());
        }
        refused
    }

    /// When each replica let a visitor in for the last time, whose session was ended `since`: when the
    /// site received what the replica passed on. Each is asked until it knows of the end; one that
    /// closes its door meanwhile may open it again.
    pub async fn last_accepted(&self, visitor: &Visitor, since: Instant) -> Vec<Duration> {
        let watch = |gateway: &SocketAddr| {
            let mut visitor = Visitor { gateway: *gateway, ..visitor.clone() };
            async move {
                let mut last = Duration::ZERO;
                loop {
                    let sent = Instant::now();
                    let answer = visitor.get("/timed").await;
                    match answer.status {
                        // Let in, and then the replica was stopped with it in its hands.
                        200 if sent.elapsed() > Duration::from_secs(1) => last = sent - since,
                        200 => last = received(&answer).saturating_duration_since(since),
                        302 => return last,
                        status => assert_eq!(status, 503),
                    }
                    assert!(since.elapsed() < Duration::from_secs(30), "it never hears of it");
                    sleep(Duration::from_millis(3)).await;
                }
            }
        };
        futures_util::future::join_all(self.gateways.iter().map(watch)).await
    }

    /// `POST /revocations` at one replica.
    pub async fn revoke(&self, replica: usize, json: &str) -> String {
        let request = format!(
            "POST /revocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
            json.len()
        );
        raw(self.admins[replica], &request).await
    }

    pub async fn close(self) {
        for street in self.streets {
            street.close().await;
        }
    }
}

/// When the site received the request that this is the answer to.
fn received(answer: &Answer) -> Instant {
    let micros = answer.header(RECEIVED).unwrap().parse().unwrap();
    *BEGAN + Duration::from_micros(micros)
}

/// A replica with this `[store]` and these lines in its site.
pub fn planned(store: &str, site: &str) -> TestConfig {
    let more = format!("[store]\nkind = \"redis\"\n{store}");
    TestConfig { more, ..TestConfig::site(&format!("{site}\n{ROUTES}")) }
}

pub fn store(url: &str) -> String {
    format!("url = \"{url}\"")
}

/// The id of somebody's session.
pub async fn sid(visitor: &Visitor) -> String {
    visitor.clone().get("/orders").await.received("x-wechat-session")[0].to_owned()
}
