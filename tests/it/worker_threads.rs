//! `workers = 0` follows the CPUs that the process may use: its affinity mask, and the quota of its
//! control group, which is what a CPU limit of Kubernetes sets.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::TestConfig;

/// What `wxgate check` says that this configuration comes to, run by a shell that does this first.
fn threads(file: &Path, first: &str) -> u64 {
    let program = env!("CARGO_BIN_EXE_wxgate");
    let script = format!("{first} exec {program} check --json --config {}", file.display());
    let output = Command::new("sh").args(["-euc", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(&said)
        .unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    report["threads"].as_u64().unwrap()
}

fn written(folder: &Path, workers: u32) -> PathBuf {
    let nobody = "127.0.0.1:9".parse().unwrap();
    let text =
        TestConfig { workers, ..TestConfig::default() }.text(nobody, "\"http://127.0.0.1:9\"");
    let file = folder.join(format!("{workers}.toml"));
    fs::write(&file, text).unwrap();
    file
}

/// The first CPU that this process may use.
fn first_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split([',', '-']).next().unwrap().to_owned()
}

#[test]
fn zero_workers_is_one_for_each_cpu_of_the_affinity_mask() {
    let folder = tempfile::tempdir().unwrap();
    let (all, three) = (written(folder.path(), 0), written(folder.path(), 3));
    let cpus = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    assert_eq!(threads(&all, ""), cpus.min(16));
    assert_eq!(threads(&all, &format!("taskset -pc {} $$ >/dev/null;", first_cpu())), 1);
    assert_eq!(threads(&three, &format!("taskset -pc {} $$ >/dev/null;", first_cpu())), 3);
}

/// A control group of its own, with this quota in microseconds of 100,000; nothing where this process
/// may make none.
fn group(quota: u32) -> Option<PathBuf> {
    let name = format!("wxgate-test-{}-{quota}", std::process::id());
    let v1 = Path::new("/sys/fs/cgroup/cpu").join(&name);
    if fs::create_dir(&v1).is_ok() {
        fs::write(v1.join("cpu.cfs_period_us"), "100000").unwrap();
        fs::write(v1.join("cpu.cfs_quota_us"), quota.to_string()).unwrap();
        return Some(v1);
    }
    let v2 = Path::new("/sys/fs/cgroup").join(&name);
    fs::create_dir(&v2).ok()?;
    if fs::write(v2.join("cpu.max"), format!("{quota} 100000")).is_err() {
        fs::remove_dir(&v2).unwrap();
        return None;
    }
    Some(v2)
}

#[test]
fn zero_workers_follows_the_quota_of_the_control_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), 0);
    let cpus = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    // A quota is rounded down, and never to none.
    for (quota, expected) in [(25_000, 1), (100_000, 1), (150_000, 1), (200_000, 2)] {
        let Some(group) = group(quota) else {
            println!("left out: this process may make no control group");
            return;
        };
        let joined = format!("echo $$ > {}/cgroup.procs;", group.display());
        let seen = threads(&file, &joined);
        fs::remove_dir(&group).unwrap();
        assert_eq!(seen, cpus.min(expected), "a quota of {quota} µs in 100 ms");
    }
}
