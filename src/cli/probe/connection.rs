//! Bytes out, an answer back: a polite client cannot send what an attacker sends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::attempt::ProbeTarget;
use crate::upstream;

/// What one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// As much of an answer as is read.
const MAX_RESPONSE_LEN: usize = 256 * 1024;
/// How long an answer may stand still.
const SILENCE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Clone, Debug)]
pub enum ProbeReply {
    Answer(RawResponse),
    /// Nobody took the connection, or it ended without an answer.
    Closed,
    Late,
}

/// One answer, as far as it was read.
#[derive(Clone, Debug)]
pub struct RawResponse {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Everything, in small letters, with the chunks joined.
    text: String,
}

impl RawResponse {
    /// Reads an answer; nothing when it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, value)| {
            name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked")
        });
        let body = if chunked { joined(body) } else { body.to_owned() };
        Some(Self { status, headers, text: format!("{head}\n{body}").to_ascii_lowercase() })
    }

    /// Whether these words are anywhere in it, in any case.
    pub fn contains(&self, words: &str) -> bool {
        self.text.contains(&words.to_ascii_lowercase())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        let cookies = self.headers.iter().filter(|(name, _)| name == "set-cookie");
        cookies.map(|(_, value)| value.as_str())
    }
}

/// The chunks of a body without their lengths, as far as it is well formed.
fn joined(body: &str) -> String {
    let (mut left, mut text) = (body, String::new());
    while let Some((length, rest)) = left.split_once("\r\n") {
        let length = length.split(';').next().unwrap_or_default().trim();
        match usize::from_str_radix(length, 16)
            .ok()
            .and_then(|length| rest.get(..length).zip(rest.get(length..)))
        {
            Some((chunk, rest)) if !chunk.is_empty() => {
                text.push_str(chunk);
                left = rest.strip_prefix("\r\n").unwrap_or(rest);
            }
            // What is cut off, or has letters of several bytes, is taken as it is.
            _ => {
                text.push_str(rest);
                break;
            }
        }
    }
    text
}

/// The way to the public address.
pub struct ProbeConnection {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl ProbeConnection {
    /// Looks the host up once, so that everything goes to one machine.
    pub async fn new(aim: &ProbeTarget, connect: Option<SocketAddr>) -> Result<Self, String> {
        let bare = aim.host.trim_matches(['[', ']']);
        let address = match connect {
            Some(address) => address,
            None => lookup_host((bare, aim.port))
                .await
                .map_err(|error| format!("{} cannot be found: {error}", aim.host))?
                .next()
                .ok_or_else(|| format!("{} has no address", aim.host))?,
        };
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
        let tls = aim.https.then(|| {
            let mut config = rustls::ClientConfig::clone(&upstream::tls::client());
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            (TlsConnector::from(Arc::new(config)), name)
        });
        Ok(Self { address, tls })
    }

    /// A request that somebody has to answer, or there is no point in going on.
    pub async fn must(&self, request: &[u8]) -> Result<RawResponse, String> {
        match timeout(REQUEST_TIMEOUT, self.try_to_send(request)).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => {
                Err(format!("{} closed the connection without an answer", self.address))
            }
            Ok(Err(error)) => Err(format!("{}: {error}", self.address)),
            Err(_) => Err(format!("{} did not answer in {REQUEST_TIMEOUT:?}", self.address)),
        }
    }

    /// One request.
    pub async fn send(&self, request: &[u8]) -> ProbeReply {
        heard(timeout(REQUEST_TIMEOUT, self.try_to_send(request)).await)
    }

    /// One request to the port of plain HTTP beside it.
    pub async fn send_plain(&self, request: &[u8]) -> ProbeReply {
        let plain = SocketAddr::new(self.address.ip(), 80);
        let asked = async { talk(TcpStream::connect(plain).await?, request).await };
        heard(timeout(REQUEST_TIMEOUT, asked).await)
    }

    async fn try_to_send(&self, request: &[u8]) -> std::io::Result<Option<RawResponse>> {
        let stream = TcpStream::connect(self.address).await?;
        match &self.tls {
            None => talk(stream, request).await,
            Some((tls, name)) => talk(tls.connect(name.clone(), stream).await?, request).await,
        }
    }
}

/// One request to somewhere else.
pub async fn send_to(place: &str, request: &[u8]) -> ProbeReply {
    let asked = async { talk(TcpStream::connect(place).await?, request).await };
    heard(timeout(REQUEST_TIMEOUT, asked).await)
}

/// Somebody who cannot be reached has let nothing through.
fn heard(
    asked: Result<std::io::Result<Option<RawResponse>>, tokio::time::error::Elapsed>,
) -> ProbeReply {
    match asked {
        Ok(Ok(Some(answer))) => ProbeReply::Answer(answer),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => ProbeReply::Late,
        Ok(Ok(None) | Err(_)) => ProbeReply::Closed,
        Err(_) => ProbeReply::Late,
    }
}

async fn talk<S>(stream: S, request: &[u8]) -> std::io::Result<Option<RawResponse>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = stream;
    stream.write_all(request).await?;
    stream.flush().await?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    let bodiless = request.starts_with(b"HEAD ");
    while bytes.len() < MAX_RESPONSE_LEN && !is_whole(&bytes, bodiless) {
        match timeout(SILENCE, stream.read(&mut piece)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(count)) => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
            // What breaks off or stands still after an answer has still brought it.
            Ok(Err(error)) if bytes.is_empty() => return Err(error),
            Err(_) if bytes.is_empty() => return Err(std::io::ErrorKind::TimedOut.into()),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(RawResponse::parse(&bytes))
}

/// Whether an answer has come to its end. Not every server closes when it is asked to.
fn is_whole(bytes: &[u8], bodiless: bool) -> bool {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let Some(answer) = RawResponse::parse(bytes) else { return true };
    if bodiless || matches!(answer.status, 101 | 204 | 304) {
        return true;
    }
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    match length {
        Some(length) => bytes.len().saturating_sub(end + 4) >= length,
        None => answer.header("transfer-encoding").is_some() && bytes.ends_with(b"\r\n0\r\n\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_far_as_they_go() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwxp\r\n4;x=y\r\n1234\r\n0\r\n\r\n";
        let answer = RawResponse::parse(chunked).unwrap();
        assert!(answer.contains("WXP1234"), "{answer:?}");
        let cookies = b"HTTP/1.0 302 Found\r\nSet-Cookie: a=1\r\nset-cookie:b=2\r\nAge: 5\r\n\r\n";
        let answer = RawResponse::parse(cookies).unwrap();
        assert_eq!(answer.cookies().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!((answer.status, answer.header("age")), (302, Some("5")));
        let broken = ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/2 200\r\n\r\n"];
        for text in broken {
            assert!(RawResponse::parse(text.as_bytes()).is_none(), "{text:?}");
        }
        let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nmärk";
        assert!(RawResponse::parse(cut.as_bytes()).unwrap().contains("märk"));
    }
}
