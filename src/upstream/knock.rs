//! Whether a server answers at all, asked by the operator and not by a visitor.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use rustls::ClientConfig;

use super::{Exchange, Outgoing, Pool, manner};
use crate::{
    http1::Arena,
    site::{Credentials, Endpoint},
};

/// How long it may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The status with which a server answers `HEAD /` for a host, and its clock.
pub async fn knock(
    endpoint: &Endpoint,
    host: &str,
    (own, usual): (Option<&Credentials>, &Arc<ClientConfig>),
) -> io::Result<(StatusCode, Option<String>)> {
    let pool = Rc::new(Pool::new(endpoint.clone(), manner(own, usual)));
    let lease = pool.connect(&Arena::new()).await?;
    let request = Request::head("/").header(header::HOST, host);
    let request = request.header(header::USER_AGENT, concat!("wxgate/", env!("CARGO_PKG_VERSION")));
    let request = request.body(()).map_err(io::Error::other)?;
    let exchange = Exchange::begin(lease, &request, Outgoing::empty());
    let answer = exchange.answer(request.method(), PATIENCE).await;
    let (answered, _) = answer.map_err(|failure| io::Error::other(failure.error))?;
    let response = answered.response;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    Ok((response.status(), date.map(str::to_owned)))
}
