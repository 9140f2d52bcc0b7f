//! What bytes come over: TCP or a unix socket, either of them plain or under TLS.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// To anywhere.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

/// A connection that carries HTTP.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(Socket),
    /// Encrypted, from whichever end.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The socket itself, if bytes go over it as they are.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(Socket::Tcp(socket)) => Some(socket),
            Self::Plain(Socket::Unix(_)) | Self::Tls(_) => None,
        }
    }
}

/// Does the same with whatever it is.
macro_rules! either {
    ($this:expr, $kind:ident { $($case:ident),+ }, $stream:ident => $done:expr) => {
        match $this.get_mut() {
            $($kind::$case($stream) => {
                let $stream = Pin::new($stream);
                $done
            })+
        }
    };
}

macro_rules! stream {
    ($kind:ident { $first:ident, $second:ident }) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                either!(self, $kind { $first, $second }, it => it.poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                either!(self, $kind { $first, $second }, it => it.poll_write(cx, bytes))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                // One slice, as TLS has it, is cheaper to send alone.
                if let [one] = slices {
                    return self.poll_write(cx, one);
                }
                either!(self, $kind { $first, $second }, it => it.poll_write_vectored(cx, slices))
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    Self::$first(it) => it.is_write_vectored(),
                    Self::$second(it) => it.is_write_vectored(),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, $kind { $first, $second }, it => it.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                either!(self, $kind { $first, $second }, it => it.poll_shutdown(cx))
            }
        }
    };
}

stream!(Socket { Tcp, Unix });
stream!(Stream { Plain, Tls });
