//! Whether a server answers at all, asked by the operator and not by a visitor.

use std::{io, sync::Arc};

use http::{Request, StatusCode, header};
use rustls::ClientConfig;

use super::{Outgoing, connect};
use crate::site::Endpoint;

/// The status with which a server answers `HEAD /` for a host, and its clock. It runs in a
/// `LocalSet`, as everything here does.
pub async fn knock(
    endpoint: &Endpoint,
    host: &str,
    tls: &Arc<ClientConfig>,
) -> io::Result<(StatusCode, Option<String>)> {
    let mut sender = connect::open(endpoint, tls).await?;
    let request = Request::head("/").header(header::HOST, host);
    let request = request.header(header::USER_AGENT, concat!("wxgate/", env!("CARGO_PKG_VERSION")));
    let request = request.body(Outgoing::empty()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    Ok((response.status(), date.map(str::to_owned)))
}
