//! A server that can die, come back at the same address, and say of itself whether it is well.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// The server.
pub struct Server {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
    running: JoinSet<()>,
}

struct Counts {
    /// Requests for pages.
    pages: AtomicUsize,
    /// Requests for `/healthz`.
    checks: AtomicUsize,
    /// What `/healthz` answers.
    health: AtomicU16,
    /// What pages answer; zero hangs up.
    status: AtomicU16,
    /// Requests under way, and the most there were at once.
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Server {
    /// It runs, and is well.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let counts = Counts {
            pages: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            health: AtomicU16::new(200),
            status: AtomicU16::new(200),
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        };
        let addr = listener.local_addr().unwrap();
        let mut server = Self { addr, counts: Arc::new(counts), running: JoinSet::new() };
        server.serve(listener);
        server
    }

    /// As an operator writes it.
    pub fn url(&self) -> String {
        format!("\"http://{}\"", self.addr)
    }

    /// It is gone with all its connections.
    pub async fn kill(&mut self) {
        self.running.shutdown().await;
    }

    /// It is there again.
    pub async fn revive(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.serve(listener);
    }

    /// What `/healthz` answers from now on.
    pub fn feels(&self, status: u16) {
        self.counts.health.store(status, Relaxed);
    }

    /// What every page answers from now on; zero hangs up.
    pub fn answers(&self, status: u16) {
        self.counts.status.store(status, Relaxed);
    }

    /// The pages it was asked for since the last time somebody wanted to know.
    pub fn pages(&self) -> usize {
        self.counts.pages.swap(0, Relaxed)
    }

    /// The most pages it was asked for at once.
    pub fn peak(&self) -> usize {
        self.counts.peak.load(Relaxed)
    }

    /// How often it was asked whether it is well.
    pub fn checks(&self) -> usize {
        self.counts.checks.load(Relaxed)
    }

    fn serve(&mut self, listener: TcpListener) {
        let counts = Arc::clone(&self.counts);
        self.running.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                open.spawn(answer(stream, Arc::clone(&counts)));
            }
        });
    }
}

/// What a page takes that is work.
const WORK: Duration = Duration::from_millis(5);

/// A request under way.
struct Busy<'a>(&'a Counts);

impl<'a> Busy<'a> {
    fn new(counts: &'a Counts) -> Self {
        let now = counts.now.fetch_add(1, Relaxed) + 1;
        counts.peak.fetch_max(now, Relaxed);
        Self(counts)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

/// Answers requests without bodies, one after the other.
async fn answer(mut stream: TcpStream, counts: Arc<Counts>) {
    let mut seen = Vec::new();
    loop {
        while !seen.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return;
            }
        }
        let check = seen.starts_with(b"GET /healthz ");
        let (count, status) =
            if check { (&counts.checks, &counts.health) } else { (&counts.pages, &counts.status) };
        count.fetch_add(1, Relaxed);
        let status = status.load(Relaxed);
        let _busy = Busy::new(&counts);
        if seen.starts_with(b"GET /work ") {
            sleep(WORK).await;
        }
        seen.clear();
        if status == 0 {
            return;
        }
        let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
