//! Whether a server answers at all, asked by the operator and not by a visitor.

use std::{io, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use rustls::ClientConfig;

use super::{Exchange, Outgoing, pool};
use crate::{
    http1::Arena,
    site::{Credentials, Endpoint, Protocol},
};

/// How long it may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server answered.
pub struct Heard {
    /// The status of its answer.
    pub status: StatusCode,
    /// Its clock.
    pub date: Option<String>,
    /// What it was spoken to.
    pub protocol: Protocol,
}

/// What a server answers to `HEAD /` for a host.
pub async fn knock(
    endpoint: &Endpoint,
    (host, protocol): (&str, Protocol),
    tls: (Option<&Credentials>, &Arc<ClientConfig>),
) -> io::Result<Heard> {
    let way = pool(endpoint, tls, protocol).connect(&Arena::new(), false).await?;
    let request = Request::head("/").header(header::HOST, host);
    let request = request.header(header::USER_AGENT, concat!("wxgate/", env!("CARGO_PKG_VERSION")));
    let request = request.body(()).map_err(io::Error::other)?;
    let answer = Exchange::ask(way, &request, Outgoing::empty(), PATIENCE).await;
    let (response, exchange) = answer.map_err(|failure| io::Error::other(failure.error))?;
    let protocol = match exchange {
        Exchange::Http1(_) => Protocol::Http1,
        Exchange::Http2 { .. } => Protocol::Http2,
    };
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    Ok(Heard { status: response.status(), date: date.map(str::to_owned), protocol })
}
