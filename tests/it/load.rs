//! Visitors who come all the time while something is changed, and count what goes wrong.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

/// Visitors who come all the time; each counts what they got, and remembers what went wrong.
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    visitors: JoinSet<Vec<String>>,
}

impl Load {
    pub fn start(gateway: SocketAddr) -> Self {
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
    pub async fn goes_on(&self, more: usize) {
        let enough = self.served.load(Relaxed) + more;
        let patience = timeout(Duration::from_secs(20), async {
            while self.served.load(Relaxed) < enough {
                sleep(Duration::from_millis(5)).await;
            }
        });
        patience.await.unwrap();
    }

    /// How many were served; nothing may have gone wrong.
    pub async fn end(self) -> usize {
        let (served, wrong) = self.ended().await;
        assert!(wrong.is_empty(), "{} went wrong: {:?}", wrong.len(), wrong.first());
        served
    }

    /// How many were served, and what went wrong.
    pub async fn ended(self) -> (usize, Vec<String>) {
        self.stop.store(true, Relaxed);
        let wrong = self.visitors.join_all().await.into_iter().flatten().collect();
        (self.served.load(Relaxed), wrong)
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

/// wrk with these words and at this URL, until it is told to report.
pub struct Wrk {
    words: String,
    child: Child,
}

impl Wrk {
    pub fn start(url: &str, words: &str) -> Self {
        let child = Command::new("wrk")
            .args(["-t", "1", "-d", "60s", "--timeout", "10s", "-H", "Host: h5.example.com"])
            .args(words.split_whitespace())
            .arg(url)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("wrk is missing: tests/tools.sh installs it");
        Self { words: words.to_owned(), child }
    }

    /// Stops it; it says how many requests were answered, and nothing may have gone wrong.
    pub async fn end(self) -> usize {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().await.unwrap().success());
        let output = self.child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = said.split(" requests in ").next().unwrap_or_default();
        let count = count.split_whitespace().last().and_then(|count| count.parse().ok());
        println!("wrk {}: {} requests", self.words, count.unwrap_or(0));
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        count.unwrap_or_else(|| panic!("{said}"))
    }
}

/// Somebody with a WebSocket, who says something and waits for it to come back.
pub struct Talker {
    socket: WebSocketStream<TcpStream>,
    said: usize,
}

impl Talker {
    pub async fn start(gateway: SocketAddr) -> Self {
        let request = "ws://h5.example.com/static/ws".into_client_request().unwrap();
        let stream = TcpStream::connect(gateway).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        Self { socket, said: 0 }
    }

    /// Whether one more word went there and back.
    pub async fn talk(&mut self) -> bool {
        self.said += 1;
        let word = Message::text(format!("word {}", self.said));
        let there = self.socket.send(word.clone()).await.is_ok();
        let back = timeout(Duration::from_secs(5), self.socket.next()).await;
        there && matches!(back, Ok(Some(Ok(back))) if back == word)
    }

    /// Talks until the other side hangs up, and says how long that was.
    pub async fn until_hung_up(mut self) -> Duration {
        let begun = Instant::now();
        while self.talk().await {
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }
}
