//! Whether a server answers at all: asked by the operator or by a health check, not by a visitor.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use rustls::ClientConfig;

use super::{Exchange, IdleLimit, LimitedRequestBody, pool};
use crate::{
    http1::BufferPool,
    httputil::outbound::OutboundRequest,
    site::{Endpoint, Protocol, Site, UpstreamTls},
};

/// How long it may take to begin its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What we call ourselves.
const USER_AGENT_VALUE: &str = concat!("wxgate/", env!("CARGO_PKG_VERSION"));

/// What it is asked.
#[derive(Clone, Debug)]
pub struct HealthCheckRequest<'a> {
    /// How.
    pub method: Method,
    /// For which page.
    pub path: &'a str,
    /// Of which site.
    pub host: &'a str,
    /// What it is spoken to in.
    pub protocol: Protocol,
}

impl<'a> HealthCheckRequest<'a> {
    /// What a server of this site is asked: what its health check asks, or for the front page.
    pub fn of(site: &'a Site) -> Self {
        let (host, protocol) = (site.public_url.host().as_str(), site.upstream.protocol);
        let Some(checkup) = &site.upstream.checkup else {
            return Self { method: Method::HEAD, path: "/", host, protocol };
        };
        let host = checkup.host.as_deref().unwrap_or(host);
        Self { method: Method::GET, path: &checkup.path, host, protocol }
    }
}

/// What it answered.
pub struct HealthCheckResponse {
    /// The status of its answer.
    pub status: StatusCode,
    /// Its clock.
    pub date: Option<String>,
    /// What it was spoken to in.
    pub protocol: Protocol,
}

/// What a server answers.
pub async fn probe(
    endpoint: &Endpoint,
    HealthCheckRequest { method, path, host, protocol }: &HealthCheckRequest<'_>,
    tls: (Option<&UpstreamTls>, &Arc<ClientConfig>),
) -> io::Result<HealthCheckResponse> {
    let way = pool(endpoint, tls, (*protocol, &IdleLimit::new(0)))
        .connect(&BufferPool::new(), false)
        .await?;
    let mut fields = HeaderMap::new();
    fields.insert(header::HOST, HeaderValue::try_from(*host).map_err(io::Error::other)?);
    fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    let uri = Uri::try_from(*path).map_err(io::Error::other)?;
    let request = OutboundRequest { method, uri: &uri, fields: &fields };
    let answer =
        Exchange::send(way, &request, LimitedRequestBody::empty(), (RESPONSE_TIMEOUT, &|_| ()))
            .await;
    let (response, exchange) = answer.map_err(|failure| io::Error::other(failure.error))?;
    let protocol = match exchange {
        Exchange::Http1(_) => Protocol::Http1,
        Exchange::Http2 { .. } => Protocol::Http2,
    };
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    Ok(HealthCheckResponse { status: response.status(), date: date.map(str::to_owned), protocol })
}
