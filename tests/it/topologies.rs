//! Redis in its other shapes: behind Sentinel, as a Cluster, and over TLS with an ACL user.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    fleet::{Fleet, sid, store},
    redis::{Redis, free_port},
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

/// A master, a replica of it, and three sentinels that watch them.
pub struct Watched {
    pub master: Redis,
    pub replica: Redis,
    pub sentinels: Vec<Redis>,
    _folders: Vec<tempfile::TempDir>,
}

impl Watched {
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let of = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
        let replica = Redis::with(&of).await;
        let (mut sentinels, mut folders) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "sentinel monitor mymaster 127.0.0.1 {port} 2\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
            );
            std::fs::write(&file, text).unwrap();
            sentinels.push(Redis::sentinel(file.to_str().unwrap()).await);
            folders.push(folder);
        }
        let watched = Self { master, replica, sentinels, _folders: folders };
        until("sentinels that know everybody", Duration::from_secs(20), async || {
            let known = watched.sentinels[0].ask("SENTINEL master mymaster").await;
            let slaves = watched.sentinels[0].ask("SENTINEL replicas mymaster").await;
            let others = watched.sentinels[0].ask("SENTINEL sentinels mymaster").await;
            known.contains(&port)
                && slaves.contains(&watched.replica.port.to_string())
                && slaves.contains("master-link-status\r\n$2\r\nok")
                && others.matches("runid").count() == 2
        })
        .await;
        watched
    }

    /// The lines of `[store]`.
    pub fn store(&self) -> String {
        let addresses = self.sentinels.iter().map(|it| format!("\"127.0.0.1:{}\"", it.port));
        let addresses: Vec<String> = addresses.collect();
        format!("sentinels = [{}]\nmaster = \"mymaster\"", addresses.join(", "))
    }
}

/// Three masters and a replica of each.
pub struct Six(Vec<Redis>);

impl Six {
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = free_port().await.to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
            nodes.push(Redis::with(&[&arguments[..], &["--cluster-port", &bus]].concat()).await);
        }
        let made = tokio::process::Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| node.addr().to_string()))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .await
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        until("a cluster in order", Duration::from_secs(20), async || {
            let mut well = true;
            for node in &nodes {
                well &= node.ask("CLUSTER INFO").await.contains("cluster_state:ok");
                well &= !node.ask("INFO replication").await.contains("link_status:down");
            }
            well
        })
        .await;
        Self(nodes)
    }

    /// The lines of `[store]`.
    pub fn store(&self) -> String {
        let nodes = self.0.iter().map(|node| format!("\"{}\"", node.addr()));
        format!("cluster = [{}]", nodes.collect::<Vec<_>>().join(", "))
    }

    /// The master that keeps the log.
    pub async fn keeper(&mut self) -> &mut Redis {
        for node in &mut self.0 {
            let role = node.ask("ROLE").await;
            if role.contains("master") && node.ask("KEYS *").await.contains("revocations") {
                return node;
            }
        }
        panic!("nobody keeps the log")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_name_another_master_and_the_fleet_follows() {
    let mut redis = Watched::start().await;
    let mut fleet = Fleet::open(&vec![redis.store(); 2], "").await;
    let before = revoke_one(&mut fleet).await;
    assert!(before.iter().all(|wait| *wait < Duration::from_secs(1)), "{before:?}");

    let inside = fleet.somebody().await;
    let leaving = fleet.somebody().await;
    redis.master.kill().await;
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

/// The old master lives, answers and takes orders; but the sentinels have named another, and who
/// starts now will ask that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_the_sentinels_have_given_up_is_left() {
    let redis = Watched::start().await;
    let mut fleet = Fleet::open(&[redis.store()], "").await;
    assert!(redis.replica.ask("REPLICAOF NO ONE").await.starts_with("+OK"));
    for sentinel in &redis.sentinels {
        assert!(sentinel.ask("SENTINEL REMOVE mymaster").await.starts_with("+OK"));
        let watch = format!("SENTINEL MONITOR mymaster 127.0.0.1 {} 2", redis.replica.port);
        assert!(sentinel.ask(&watch).await.starts_with("+OK"));
    }
    let leaving = fleet.somebody().await;
    fleet.revoke(0, &format!(r#"{{"session":"{}"}}"#, sid(&leaving).await)).await;
    fleet.join(&redis.store(), "").await;
    fleet.wait_until_ready(1).await;
    // What was ordered at the old master is put into the new one's log as well.
    let refused = fleet.refused_after(&leaving, Instant::now()).await;
    println!("an old master alone: the other replica hears after {refused:?}");
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(10)), "{refused:?}");
    let after = revoke_one(&mut fleet).await;
    assert!(after.iter().all(|wait| *wait < Duration::from_secs(1)), "{after:?}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_and_takes_no_orders_is_no_news() {
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let mut fleet = Fleet::open(&vec![store(&redis.url()); 2], "revocation = \"strict\"").await;
    let inside = fleet.somebody().await;
    let port = other.port.to_string();
    // As a master that lost its replicas, and as one that became a replica.
    for (lame, well) in [
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        (&*format!("REPLICAOF 127.0.0.1 {port}"), "REPLICAOF NO ONE"),
    ] {
        assert!(redis.ask(lame).await.starts_with("+OK"), "{lame}");
        until("a door that is closed", Duration::from_secs(10), async || {
            fleet.statuses(&inside).await == [503, 503]
        })
        .await;
        assert!(fleet.ready(0).await.starts_with("HTTP/1.1 503"), "{lame}");
        assert!(redis.ask(well).await.starts_with("+OK"), "{well}");
        until("a door that is open", Duration::from_secs(10), async || {
            fleet.statuses(&inside).await == [200, 200]
        })
        .await;
    }
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_a_password_of_their_own() {
    let rights = rights();
    let redis = Watched::start().await;
    let user = format!("ACL SETUSER wxgate on >p@ss:word ~wxgate:* {rights} +role");
    assert!(redis.master.ask(&user).await.starts_with("+OK"));
    for sentinel in &redis.sentinels {
        let set = "ACL SETUSER default resetpass >sentinels on";
        assert!(sentinel.ask(set).await.starts_with("+OK"));
    }
    let who = "username = \"wxgate\"\npassword = \"p@ss:word\"";
    let well = format!("{}\nsentinel_password = \"sentinels\"\n{who}", redis.store());
    let mut fleet = Fleet::open(&vec![well; 2], "").await;
    let refused = revoke_one(&mut fleet).await;
    assert!(refused.iter().all(|wait| *wait < Duration::from_secs(1)), "{refused:?}");
    let said = redis.master.ask("ACL LOG").await;
    assert!(said.starts_with("*0"), "{said}");
    fleet.join(&format!("{}\nsentinel_password = \"wrong\"\n{who}", redis.store()), "").await;
    let ready = fleet.ready(2).await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_a_master_and_the_fleet_goes_on() {
    let mut redis = Six::start().await;
    let mut fleet = Fleet::open(&vec![redis.store(); 2], "").await;
    let before = revoke_one(&mut fleet).await;
    assert!(before.iter().all(|wait| *wait < Duration::from_secs(1)), "{before:?}");

    let (inside, leaving) = (fleet.somebody().await, fleet.somebody().await);
    redis.keeper().await.kill().await;
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

/// Sessions depend on the master that keeps the log; values of logins lie on all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_cluster_with_a_full_master() {
    let mut redis = Six::start().await;
    let mut fleet = Fleet::open(&vec![redis.store(); 2], "revocation = \"strict\"").await;
    let inside = fleet.somebody().await;
    let _ = revoke_one(&mut fleet).await;
    let log = redis.keeper().await.port;
    let mut masters = Vec::new();
    for node in &redis.0 {
        if node.ask("ROLE").await.contains("master") {
            masters.push(node);
        }
    }
    for node in masters {
        assert!(node.ask("CONFIG SET maxmemory 1").await.starts_with("+OK"));
        if node.port == log {
            until("doors that are closed", Duration::from_millis(1_200), async || {
                fleet.statuses(&inside).await == [503, 503]
            })
            .await;
        }
        until("a full master that is named", Duration::from_secs(30), async || {
            fleet.ready(0).await.contains("\nstore: Redis is full (maxmemory reached)")
        })
        .await;
        let expected = if node.port == log { [503, 503] } else { [200, 200] };
        assert_eq!(fleet.statuses(&inside).await, expected, "the log is at {log}");
        assert!(node.ask("CONFIG SET maxmemory 0").await.starts_with("+OK"));
        until("a cluster that is well", Duration::from_secs(20), async || {
            fleet.statuses(&inside).await == [200, 200]
                && !fleet.ready(0).await.contains("\nstore: ")
        })
        .await;
    }
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
    let rights = rights();
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

/// What our user needs, as config.toml says it.
fn rights() -> &'static str {
    let rights = "+set +get +getdel +xadd +xrange +xtrim +pexpire";
    assert!(include_str!("../../config.toml").contains(rights));
    rights
}

/// What stands in the way before the first command of ours: each is named by the replica that meets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_not_let_in_is_told_why() {
    let rights = rights();
    let (watched, six, one) = (Watched::start().await, Six::start().await, Redis::start().await);
    let user = format!("ACL SETUSER wxgate on >pw ~wxgate:* {rights}");
    for node in six.0.iter().chain([&watched.master, &one]) {
        assert!(node.ask(&user).await.starts_with("+OK"));
    }
    assert!(one.ask("CONFIG SET requirepass right").await.starts_with("+OK"));
    let (known, wrong) = ("username = \"wxgate\"\npassword = \"pw\"", "password = \"wrong\"");
    let (lacks, refused) = (
        "the ACL user of [store] lacks the command",
        "Redis does not accept username and password",
    );
    let database = store(&format!("{}/2", one.url()));
    let cases = [
        (watched.store(), known, lacks, "with +role;"),
        (watched.store(), "username = \"wxgate\"\npassword = \"no\"", refused, "correct"),
        (six.store(), known, lacks, "with +cluster|slots;"),
        (six.store(), "username = \"wxgate\"\npassword = \"no\"", refused, "correct"),
        (database, known, lacks, "with +select;"),
        (store(&one.url()), wrong, refused, "correct"),
        (store(&one.url()), "", refused, "correct"),
    ];
    let mut fleet = Fleet::open(&[], "").await;
    for (replica, (address, login, says, remedy)) in cases.iter().enumerate() {
        let row = format!("{address} {login}");
        fleet.join(&format!("{address}\n{login}"), "").await;
        let start = format!("\nstore: {says}");
        until(&row, Duration::from_secs(10), async || {
            let ready = fleet.ready(replica).await;
            ready.starts_with("HTTP/1.1 503") && ready.contains(&start) && ready.contains(remedy)
        })
        .await;
    }
    fleet.close().await;
}
