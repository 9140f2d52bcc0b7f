//! A site that answers with the request it received, word for word, and counts what reached it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// What the microseconds at `/timed` count from, and the header that tells them.
pub static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
pub const RECEIVED: &str = "x-received";

/// The site. It speaks HTTP by hand, so that a test sees what was really sent.
pub struct Echo {
    pub addr: SocketAddr,
    hits: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (hits, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, opened) = (Arc::clone(&hits), Arc::clone(&connections));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(Box::pin(serve(stream, Arc::clone(&counted))));
            }
        });
        Self { addr, hits, connections }
    }

    /// How many requests have reached it.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, hits: Arc<AtomicUsize>) {
    let mut seen = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => seen.extend_from_slice(&buffer[..count]),
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        seen.drain(..end);
        hits.fetch_add(1, Ordering::Relaxed);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if special(&mut stream, &path, &head, &mut seen).await {
            return;
        }
        let body = read_body(&mut stream, &head, &mut seen).await;
        let text = format!("{head}{}", String::from_utf8_lossy(&body));
        let hostile = if path.starts_with("/static/cookies") {
            "set-cookie: a=1\r\nset-cookie: wxgate=stolen; Path=/\r\nset-cookie: __Host-wxgate=stolen; Path=/\r\nset-cookie: WXGATE=stolen\r\nset-cookie: wxgate-flow-x=stolen; Path=/\r\ncache-control: public, max-age=60\r\n"
        } else if path.starts_with("/cached") {
            "cache-control: public, s-maxage=600\r\n"
        } else if path.starts_with("/timed") {
            &format!("{RECEIVED}: {}\r\n", BEGAN.elapsed().as_micros())
        } else {
            ""
        };
        let missing = path.starts_with("/static/missing");
        let status = if missing { "404 Not Found" } else { "200 OK" };
        let head_only = head.starts_with("HEAD ");
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: text/plain; charset=utf-8\r\n{hostile}keep-alive: timeout=5\r\nconnection: keep-alive\r\n\r\n{}",
            text.len(),
            if head_only { "" } else { &text },
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Paths that misbehave on purpose; `true` when the connection is over.
async fn special(stream: &mut TcpStream, path: &str, head: &str, seen: &mut Vec<u8>) -> bool {
    match path {
        "/static/hangup" => true,
        "/static/deaf" => {
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n").await;
            std::future::pending::<()>().await;
            true
        }
        "/static/early" => {
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
            let _ = read_body(stream, head, seen).await;
            false
        }
        "/static/never" => {
            std::future::pending::<()>().await;
            true
        }
        "/static/garbage" => {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
            true
        }
        "/static/switch" => {
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
            true
        }
        "/static/close" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbye").await;
            true
        }
        "/static/half" | "/static/endless" => unending(stream, path).await,
        "/static/events" | "/events" => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
            // Each event waits for the client to have seen the last: it says so through another
            // request, or the test would pass with a buffering proxy.
            let _ = stream.write_all(b"9\r\ndata: 1\n\n\r\n").await;
            std::future::pending::<()>().await;
            true
        }
        "/ws" | "/static/ws" => {
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                websocket(stream, head, seen).await;
            }
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            true
        }
        _ => false,
    }
}

/// Answers that have no end: one stands still, the other goes on for ever.
async fn unending(stream: &mut TcpStream, path: &str) -> bool {
    if path == "/static/half" {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    while stream.write_all(&[b'a'; 8192]).await.is_ok() {}
    true
}

/// Answers the handshake, then sends back every byte as it came.
async fn websocket(stream: &mut TcpStream, head: &str, seen: &mut Vec<u8>) {
    let line =
        head.lines().find(|line| line.to_ascii_lowercase().starts_with("sec-websocket-key:"));
    let key = line.and_then(|line| line.split_once(':')).map_or("", |(_, key)| key.trim());
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut buffer = std::mem::take(seen);
    loop {
        // Client frames are masked, server frames are not: unmask by hand.
        if let Some((frame, used)) = unmask(&buffer) {
            buffer.drain(..used);
            if stream.write_all(&frame).await.is_err() {
                return;
            }
            continue;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return,
            Ok(count) => buffer.extend_from_slice(&more[..count]),
        }
    }
}

fn unmask(buffer: &[u8]) -> Option<(Vec<u8>, usize)> {
    let length = usize::from(*buffer.get(1)? & 0x7f);
    assert!(length < 126, "tests send short frames");
    let mask = buffer.get(2..6)?;
    let payload = buffer.get(6..6 + length)?;
    let mut frame = vec![buffer[0], u8::try_from(length).unwrap()];
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Some((frame, 6 + length))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|it| it == part)
}

async fn read_body(stream: &mut TcpStream, head: &str, seen: &mut Vec<u8>) -> Vec<u8> {
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let done = |seen: &[u8]| match length {
        Some(length) => {
            (seen.len() >= length.trim().parse().unwrap()).then(|| length.trim().parse().unwrap())
        }
        None if lower.contains("transfer-encoding: chunked") => {
            // The last chunk, and what is behind it.
            let last = if seen.starts_with(b"0\r\n") {
                Some(0)
            } else {
                find(seen, b"\r\n0\r\n").map(|at| at + 2)
            };
            last.and_then(|last| Some(last + 5 + find(&seen[last + 1..], b"\r\n\r\n")?))
        }
        None => Some(0),
    };
    loop {
        if let Some(length) = done(seen) {
            return seen.drain(..length).collect();
        }
        let mut buffer = [0; 8192];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return Vec::new(),
            Ok(count) => seen.extend_from_slice(&buffer[..count]),
        }
    }
}
