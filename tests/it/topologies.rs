//! Redis in its other shapes: behind Sentinel, as a Cluster, and over TLS with an ACL user.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    fleet::{Fleet, sid},
    redis::{Redis, ask, free_port},
};

/// A revocation at one replica, and how long the others go on.
async fn revoke_one(fleet: &mut Fleet) -> Vec<Duration> {
    let visitor = fleet.somebody().await;
    let since = Instant::now();
    fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&visitor).await)).await;
    fleet.refused_after(&visitor, since).await
}

async fn until(what: &str, patience: Duration, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < patience, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_master_and_the_fleet_follows() {
    let mut master = Redis::start().await;
    let port = master.port.to_string();
    let replica =
        Redis::with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]).await;
    until("a replica in step", Duration::from_secs(20), async || {
        replica.ask("INFO replication").await.contains("master_link_status:up")
    })
    .await;
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor mymaster 127.0.0.1 {port} 2\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
        );
        std::fs::write(&file, text).unwrap();
        let sentinel = Redis::sentinel(file.to_str().unwrap()).await;
        sentinels.push((sentinel, folder));
    }
    until("sentinels that know each other", Duration::from_secs(20), async || {
        let known = sentinels[0].0.ask("SENTINEL master mymaster").await;
        let slaves = sentinels[0].0.ask("SENTINEL replicas mymaster").await;
        let others = sentinels[0].0.ask("SENTINEL sentinels mymaster").await;
        known.contains(&port)
            && slaves.contains(&replica.port.to_string())
            && others.matches("runid").count() == 2
    })
    .await;
    let addresses: Vec<String> =
        sentinels.iter().map(|(it, _)| format!("\"127.0.0.1:{}\"", it.port)).collect();
    let store = format!("sentinels = [{}]\nmaster = \"mymaster\"", addresses.join(", "));
    let mut fleet = Fleet::open(&[store.clone(), store], "").await;
    let before = revoke_one(&mut fleet).await;
    assert!(before.iter().all(|wait| *wait < Duration::from_secs(1)), "{before:?}");

    let inside = fleet.somebody().await;
    let leaving = fleet.somebody().await;
    master.kill().await;
    let since = Instant::now();
    let given = fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&leaving).await)).await;
    assert!(given.starts_with("HTTP/1.1 202"), "{given}");
    assert_eq!(fleet.statuses(&inside).await, [200, 200], "good sessions go on");
    let refused = fleet.refused_after(&leaving, since).await;
    println!("Sentinel: master killed, the order of meanwhile is known after {refused:?}");
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(15)), "{refused:?}");
    let after = revoke_one(&mut fleet).await;
    assert!(after.iter().all(|wait| *wait < Duration::from_secs(1)), "{after:?}");
    assert_eq!(fleet.statuses(&inside).await, [200, 200]);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_master_and_the_fleet_goes_on() {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        let bus = free_port().await.to_string();
        let arguments =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
        nodes.push(Redis::with(&arguments).await);
    }
    let addresses: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let made = tokio::process::Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    until("a cluster in order", Duration::from_secs(20), async || {
        let mut well = true;
        for node in &nodes {
            well &= ask(node.port, "CLUSTER INFO").await.contains("cluster_state:ok");
            well &= !ask(node.port, "INFO replication").await.contains("link_status:down");
        }
        well
    })
    .await;
    let quoted: Vec<String> = addresses.iter().map(|it| format!("\"{it}\"")).collect();
    let store = format!("cluster = [{}]", quoted.join(", "));
    let mut fleet = Fleet::open(&[store.clone(), store], "").await;
    let before = revoke_one(&mut fleet).await;
    assert!(before.iter().all(|wait| *wait < Duration::from_secs(1)), "{before:?}");

    // The node that keeps the log.
    let mut keeper = None;
    for (number, node) in nodes.iter().enumerate() {
        let role = ask(node.port, "ROLE").await;
        if role.contains("master") && ask(node.port, "KEYS *").await.contains("revocations") {
            keeper = Some(number);
        }
    }
    let (inside, leaving) = (fleet.somebody().await, fleet.somebody().await);
    nodes[keeper.expect("nobody keeps the log")].kill().await;
    let since = Instant::now();
    let given = fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&leaving).await)).await;
    assert!(given.starts_with("HTTP/1.1 202"), "{given}");
    assert_eq!(fleet.statuses(&inside).await, [200, 200], "good sessions go on");
    let refused = fleet.refused_after(&leaving, since).await;
    println!("Cluster: a master killed, the order of meanwhile is known after {refused:?}");
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(15)), "{refused:?}");
    let after = revoke_one(&mut fleet).await;
    assert!(after.iter().all(|wait| *wait < Duration::from_secs(1)), "{after:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_user_who_may_do_what_is_needed_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let (cert, key, tls) = (path("cert.pem"), path("key.pem"), free_port().await.to_string());
    let redis = Redis::with(&[
        "--tls-port",
        &tls,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    // As config.toml says it.
    let rights = "+set +get +getdel +xadd +xrange +xtrim +pexpire";
    assert!(include_str!("../../config.toml").contains(rights));
    let user = format!("ACL SETUSER wxgate on >p@ss:word ~wxgate:* {rights}");
    assert!(redis.ask(&user).await.starts_with("+OK"));
    assert!(redis.ask("ACL SETUSER default -@all +acl").await.starts_with("+OK"));
    let shared = format!("ca = \"{cert}\"");
    let apart = format!(
        "url = \"rediss://localhost:{tls}/0\"\nusername = \"wxgate\"\npassword = \"p@ss:word\"\n{shared}"
    );
    let inside = format!("url = \"rediss://wxgate:p%40ss%3Aword@localhost:{tls}/0\"\n{shared}");
    let mut fleet = Fleet::open(&[apart, inside], "profile_refresh = \"1h\"").await;
    let refused = revoke_one(&mut fleet).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{refused:?}");
    let said = redis.ask("ACL LOG").await;
    assert!(said.starts_with("*0"), "{said}");
    fleet.close().await;
}
