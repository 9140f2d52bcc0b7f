//! A process that may open fewer files than `connections` needs, and one that may open no more.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::{ROUTES, TestConfig, TestGateway, until_ready},
    redis::free_port,
    visitor::raw,
};

/// As long as the slowest machine may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Descriptors of the small processes here.
const FEW: u64 = 256;

/// A gateway as a process of its own that may open so many files.
struct Limited {
    child: Child,
    gateway: SocketAddr,
    admin: SocketAddr,
    log: std::path::PathBuf,
    /// The site and WeChat.
    street: TestGateway,
    _folder: tempfile::TempDir,
}

impl Limited {
    async fn start(files: u64) -> Self {
        let street = TestGateway::usual().await;
        let folder = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port().await, free_port().await);
        let [gateway, admin_addr] = [port, admin].map(|port| ([127, 0, 0, 1], port).into());
        let (file, log) = (folder.path().join("config.toml"), folder.path().join("log"));
        std::fs::write(&file, text(&street, gateway, admin)).unwrap();
        let child = limited(files, "serve", &file)
            .stdout(Stdio::from(std::fs::File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        until_ready(admin).await;
        Self { child, gateway, admin: admin_addr, log, street, _folder: folder }
    }

    /// The files that are open, by number.
    fn open_files(&self) -> Vec<u64> {
        let folder = format!("/proc/{}/fd", self.child.id().unwrap());
        let names = std::fs::read_dir(folder).unwrap();
        names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
    }

    /// Changes how many files it may open, while it runs.
    fn set_limit(&self, files: u64) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap());
        let limit = Rlimit { current: Some(files), maximum: Some(FEW) };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    /// Lets it open this many files more, wherever the gaps between the open ones are.
    fn leave(&self, files: usize) {
        let open = self.open_files();
        let mut free = (0..).filter(|number| !open.contains(number));
        self.set_limit(free.nth(files).unwrap());
    }

    async fn admin(&self, path: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = timeout(Duration::from_secs(5), raw(self.admin, &request)).await;
        let answer = answer.unwrap_or_else(|_| panic!("the admin listener does not answer {path}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answer
    }

    /// Waits until the metrics say this.
    async fn until(&self, said: &str) -> String {
        let begun = Instant::now();
        loop {
            let metrics = self.admin("/metrics").await;
            if metrics.contains(said) {
                return metrics;
            }
            assert!(begun.elapsed() < DEADLINE, "no {said:?} in\n{metrics}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn text(street: &TestGateway, gateway: SocketAddr, admin: u16) -> String {
    let plan = TestConfig { workers: 2, ..TestConfig::site(ROUTES) };
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    let text = text.replace("127.0.0.1:0", &gateway.to_string());
    format!("{text}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n")
}

/// The program, which may open so many files.
fn limited(files: u64, command: &str, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -n {files}; exec \"$0\" {command} --config \"$1\"");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_wxgate")]).arg(file).kill_on_drop(true);
    shell
}

async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

async fn send(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: h5.example.com\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// The status of an answer; nothing if none comes in time.
async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut buffer = vec![0; 8192];
    let count = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.ok()?.ok()?;
    String::from_utf8_lossy(&buffer[..count]).get(9..12)?.parse().ok()
}

/// What the metrics say against the site.
fn blamed(metrics: &str) -> Vec<&str> {
    let against = |line: &&str| {
        (line.starts_with("wxgate_upstream_up{") && line.ends_with(" 0"))
            || line.starts_with("wxgate_upstream_errors_total{")
            || line.contains("cause=\"upstream_")
    };
    metrics.lines().filter(against).collect()
}

/// A page for a new visitor.
async fn visit(gateway: SocketAddr) -> Option<u16> {
    let mut visitor = connect_from([127, 0, 0, 2], gateway).await;
    send(&mut visitor, "/static/a").await;
    status(&mut visitor).await
}

#[tokio::test]
async fn g5_check_says_that_the_files_do_not_suffice() {
    let street = TestGateway::usual().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text(&street, ([127, 0, 0, 1], 8080).into(), 9090)).unwrap();
    let few = std::fs::read_to_string(&file).unwrap()
        + "[server.limits]\nconnections = 20\nupstream_idle = 10\n";
    let needed = "need 22076 file descriptors and the system grants 256: at most 81 connections";
    let rows = [
        ("check", String::new(), true),
        ("check --json", String::new(), true),
        ("check", few, false),
    ];
    for (command, other, warned) in rows {
        if !other.is_empty() {
            std::fs::write(&file, other).unwrap();
        }
        let output = limited(FEW, command, &file).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: a warning is no error: {said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(said.contains(needed), warned, "{command}: {said}");
        assert_eq!(said.contains("raise LimitNOFILE"), warned, "{command}: {said}");
    }
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_with_few_files_fewer_connections_are_held_and_everybody_is_served() {
    for busy in [false, true] {
        let limited = Limited::start(FEW).await;
        let log = std::fs::read_to_string(&limited.log).unwrap();
        assert!(log.contains("the system grants 256: at most 81 connections are held"), "{log}");
        let mut held = Vec::new();
        for _ in 0..400 {
            let mut stream = connect_from([127, 0, 0, 1], limited.gateway).await;
            send(&mut stream, if busy { "/static/never" } else { "/static/a" }).await;
            if !busy {
                assert_eq!(status(&mut stream).await, Some(200), "an attacker is served, too");
            }
            held.push(stream);
        }
        let metrics = limited.until("wxgate_problem{cause=\"connections_full\"").await;
        assert!(metrics.contains("wxgate_connections_limit 81\n"), "{metrics}");
        assert!(!metrics.contains("limit=\"descriptors\""), "they never ran out: {metrics}");
        assert_eq!(blamed(&metrics), Vec::<&str>::new());
        for path in ["/", "/readyz", "/status.json"] {
            limited.admin(path).await;
        }
        if !busy {
            assert_eq!(visit(limited.gateway).await, Some(200));
        }
        // They leave with a reset, which says that no answer is wanted any more.
        for stream in &held {
            stream.set_zero_linger().unwrap();
        }
        drop(held);
        let begun = Instant::now();
        while visit(limited.gateway).await != Some(200) {
            assert!(begun.elapsed() < DEADLINE, "it does not recover");
        }
        limited.street.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_without_any_file_left_the_admin_listener_answers_and_the_site_is_not_blamed() {
    let limited = Limited::start(FEW).await;
    assert_eq!(visit(limited.gateway).await, Some(200), "the site is known to be well");
    limited.admin("/metrics").await;
    limited.leave(7);
    // Each of these needs a file for itself and one for the site.
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut stream = connect_from([127, 0, 0, 1], limited.gateway).await;
        send(&mut stream, "/static/never").await;
        held.push(stream);
    }
    let metrics = limited
        .until("wxgate_problem{cause=\"descriptors_exhausted\",severity=\"critical\"} 1")
        .await;
    assert!(metrics.contains("wxgate_limits_total{limit=\"descriptors\"}"), "{metrics}");
    // When nothing opens or closes any more, not one file more. No new connection makes room now.
    let mut before = limited.open_files();
    loop {
        sleep(Duration::from_millis(300)).await;
        let now = limited.open_files();
        if now == before {
            break;
        }
        before = now;
    }
    limited.leave(0);
    for _ in 0..20 {
        for path in ["/", "/metrics", "/readyz", "/status.json", "/healthz"] {
            limited.admin(path).await;
        }
    }
    let metrics = limited.admin("/metrics").await;
    assert_eq!(blamed(&metrics), Vec::<&str>::new());
    let log = std::fs::read_to_string(&limited.log).unwrap();
    assert!(log.contains("cannot accept connection"), "{log}");

    limited.set_limit(FEW);
    let begun = Instant::now();
    while visit(limited.gateway).await != Some(200) {
        assert!(begun.elapsed() < DEADLINE, "it does not recover");
    }
    drop(held);
    limited.street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_without_any_file_left_idle_connections_make_room() {
    let limited = Limited::start(FEW).await;
    // Both threads keep a connection to the site.
    for _ in 0..20 {
        assert_eq!(visit(limited.gateway).await, Some(200));
    }
    limited.leave(6);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(connect_from([127, 0, 0, 1], limited.gateway).await);
    }
    for _ in 0..5 {
        assert_eq!(visit(limited.gateway).await, Some(200), "{:?}", limited.open_files());
    }
    limited.until("wxgate_limits_total{limit=\"descriptors\"}").await;
    limited.street.close().await;
}
