//! What `wxgate check` says of `[server.acme]`.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header::DATE};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::result::CheckResult;
use crate::{
    acme::{Settings, client::AcmeClient},
    config::Config,
    error_chain, upstream,
};

/// What one question may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Where an authority asks.
const PORT: u16 = 443;

pub fn settings(config: &Config) -> Option<&Settings> {
    config.server.tls.as_ref()?.acme.as_ref()
}

/// One line for people, and what has to be so for it to come true.
pub fn about(config: &Config) -> String {
    let Some(settings) = settings(config) else { return String::new() };
    let host = host(settings);
    let names = settings.domains.join(", ");
    let files = config.server.tls.as_ref().is_some_and(|tls| !tls.certificates.is_empty());
    let unless = if files { ", unless a file has them" } else { "" };
    let mut text = format!("Orders     {names} from {host}{unless}\n");
    let _ = write!(text, "           {host} connects to port {PORT} of each");
    let listens = config.server.tls.iter().flat_map(|tls| &tls.listen);
    let ports: Vec<String> = listens.map(|it| it.port().to_string()).collect();
    if !ports.contains(&PORT.to_string()) {
        let _ = write!(text, ": it has to be passed on to {} here, as it is", ports.join(" or "));
    }
    text.push('\n');
    text
}

pub fn json(config: &Config) -> Value {
    let Some(settings) = settings(config) else { return Value::Null };
    json!({
        "domains": settings.domains,
        "directory": settings.directory,
        "storage": settings.storage,
    })
}

/// Asks for the directory: whether it is one, and what the clock there says.
pub async fn ask(
    settings: &Settings,
    tls: &Arc<rustls::ClientConfig>,
) -> (CheckResult, Option<(String, String)>) {
    let host = host(settings);
    let asked = timeout(CHECK_TIMEOUT, directory(settings, tls));
    let asked = asked.await.unwrap_or_else(|_| Err(format!("no answer in {CHECK_TIMEOUT:?}")));
    let curl = format!("see where it ends: curl -v {}", settings.directory);
    match asked {
        Ok((terms, date)) => {
            let says = format!("has a directory; its terms, which you agree to: {terms}");
            (CheckResult::ok("orders", &host, says), date.map(|date| (host, date)))
        }
        Err(why) if why.contains("certificate") => {
            let remedy = "name who signed its certificate: `ca` in [server.acme]";
            (CheckResult::error("orders", &host, why).remedy(remedy), None)
        }
        Err(why) => (CheckResult::error("orders", &host, why).remedy(curl), None),
    }
}

async fn directory(
    settings: &Settings,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(String, Option<String>), String> {
    let tls = upstream::tls::with_credentials(&settings.believes, tls);
    let client = AcmeClient::new(&tls).map_err(|error| error_chain::line(&error))?;
    let request = Request::get(&settings.directory).body(Bytes::new());
    let answer = client.send(request.map_err(|error| error.to_string())?).await?;
    if !answer.status().is_success() {
        return Err(format!("answers {}", answer.status()));
    }
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
    let directory: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if !directory.get("newOrder").is_some_and(Value::is_string) {
        return Err("what is there is no directory of ACME".to_owned());
    }
    let terms = directory.pointer("/meta/termsOfService").and_then(Value::as_str);
    Ok((terms.unwrap_or("none").to_owned(), date))
}

fn host(settings: &Settings) -> String {
    let url = url::Url::parse(&settings.directory).ok();
    let host = url.as_ref().and_then(url::Url::host_str);
    host.unwrap_or(&settings.directory).to_owned()
}
