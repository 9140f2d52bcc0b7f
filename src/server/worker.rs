//! One thread: a runtime of its own, and every connection it accepted from first byte to last.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::HeaderValue;

use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{Builder, LocalOptions},
    sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore, mpsc::UnboundedReceiver},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Limits,
    connection::Connection,
    connection_registry::ConnectionRegistry,
    eviction::{EvictionQueue, EvictionRequest},
    listener::{Listener, ListeningSocket},
    peer,
};
use crate::{
    clock::Timestamp,
    descriptors,
    gateway::{self, ConnectionLimiter, ConnectionPermit, Gateway, Peer},
    http1::{BufferPool, Socket},
};

/// How often idle upstream connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How long an access line may wait for company.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// How long a new connection waits for the place of one that was told to close, before another is
/// told the same. The first may have got a request in that moment, or nothing was idle.
const EVICTION_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How long no connection is accepted after the system refused one, so that descriptors get free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a thread is given to start with.
pub struct WorkerThread {
    pub listeners: Vec<Listener>,
    pub acceptor: Option<TlsAcceptor>,
    pub gateway: Arc<Gateway>,
    pub connection_permits: Arc<Semaphore>,
    pub connection_limiter: Arc<ConnectionLimiter>,
    pub evictions: (EvictionQueue, UnboundedReceiver<EvictionRequest>),
    pub eviction_turn: Arc<Mutex<()>>,
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
    pub permits: Arc<Semaphore>,
    connection_limiter: Arc<ConnectionLimiter>,
    evictions: EvictionQueue,
    eviction_turn: Arc<Mutex<()>>,
    pub stopping: CancellationToken,
    /// The connections of this thread. It also tells those that the server stops which cannot look at
    /// a token on each turn.
    pub registry: Rc<ConnectionRegistry>,
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
        let (evictions, mut eviction_requests) = self.evictions;
        let shared = Rc::new(WorkerContext {
            gateway: Rc::new(gateway::RequestHandler::new(
                self.gateway,
                Rc::clone(&arena),
                self.workers,
                self.limits.upstream_idle,
            )),
            acceptor: self.acceptor,
            permits: self.connection_permits,
            connection_limiter: self.connection_limiter,
            evictions,
            eviction_turn: self.eviction_turn,
            stopping: self.stopping,
            registry: Rc::default(),
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
        let evicting = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            while let Some(request) = eviction_requests.recv().await {
                evicting.evict(request);
            }
        });
        spawn_periodic(FLUSH_INTERVAL, &shared.gateway, gateway::RequestHandler::flush);
        spawn_periodic(SWEEP_INTERVAL, &shared.gateway, gateway::RequestHandler::close_idle);
        shared.stopping.cancelled().await;
        shared.registry.stop();
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
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => return,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.recover_from_accept_error(&error).await;
                    continue;
                }
            };
            // Before anything is closed for it: a client over its own limit gets no place.
            let Some(client) = self.acquire_client_permit(address) else { continue };
            let Some((place, turn)) = self.acquire_place().await else { return };
            self.spawn_connection(socket, (address, encrypted), client, place);
            drop(turn);
        }
    }

    /// Waits while the system cannot give out a socket. A client that has gone meanwhile is no reason
    /// to wait.
    async fn recover_from_accept_error(&self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        {
            return;
        }
        if descriptors::is_exhausted(error) {
            // The limit of the process or of the system comes before `connections`: as there, an idle
            // connection makes room.
            self.gateway.record_limit("descriptors");
            self.evict(EvictionRequest::default());
        }
        self.connection_limiter.report_accept_error(error);
        time::sleep(ACCEPT_BACKOFF).await;
    }

    /// Waits for one of the `connections`. If all are taken, an idle one is closed. Returns nothing
    /// when the server stops.
    ///
    /// New connections take turns in this, and a turn ends when the new one is among the idle
    /// connections. Otherwise those of one client, arriving at several threads at once, would find
    /// that its idle connections are being closed already, and close those of other clients.
    async fn acquire_place(&self) -> Option<(OwnedSemaphorePermit, Option<MutexGuard<'_, ()>>)> {
        if let Ok(place) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some((place, None));
        }
        self.gateway.record_limit("connections");
        self.connection_limiter.report_full(self.limits.connections);
        let turn = tokio::select! {
            turn = self.eviction_turn.lock() => turn,
            () = self.stopping.cancelled() => return None,
        };
        let mut acquiring = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            self.evict(EvictionRequest::default());
            tokio::select! {
                place = acquiring.as_mut() => return Some((place.ok()?, Some(turn))),
                () = self.stopping.cancelled() => return None,
                () = time::sleep(EVICTION_RETRY_INTERVAL) => (),
            }
        }
    }

    fn evict(&self, request: EvictionRequest) {
        let evict = |scope| self.registry.evict_one(&self.connection_limiter, scope);
        self.evictions.process(request, evict);
    }

    /// Takes those whom the system has told that they are connected, and closes the socket in the
    /// same breath: whoever is in its queue then is hung up on.
    fn drain_backlog(self: &Rc<Self>, listener: TcpListener, encrypted: bool) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.permits).try_acquire_owned()
            && let Ok((stream, address)) = listener.accept()
        {
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let Ok(stream) = ready.and_then(|()| tokio::net::TcpStream::from_std(stream))
                && let Some(client) = self.acquire_client_permit(Some(address))
            {
                let address = (Some(address), encrypted);
                self.spawn_connection(Socket::Tcp(stream), address, client, place);
            }
        }
    }

    /// Serves a connection.
    fn spawn_connection(
        self: &Rc<Self>,
        socket: Socket,
        (address, encrypted): (Option<SocketAddr>, bool),
        client: CountedClient,
        permit: OwnedSemaphorePermit,
    ) {
        let CountedClient(seat) = client;
        let slot = self.registry.register(seat.as_ref().map(ConnectionPermit::client));
        slot.set_idle();
        let peer = Rc::new(Peer { client_permit: seat, ..peer(address, encrypted, permit) });
        let connection = Connection { slot, peer, shared: Rc::clone(self) };
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

/// The count of a connection at its client; empty for those of trusted proxies and over unix sockets,
/// which are everybody's.
struct CountedClient(Option<ConnectionPermit>);

impl WorkerContext {
    /// Counts a connection of a client. Returns nothing if the client holds all it may.
    fn acquire_client_permit(&self, address: Option<SocketAddr>) -> Option<CountedClient> {
        let Some(ip) = address.map(|address| address.ip()) else {
            return Some(CountedClient(None));
        };
        if self.gateway.is_trusted_proxy(ip) {
            return Some(CountedClient(None));
        }
        let permit = self.connection_limiter.acquire(ip, self.limits.connections_per_client);
        if permit.is_none() {
            self.gateway.record_limit("connections_per_client");
        }
        permit.map(|permit| CountedClient(Some(permit)))
    }
}

impl AsyncListener {
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                // It fails for a client that has gone, which the first read will find out.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), Some(address)))
            }
            Self::Unix(socket) => Ok((Socket::Unix(socket.accept().await?.0), None)),
        }
    }
}
