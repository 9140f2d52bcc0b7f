//! `/ws`: a WebSocket that says everything back, by hand (RFC 6455), as a site of 2009 would.

use std::io;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::emulator::listen::{Body, full};

/// Longer messages end the conversation.
const MAX_MESSAGE_LEN: u64 = 64 * 1024;
/// Fixed by RFC 6455, section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// Turns the connection into a conversation, or says how to ask for one.
pub fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let Some(accept) = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(accept) else {
        let mut response = Response::new(full("this is a WebSocket\n"));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return response;
    };
    tokio::spawn(async move {
        let ended = match hyper::upgrade::on(request).await {
            Ok(upgraded) => converse(TokioIo::new(upgraded)).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "WebSocket closed early");
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    let keyed = [key.as_bytes(), GUID.as_bytes()].concat();
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &keyed));
    HeaderValue::from_str(&accept).ok()
}

/// Says every frame back until the other side says goodbye.
async fn converse(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let first = socket.read_u8().await?;
        let second = socket.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            short => u64::from(short),
        };
        // A client always masks; one that does not is no client.
        if second & 0x80 == 0 || length > MAX_MESSAGE_LEN {
            return say(&mut socket, FIN | CLOSE, &[]).await;
        }
        let mut mask = [0; 4];
        socket.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
        socket.read_exact(&mut payload).await?;
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        match first & 0x0f {
            CLOSE => return say(&mut socket, FIN | CLOSE, &payload).await,
            PING => say(&mut socket, FIN | PONG, &payload).await?,
            PONG => (),
            _ => say(&mut socket, first, &payload).await?,
        }
    }
}

async fn say(socket: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => frame.push(short),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        (_, Err(_)) => {
            frame.push(127);
            frame.extend(u64::try_from(payload.len()).unwrap_or(MAX_MESSAGE_LEN).to_be_bytes());
        }
    }
    frame.extend(payload);
    socket.write_all(&frame).await?;
    socket.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes() {
        // The example of RFC 6455, section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames() {
        let long = [vec![0x82, 0xfe, 0x01, 0x00, 0, 0, 0, 0], vec![7; 256]].concat();
        let long_back = [vec![0x82, 126, 0x01, 0x00], vec![7; 256]].concat();
        let rows = [
            // "Hello", masked, as in RFC 6455, section 5.7.
            (
                vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58],
                b"\x81\x05Hello".to_vec(),
            ),
            (vec![0x89, 0x80, 0, 0, 0, 0], vec![0x8a, 0]),
            (vec![0x8a, 0x80, 0, 0, 0, 0], vec![]),
            (vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8], vec![0x88, 2, 0x03, 0xe8]),
            (vec![0x81, 0x05], vec![0x88, 0]),
            (vec![0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0], vec![0x88, 0]),
            (long, long_back),
        ];
        for (sent, expected) in rows {
            let (mut client, server) = tokio::io::duplex(4096);
            let talk = tokio::spawn(converse(server));
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, expected, "{sent:?}");
            let _ = talk.await.unwrap();
        }
    }
}
