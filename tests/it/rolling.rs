//! A gateway takes over from another on the same socket, or takes new settings, while visitors come.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    harness::{Plan, ROUTES, Street, until_ready},
    redis::free_port,
    visitor::Visitor,
};

/// Visitors who come all the time; each counts what they got, and remembers what went wrong.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    visitors: JoinSet<Vec<String>>,
}

impl Load {
    fn start(gateway: SocketAddr) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut visitors = JoinSet::new();
        for number in 0..8_u32 {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            visitors.spawn(async move {
                let (mut wrong, mut kept) = (Vec::new(), None);
                while !stop.load(Relaxed) {
                    match ask(gateway, &mut kept, number).await {
                        Ok(()) => drop(served.fetch_add(1, Relaxed)),
                        Err(error) => wrong.push(error),
                    }
                }
                wrong
            });
        }
        Self { stop, served, visitors }
    }

    /// Until so many more have been served.
    async fn goes_on(&self, more: usize) {
        let enough = self.served.load(Relaxed) + more;
        let patience = timeout(Duration::from_secs(20), async {
            while self.served.load(Relaxed) < enough {
                sleep(Duration::from_millis(5)).await;
            }
        });
        patience.await.unwrap();
    }

    async fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        let wrong: Vec<String> = self.visitors.join_all().await.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{} went wrong: {:?}", wrong.len(), wrong.first());
        self.served.load(Relaxed)
    }
}

/// One request, over a connection of its own or over the one kept from the last. A kept one may
/// have been closed meanwhile, as every browser knows; a new one may not.
async fn ask(gateway: SocketAddr, kept: &mut Option<TcpStream>, number: u32) -> Result<(), String> {
    let manner = if number.is_multiple_of(2) { "keep-alive" } else { "close" };
    let request =
        format!("GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: {manner}\r\n\r\n");
    if let Some(mut stream) = kept.take()
        && let Ok(answer) = exchange(&mut stream, &request).await
    {
        return judge(answer, stream, kept);
    }
    let stream = TcpStream::connect(gateway).await;
    let mut stream = stream.map_err(|error| format!("connect: {error}"))?;
    if number.is_multiple_of(3) {
        // The first request of a phone far away comes a while after its connection.
        sleep(Duration::from_millis(30)).await;
    }
    let answer = exchange(&mut stream, &request).await?;
    judge(answer, stream, kept)
}

fn judge(answer: String, stream: TcpStream, kept: &mut Option<TcpStream>) -> Result<(), String> {
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(answer);
    }
    if !answer.to_ascii_lowercase().contains("connection: close") {
        *kept = Some(stream);
    }
    Ok(())
}

/// Sends a request and reads until its answer is whole.
async fn exchange(stream: &mut TcpStream, request: &str) -> Result<String, String> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(|error| failed("write", error))?;
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Some((_, rest)) = head.split_once("content-length: ")
        {
            let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
            if body.len() >= length {
                return Ok(String::from_utf8_lossy(&seen).into_owned());
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) => return Err(format!("it ended after {} bytes", seen.len())),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(failed("read", error)),
        }
    }
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_takes_over_from_another_and_no_request_fails() {
    let street = Street::usual().await;
    let folder = tempfile::tempdir().unwrap();
    let write = async |name: &str| {
        let (file, admin) = (folder.path().join(name), free_port().await);
        let more = format!("[admin]\nlisten = \"127.0.0.1:{admin}\"");
        let plan = Plan { more, ..Plan::site(ROUTES) };
        let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
        std::fs::write(&file, text).unwrap();
        (file, admin)
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let gateway = socket.local_addr().unwrap();
    let (file, admin) = write("0.toml").await;
    let mut running = start(&file, &socket, admin).await;
    let load = Load::start(gateway);
    for round in 1..4 {
        load.goes_on(200).await;
        let (file, admin) = write(&format!("{round}.toml")).await;
        let next = start(&file, &socket, admin).await;
        let pid = running.id().unwrap().to_string();
        assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
        let ended = timeout(Duration::from_secs(10), running.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
        running = next;
    }
    load.goes_on(200).await;
    assert!(load.end().await > 800);
    street.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_thirty_times_and_no_request_fails() {
    let street = Street::usual().await;
    let mut inside = Visitor::wechat(street.gateway);
    let _ = inside.open("/orders").await;
    let load = Load::start(street.gateway);
    for round in 0..30 {
        load.goes_on(20).await;
        let more = format!("{ROUTES}\n[[site.route]]\npath = \"/round/{round}\"\nauth = \"none\"");
        street.reload(&Plan::site(&more));
        assert_eq!(inside.get("/orders").await.status, 200, "round {round}");
        let public = Visitor::desktop(street.gateway).get(&format!("/round/{round}")).await;
        assert_eq!(public.status, 200, "the new rules are in force");
    }
    assert!(load.end().await > 600);
    street.close().await;
}
