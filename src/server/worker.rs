//! One thread: a runtime of its own, and every connection it accepted from first byte to last.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::HeaderValue;

use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{Builder, LocalOptions},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Limits,
    connection::Connection,
    listener::{Listener, ListeningSocket},
    peer,
    shutdown::ShutdownNotifier,
};
use crate::{
    clock::Timestamp,
    gateway::{self, ConnectionLimiter, ConnectionPermit, Gateway, Peer},
    http1::{BufferPool, Socket},
};

/// How often idle upstream connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How long an access line may wait for company.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// What a thread is given to start with.
pub struct WorkerThread {
    pub listeners: Vec<Listener>,
    pub acceptor: Option<TlsAcceptor>,
    pub gateway: Arc<Gateway>,
    pub connection_permits: Arc<Semaphore>,
    pub connection_limiter: Arc<ConnectionLimiter>,
    pub stopping: CancellationToken,
    pub limits: Limits,
    pub drain: Duration,
    /// How many threads there are.
    pub workers: usize,
}

/// What every connection of a thread shares.
pub struct WorkerContext {
    pub gateway: Rc<gateway::RequestHandler>,
    pub acceptor: Option<TlsAcceptor>,
    pub room: Arc<Semaphore>,
    connection_limiter: Arc<ConnectionLimiter>,
    pub stopping: CancellationToken,
    /// The same for those who cannot look at a token on each turn.
    pub shutdown: Rc<ShutdownNotifier>,
    /// Ends what is no longer HTTP, when the drain has taken too long.
    pub close: CancellationToken,
    pub limits: Limits,
    pub arena: Rc<BufferPool>,
    open: TaskTracker,
    date: RefCell<(Timestamp, HeaderValue)>,
}

impl WorkerThread {
    /// Serves until told to stop and drained.
    pub fn run(self) -> io::Result<()> {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> io::Result<()> {
        let (open, close) = (TaskTracker::new(), CancellationToken::new());
        let arena = BufferPool::new();
        let shared = Rc::new(WorkerContext {
            gateway: Rc::new(gateway::RequestHandler::new(
                self.gateway,
                Rc::clone(&arena),
                self.workers,
                self.limits.upstream_idle,
            )),
            acceptor: self.acceptor,
            room: self.connection_permits,
            connection_limiter: self.connection_limiter,
            stopping: self.stopping,
            shutdown: Rc::default(),
            close: close.clone(),
            limits: self.limits,
            arena,
            open: open.clone(),
            date: RefCell::new((Timestamp::default(), HeaderValue::from_static(""))),
        });
        for listener in self.listeners {
            let (encrypted, handed) = (listener.tls, listener.inherited);
            let socket = match listener.socket {
                ListeningSocket::Tcp(socket) => AsyncListener::Tcp(TcpListener::from_std(socket)?),
                ListeningSocket::Unix(socket) => {
                    AsyncListener::Unix(UnixListener::from_std(socket)?)
                }
            };
            let shared = Rc::clone(&shared);
            // Counted among the open, so that the thread does not end before it.
            open.spawn_local(async move {
                shared.accept(&socket, encrypted).await;
                if let (AsyncListener::Tcp(socket), false) = (socket, handed) {
                    shared.drain_backlog(socket, encrypted);
                }
            });
        }
        spawn_periodic(FLUSH_INTERVAL, &shared.gateway, gateway::RequestHandler::flush);
        spawn_periodic(SWEEP_INTERVAL, &shared.gateway, gateway::RequestHandler::close_idle);
        shared.stopping.cancelled().await;
        shared.shutdown.notify();
        open.close();
        if time::timeout(self.drain, open.wait()).await.is_err() {
            tracing::warn!(
                connections = open.len(),
                "drain timeout reached, closing remaining connections"
            );
            close.cancel();
        }
        shared.gateway.flush();
        Ok(())
    }
}

/// Does it again and again, for as long as the thread serves.
fn spawn_periodic(
    period: Duration,
    worker: &Rc<gateway::RequestHandler>,
    chore: fn(&gateway::RequestHandler),
) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        loop {
            time::sleep(period).await;
            chore(&worker);
        }
    });
}

enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl WorkerContext {
    async fn accept(self: &Rc<Self>, listener: &AsyncListener, encrypted: bool) {
        loop {
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => return,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Usually out of file descriptors. Waiting lets some close.
                    tracing::warn!(%error, "cannot accept connection");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            self.spawn_connection(socket, (address, encrypted), place);
        }
    }

    /// Takes those whom the system has told that they are connected, and closes the socket in the
    /// same breath: whoever is in its queue then is hung up on.
    fn drain_backlog(self: &Rc<Self>, listener: TcpListener, encrypted: bool) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.room).try_acquire_owned()
            && let Ok((stream, address)) = listener.accept()
        {
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let Ok(stream) = ready.and_then(|()| tokio::net::TcpStream::from_std(stream)) {
                self.spawn_connection(Socket::Tcp(stream), (Some(address), encrypted), place);
            }
        }
    }

    /// Serves a connection, unless its client has too many.
    fn spawn_connection(
        self: &Rc<Self>,
        socket: Socket,
        (address, encrypted): (Option<SocketAddr>, bool),
        place: OwnedSemaphorePermit,
    ) {
        let Ok(seat) = self.acquire_client_permit(address) else {
            self.gateway.record_limit("connections_per_client");
            return;
        };
        let peer = Rc::new(Peer { seat, ..peer(address, encrypted, place) });
        let connection = Connection { peer, shared: Rc::clone(self) };
        let counted = self.gateway.connection();
        self.open.spawn_local(async move {
            connection.serve(socket).await;
            drop(counted);
        });
    }
}

impl WorkerContext {
    /// The time as a header, written once a second (RFC 9110, section 5.6.7).
    pub fn date(&self) -> HeaderValue {
        let now = self.gateway.now();
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now.0));
            *date = (now, HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")));
        }
        date.1.clone()
    }
}

/// One address holds all the connections it may.
struct ConnectionLimitReached;

impl WorkerContext {
    /// A connection of a client is counted; those of a proxy of ours, and over a unix socket, are
    /// everybody's.
    fn acquire_client_permit(
        &self,
        address: Option<SocketAddr>,
    ) -> Result<Option<ConnectionPermit>, ConnectionLimitReached> {
        let most = self.limits.connections_per_client;
        let Some(ip) = address.map(|it| it.ip()).filter(|_| most > 0) else { return Ok(None) };
        if self.gateway.is_trusted_proxy(ip) {
            return Ok(None);
        }
        self.connection_limiter.acquire(ip, most).map(Some).ok_or(ConnectionLimitReached)
    }
}

impl AsyncListener {
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Socket::Tcp(stream), Some(address)))
            }
            Self::Unix(socket) => Ok((Socket::Unix(socket.accept().await?.0), None)),
        }
    }
}
