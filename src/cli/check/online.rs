//! `wxgate check --online`: asks whom the gateway will ask. Reads, and changes nothing that lasts.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::timeout,
};

use super::{callback_domains, clocks, console, result::CheckResult};
use crate::{
    acme,
    admin::STORE_LINE,
    clock::{self, Timestamp},
    config::Config,
    error_chain,
    metrics::Metrics,
    site::{Account, Endpoint, Protocol, Site},
    store::{self, Store, StoreUnavailable},
    upstream::{self, HealthCheckRequest},
    wechat::{self, CredentialCheck, WeChatClient},
};

/// What one question may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of the questions of one kind, and every clock that was seen on the way: whose it is,
/// what it said, and when we heard it.
#[derive(Default)]
struct OnlineResults {
    place: usize,
    findings: Vec<CheckResult>,
    clocks: Vec<(String, String, Timestamp)>,
}

/// Asks everybody at once; the answers come in the order of the file.
pub fn ask(config: &Config) -> Vec<CheckResult> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, everybody(config)),
        Err(error) => vec![CheckResult::error("system", "this machine", error.to_string())],
    }
}

async fn everybody(config: &Config) -> Vec<CheckResult> {
    let tls = upstream::tls::client();
    let mut questions = JoinSet::new();
    let mut place = 0..;
    let mut next = || place.next().unwrap_or_default();
    for account in &config.accounts {
        let account = (Arc::clone(account), super::broker::signs_with(account, config));
        questions.spawn_local(ask_wechat(next(), account, Arc::clone(&tls)));
    }
    questions.spawn_local(try_store(next(), config.gateway.store.clone(), config.admin.listen));
    for site in config.gateway.sites.all() {
        for endpoint in site.upstream.endpoints() {
            let (site, endpoint) = (Arc::clone(site), endpoint.clone());
            questions.spawn_local(ask_upstream(next(), site, endpoint, Arc::clone(&tls)));
        }
    }
    if let Some(settings) = super::certificates::settings(config) {
        questions.spawn_local(ask_authority(next(), settings.clone(), Arc::clone(&tls)));
    }
    for host in public_hosts(config) {
        questions.spawn_local(ask_dns(next(), host));
    }
    let mut heard = Vec::new();
    while let Some(answer) = questions.join_next().await {
        heard.extend(answer);
    }
    heard.sort_by_key(|it| it.place);
    let clocks = heard.iter().flat_map(|it| it.clocks.clone());
    let clock = clocks::compare(clocks);
    let findings = heard.into_iter().flat_map(|it| it.findings).chain([clock]);
    let consoles = config.accounts.iter().map(|account| console(account, config));
    findings.chain(consoles).collect()
}

/// Every API host of an account: the second is asked when the first cannot be reached, so it has to
/// be there before that.
async fn ask_wechat(
    place: usize,
    (account, signs): (Arc<Account>, bool),
    tls: Arc<rustls::ClientConfig>,
) -> OnlineResults {
    let mut heard = OnlineResults { place, ..OnlineResults::default() };
    let wechat = match WeChatClient::new(&tls, Arc::new(Metrics::default())) {
        Ok(wechat) => wechat,
        Err(error) => {
            heard.findings.push(CheckResult::error(
                "account",
                &account.name,
                error_chain::line(&error),
            ));
            return heard;
        }
    };
    for (number, api) in account.api_urls.iter().enumerate() {
        let word = wechat.check_credentials(&account, api).await;
        let host = api.split_once("://").map_or(api.as_str(), |(_, host)| host);
        if let Some(date) = &word.date {
            heard.clocks.push((host.to_owned(), date.clone(), clock::system()));
        }
        heard.findings.push(about_wechat(&account, host, &word, number == 0));
        if signs && word.not_whitelisted {
            let says = format!("{host} gives this machine no jsapi_ticket");
            let finding = CheckResult::error("account", &account.name, says);
            heard.findings.push(finding.remedy("enter its address in the IP白名单 of the console"));
        }
    }
    heard
}

fn about_wechat(account: &Account, host: &str, word: &CredentialCheck, first: bool) -> CheckResult {
    let bad = |says: String| CheckResult::error("account", &account.name, says);
    match &word.answer {
        Ok(()) if word.not_whitelisted => CheckResult::notice(
            "account",
            &account.name,
            format!("{host} knows app_id and app_secret, but its IP whitelist lacks this machine"),
        )
        .remedy("logins need no whitelist; add the address if something else here asks for the global token"),
        Ok(()) => {
            CheckResult::ok("account", &account.name, format!("{host} takes app_id and app_secret"))
        }
        Err(wechat::Error::Api(refusal)) => bad(format!("{host}: {refusal}"))
            .remedy(refusal.remedy().unwrap_or("see docs/troubleshooting.md for this errcode")),
        Err(error) => {
            let says = format!("{host}: {}", error_chain::line(error));
            let curl = format!("see where it ends: curl -v https://{host}/ on this machine (DNS, firewall, clock)");
            if first { bad(says) } else { CheckResult::notice("account", &account.name, says) }.remedy(curl)
        }
    }
}

/// Tries what the gateway does with the store.
async fn try_store(place: usize, settings: store::Settings, admin: SocketAddr) -> OnlineResults {
    let name = settings.to_string();
    let findings = match &settings {
        store::Settings::Memory => {
            vec![CheckResult::ok("store", name, "there is nobody to ask")]
        }
        store::Settings::File(path) => vec![try_file(&settings, path, admin).await],
        store::Settings::Redis(_) => {
            try_commands(&settings, &name, "reads, writes and follows the log of ended sessions")
                .await
        }
    };
    OnlineResults { place, findings, ..OnlineResults::default() }
}

/// Tries each command that the gateway uses, and leaves nothing behind.
async fn try_commands(settings: &store::Settings, name: &str, well: &str) -> Vec<CheckResult> {
    let store = match Store::new(settings) {
        Ok(store) => store,
        Err(error) => return vec![CheckResult::error("store", name, error_chain::line(&error))],
    };
    match timeout(CHECK_TIMEOUT, store.try_commands()).await {
        Ok(failures) if failures.is_empty() => vec![CheckResult::ok("store", name, well)],
        Ok(failures) => {
            let result = |failure: &StoreUnavailable| {
                CheckResult::error("store", name, failure.to_string())
                    .remedy(failure.cause.remedy())
            };
            failures.iter().map(result).collect()
        }
        Err(_) => {
            let says = format!("no answer in {CHECK_TIMEOUT:?}");
            vec![CheckResult::error("store", name, says).remedy("let this machine through to it")]
        }
    }
}

/// Writes to the file where no gateway has it, and asks the gateway that does.
async fn try_file(settings: &store::Settings, path: &Path, admin: SocketAddr) -> CheckResult {
    let name = settings.to_string();
    if !path.exists() {
        let folder = path.parent().unwrap_or(Path::new("/"));
        return match write_a_file(folder) {
            Ok(()) => CheckResult::ok("store", name, "is made at the start; its folder has room"),
            Err(error) => {
                let says = format!("cannot be made: {error}");
                CheckResult::error("store", name, says)
                    .remedy("make room, or let the user that runs wxgate write to its folder")
            }
        };
    }
    let opened = Store::new(settings);
    match opened.as_ref().map_err(|error| (error.kind(), error)) {
        Ok(store) => match store.try_commands().await.first() {
            None => CheckResult::ok("store", name, "is whole, and can be written"),
            Some(failure) => CheckResult::error("store", name, failure.to_string())
                .remedy(failure.cause.remedy()),
        },
        Err((store::OpenErrorKind::InUse, _)) => match readiness(admin).await {
            Ok(text) => match text.lines().find_map(|line| line.strip_prefix(STORE_LINE)) {
                None => CheckResult::ok("store", name, "the running gateway writes it"),
                Some(line) => {
                    let (says, remedy) = line.split_once(" → ").unwrap_or((line, ""));
                    CheckResult::error("store", name, format!("the running gateway says: {says}"))
                        .remedy(remedy)
                }
            },
            Err(why) => CheckResult::notice(
                "store",
                name,
                format!("another process has it, and no gateway answers at {admin}: {why}"),
            )
            .remedy("see with `fuser` who has it; one file serves one gateway"),
        },
        Err((store::OpenErrorKind::Forbidden, error)) => {
            CheckResult::notice("store", name, error_chain::line(error))
                .remedy("run this as the user that runs wxgate")
        }
        Err((store::OpenErrorKind::Other, error)) => {
            CheckResult::error("store", name, error_chain::line(error))
                .remedy("make room, or do what the message says")
        }
    }
}

/// Writes a page to a file that is then gone.
fn write_a_file(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".wxgate-check-{:016x}", rand::random::<u64>()));
    let write = || {
        let mut file = std::fs::File::create_new(&path)?;
        file.write_all(&[0; 4096])?;
        file.sync_all()
    };
    let written = write();
    let _ = std::fs::remove_file(&path); // it may not have been made
    written
}

/// What a running gateway says of itself.
async fn readiness(admin: SocketAddr) -> Result<String, String> {
    let ask = async {
        let stream = TcpStream::connect(admin).await.map_err(|error| error.to_string())?;
        let http = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = http.map_err(|error| error_chain::line(&error))?;
        tokio::task::spawn_local(connection);
        let request = Request::get("/readyz")
            .header(header::HOST, admin.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let body = answer.map_err(|error| error_chain::line(&error))?.into_body();
        let body = Limited::new(body, 64 * 1024).collect().await.map_err(|it| it.to_string())?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    };
    timeout(CHECK_TIMEOUT, ask).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

async fn ask_upstream(
    place: usize,
    site: Arc<Site>,
    endpoint: Endpoint,
    tls: Arc<rustls::ClientConfig>,
) -> OnlineResults {
    let mut heard = OnlineResults { place, ..OnlineResults::default() };
    let patience =
        site.upstream.connect_timeout + site.upstream.response_timeout.min(CHECK_TIMEOUT);
    let (wanted, manner) = (site.upstream.protocol, (site.upstream.tls.as_ref(), &tls));
    let question = HealthCheckRequest::of(&site);
    let asked = timeout(patience, upstream::probe(&endpoint, &question, manner));
    let of = format!("{} of {}", endpoint, site.name);
    let finding = match asked.await {
        Ok(Ok(upstream::HealthCheckResponse { status, date, protocol })) => {
            if let Some(date) = date {
                heard.clocks.push((endpoint.to_string(), date, clock::system()));
            }
            let over = match wanted {
                Protocol::Http1 => String::new(),
                Protocol::Http2 => format!(" over {protocol}"),
            };
            let says = format!("answers {} {} with {status}{over}", question.method, question.path);
            let checkup = site.upstream.checkup.as_ref();
            match checkup.map(|checkup| checkup.expects(status.as_u16())) {
                Some(false) => CheckResult::error("upstream", of, says).remedy(
                    "its health check fails: mend that page, or `expect` this answer in [site.health]",
                ),
                None if status.is_server_error() => {
                    CheckResult::notice("upstream", of, says).remedy("look into the site's own log")
                }
                Some(true) | None if protocol != wanted => CheckResult::notice("upstream", of, says)
                    .remedy("let it offer h2 in the TLS handshake, or remove `upstream_http`"),
                Some(true) | None => CheckResult::ok("upstream", of, says),
            }
        }
        Ok(Err(error)) => CheckResult::error("upstream", of, error_chain::line(&error))
            .remedy(upstream_remedy(&error)),
        Err(_) => CheckResult::error("upstream", of, format!("no answer in {patience:?}"))
            .remedy("let this machine through to it, or see why it is slow"),
    };
    heard.findings.push(finding);
    heard
}

async fn ask_authority(
    place: usize,
    settings: acme::Settings,
    tls: Arc<rustls::ClientConfig>,
) -> OnlineResults {
    let (finding, clock) = super::certificates::ask(&settings, &tls).await;
    let clocks = clock.map(|(host, date)| (host, date, clock::system())).into_iter().collect();
    OnlineResults { place, findings: vec![finding], clocks }
}

fn upstream_remedy(error: &io::Error) -> &'static str {
    let why = error_chain::line(error);
    if error.kind() == io::ErrorKind::ConnectionRefused {
        "start the site, or correct `upstream`: nobody listens there"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "let the user that runs wxgate use the socket"
    } else if why.contains("does not speak HTTP/2") {
        "let it understand HTTP/2 without TLS (h2c), or remove `upstream_http`"
    } else if why.contains("UnknownIssuer") {
        "this machine does not know who signed its certificate: write that authority into `ca` of [site.upstream_tls]"
    } else if why.contains("not valid for name") || why.contains("NotValidForName") {
        "its certificate is for another name: write that into `server_name` of [site.upstream_tls]"
    } else if why.contains("CertificateRequired") {
        "it wants to be shown a certificate: give `cert` and `key` in [site.upstream_tls]"
    } else if ["UnknownCA", "BadCertificate", "CertificateUnknown", "DecryptError"]
        .iter()
        .any(|it| why.contains(it))
    {
        "it does not take the certificate it was shown: `cert` has to come of an authority that it believes"
    } else if why.contains("certificate") {
        "its certificate does not hold for this name: see docs/troubleshooting.md"
    } else {
        "see from this machine with curl -v what stops it"
    }
}

/// The hosts that visitors and WeChat have to find, once each.
fn public_hosts(config: &Config) -> Vec<String> {
    let sites = config.gateway.sites.all().iter();
    let sites = sites.map(|site| site.public_url.host().to_string());
    let domains = config.accounts.iter().flat_map(|account| callback_domains(account, config));
    let mut hosts: Vec<String> = sites.chain(domains).collect();
    hosts.sort();
    hosts.dedup();
    hosts.retain(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err());
    hosts
}

async fn ask_dns(place: usize, host: String) -> OnlineResults {
    let found = timeout(CHECK_TIMEOUT, tokio::net::lookup_host((host.as_str(), 443))).await;
    let addresses = match found {
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<Vec<_>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {CHECK_TIMEOUT:?}")),
    };
    let finding = match addresses {
        Ok(addresses) => {
            let near = addresses.iter().all(is_near);
            let mut words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            words.sort();
            words.dedup();
            let says = words.join(", ");
            if near {
                CheckResult::notice("dns", &host, format!("{says}, as seen from here"))
                    .remedy("phones and WeChat come from outside: they need a public address")
            } else {
                CheckResult::ok("dns", &host, says)
            }
        }
        Err(why) => CheckResult::error("dns", &host, why)
            .remedy("enter an A or AAAA record for it, or correct public_url"),
    };
    OnlineResults { place, findings: vec![finding], ..OnlineResults::default() }
}

/// Whether only machines nearby can reach it.
fn is_near(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
