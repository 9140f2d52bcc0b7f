//! A site that speaks HTTP/2: what it answers, each test says.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::h2::{ACK, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, frame};

/// The site, and what it has seen.
pub struct Site {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Request<()>>>>,
}

/// A request, and where its answer goes.
pub type Asked = (Request<RecvStream>, SendResponse<Bytes>);

impl Site {
    /// A site that does this with each request, over connections that are told this much.
    pub async fn with<F, D>(builder: Builder, deed: D) -> Self
    where
        D: Fn(Asked) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let site = Self { addr, connections: Arc::default(), seen: Arc::default() };
        let (connections, seen) = (Arc::clone(&site.connections), Arc::clone(&site.seen));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, builder.clone(), deed.clone(), Arc::clone(&seen)));
            }
        });
        site
    }

    /// A site that does this with each request.
    pub async fn new<F, D>(deed: D) -> Self
    where
        D: Fn(Asked) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), deed).await
    }

    /// Connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The heads of the requests it has got.
    pub fn seen(&self) -> Vec<Request<()>> {
        self.seen.lock().unwrap().drain(..).collect()
    }

    /// How the configuration names it.
    pub fn upstream(&self) -> String {
        format!("\"http://{}\"", self.addr)
    }
}

/// Serves one connection.
pub async fn serve<S, F, D>(
    stream: S,
    builder: Builder,
    deed: D,
    seen: Arc<Mutex<Vec<Request<()>>>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Fn(Asked) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        head.headers_mut().clone_from(request.headers());
        seen.lock().unwrap().push(head);
        tokio::spawn(deed((request, respond)));
    }
}

/// Answers with what was sent, and trailers that tell of those that were sent.
pub async fn echo((request, mut respond): Asked) {
    let mut body = request.into_body();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        if send(&mut answer, piece).await.is_err() {
            return;
        }
    }
    let came = body.trailers().await.unwrap_or_default().unwrap_or_default();
    let names: Vec<&str> = came.keys().map(http::HeaderName::as_str).collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("set-cookie", "wxgate=stolen".parse().unwrap());
    trailers.insert("x-came", names.join(" ").parse().unwrap());
    let _ = answer.send_trailers(trailers);
}

/// Answers with a short text.
pub async fn say(text: &'static str, (_, mut respond): Asked) {
    let response = Response::builder().header("content-length", text.len()).body(()).unwrap();
    if let Ok(mut answer) = respond.send_response(response, false) {
        let _ = answer.send_data(Bytes::from_static(text.as_bytes()), true);
    }
}

/// Sends a piece as there is room for it.
pub async fn send(answer: &mut h2::SendStream<Bytes>, piece: Bytes) -> Result<(), h2::Error> {
    let mut piece = piece;
    while !piece.is_empty() {
        answer.reserve_capacity(piece.len());
        let room = std::future::poll_fn(|cx| answer.poll_capacity(cx)).await;
        let room = room.unwrap_or(Err(h2::Reason::CANCEL.into()))?;
        answer.send_data(piece.split_to(room.min(piece.len())), false)?;
    }
    Ok(())
}

/// What a site by hand gets: a frame's kind, flags, stream and payload.
pub type Frame = (u8, u8, u32, Vec<u8>);

/// A connection to a site that writes its frames by hand.
pub struct ByHand(pub TcpStream);

impl ByHand {
    /// Both have said hello, and the question whether we speak HTTP/2 has its answer.
    pub async fn accept(listener: &TcpListener, settings: &[u8]) -> Self {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        Self(stream)
    }

    /// The next frame; settings and pings are answered on the way.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            match (head[3], head[4] & ACK) {
                (SETTINGS, 0) => self.send(&frame(SETTINGS, ACK, 0, &[])).await,
                (PING, 0) => self.send(&frame(PING, ACK, 0, &payload)).await,
                (SETTINGS | PING, _) => (),
                (kind, _) => return Some((kind, head[4], stream, payload)),
            }
        }
    }

    /// The stream of the next request.
    pub async fn request(&mut self) -> u32 {
        loop {
            let (kind, _, stream, _) = self.next().await.expect("a request");
            if kind == HEADERS {
                return stream;
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// Answers 204.
    pub async fn answer(&mut self, stream: u32) {
        // 204 is a single byte, out of the table of RFC 7541, appendix A.
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x89])).await;
    }
}
