//! The real Redis, started by a test on a port of its own, and a wire to it that can be cut.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    time::Instant,
};

/// A server, which ends with its owner.
pub struct Redis {
    pub port: u16,
    first: Vec<String>,
    arguments: Vec<String>,
    folder: Arc<tempfile::TempDir>,
    process: Option<Child>,
}

impl Redis {
    /// One server alone.
    pub async fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes"]).await
    }

    /// One server with these arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::of(&[], arguments).await
    }

    /// A sentinel with this configuration.
    pub async fn sentinel(file: &str) -> Self {
        Self::of(&[file], &["--sentinel"]).await
    }

    async fn of(first: &[&str], arguments: &[&str]) -> Self {
        let first = first.iter().map(|it| (*it).to_owned()).collect();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut server = Self { port: free_port().await, arguments, first, folder, process: None };
        server.start_again().await;
        server
    }

    /// Starts it on its old port with what it had written.
    pub async fn start_again(&mut self) {
        self.launch();
        let begun = Instant::now();
        while !self.ask("PING").await.contains("PONG") {
            assert!(begun.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The same without waiting for it.
    pub fn launch(&mut self) {
        let child = Command::new("redis-server")
            .args(&self.first)
            .args(["--bind", "127.0.0.1", "--protected-mode", "no"])
            .args(["--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is missing: tests/tools.sh installs it");
        self.process = Some(child);
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// Stops it in its tracks, or lets it go on: `STOP` or `CONT`.
    pub async fn signal(&self, name: &str) {
        let id = self.process.as_ref().and_then(Child::id).unwrap().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(sent.success());
    }

    /// One command and its raw answer, or nothing when nobody answers.
    pub async fn ask(&self, command: &str) -> String {
        ask(self.port, command).await
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where it keeps its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds to its arguments, for the next start.
    pub fn add_arguments(&mut self, more: &[&str]) {
        self.arguments.extend(more.iter().map(|it| (*it).to_owned()));
    }
}

/// One command of words to whoever listens there.
pub async fn ask(port: u16, command: &str) -> String {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut buffer = vec![0; 65_536];
        let count = stream.read(&mut buffer).await?;
        buffer.truncate(count);
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer).into_owned())
    };
    talk.await.unwrap_or_default()
}

pub async fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    free.local_addr().unwrap().port()
}

/// A wire from one replica to Redis.
pub struct Wire {
    pub addr: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Wire {
    pub async fn to(redis: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (whole, seen) = watch::channel(true);
        tokio::spawn(async move {
            loop {
                let (mut here, _) = listener.accept().await.unwrap();
                let mut seen = seen.clone();
                if !*seen.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(redis).await?;
                    tokio::select! {
                        _ = copy_bidirectional(&mut here, &mut there) => (),
                        _ = seen.wait_for(|whole| !whole) => (),
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { addr, whole }
    }

    /// Cuts it, or mends it.
    pub fn set(&self, whole: bool) {
        self.whole.send_replace(whole);
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}
