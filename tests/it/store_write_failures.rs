//! A Redis that is half dead: it answers, and takes no writes, or too few, or too late. It counts as
//! away, every place that speaks of it says what is the matter, and nothing that was ended is lost.

use std::{path::Path, time::Duration};

use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    fleet::{Fleet, planned, sid, store},
    online,
    redis::{Redis, ask},
    visitor::{Visitor, raw},
};

/// Where `revocation` is "strict", and elsewhere; a little for this machine's own delays on top.
const STRICT: Duration = Duration::from_millis(900);
const ELSEWHERE: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_millis(250);

/// The replicas by their `revocation`: two strict ones, one with the default, one with a short bound.
const STRICT_ONE: usize = 0;
const STRICT_OTHER: usize = 1;
const USUAL: usize = 2;
const SHORT: usize = 3;
const BOUND: Duration = Duration::from_secs(3);
/// It counts from the last write that was accepted, which was less than a second before.
const EARLIEST: Duration = Duration::from_millis(1_900);

/// How a Redis falls ill and gets well, and what is said of it.
struct Case {
    ill: &'static str,
    well: &'static str,
    says: &'static str,
    /// Whether a revocation is stored all the same: a command is missing that logins alone need.
    stores: bool,
}

const fn case(ill: &'static str, well: &'static str, says: &'static str) -> Case {
    Case { ill, well, says, stores: false }
}

const fn login_case(ill: &'static str, well: &'static str, says: &'static str) -> Case {
    Case { ill, well, says, stores: true }
}

async fn until(what: &str, patience: Duration, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < patience, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// The gauge of the store at one replica.
async fn store_up(fleet: &Fleet, replica: usize) -> bool {
    let request = "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    let metrics = raw(fleet.admins[replica], request).await;
    let gauge =
        metrics.lines().find_map(|line| line.strip_prefix("wxgate_store_up{store=\"store\"} "));
    gauge.expect("a gauge") == "1"
}

/// The fleet of these tests.
async fn open_fleet(redis: &Redis) -> Fleet {
    let mut fleet = Fleet::open(&vec![store(&redis.url()); 2], "revocation = \"strict\"").await;
    fleet.join(&store(&redis.url()), "").await;
    fleet.join(&store(&redis.url()), "revocation = \"bounded:3s\"").await;
    for replica in [USUAL, SHORT] {
        fleet.wait_until_ready(replica).await;
    }
    fleet
}

/// `wxgate revoke --session` with this configuration.
async fn revoke_by_command(file: &Path, sid: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.arg("revoke").arg("--config").arg(file).args(["--session", sid]);
    let output = command.output().await.unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A logout by a script of the site's, and what it is told.
async fn log_out(visitor: &Visitor) -> String {
    let origin = ("origin", "http://h5.example.com");
    let bye = visitor.script().send("POST", "/_wx/logout", &[origin], "").await;
    assert_eq!(bye.status, 200);
    bye.text
}

/// One row: ill, seen in time, said in words, refused or not as each site wants it, and well again.
async fn fails_and_recovers(
    fleet: &mut Fleet,
    redis: &mut Redis,
    case: &Case,
    ill: impl AsyncFnOnce(&mut Redis),
    well: impl AsyncFnOnce(&mut Redis),
) {
    let row = case.ill;
    let (inside, leaving) = (fleet.somebody().await, fleet.somebody().await);
    let (mut logged_out, by_command) = (fleet.somebody().await, fleet.somebody().await);
    let ended = [sid(&leaving).await, sid(&logged_out).await, sid(&by_command).await];
    let plan = planned(&store(&redis.url()), "");
    let street = &fleet.streets[0];
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    assert_eq!(fleet.statuses(&inside).await, [200; 4], "{row}");

    ill(redis).await;
    let since = Instant::now();
    let (strict, metric, elsewhere) = tokio::join!(
        until("strict replicas that refuse", STRICT + SLACK, async || {
            fleet.ready(STRICT_ONE).await.starts_with("HTTP/1.1 503")
                && fleet.ready(STRICT_OTHER).await.starts_with("HTTP/1.1 503")
        }),
        until("the metric of a strict replica", STRICT + SLACK, async || {
            !store_up(fleet, STRICT_OTHER).await
        }),
        until("the metric elsewhere", ELSEWHERE + SLACK, async || {
            !store_up(fleet, USUAL).await
        }),
    );
    println!(
        "{row}: strict ones refuse after {strict:?}, say so after {metric:?}, others after {elsewhere:?}"
    );
    for replica in [STRICT_OTHER, USUAL] {
        let said = format!("\nstore: {}", case.says);
        until(&format!("{row}: {said}"), Duration::from_secs(2), async || {
            fleet.ready(replica).await.contains(&said)
        })
        .await;
    }

    // What is ordered now is not handed over, and says so.
    let answer = fleet.revoke(USUAL, &format!(r#"{{"session":"{}"}}"#, ended[0])).await;
    let expected = format!("\"handed_over\":{}", case.stores);
    assert!(answer.starts_with("HTTP/1.1 202") && answer.contains(&expected), "{row}: {answer}");
    assert_eq!(answer.contains("\"reason\":\""), !case.stores, "{row}: {answer}");
    logged_out.gateway = fleet.gateway(USUAL);
    let captured = logged_out.clone();
    let told = log_out(&logged_out).await;
    assert_eq!(told.contains("\"handed_over\":false"), !case.stores, "{row}: {told}");
    let (code, said) = revoke_by_command(file.path(), &ended[2]).await;
    assert_eq!(code, i32::from(!case.stores), "{row}: {said}");
    assert!(case.stores || said.contains(case.says), "{row}: {said}");
    let checked = online::check(&online::local(&text), &[]).await;
    let line = checked.line("bad   store     ");
    assert!(line.contains(case.says) && line.contains(" → "), "{row}: {line}");
    assert!(!line.contains("start it, or"), "{row}: {line}");

    // Strict sites pass nobody on; the others go on, and know what they were told themselves.
    let hits = fleet.streets[0].site.hits();
    for visitor in [&inside, &leaving, &captured] {
        for replica in [STRICT_ONE, STRICT_OTHER] {
            let status = fleet.status(visitor, replica).await;
            assert!(status == 503 || (case.stores && status == 302), "{row}: {status}");
        }
    }
    assert_eq!(fleet.streets[0].site.hits(), hits, "{row}: a request reached the site");
    assert_eq!(fleet.status(&leaving, USUAL).await, 302, "{row}");
    assert_eq!(fleet.status(&captured, USUAL).await, 302, "{row}");
    assert_eq!(fleet.status(&inside, USUAL).await, 200, "{row}: the default goes on");
    // The bound goes for the replica that took the orders as for the others.
    until("a bound that ends", BOUND + SLACK, async || fleet.status(&inside, SHORT).await == 503)
        .await;
    assert!(since.elapsed() >= EARLIEST, "{row}: before its bound");
    assert_eq!(fleet.status(&inside, USUAL).await, 200, "{row}: nobody waits for the log");

    well(redis).await;
    let recovered = until("a replica that is ready", Duration::from_secs(8), async || {
        fleet.ready(STRICT_ONE).await.starts_with("HTTP/1.1 200")
    });
    println!("{row}: ready again after {:?}", recovered.await);
    let mut log = String::new();
    until("orders that waited", Duration::from_secs(5), async || {
        log = ask(redis.port, "XRANGE wxgate:revocations - +").await;
        // The command was told that its order is not stored, and so it need not be.
        ended[..2].iter().all(|sid| log.contains(sid.as_str()))
    })
    .await;
    for visitor in [&leaving, &captured] {
        let refused = fleet.refused_after(visitor, Instant::now()).await;
        assert!(refused.iter().all(|wait| *wait < Duration::from_secs(3)), "{row}: {refused:?}");
    }
    for replica in 0..4 {
        fleet.wait_until_ready(replica).await;
        until("a store that is well", Duration::from_secs(5), async || {
            store_up(fleet, replica).await && !fleet.ready(replica).await.contains("\nstore: ")
        })
        .await;
    }
    assert_eq!(fleet.statuses(&inside).await, [200; 4], "{row}: the session is still good");
}

/// Rows that a command to Redis makes ill and another makes well.
async fn walk(cases: &[Case]) {
    let mut redis = Redis::start().await;
    let mut fleet = open_fleet(&redis).await;
    for case in cases {
        let command = |text: &'static str| {
            async move |redis: &mut Redis| {
                for line in text.split("; ") {
                    let said = redis.ask(line).await;
                    assert!(said.starts_with(['+', ':']), "{line}: {said}");
                }
            }
        };
        let (ill, well) = (command(case.ill), command(case.well));
        fails_and_recovers(&mut fleet, &mut redis, case, ill, well).await;
    }
    let keys = redis.ask("KEYS *check*").await;
    assert!(keys.starts_with("*0"), "the checks leave nothing behind: {keys}");
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_redis_that_takes_no_writes_counts_as_away() {
    walk(&[
        case(
            "CONFIG SET maxmemory 8mb; CONFIG SET maxmemory-policy noeviction; SETRANGE fill 9000000 x",
            "CONFIG SET maxmemory 0; DEL fill",
            "Redis is full (maxmemory reached)",
        ),
        case("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "this Redis is a read-only replica"),
        case(
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "Redis has too few replicas (min-replicas-to-write)",
        ),
        case(
            "CLIENT PAUSE 600000 WRITE",
            "CLIENT UNPAUSE",
            "Redis answers reads, but takes too long to write",
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_an_acl_that_lacks_a_command_is_named() {
    walk(&[
        case(
            "ACL SETUSER default -xadd",
            "ACL SETUSER default +xadd",
            "the ACL user of [store] lacks the command XADD",
        ),
        case(
            "ACL SETUSER default -pexpire",
            "ACL SETUSER default +pexpire",
            "the ACL user of [store] lacks the command PEXPIRE",
        ),
        case(
            "ACL SETUSER default -xtrim",
            "ACL SETUSER default +xtrim",
            "the ACL user of [store] lacks the command XTRIM",
        ),
        case(
            "ACL SETUSER default -xrange",
            "ACL SETUSER default +xrange",
            "the ACL user of [store] lacks the command XRANGE",
        ),
        login_case(
            "ACL SETUSER default -set",
            "ACL SETUSER default +set",
            "the ACL user of [store] lacks the command SET",
        ),
        login_case(
            "ACL SETUSER default -get",
            "ACL SETUSER default +get",
            "the ACL user of [store] lacks the command GET",
        ),
        login_case(
            "ACL SETUSER default -getdel",
            "ACL SETUSER default +getdel",
            "the ACL user of [store] lacks the command GETDEL",
        ),
        case(
            "ACL SETUSER default resetkeys ~other:*",
            "ACL SETUSER default allkeys",
            "the ACL user of [store] may not use the keys wxgate:*",
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_redis_without_disk_or_time_counts_as_away() {
    let mut redis = Redis::with(&["--save", "3600 1", "--busy-reply-threshold", "100"]).await;
    let mut fleet = open_fleet(&redis).await;
    // A folder where the snapshot should be: it cannot be put there, whoever Redis runs as.
    let saved = async |redis: &Redis, status: &str| {
        until(status, Duration::from_secs(10), async || {
            let said = redis.ask("BGSAVE").await;
            let info = redis.ask("INFO persistence").await;
            !said.starts_with('$') && info.contains(&format!("rdb_last_bgsave_status:{status}"))
        })
        .await;
    };
    let disk = case("MISCONF", "", "Redis cannot write to its disk (MISCONF)");
    fails_and_recovers(
        &mut fleet,
        &mut redis,
        &disk,
        async |redis| {
            let _ = std::fs::remove_file(redis.folder().join("dump.rdb"));
            std::fs::create_dir(redis.folder().join("dump.rdb")).unwrap();
            saved(redis, "err").await;
        },
        async |redis| {
            std::fs::remove_dir(redis.folder().join("dump.rdb")).unwrap();
            saved(redis, "ok").await;
        },
    )
    .await;
    let busy = case("BUSY", "", "Redis is busy with a script");
    fails_and_recovers(
        &mut fleet,
        &mut redis,
        &busy,
        async |redis| {
            let port = redis.port;
            tokio::spawn(async move { ask(port, "EVAL \"while true do end\" 0").await });
            until("a Redis that is busy", Duration::from_secs(5), async || {
                redis.ask("PING").await.starts_with("-BUSY")
            })
            .await;
        },
        async |redis| assert!(redis.ask("SCRIPT KILL").await.starts_with("+OK")),
    )
    .await;
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_redis_that_is_loading_counts_as_away() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "no"]).await;
    let mut fleet = open_fleet(&redis).await;
    for number in 0..200 {
        let many: Vec<String> = (0..50).map(|key| format!("fill:{number}:{key} x")).collect();
        assert!(redis.ask(&format!("MSET {}", many.join(" "))).await.starts_with("+OK"));
    }
    let loading = case("LOADING", "", "Redis is still loading its data");
    fails_and_recovers(
        &mut fleet,
        &mut redis,
        &loading,
        async |redis| {
            assert!(redis.ask("SAVE").await.starts_with("+OK"));
            redis.kill().await;
            redis.add_arguments(&[
                "--key-load-delay",
                "2000",
                "--loading-process-events-interval-bytes",
                "1024",
                "--rdbcompression",
                "no",
            ]);
            redis.launch();
            until("a Redis that is loading", Duration::from_secs(10), async || {
                redis.ask("GET x").await.starts_with("-LOADING")
            })
            .await;
        },
        async |redis| {
            assert!(redis.ask("CONFIG SET key-load-delay 0").await.starts_with("+OK"));
            until("a Redis that has loaded", Duration::from_secs(20), async || {
                redis.ask("PING").await.starts_with("+PONG")
            })
            .await;
        },
    )
    .await;
    fleet.close().await;
}
