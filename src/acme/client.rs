//! Requests to the authority, as the library wants them sent: with limits of time and size, over
//! TLS only, and noting how long we are asked to wait.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    Request, Response,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;

use crate::{
    clock::{self, Timestamp},
    error_chain,
};

/// How long a connection, and then an answer, may take.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer; a chain of certificates is a few KiB.
const LARGEST: usize = 1024 * 1024;

/// A client for one authority. Clones are the same client.
#[derive(Clone)]
pub struct AcmeClient {
    inner: reqwest::Client,
    /// Seconds that the last refusal asked us to wait; zero is none.
    wait: Arc<AtomicU64>,
}

impl AcmeClient {
    /// Believes whom this configuration believes.
    pub fn new(tls: &ClientConfig) -> Result<Self, reqwest::Error> {
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let inner = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true) // of the addresses in the directory, too
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()?;
        Ok(Self { inner, wait: Arc::default() })
    }

    /// How long a refusal since the last question asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.wait.swap(0, Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Asks, and reads the answer to its end.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let told = |error: reqwest::Error| error_chain::line(&error.without_url());
        let request = reqwest::Request::try_from(request).map_err(told)?;
        let host = request.url().host_str().unwrap_or_default().to_owned();
        let told = |error| format!("{host} does not answer: {}", told(error));
        let mut answer = self.inner.execute(request).await.map_err(told)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(told)? {
            if body.len().saturating_add(chunk.len()) > LARGEST {
                return Err(format!("{host} answers with more than {LARGEST} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        if matches!(response.status().as_u16(), 429 | 503)
            && let Some(value) = response.headers().get(RETRY_AFTER)
        {
            let wait = seconds(value.to_str().unwrap_or_default(), clock::system());
            self.wait.store(wait.unwrap_or_default(), Ordering::Relaxed);
        }
        Ok(response.map(|_| body.freeze()))
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn seconds(value: &str, now: Timestamp) -> Option<u64> {
    let date = || {
        let date = httpdate::parse_http_date(value).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Timestamp(since.as_secs()).since(now))
    };
    value.trim().parse().ok().or_else(date)
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let host = parts.uri.host().unwrap_or_default().to_owned();
            let answer = this.send(Request::from_parts(parts, body)).await;
            let answer = answer.map_err(|error| Error::Other(error.into()))?;
            let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let status = answer.status();
            // A refusal is a document (RFC 8555, section 6.7). What has none is somebody in between.
            if !status.is_success() && !kind.is_some_and(|kind| kind.contains("json")) {
                return Err(Error::Other(format!("{host} answers {status} and no reason").into()));
            }
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_we_are_asked_to_wait() {
        let now = Timestamp(784_111_777);
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:40:37 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(seconds(value, now), expected, "{value:?}");
        }
    }
}
