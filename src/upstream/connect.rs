//! A new connection to a server: TCP, TLS over TCP, or a unix socket.

use std::{fmt, io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{
    http1::{Socket, Stream},
    site::Endpoint,
};

/// How we speak TLS to a server.
pub struct ConnectTls {
    /// Whom we believe and who we are.
    pub config: Arc<ClientConfig>,
    /// The name its certificate must be good for, when that is not its host.
    pub name: Option<ServerName<'static>>,
}

/// A new connection, and the protocol that was chosen for it, if there was a choice.
pub struct NewConnection {
    pub stream: Stream,
    pub protocol: Option<Vec<u8>>,
}

impl From<Socket> for NewConnection {
    fn from(socket: Socket) -> Self {
        Self { stream: Stream::Plain(socket), protocol: None }
    }
}

/// Opens a connection.
pub async fn open(endpoint: &Endpoint, tls: &ConnectTls) -> io::Result<NewConnection> {
    match endpoint {
        Endpoint::Http(host, port) => Ok(tcp(host, *port).await?.into()),
        Endpoint::Https(host, port) => {
            let name = match &tls.name {
                Some(name) => name.clone(),
                None => ServerName::try_from(bare(host).to_owned()).map_err(io::Error::other)?,
            };
            let socket = tcp(host, *port).await?;
            let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, socket).await?;
            let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            Ok(NewConnection { stream: Stream::Tls(Box::new(stream.into())), protocol })
        }
        Endpoint::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?).into()),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<Socket> {
    let stream = TcpStream::connect((bare(host), port)).await?;
    stream.set_nodelay(true)?;
    Ok(Socket::Tcp(stream))
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(host, port) => write!(f, "http://{host}:{port}"),
            Self::Https(host, port) => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
