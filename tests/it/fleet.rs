//! Several gateways that share one Redis, one site and one emulated WeChat.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    harness::{Plan, ROUTES, Street},
    visitor::{Answer, Visitor, raw},
};

/// The replicas, each with its admin listener.
pub struct Fleet {
    pub streets: Vec<Street>,
    pub admins: Vec<SocketAddr>,
    turn: usize,
}

impl Fleet {
    /// One replica for each of these `[store]` tables, with these lines in its site.
    pub async fn open(stores: &[String], site: &str) -> Self {
        let mut fleet = Self { streets: Vec::new(), admins: Vec::new(), turn: 0 };
        for store in stores {
            fleet.join(store, site).await;
        }
        for replica in 0..fleet.admins.len() {
            fleet.wait_until_ready(replica).await;
        }
        fleet
    }

    /// So many replicas at one Redis.
    pub async fn at(url: &str, count: usize) -> Self {
        Self::open(&vec![store(url); count], "").await
    }

    /// One replica more.
    pub async fn join(&mut self, store: &str, site: &str) {
        let mut plan = Plan::site(&format!("{site}\n{ROUTES}"));
        plan.more = format!("[store]\nkind = \"redis\"\n{store}");
        if let Some(first) = self.streets.first() {
            plan.wechat = Some(first.wechat);
            plan.upstream = Some(format!("\"http://{}\"", first.site.addr));
        }
        let street = Street::open(plan).await;
        self.admins.push(street.admin().await);
        self.streets.push(street);
    }

    pub async fn wait_until_ready(&self, replica: usize) -> Duration {
        let begun = Instant::now();
        while !self.ready(replica).await.starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", self.ready(replica).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
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
        self.streets[number % self.streets.len()].gateway
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
        for replica in 0..self.streets.len() {
            all.push(self.status(visitor, replica).await);
        }
        all
    }

    /// How long each replica goes on letting a visitor in.
    pub async fn refused_after(&self, visitor: &Visitor, since: Instant) -> Vec<Duration> {
        let mut waits = Vec::new();
        for replica in 0..self.streets.len() {
            let mut visitor = Visitor { gateway: self.gateway(replica), ..visitor.clone() };
            waits.push(tokio::spawn(async move {
                while visitor.get("/orders").await.status == 200 {
                    assert!(since.elapsed() < Duration::from_secs(20), "still let in");
                    tokio::time::sleep(Duration::from_millis(1)).await;
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

pub fn store(url: &str) -> String {
    format!("url = \"{url}\"")
}

/// The id of somebody's session.
pub async fn sid(visitor: &Visitor) -> String {
    visitor.clone().get("/orders").await.received("x-wechat-session")[0].to_owned()
}
