//! Two hundred sessions end, and every replica is asked until it knows: while all is well, and
//! while something breaks halfway.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep},
};

use crate::{
    fleet::{Fleet, sid, store},
    redis::Redis,
    topologies::{Six, Watched},
};

/// Sessions that end in each test.
const ORDERS: usize = 200;
/// How many of them at once.
const LANES: usize = 8;
const SECOND: Duration = Duration::from_secs(1);

/// Those who measure do not disturb each other.
static ONE_BY_ONE: Mutex<()> = Mutex::const_new(());

/// Ends sessions, each at one of the first `askable` replicas in turn, and something happens
/// halfway. When was each of them let in for the last time?
async fn end_sessions(
    fleet: &mut Fleet,
    askable: usize,
    halfway: impl AsyncFnOnce(&Fleet),
) -> Vec<Duration> {
    let mut leaving = Vec::new();
    for _ in 0..ORDERS {
        let visitor = fleet.somebody().await;
        let json = format!(r#"{{"session":"{}"}}"#, sid(&visitor).await);
        leaving.push((visitor, json));
    }
    let bystander = fleet.somebody().await;
    let (fleet, half) = (&*fleet, &Notify::new());
    let orders = leaving.iter().enumerate().map(|(number, (visitor, json))| async move {
        if number == ORDERS / 2 {
            half.notify_one();
        }
        let since = Instant::now();
        let at = number % askable;
        let (given, mut last) =
            tokio::join!(fleet.revoke(at, json), fleet.last_accepted(visitor, since));
        assert!(given.starts_with("HTTP/1.1 202"), "{given}");
        (last.remove(at), last)
    });
    let orders = futures_util::stream::iter(orders).buffer_unordered(LANES);
    let (times, ()) = tokio::join!(orders.collect::<Vec<_>>(), async {
        half.notified().await;
        halfway(fleet).await;
    });
    let (here, elsewhere): (Vec<Duration>, Vec<Vec<Duration>>) = times.into_iter().unzip();
    let elsewhere = elsewhere.concat();
    report("where it was ordered", &here);
    report("elsewhere", &elsewhere);
    for replica in 0..fleet.gateways.len() {
        fleet.wait_until_ready(replica).await;
    }
    let statuses = fleet.statuses(&bystander).await;
    assert!(statuses.iter().all(|status| *status == 200), "good sessions go on: {statuses:?}");
    [here, elsewhere].concat()
}

fn report(whose: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{ORDERS} orders, last accepted {whose}: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

fn within_a_second(times: &[Duration]) {
    assert!(times.iter().all(|time| *time < SECOND), "{:?}", times.iter().max());
}

/// The fleet of the tests in which the store goes away: what is older than a second is no news.
async fn strict(stores: &[String]) -> Fleet {
    Fleet::open(stores, "revocation = \"strict\"").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_are_everywhere_within_a_second() {
    let _one = ONE_BY_ONE.lock().await;
    let redis = Redis::start().await;
    let mut fleet = Fleet::at(&redis.url(), 3).await;
    within_a_second(&end_sessions(&mut fleet, 3, async |_| ()).await);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_while_redis_is_started_anew() {
    let _one = ONE_BY_ONE.lock().await;
    let mut redis = Redis::start().await;
    let mut fleet = strict(&vec![store(&redis.url()); 3]).await;
    let times = end_sessions(&mut fleet, 3, async |_| {
        redis.kill().await;
        sleep(SECOND).await;
        redis.start_again().await;
    });
    within_a_second(&times.await);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_at_a_replica_that_was_stopped_for_a_while() {
    let _one = ONE_BY_ONE.lock().await;
    let redis = Redis::start().await;
    let mut fleet = Fleet::of_processes(&store(&redis.url()), "", 3).await;
    let mut leaving = Vec::new();
    for _ in 0..20 {
        let mut visitor = fleet.somebody().await;
        visitor.gateway = fleet.gateway(2);
        leaving.push((format!(r#"{{"session":"{}"}}"#, sid(&visitor).await), visitor));
    }
    let times = end_sessions(&mut fleet, 2, async |fleet| {
        fleet.processes[2].signal("STOP").await;
        for (json, _) in &leaving {
            assert!(fleet.revoke(0, json).await.starts_with("HTTP/1.1 202"));
        }
        sleep(2 * SECOND).await;
        // They ask while nobody is there, and are answered by one who just woke up.
        let asked = leaving.iter_mut().map(|(_, visitor)| visitor.get("/orders"));
        let (answers, ()) = tokio::join!(futures_util::future::join_all(asked), async {
            sleep(SECOND).await;
            fleet.processes[2].signal("CONT").await;
        });
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [302; 20], "what it missed comes before what it is asked");
    });
    within_a_second(&times.await);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_while_the_sentinels_choose_another_master() {
    let _one = ONE_BY_ONE.lock().await;
    let mut redis = Watched::start().await;
    let mut fleet = strict(&vec![redis.store(); 3]).await;
    let times = end_sessions(&mut fleet, 3, async |_| redis.master.kill().await);
    within_a_second(&times.await);
    fleet.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn also_while_a_cluster_loses_the_master_that_keeps_the_log() {
    let _one = ONE_BY_ONE.lock().await;
    let mut redis = Six::start().await;
    let mut fleet = strict(&vec![redis.store(); 3]).await;
    let times = end_sessions(&mut fleet, 3, async |_| redis.keeper().await.kill().await);
    within_a_second(&times.await);
    fleet.close().await;
}
