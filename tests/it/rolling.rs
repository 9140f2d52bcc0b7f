//! A gateway takes over from another while visitors come: on a socket that both were handed, or on
//! an address that both share.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    fleet::Process,
    harness::{ROUTES, TestConfig, TestGateway, until_ready},
    load::{Load, Talker, Wrk},
    redis::free_port,
};

/// What `drain` is in the tests' configuration.
const DRAIN: Duration = Duration::from_secs(2);

/// A gateway on a socket that was handed to it, as systemd does. The shell knows its own pid.
async fn start(file: &Path, socket: &TcpListener, admin: u16) -> Child {
    let script =
        "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" serve --config \"$1\" 3<&0 0</dev/null";
    let child = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_wxgate")])
        .arg(file)
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until_ready(admin).await;
    child
}

/// Configurations that differ in their admin's port alone.
struct Files {
    folder: tempfile::TempDir,
    text: String,
    written: usize,
}

impl Files {
    fn of(street: &TestGateway, server: &str) -> Self {
        let plan = TestConfig { server: server.to_owned(), ..TestConfig::site(ROUTES) };
        let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
        Self { folder: tempfile::tempdir().unwrap(), text, written: 0 }
    }

    async fn next(&mut self) -> (std::path::PathBuf, u16) {
        let (file, admin) = (self.folder.path().join(self.written.to_string()), free_port().await);
        self.written += 1;
        let text = format!("{}\n[admin]\nlisten = \"127.0.0.1:{admin}\"", self.text);
        std::fs::write(&file, text).unwrap();
        (file, admin)
    }
}

/// Tells the old one to go, whose visitors talk on for as long as it has.
async fn retire(mut old: Child, talkers: Vec<Talker>) {
    let pid = old.id().unwrap().to_string();
    assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
    let talks = talkers.into_iter().map(Talker::until_hung_up);
    for talked in futures_util::future::join_all(talks).await {
        assert!(talked > DRAIN.mul_f64(0.9) && talked < DRAIN * 2, "grace time: {talked:?}");
    }
    let ended = timeout(Duration::from_secs(10), old.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_takes_over_from_another_and_no_request_fails() {
    let street = TestGateway::usual().await;
    let mut files = Files::of(&street, "");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let gateway = socket.local_addr().unwrap();
    let (file, admin) = files.next().await;
    let mut running = start(&file, &socket, admin).await;
    let load = Load::start(gateway);
    let url = format!("http://{gateway}/static/a");
    let wrks = [Wrk::start(&url, "-c 8"), Wrk::start(&url, "-c 4 -H Connection:close")];
    for _ in 0..3 {
        load.goes_on(200).await;
        let talkers = vec![Talker::start(gateway).await, Talker::start(gateway).await];
        let (file, admin) = files.next().await;
        let next = start(&file, &socket, admin).await;
        let mut newcomer = Talker::start(gateway).await;
        retire(running, talkers).await;
        assert!(newcomer.talk().await || Talker::start(gateway).await.talk().await);
        running = next;
    }
    load.goes_on(200).await;
    for wrk in wrks {
        assert!(wrk.end().await > 500);
    }
    assert!(load.end().await > 800);
    street.close().await;
}

/// Without a socket that is handed on: the kernel deals connections out between those who share
/// the address. One that it deals to the old process in its last microseconds is lost, unless
/// `net.ipv4.tcp_migrate_req` is 1; a browser sends such a request again. So no request may get a
/// wrong answer, and next to none may get none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_follows_another_at_an_address_that_both_share() {
    let street = TestGateway::usual().await;
    let gateway = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let mut files = Files::of(&street, "reuse_port = true");
    files.text = files.text.replace("127.0.0.1:0", &gateway.to_string());
    let (file, admin) = files.next().await;
    let mut running = Process::start(&file, gateway, admin).await.child;
    let load = Load::start(gateway);
    let migrates = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    let allowed = if migrates.is_ok_and(|word| word.trim() == "1") { 0 } else { 2 };
    for _ in 0..3 {
        load.goes_on(200).await;
        let talkers = vec![Talker::start(gateway).await, Talker::start(gateway).await];
        let (file, admin) = files.next().await;
        let next = Process::start(&file, gateway, admin).await.child;
        retire(running, talkers).await;
        running = next;
    }
    load.goes_on(200).await;
    let (served, wrong) = load.ended().await;
    println!("{served} served over 3 successions, {} lost", wrong.len());
    assert!(served > 800 && wrong.len() <= allowed, "{wrong:?}");
    assert!(!wrong.iter().any(|why| why.starts_with("HTTP")), "{wrong:?}");
    street.close().await;
}
