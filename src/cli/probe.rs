//! `wxgate probe`: goes through the operator's public address as an attacker would, and says what
//! got through. It reads only, sends one request at a time, and says in each who it is.
//!
//! What a page received is seen in two ways. A page that needs a login is asked as a script asks, so
//! that the gateway refuses in words of its own: any content instead is a way past it. And a page
//! that prints the headers it received (`--echo`) shows whether a forged one is among them: each
//! carries a mark that is nowhere else.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::sleep;
use url::Url;

use super::{EX_USAGE, print_stderr, print_stdout};

mod attempt;
mod verdict;
mod paths;
mod plan;
mod report;
mod connection;

use attempt::{Attempt, ProbeTarget};
use connection::ProbeConnection;
use report::Report;
use verdict::Baseline;

/// Nothing can be said: sysexits.h calls it `EX_UNAVAILABLE`.
const EX_UNAVAILABLE: u8 = 69;
/// Between two requests, so that nobody feels us.
const PAUSE: Duration = Duration::from_millis(20);

/// What to attack, and what would show that it worked.
#[derive(Args)]
pub struct ProbeArgs {
    /// A page that needs a login, as a visitor types it.
    url: String,
    /// A page of the same site, open to strangers, that prints the headers it received: without it
    /// nobody can see what public pages are told. `deploy/examples` has some.
    #[arg(long, value_name = "PATH")]
    echo: Option<String>,
    /// A path below which strangers may see pages, for tricks that leave it again.
    #[arg(long, value_name = "PATH", default_value = "/static/")]
    public: String,
    /// The site itself, past the gateway: nobody outside should reach it. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Vec<String>,
    /// A further header that carries the identity ([site.headers]). May be repeated.
    #[arg(long, value_name = "NAME")]
    header: Vec<String>,
    /// The session cookie's name, where it is not the default.
    #[arg(long, value_name = "NAME", default_value = "wxgate")]
    cookie: String,
    /// Connect there, whatever DNS says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: Option<SocketAddr>,
}

/// Attacks, and reports.
pub fn probe(target: &ProbeArgs, json: bool) -> ExitCode {
    let aim = match aim(target) {
        Ok(aim) => aim,
        Err(why) => {
            print_stderr(&format!("wxgate: {why}"));
            return ExitCode::from(EX_USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|error| error.to_string());
    match outcome.and_then(|runtime| runtime.block_on(attack(&aim, target.connect))) {
        Ok(report) => {
            print_stdout(&if json {
                format!("{:#}", report.to_json())
            } else {
                report.to_string()
            });
            if report.through() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            print_stderr(&format!("wxgate: {why}"));
            ExitCode::from(EX_UNAVAILABLE)
        }
    }
}

/// The arguments, doubted once.
fn aim(target: &ProbeArgs) -> Result<ProbeTarget, String> {
    let url = Url::parse(&target.url).map_err(|_| format!("{:?} is no URL", target.url))?;
    let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"));
    let host = host.ok_or("a URL begins with http:// or https:// and a host")?;
    let authority = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let path = |text: &str| {
        let plain = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
        if plain { Ok(text.to_owned()) } else { Err(format!("{text:?} is no path")) }
    };
    let header = |name: &String| match http::HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(name.clone()),
        Err(_) => Err(format!("{name:?} is no name of a header")),
    };
    Ok(ProbeTarget {
        https: url.scheme() == "https",
        host: host.to_owned(),
        port: url.port_or_known_default().unwrap_or(443),
        authority,
        path: path(url.path())?,
        echo: target.echo.as_deref().map(path).transpose()?,
        public: path(&target.public)?.trim_end_matches('/').to_owned(),
        upstreams: target.upstream.clone(),
        headers: target.header.iter().map(header).collect::<Result<_, _>>()?,
        cookie: header(&target.cookie)?,
        tag: format!("wxp{:08x}", rand::random::<u32>()),
    })
}

async fn attack(aim: &ProbeTarget, connect: Option<SocketAddr>) -> Result<Report, String> {
    let wire = ProbeConnection::new(aim, connect).await?;
    let page = wire.must(&plan::as_script(aim, &aim.path)).await?;
    let echo = match &aim.echo {
        Some(echo) => Some(wire.must(&plan::control(aim, echo)).await?),
        None => None,
    };
    let baseline = Baseline::new(&page, echo.as_ref(), &plan::control_marker(aim));
    if !baseline.refuses() && !(200..300).contains(&baseline.status) {
        return Err(format!("{} answers {}: nothing can be learnt from it", aim.path, page.status));
    }
    let mut report = Report::new(aim, &baseline);
    for attempt in plan::all(aim) {
        sleep(PAUSE).await;
        let answer = ask(&wire, &attempt).await;
        report.add(&attempt, verdict::judge(&attempt, &answer, &baseline));
    }
    let page = plan::as_page(aim);
    let twice = [wire.send(&page).await, wire.send(&page).await];
    report.login(verdict::login(&twice, aim.https));
    let again = wire.send(&plan::as_script(aim, &aim.path)).await;
    report.end(baseline.is_unchanged(&again));
    Ok(report)
}

async fn ask(wire: &ProbeConnection, attempt: &Attempt) -> connection::ProbeReply {
    match &attempt.elsewhere {
        None => wire.send(&attempt.request).await,
        Some(attempt::AlternateAddress::Plain) => wire.send_plain(&attempt.request).await,
        Some(attempt::AlternateAddress::Upstream(place)) => {
            connection::send_to(place, &attempt.request).await
        }
    }
}
