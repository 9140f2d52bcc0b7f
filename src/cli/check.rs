//! `wxgate check`: every complaint about a configuration, or what it amounts to.

use std::{
    fmt::{self, Write as _},
    path::Path,
};

use serde_json::{Value, json};

use super::check_descriptors;
use crate::{
    config::{Config, Diagnostics, Severity},
    descriptors,
    server::{self, ListenAddress},
    site::{Account, AccountKind, Endpoint, OutsideWeChat, Protocol, Site},
};

mod broker;
mod clocks;
mod result;
mod online;
mod certificates;

use result::{CheckResult, CheckStatus};

/// How to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For people.
    Plain,
    /// For people at a terminal.
    Coloured,
    /// For scripts.
    Json,
}

/// Checks a file, and on request everybody it names: what to print, and whether all is good.
pub fn check(path: &Path, form: OutputFormat, online: bool) -> (String, bool) {
    let name = path.display().to_string();
    let mut outcome = Config::load(path);
    if let Ok(config) = &mut outcome {
        // What `serve` gets when it is started from here.
        check_descriptors(config, descriptors::max_limit());
    }
    let findings = match &outcome {
        Ok(config) if online => Some(online::ask(config)),
        Ok(_) | Err(_) => None,
    };
    report(&name, outcome, findings.as_deref(), form)
}

fn report(
    name: &str,
    outcome: Result<Config, Diagnostics>,
    findings: Option<&[CheckResult]>,
    form: OutputFormat,
) -> (String, bool) {
    let bad = findings.unwrap_or_default().iter().filter(|it| it.state == CheckStatus::Bad).count();
    let good = outcome.is_ok() && bad == 0;
    let text = match (outcome, form) {
        (Ok(config), OutputFormat::Json) => {
            let mut summary = summary_json(&config);
            if let (Some(summary), Some(findings)) = (summary.as_object_mut(), findings) {
                summary.insert("good".to_owned(), good.into());
                let findings: Vec<Value> = findings.iter().map(CheckResult::to_json).collect();
                summary.insert("online".to_owned(), findings.into());
            }
            format!("{summary:#}\n")
        }
        (Err(complaints), OutputFormat::Json) => {
            format!("{:#}\n", json!({ "good": false, "complaints": complaints.to_json() }))
        }
        (Ok(config), OutputFormat::Plain | OutputFormat::Coloured) => {
            let warnings = complaints(&config.warnings, form);
            match findings {
                None => format!("{warnings}{}", Summary { name, config: &config }),
                Some(findings) => format!("{warnings}{}", lines(name, findings, bad)),
            }
        }
        (Err(list), OutputFormat::Plain | OutputFormat::Coloured) => {
            format!("{}{name} cannot be used: {}\n", complaints(&list, form), counts(&list))
        }
    };
    (text, good)
}

/// One line for each thing that was looked at, and what it comes to.
fn lines(name: &str, findings: &[CheckResult], bad: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "{finding}");
    }
    let end = match bad {
        0 => "is good, and so is what it names".to_owned(),
        _ => format!("is good, but not what it names: {}", count(bad, "bad finding")),
    };
    let _ = writeln!(text, "\n{name} {end}");
    text
}

fn complaints(list: &Diagnostics, form: OutputFormat) -> String {
    if list.is_empty() {
        return String::new();
    }
    format!("{}\n\n", list.render(form == OutputFormat::Coloured))
}

fn counts(list: &Diagnostics) -> String {
    let (errors, warnings) = (list.count(Severity::Error), list.count(Severity::Warning));
    match (errors, warnings) {
        (0, _) => count(warnings, "warning"),
        (_, 0) => count(errors, "error"),
        _ => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

struct Summary<'a> {
    name: &'a str,
    config: &'a Config,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config;
        let sites = config.gateway.sites.all();
        let parts =
            [count(sites.len(), "site"), count(config.accounts.len(), "account"), self.keys()];
        write!(f, "{} is good: {}", self.name, parts.join(", "))?;
        if !config.warnings.is_empty() {
            write!(f, "; {}", counts(&config.warnings))?;
        }
        writeln!(f, "\n\nVisitors   {}", listeners(config).join(", "))?;
        f.write_str(&certificates::about(config))?;
        writeln!(f, "Admin      http://{}", config.admin.listen)?;
        if let Some(metrics) = config.admin.metrics_listen {
            writeln!(f, "Metrics    http://{metrics}")?;
        }
        writeln!(f, "Store      {}", config.gateway.store)?;
        writeln!(f, "Threads    {}", threads(config))?;
        for site in sites {
            writeln!(f, "\nSite {}", site.public_url)?;
            writeln!(f, "  hosts    {}", hosts(site).join(", "))?;
            writeln!(f, "  account  {}", site.account.name)?;
            writeln!(f, "  from     {}", from(site))?;
        }
        if let Some(broker) = &config.gateway.broker {
            f.write_str(&broker::about(broker)?)?;
        }
        for account in &config.accounts {
            f.write_str(&about_account(account, config)?)?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn keys(&self) -> String {
        count(self.config.gateway.session.keys.len(), "session key")
    }
}

/// WeChat takes this many callback domains for one account.
fn most_domains(kind: AccountKind) -> usize {
    match kind {
        AccountKind::Official => 2,
        AccountKind::Website => 1,
    }
}

fn about_account(account: &Account, config: &Config) -> Result<String, fmt::Error> {
    let mut text = format!("\nAccount {} ({})\n", account.name, account.app_id);
    let CheckResult { says, remedy, .. } = console(account, config);
    writeln!(text, "  {says}")?;
    if let Some(remedy) = remedy {
        writeln!(text, "  {remedy}")?;
    }
    Ok(text)
}

/// What must stand in the account's console, which only its owner can see.
fn console(account: &Account, config: &Config) -> CheckResult {
    let domains = callback_domains(account, config);
    let of = &account.name;
    if !at_wechat(account) {
        let says = format!("logs visitors in at {}, not at WeChat", account.authorize_url);
        return CheckResult::notice("console", of, says);
    }
    if domains.is_empty() {
        return CheckResult::notice("console", of, "no site logs its visitors in with it");
    }
    let (most, list) = (most_domains(account.kind), domains.join(", "));
    let says = match account.kind {
        AccountKind::Official => {
            format!("In its console at mp.weixin.qq.com, 网页授权域名 must hold: {list}")
        }
        AccountKind::Website => {
            format!("In its console at open.weixin.qq.com, 授权回调域 must be: {list}")
        }
    };
    if domains.len() > most {
        return CheckResult::error("console", of, says).remedy(format!(
            "WeChat takes {most} of them: the others cannot log in; set callback_host"
        ));
    }
    let finding = CheckResult::notice("console", of, says);
    if account.kind == AccountKind::Official && account.verify_files.is_empty() {
        return finding.remedy("To prove a domain, WeChat wants a file: put it into verify_files");
    }
    finding
}

/// Whether visitors log in at WeChat itself and not at an emulated one.
fn at_wechat(account: &Account) -> bool {
    account.authorize_url.ends_with(".weixin.qq.com")
}

/// The hosts that visitors come back to from WeChat.
fn callback_domains(account: &Account, config: &Config) -> Vec<String> {
    let uses = |site: &Site| {
        let others = site.also.iter().any(|also| also.name == account.name);
        let outside =
            matches!(&site.outside_wechat, OutsideWeChat::Login(web) if web.name == account.name);
        site.account.name == account.name || others || outside
    };
    let sites = config.gateway.sites.all().iter().filter(|site| uses(site));
    let host = |site: &std::sync::Arc<Site>| match &account.callback {
        Some(callback) => callback.host.to_string(),
        None => site.public_url.host().to_string(),
    };
    let broker = broker::callback_domain(account, config);
    let mut domains: Vec<String> = sites.map(host).chain(broker).collect();
    domains.sort();
    domains.dedup();
    domains
}

fn listeners(config: &Config) -> Vec<String> {
    let plain = config.server.listen.iter().map(|listen| match listen {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    });
    let tls = config.server.tls.iter().flat_map(|tls| &tls.listen);
    plain.chain(tls.map(|address| format!("https://{address}"))).collect()
}

fn hosts(site: &Site) -> Vec<String> {
    site.hosts.iter().map(ToString::to_string).collect()
}

/// The servers behind a site, as the operator writes them.
pub(super) fn endpoints(site: &Site) -> Vec<String> {
    let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.into() };
    let one = |endpoint: &Endpoint| match endpoint {
        Endpoint::Http(host, port) => format!("http://{}:{port}", bracketed(host)),
        Endpoint::Https(host, port) => format!("https://{}:{port}", bracketed(host)),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    };
    site.upstream.endpoints().map(one).collect()
}

/// The same, and what they are spoken to in where that is not the usual.
pub(super) fn from(site: &Site) -> String {
    let servers = endpoints(site).join(", ");
    match site.upstream.protocol {
        Protocol::Http1 => servers,
        other @ Protocol::Http2 => format!("{servers} over {other}"),
    }
}

/// How many threads would serve on this machine.
fn threads(config: &Config) -> usize {
    server::worker_count(config.server.workers, server::available_cpus())
}

fn summary_json(config: &Config) -> Value {
    let site = |site: &std::sync::Arc<Site>| {
        json!({
            "public_url": site.public_url.as_str(),
            "hosts": hosts(site),
            "account": site.account.name,
            "upstream": endpoints(site),
            "upstream_http": site.upstream.protocol.to_string(),
        })
    };
    let account = |account: &std::sync::Arc<Account>| {
        json!({
            "name": account.name,
            "app_id": account.app_id,
            "authorize_url": account.authorize_url,
            "callback_domains": callback_domains(account, config),
        })
    };
    json!({
        "good": true,
        "complaints": config.warnings.to_json(),
        "listen": listeners(config),
        "admin": config.admin.listen.to_string(),
        "metrics": config.admin.metrics_listen.map(|address| address.to_string()),
        "threads": threads(config),
        "orders": certificates::json(config),
        "sites": config.gateway.sites.all().iter().map(site).collect::<Vec<_>>(),
        "broker": config.gateway.broker.as_ref().map(broker::json),
        "accounts": config.accounts.iter().map(account).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::explain::PlaceholderEnvironment;

    const CONFIG: &str = r#"
[server]
listen = ["0.0.0.0:8080", "unix:/run/wxgate.sock"]
[server.tls]
certificates = [{ cert = "cert.pem", key = "key.pem" }]
[session]
keys = [{ id = "1", secret = { env = "KEY" } }]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = { env = "SECRET" }
[[site]]
hosts = ["h5.example.com", "www.example.com"]
public_url = "https://h5.example.com"
account = "main"
upstream = ["http://[fd00::5]:8000", "https://site.internal"]
upstream_http = "2"
"#;

    fn said(text: &str, form: OutputFormat) -> (String, bool) {
        let path = "config.toml";
        report(path, Config::parse(path, text, &PlaceholderEnvironment), None, form)
    }

    #[test]
    fn a_good_file_is_summed_up() {
        let (text, good) = said(CONFIG, OutputFormat::Plain);
        assert!(good);
        let expected = [
            "config.toml is good: 1 site, 1 account, 1 session key\n",
            "http://0.0.0.0:8080, unix:/run/wxgate.sock, https://0.0.0.0:8443\n",
            "Store      in memory: for a gateway that is alone\n",
            "  hosts    h5.example.com, www.example.com\n",
            "  from     http://[fd00::5]:8000, https://site.internal:443 over HTTP/2\n",
            "网页授权域名 must hold: h5.example.com\n",
        ];
        for part in expected {
            assert!(text.contains(part), "lacks {part:?}:\n{text}");
        }
    }

    #[test]
    fn what_is_ordered_is_said_and_where_the_authority_asks() {
        let certificates = "certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]";
        let orders = CONFIG.replace(certificates, "[server.acme]\nterms_agreed = true");
        let (text, good) = said(&orders, OutputFormat::Plain);
        assert!(good, "{text}");
        let host = "acme-v02.api.letsencrypt.org";
        for part in [
            format!("Orders     h5.example.com, www.example.com from {host}\n"),
            format!("{host} connects to port 443 of each: it has to be passed on to 8443 here"),
        ] {
            assert!(text.contains(&part), "lacks {part:?}:\n{text}");
        }
        let at_443 = orders.replace("[server.tls]", "[server.tls]\nlisten = \"0.0.0.0:443\"");
        assert!(said(&at_443, OutputFormat::Plain).0.contains("port 443 of each\n"));
    }

    #[test]
    fn more_callback_domains_than_wechat_takes() {
        let site = |name: &str| {
            let site = CONFIG.split_once("[[site]]").unwrap().1.replace("h5", name);
            format!("[[site]]{}", site.replace("www", &format!("www-{name}")))
        };
        let (text, _) = said(&format!("{CONFIG}{}{}", site("a"), site("b")), OutputFormat::Plain);
        assert!(text.contains("a.example.com, b.example.com, h5.example.com"), "{text}");
        assert!(text.contains("WeChat takes 2 of them"), "{text}");
    }

    #[test]
    fn a_bad_file_is_complained_about() {
        let bad = CONFIG.replace("\"main\"\nupstream", "\"mian\"\nupstream");
        let (text, good) = said(&bad, OutputFormat::Plain);
        assert!(!good);
        assert!(text.ends_with("config.toml cannot be used: 1 error\n"), "{text}");
        assert!(said(&bad, OutputFormat::Coloured).0.contains("\u{1b}["), "no colours");
        let (json, good) = said(&bad, OutputFormat::Json);
        assert!(!good);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["complaints"][0]["help"], "did you mean \"main\"?");
        let (json, good) = said(CONFIG, OutputFormat::Json);
        assert!(good);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["accounts"][0]["callback_domains"][0], "h5.example.com");
    }
}
