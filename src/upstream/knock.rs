//! Whether a server answers at all: asked by the operator or by a health check, not by a visitor.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use rustls::ClientConfig;

use super::{Exchange, Outgoing, Pool, Shelf, manner};
use crate::{
    http1::Arena,
    site::{Credentials, Endpoint, Site},
    wire::onward::Onward,
};

/// How long it may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What we call ourselves.
const WE: &str = concat!("wxgate/", env!("CARGO_PKG_VERSION"));

/// What it is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// How.
    pub method: Method,
    /// For which page.
    pub path: &'a str,
    /// Of which site.
    pub host: &'a str,
}

impl<'a> Question<'a> {
    /// What a server of this site is asked: what its health check asks, or for the front page.
    pub fn of(site: &'a Site) -> Self {
        let host = site.public_url.host().as_str();
        let Some(checkup) = &site.upstream.checkup else {
            return Self { method: Method::HEAD, path: "/", host };
        };
        let host = checkup.host.as_deref().unwrap_or(host);
        Self { method: Method::GET, path: &checkup.path, host }
    }
}

/// The status with which a server answers, and its clock.
pub async fn knock(
    endpoint: &Endpoint,
    Question { method, path, host }: &Question<'_>,
    (own, usual): (Option<&Credentials>, &Arc<ClientConfig>),
) -> io::Result<(StatusCode, Option<String>)> {
    let pool = Rc::new(Pool::new(endpoint.clone(), manner(own, usual), &Shelf::new(0)));
    let lease = pool.connect(&Arena::new()).await?;
    let mut fields = HeaderMap::new();
    fields.insert(header::HOST, HeaderValue::try_from(*host).map_err(io::Error::other)?);
    fields.insert(header::USER_AGENT, HeaderValue::from_static(WE));
    let uri = Uri::try_from(*path).map_err(io::Error::other)?;
    let request = Onward { method, uri: &uri, fields: &fields };
    let exchange = Exchange::begin(lease, &request, Outgoing::empty());
    let answer = exchange.answer(method, PATIENCE).await;
    let (answered, _) = answer.map_err(|failure| io::Error::other(failure.error))?;
    let response = answered.response;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    Ok((response.status(), date.map(str::to_owned)))
}
