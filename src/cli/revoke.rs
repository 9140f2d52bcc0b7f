//! `wxgate revoke`: ends sessions on every replica.
//!
//! Where replicas share a store, the order goes there and a gateway need not even run. A gateway
//! that is alone keeps its list to itself: it is asked over its admin listener.

use std::{path::Path, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use super::{EX_USAGE, print_stderr, print_stdout, report_config_errors};
use crate::{
    admin,
    auth::{ActiveRevocations, Revocation, RevocationRequest, RevocationTarget},
    clock,
    config::Config,
    store::{LogPosition, LogRead, Store, StoreUnavailable},
};

/// How long the store or the gateway may take.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose sessions.
#[derive(Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["session", "account", "all"])))]
pub struct RevokeArgs {
    /// One session, by the id that sites receive as X-WeChat-Session.
    #[arg(long, value_name = "SID")]
    session: Option<String>,
    /// Everybody of an account, or with --openid one person of it.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// A person.
    #[arg(long, value_name = "OPENID", requires = "account")]
    openid: Option<String>,
    /// Everybody.
    #[arg(long)]
    all: bool,
}

/// Ends them, and says so.
pub fn revoke(path: &Path, whose: RevokeArgs, json: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(complaints) => return report_config_errors(&complaints),
    };
    let RevokeArgs { session, account, openid, all } = whose;
    let wanted = RevocationRequest { session, account, openid, all };
    let whom = match wanted.target(config.accounts.iter().map(|account| &**account)) {
        Ok(whom) => whom,
        Err(unclear) => {
            print_stderr(&format!("wxgate: {unclear}"));
            return ExitCode::from(EX_USAGE);
        }
    };
    let text = tell(&whom, config.gateway.store.is_shared());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            let done = async {
                if config.gateway.store.is_shared() {
                    over_the_store(&config, whom).await
                } else {
                    ask_the_gateway(&config.admin, &wanted).await
                }
            };
            timeout(REVOKE_TIMEOUT, done).await.unwrap_or_else(|_| Err("no answer".to_owned()))
        })
    });
    match outcome {
        Ok(order) if json => print_stdout(&order.to_string()),
        Ok(_) => print_stdout(&text),
        Err(why) => {
            print_stderr(&format!("wxgate: {why}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn tell(whom: &RevocationTarget, shared: bool) -> String {
    let whose = match whom {
        RevocationTarget::Session(sid) => format!("The session {sid}"),
        RevocationTarget::Person { appid, openid } => {
            format!("Every session of {openid} ({appid})")
        }
        RevocationTarget::Account(appid) => format!("Every session of the account {appid}"),
        RevocationTarget::All => "Every session".to_owned(),
    };
    let when = if shared { "on every replica within a second" } else { "in the running gateway" };
    format!("{whose} that began before now is ended {when}.")
}

/// Reads what was ordered before, so that this order comes after it, and adds to it.
async fn over_the_store(config: &Config, whom: RevocationTarget) -> Result<Value, String> {
    let store = Store::new(&config.gateway.store).map_err(|error| error.to_string())?;
    let (mut view, mut mark, now) =
        (ActiveRevocations::default(), LogPosition::default(), clock::system());
    loop {
        match store.read_log(&mark).await.map_err(unavailable)? {
            LogRead::Reset => mark = LogPosition::default(),
            LogRead::Next { orders, mark: next, more } => {
                mark = next;
                for order in orders {
                    view.add(order, now);
                }
                if !more {
                    break;
                }
            }
        }
    }
    let max = config.gateway.session.max;
    let order = Revocation::by_operator(whom, &view, now, max);
    let handed =
        store.restore_revocations(std::slice::from_ref(&order), Revocation::retention(max)).await;
    handed.map(|()| json!(order)).map_err(unavailable)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err passes the error on")]
fn unavailable(error: StoreUnavailable) -> String {
    format!("the revocation could not be stored: {error}; {}", error.cause.remedy())
}

async fn ask_the_gateway(
    settings: &admin::Settings,
    wanted: &RevocationRequest,
) -> Result<Value, String> {
    let admin = settings.listen;
    let nobody = |error: std::io::Error| {
        format!(
            "the list of ended sessions is inside the running gateway, whose admin listener {admin} \
             cannot be reached: {error}"
        )
    };
    let broken = |error: hyper::Error| format!("the admin listener {admin} broke off: {error}");
    let stream = TcpStream::connect(admin).await.map_err(nobody)?;
    let http = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = http.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::post("/revocations");
    if let Some(token) = &settings.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request
        .header(header::HOST, admin.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(json!(wanted).to_string()))
        .map_err(|error| error.to_string())?;
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, 64 * 1024).collect().await;
    let body = body.map_err(|error| format!("the admin listener {admin} broke off: {error}"))?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if head.status != StatusCode::ACCEPTED {
        return Err(format!("the gateway at {admin} refused: {} {}", head.status, text.trim()));
    }
    let given: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if given.get("handed_over") == Some(&Value::Bool(false)) {
        let reason = given.get("reason").and_then(Value::as_str).unwrap_or("no reason given");
        return Err(format!(
            "ended in the running gateway, but not stored: a restart would forget it. {reason}"
        ));
    }
    Ok(given)
}
