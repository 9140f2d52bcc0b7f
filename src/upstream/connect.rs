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
pub struct Manner {
    /// Whom we believe and who we are.
    pub config: Arc<ClientConfig>,
    /// The name its certificate must be good for, when that is not its host.
    pub name: Option<ServerName<'static>>,
}

/// Opens a connection.
pub async fn open(endpoint: &Endpoint, tls: &Manner) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Http(host, port) => Ok(Stream::Plain(tcp(host, *port).await?)),
        Endpoint::Https(host, port) => {
            let name = match &tls.name {
                Some(name) => name.clone(),
                None => ServerName::try_from(bare(host).to_owned()).map_err(io::Error::other)?,
            };
            let socket = tcp(host, *port).await?;
            let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, socket).await?;
            Ok(Stream::Tls(Box::new(stream.into())))
        }
        Endpoint::Unix(path) => Ok(Stream::Plain(Socket::Unix(UnixStream::connect(path).await?))),
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
