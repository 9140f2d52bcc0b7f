//! Sockets in: listen, share connections among threads, and drain when asked to stop.
//!
//! Each thread has a runtime, a listening socket, upstream connections and caches of its own
//! (`SO_REUSEPORT` lets the kernel deal out connections), so a request never crosses threads.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::gateway::{ConnectionLimiter, Gateway, Peer};

mod connection;
mod connection_registry;
mod descriptor_budget;
mod eviction;
mod http1;
mod http2;
mod listener;
mod preface;
mod streams;
mod timeout_writer;
pub mod tls;
mod worker;

pub use descriptor_budget::{DescriptorShortage, REMEDY as DESCRIPTOR_REMEDY};

use listener::Listener;

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen without TLS. Sockets handed over by systemd come instead of these.
    pub listen: Vec<ListenAddress>,
    /// How many threads serve; zero is one for each CPU, up to sixteen.
    pub workers: usize,
    /// Whether another process may listen on the same addresses, which then takes over from us.
    pub reuse_port: bool,
    /// Encrypted listeners.
    pub tls: Option<tls::Settings>,
    /// What a client may take of us.
    pub limits: Limits,
    /// How long requests may take to finish once we are asked to stop.
    pub drain: Duration,
}

impl Settings {
    /// The number of threads that serve.
    pub fn thread_count(&self) -> usize {
        worker_count(self.workers, available_cpus())
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
}

/// What a client may take of us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request head.
    pub header_bytes: u32,
    /// Headers of a request.
    pub header_count: usize,
    /// How long the TLS handshake and the first request head may take.
    pub header_time: Duration,
    /// How long a connection may stay open without a request.
    pub idle_time: Duration,
    /// How long a client may take nothing of an answer.
    pub send_time: Duration,
    /// Connections held at once.
    pub connections: usize,
    /// HTTP/2 streams of one connection at once.
    pub streams: u32,
    /// Connections held at once from one address; zero is no limit.
    pub connections_per_client: usize,
    /// Idle connections to sites that are kept, in all.
    pub upstream_idle: usize,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be taken.
    #[error("cannot listen on {0}")]
    Listen(String, #[source] io::Error),
    /// A certificate could not be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The system gave us no thread or no runtime.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
}

/// Bound listeners, not yet accepting.
pub struct Server {
    settings: Settings,
    /// One set for each thread.
    listeners: Vec<Vec<Listener>>,
    certificates: Option<Arc<tls::CertificateResolver>>,
}

impl Server {
    /// Takes every address, so that a failure to start is a failure to start.
    pub fn bind(settings: Settings) -> Result<Self, Error> {
        let workers = settings.thread_count();
        let certificates = settings.tls.as_ref().map(tls::CertificateResolver::load).transpose()?;
        let certificates = certificates.map(Arc::new);
        let listeners = listener::bind(&settings, workers)?;
        Ok(Self { settings, listeners, certificates })
    }

    /// The addresses we got without TLS, which matters when port 0 was asked for.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.addrs_where(false)
    }

    /// The addresses we got with TLS.
    pub fn tls_addrs(&self) -> Vec<SocketAddr> {
        self.addrs_where(true)
    }

    /// How many threads serve.
    pub fn workers(&self) -> usize {
        self.listeners.len()
    }

    /// The unix sockets we listen on.
    pub fn paths(&self) -> Vec<PathBuf> {
        let listeners = self.listeners.first().into_iter().flatten();
        listeners.filter_map(Listener::path).collect()
    }

    /// The certificates, so that a reload can read their files again.
    pub fn certificates(&self) -> Option<Arc<tls::CertificateResolver>> {
        self.certificates.clone()
    }

    /// Serves until `stop` completes, then lets open requests finish.
    pub async fn serve(
        self,
        gateway: Arc<Gateway>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let stopping = CancellationToken::new();
        let room = Arc::new(Semaphore::new(self.settings.limits.connections));
        let crowd = Arc::new(ConnectionLimiter::default());
        let acceptor = self.certificates.as_ref().map(|it| tls::acceptor(Arc::clone(it)));
        let mut threads = Vec::new();
        // Each thread has its share, so that nobody has to count together.
        let workers = self.listeners.len().max(1);
        let upstream_idle = self.settings.limits.upstream_idle.div_ceil(workers);
        let limits = Limits { upstream_idle, ..self.settings.limits };
        gateway.metrics().set_connection_limit(self.settings.limits.connections);
        let evictions = eviction::queues(self.listeners.len());
        let eviction_turn = Arc::default();
        for (number, (listeners, evictions)) in
            self.listeners.into_iter().zip(evictions).enumerate()
        {
            let (done, ended) = oneshot::channel();
            let worker = worker::WorkerThread {
                listeners,
                acceptor: acceptor.clone(),
                gateway: Arc::clone(&gateway),
                connection_permits: Arc::clone(&room),
                connection_limiter: Arc::clone(&crowd),
                evictions,
                eviction_turn: Arc::clone(&eviction_turn),
                stopping: stopping.child_token(), // a token of its own: looked at on each turn
                limits,
                drain: self.settings.drain,
                workers,
            };
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let outcome = worker.run();
                let _ = done.send(outcome);
            })?;
            threads.push(ended);
        }
        let ended = all_ended(threads);
        tokio::pin!(ended);
        tokio::select! {
            outcome = &mut ended => return outcome, // a thread that could not start
            () = stop => tracing::info!("draining"),
        }
        stopping.cancel();
        ended.await
    }

    fn addrs_where(&self, encrypted: bool) -> Vec<SocketAddr> {
        let first = self.listeners.first().into_iter().flatten();
        first.filter(|it| it.tls == encrypted).filter_map(Listener::addr).collect()
    }
}

/// The most threads that `workers = 0` starts. On a machine with more cores a gateway is one program
/// among others, and what each thread keeps for itself adds up.
const MAX_DEFAULT_WORKERS: usize = 16;

/// How many threads serve where `workers` says `configured`.
pub fn worker_count(configured: usize, available: usize) -> usize {
    if configured > 0 { configured } else { available.clamp(1, MAX_DEFAULT_WORKERS) }
}

/// The CPUs that this process may use: those of its affinity mask, and no more than the quota of its
/// control group (`cpu.max`, `cpu.cfs_quota_us`) rounded down, which is what a CPU limit of Kubernetes,
/// Docker or systemd sets. The standard library reads both versions of control groups.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Waits for every thread; the first failure is the server's.
async fn all_ended(threads: Vec<oneshot::Receiver<io::Result<()>>>) -> Result<(), Error> {
    let mut outcome = Ok(());
    for thread in threads {
        match thread.await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => outcome = Err(Error::Thread(error)),
            Err(_) => outcome = Err(Error::Thread(io::Error::other("a thread died"))),
        }
    }
    outcome
}

/// The other end of a connection, as the gateway wants to know it.
fn peer(address: Option<SocketAddr>, encrypted: bool, permit: OwnedSemaphorePermit) -> Peer {
    // Whoever can reach a unix socket is on this machine.
    let ip =
        address.map_or(std::net::Ipv4Addr::LOCALHOST.into(), |address| address.ip().to_canonical());
    Peer::new(ip, encrypted, permit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_the_cpus_up_to_a_cap_and_a_number_is_taken_at_its_word() {
        for (configured, available, expected) in [
            (0, 1, 1),
            (0, 2, 2),
            (0, 16, 16),
            (0, 17, 16),
            (0, 256, 16),
            (0, 0, 1),
            (1, 64, 1),
            (64, 2, 64),
        ] {
            assert_eq!(worker_count(configured, available), expected, "{configured} {available}");
        }
    }
}
