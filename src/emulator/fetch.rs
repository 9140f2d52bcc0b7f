//! The visits that WeChat's own servers pay: plain GETs without cookies.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

/// How long a visit may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const ENOUGH: usize = 64 * 1024;
/// WeChat's fetchers call themselves WeChat, too.
const AGENT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("not an http:// URL")]
    Url,
    #[error("no answer within {} seconds", FETCH_TIMEOUT.as_secs())]
    Late,
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    #[error("not HTTP")]
    Http(#[from] hyper::Error),
    #[error("cannot be asked for")]
    Request(#[from] http::Error),
    #[error("the answer is too long or breaks off")]
    Body,
}

/// Gets a page, without cookies and without following redirects.
pub async fn get(url: &str) -> Result<(StatusCode, Bytes), FetchError> {
    timeout(FETCH_TIMEOUT, exchange(url)).await.map_err(|_| FetchError::Late)?
}

async fn exchange(url: &str) -> Result<(StatusCode, Bytes), FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::Url)?;
    let (Some(host), "http") = (url.host_str(), url.scheme()) else {
        return Err(FetchError::Url);
    };
    let port = url.port().unwrap_or(80);
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = url
        .query()
        .map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, AGENT)
        .header(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ENOUGH).collect().await;
        Ok((status, body.map_err(|_| FetchError::Body)?.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => return answered,
        // The connection may end with the last byte of the answer; that byte still counts.
        _ = connection => (),
    }
    answer.await
}
