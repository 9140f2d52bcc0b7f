//! A new connection to a server: TCP, TLS over TCP, or a unix socket.

use std::{fmt, io, sync::Arc};

use hyper::{
    client::conn::http1::{self, SendRequest},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::Outgoing;
use crate::site::Endpoint;

/// The largest response head and the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// Opens a connection. Its driver runs as a task of this thread and ends with it.
pub async fn open(
    endpoint: &Endpoint,
    tls: &Arc<ClientConfig>,
) -> io::Result<SendRequest<Outgoing>> {
    match endpoint {
        Endpoint::Http(host, port) => handshake(tcp(host, *port).await?).await,
        Endpoint::Https(host, port) => {
            let name = ServerName::try_from(bare(host).to_owned()).map_err(io::Error::other)?;
            let stream = tcp(host, *port).await?;
            handshake(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?).await
        }
        Endpoint::Unix(path) => handshake(UnixStream::connect(path).await?).await,
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((bare(host), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<Outgoing>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<S>: Read + Write,
{
    let mut http = http1::Builder::new();
    http.max_buf_size(BUFFER);
    let (sender, connection) =
        http.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection broke");
        }
    });
    Ok(sender)
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
