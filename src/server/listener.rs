//! Taking addresses: TCP for each thread, unix sockets and systemd's sockets shared among them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    time::Duration,
};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::{Error, ListenAddress, Settings};

/// Connections the kernel holds until we accept them.
const BACKLOG: i32 = 4096;
/// How long a client may be quiet before the system asks whether it is still there, and again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A socket that accepts connections.
pub struct Listener {
    /// The socket.
    pub socket: ListeningSocket,
    /// Whether its connections begin with a TLS handshake.
    pub tls: bool,
    /// Whether it outlives us, so that whoever waits in its queue is the next one's to serve.
    pub inherited: bool,
}

/// Either kind of socket.
pub enum ListeningSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

impl Listener {
    /// Its address, if it has one.
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.local_addr().ok(),
            ListeningSocket::Unix(_) => None,
        }
    }

    /// Its path, if it has one.
    pub fn path(&self) -> Option<PathBuf> {
        match &self.socket {
            ListeningSocket::Tcp(_) => None,
            ListeningSocket::Unix(socket) => Some(socket.local_addr().ok()?.as_pathname()?.into()),
        }
    }

    fn share(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            ListeningSocket::Tcp(socket) => ListeningSocket::Tcp(socket.try_clone()?),
            ListeningSocket::Unix(socket) => ListeningSocket::Unix(socket.try_clone()?),
        };
        Ok(Self { socket, tls: self.tls, inherited: self.inherited })
    }
}

/// Every listener, once for each thread.
pub fn bind(settings: &Settings, workers: usize) -> Result<Vec<Vec<Listener>>, Error> {
    let mut threads: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let handed = from_systemd(settings).map_err(|error| failed("systemd's sockets", error))?;
    if !handed.is_empty() {
        if settings.tls.is_some() && !handed.iter().any(|listener| listener.tls) {
            tracing::warn!("ignoring [server.tls]: no inherited systemd socket uses its port");
        }
        for listener in handed {
            share(&listener, &mut threads).map_err(|error| failed("systemd's sockets", error))?;
        }
        return Ok(threads);
    }
    let encrypted = settings.tls.iter().flat_map(|tls| &tls.listen);
    let encrypted = encrypted.map(|address| (ListenAddress::Tcp(*address), true));
    for (listen, encrypted) in
        settings.listen.iter().cloned().map(|it| (it, false)).chain(encrypted)
    {
        match listen {
            ListenAddress::Tcp(address) => {
                tcp((address, encrypted), settings.reuse_port, &mut threads)
                    .map_err(|error| failed(&address.to_string(), error))?;
            }
            ListenAddress::Unix(path) => {
                let name = format!("unix:{}", path.display());
                let socket = unix(&path).map_err(|error| failed(&name, error))?;
                let socket = ListeningSocket::Unix(socket);
                let listener = Listener { socket, tls: encrypted, inherited: false };
                share(&listener, &mut threads).map_err(|error| failed(&name, error))?;
            }
        }
    }
    Ok(threads)
}

fn failed(name: &str, error: io::Error) -> Error {
    Error::Listen(name.to_owned(), error)
}

/// A socket of its own for each thread; the first decides what port 0 means.
fn tcp(
    (address, encrypted): (SocketAddr, bool),
    reuse_port: bool,
    threads: &mut [Vec<Listener>],
) -> io::Result<()> {
    if !reuse_port {
        ensure_address_free(address)?;
    }
    let mut address = address;
    for thread in threads {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Phones vanish without a word. Accepted sockets inherit this; without it a tunnel or a
        // stream of events to nobody would stay for ever.
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL),
        )?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        address = socket.local_addr()?;
        let socket = ListeningSocket::Tcp(socket);
        thread.push(Listener { socket, tls: encrypted, inherited: false });
    }
    Ok(())
}

/// Refuses an address that another process serves. `SO_REUSEPORT` alone would share it, and deal
/// every other visitor to a gateway with another key.
fn ensure_address_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // connections of a former run that still linger are no obstacle
    socket.bind(&address.into())
}

/// A socket file left by a former run is replaced; one that somebody serves is not.
fn unix(path: &std::path::Path) -> io::Result<UnixListener> {
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn share(listener: &Listener, threads: &mut [Vec<Listener>]) -> io::Result<()> {
    for thread in threads {
        thread.push(listener.share()?);
    }
    Ok(())
}

/// Sockets that systemd opened for us. One whose port stands under `[server.tls]` is encrypted.
fn from_systemd(settings: &Settings) -> io::Result<Vec<Listener>> {
    let mut handed = ListenFd::from_env();
    let tls_ports: Vec<u16> =
        settings.tls.iter().flat_map(|tls| &tls.listen).map(SocketAddr::port).collect();
    let mut found = Vec::new();
    for index in 0..handed.len() {
        if let Ok(Some(socket)) = handed.take_tcp_listener(index) {
            socket.set_nonblocking(true)?;
            let encrypted = tls_ports.contains(&socket.local_addr()?.port());
            let socket = ListeningSocket::Tcp(socket);
            found.push(Listener { socket, tls: encrypted, inherited: true });
        } else if let Ok(Some(socket)) = handed.take_unix_listener(index) {
            socket.set_nonblocking(true)?;
            let socket = ListeningSocket::Unix(socket);
            found.push(Listener { socket, tls: false, inherited: true });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_accepted_sockets_notice_that_a_client_has_vanished() {
        let mut threads = vec![Vec::new()];
        tcp((SocketAddr::from(([127, 0, 0, 1], 0)), false), false, &mut threads).unwrap();
        let ListeningSocket::Tcp(listener) = &threads[0][0].socket else { panic!("a unix socket") };
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let accepted = Socket::from(listener.accept().unwrap().0);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_INTERVAL);
    }

    #[test]
    fn an_address_that_is_served_is_not_shared() {
        let mut threads = [Vec::new(), Vec::new()];
        tcp((SocketAddr::from(([127, 0, 0, 1], 0)), false), false, &mut threads).unwrap();
        let address = threads[0][0].addr().unwrap();
        assert_eq!(threads[1][0].addr(), Some(address), "our own threads share it");
        let again = tcp((address, false), false, &mut [Vec::new()]);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(tcp((address, false), true, &mut [Vec::new()]).is_ok(), "unless that is wanted");
    }
}
