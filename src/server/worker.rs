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
    bell::Bell,
    connection::Connection,
    listen::{Listener, ListeningSocket},
    peer,
};
use crate::{
    clock::Timestamp,
    gateway::{self, Crowd, Gateway, Peer, Seat},
    http1::{Arena, Socket},
};

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// How long an access line may wait for company.
const FLUSH: Duration = Duration::from_millis(100);

/// What a thread is given to start with.
pub struct Worker {
    pub listeners: Vec<Listener>,
    pub acceptor: Option<TlsAcceptor>,
    pub gateway: Arc<Gateway>,
    pub room: Arc<Semaphore>,
    pub crowd: Arc<Crowd>,
    pub stopping: CancellationToken,
    pub limits: Limits,
    pub drain: Duration,
}

/// What every connection of a thread shares.
pub struct Shared {
    pub gateway: Rc<gateway::Worker>,
    pub acceptor: Option<TlsAcceptor>,
    pub room: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    pub stopping: CancellationToken,
    /// The same for those who cannot look at a token on each turn.
    pub bell: Rc<Bell>,
    /// Ends what is no longer HTTP, when the drain has taken too long.
    pub close: CancellationToken,
    pub limits: Limits,
    pub arena: Rc<Arena>,
    open: TaskTracker,
    date: RefCell<(Timestamp, HeaderValue)>,
}

impl Worker {
    /// Serves until told to stop and drained.
    pub fn run(self) -> io::Result<()> {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> io::Result<()> {
        let (open, close) = (TaskTracker::new(), CancellationToken::new());
        let arena = Arena::new();
        let shared = Rc::new(Shared {
            gateway: Rc::new(gateway::Worker::new(
                self.gateway,
                Rc::clone(&arena),
                self.limits.upstream_idle,
            )),
            acceptor: self.acceptor,
            room: self.room,
            crowd: self.crowd,
            stopping: self.stopping,
            bell: Rc::default(),
            close: close.clone(),
            limits: self.limits,
            arena,
            open: open.clone(),
            date: RefCell::new((Timestamp::default(), HeaderValue::from_static(""))),
        });
        for listener in self.listeners {
            let (encrypted, handed) = (listener.encrypted, listener.handed);
            let socket = match listener.socket {
                ListeningSocket::Tcp(socket) => Accept::Tcp(TcpListener::from_std(socket)?),
                ListeningSocket::Unix(socket) => Accept::Unix(UnixListener::from_std(socket)?),
            };
            let shared = Rc::clone(&shared);
            // Counted among the open, so that the thread does not end before it.
            open.spawn_local(async move {
                shared.accept(&socket, encrypted).await;
                if let (Accept::Tcp(socket), false) = (socket, handed) {
                    shared.take_the_last(socket, encrypted);
                }
            });
        }
        every(FLUSH, &shared.gateway, gateway::Worker::flush);
        every(SWEEP, &shared.gateway, gateway::Worker::sweep);
        shared.stopping.cancelled().await;
        shared.bell.ring();
        open.close();
        if time::timeout(self.drain, open.wait()).await.is_err() {
            tracing::warn!(
                connections = open.len(),
                "gave up on connections that would not finish"
            );
            close.cancel();
        }
        shared.gateway.flush();
        Ok(())
    }
}

/// Does it again and again, for as long as the thread serves.
fn every(period: Duration, worker: &Rc<gateway::Worker>, chore: fn(&gateway::Worker)) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        loop {
            time::sleep(period).await;
            chore(&worker);
        }
    });
}

enum Accept {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Shared {
    async fn accept(self: &Rc<Self>, listener: &Accept, encrypted: bool) {
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
                    tracing::warn!(%error, "could not accept");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            self.admit(socket, (address, encrypted), place);
        }
    }

    /// Takes those whom the system has told that they are connected, and closes the socket in the
    /// same breath: whoever is in its queue then is hung up on.
    fn take_the_last(self: &Rc<Self>, listener: TcpListener, encrypted: bool) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.room).try_acquire_owned()
            && let Ok((stream, address)) = listener.accept()
        {
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let Ok(stream) = ready.and_then(|()| tokio::net::TcpStream::from_std(stream)) {
                self.admit(Socket::Tcp(stream), (Some(address), encrypted), place);
            }
        }
    }

    /// Serves a connection, unless its client has too many.
    fn admit(
        self: &Rc<Self>,
        socket: Socket,
        (address, encrypted): (Option<SocketAddr>, bool),
        place: OwnedSemaphorePermit,
    ) {
        let Ok(seat) = self.seat(address) else {
            self.gateway.met("connections_per_client");
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

impl Shared {
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
struct Full;

impl Shared {
    /// A connection of a client is counted; those of a proxy of ours, and over a unix socket, are
    /// everybody's.
    fn seat(&self, address: Option<SocketAddr>) -> Result<Option<Seat>, Full> {
        let most = self.limits.connections_per_client;
        let Some(ip) = address.map(|it| it.ip()).filter(|_| most > 0) else { return Ok(None) };
        if self.gateway.trusts(ip) {
            return Ok(None);
        }
        self.crowd.seat(ip, most).map(Some).ok_or(Full)
    }
}

impl Accept {
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
