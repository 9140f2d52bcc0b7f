//! `wxgate serve`: start, reload, drain, stop.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::{check_descriptors, print_stderr, report_config_errors, signals};
use crate::{
    acme::{CertificateInfo, ManagerContext, ManagerHandle},
    admin::{AdminServer, CertificateView, RuntimeStatus},
    clock,
    config::{Config, Diagnostics},
    descriptors, error_chain,
    gateway::{AccessLog, Gateway},
    logs::{self, AuditEvent, AuditKind},
    server::{DescriptorShortage, Server, tls},
};

/// How often the configuration and the certificates are looked at. A look is a few `stat` calls;
/// unlike inotify it works on `ConfigMaps`, NFS and overlays too.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error>;

/// Runs the gateway with the configuration at `path`.
pub fn serve(path: &Path) -> ExitCode {
    let mut config = match Config::load(path) {
        Ok(config) => config,
        Err(complaints) => return report_config_errors(&complaints),
    };
    let shortage = check_descriptors(&mut config, descriptors::raise_limit());
    let logs::LogHandles { levels, form, access, guards } = logs::start(&config.log);
    let (log, board) = (AccessLog::new(form, access), RuntimeStatus::default());
    board.set_levels(levels);
    warn(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // WeChat's API, reloads and the admin listener; requests have their own
        .thread_name("control")
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(path, config, shortage, (log, board))),
        Err(error) => Err(error.into()),
    };
    drop(guards);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_stderr(&format!("wxgate: {}", error_chain::line(&*error)));
            ExitCode::FAILURE
        }
    }
}

async fn run(
    path: &Path,
    config: Config,
    shortage: Option<DescriptorShortage>,
    (log, board): (AccessLog, RuntimeStatus),
) -> Result<(), Failure> {
    let (certificates, fixed) = (config.server.tls.clone(), fixed(&config));
    board.set_accepted(path.to_owned(), config.shown.clone(), warnings(&config.warnings));
    let gateway = Arc::new(Gateway::new(config.gateway, clock::system, log)?);
    let mut server = config.server;
    if let Some(shortage) = shortage {
        server.limits = shortage.reduce(server.limits);
    }
    let server = Server::bind(server)?;
    let keeper = keeper(&server, &gateway, certificates.as_ref())?;
    let admin = AdminServer::bind(config.admin, board.clone(), Arc::clone(&gateway)).await;
    let admin = admin.map_err(|error| format!("cannot listen for the admin on {error}"))?;
    tracing::info!(workers = server.workers(), "starting worker threads");
    for address in server.addrs() {
        tracing::info!(%address, "listening");
    }
    for path in server.paths() {
        tracing::info!(path = %path.display(), "listening");
    }
    for address in server.tls_addrs() {
        tracing::info!(%address, "listening with TLS");
    }
    tracing::info!(address = %admin.addr()?, "listening for the admin");
    if let Some(address) = admin.metrics_addr() {
        tracing::info!(%address, "listening for metrics");
    }

    let ended = CancellationToken::new();
    let watch = ReloadWatcher {
        path: path.to_owned(),
        gateway: Arc::clone(&gateway),
        status: board.clone(),
        certificates: server.certificates(),
        manager: keeper,
        files: certificates,
        fixed,
    };
    watch.show_certificates();
    tokio::spawn(watch.run());
    tokio::spawn(admin.serve(ended.clone().cancelled_owned()));
    board.set_ready(true);
    notify(&[NotifyState::Ready]);
    let stop = async {
        signals::stop().await;
        board.set_ready(false);
        notify(&[NotifyState::Stopping]);
    };
    let outcome = server.serve(gateway, stop).await;
    ended.cancel();
    tracing::info!("stopped");
    Ok(outcome?)
}

/// Who orders certificates, where TLS is spoken at all.
fn keeper(
    server: &Server,
    gateway: &Arc<Gateway>,
    settings: Option<&tls::Settings>,
) -> Result<Option<ManagerHandle>, Failure> {
    let Some(certificates) = server.certificates() else { return Ok(None) };
    let noted = Arc::clone(gateway);
    let around = ManagerContext {
        certificates: Arc::clone(certificates.shelf()),
        tls: Arc::clone(gateway.tls()),
        store: Arc::clone(gateway.shared()),
        metrics: Arc::clone(gateway.metrics()),
        note: Arc::new(move |line| noted.audit().record(line)),
    };
    let settings = certificates.missing_domains(settings.and_then(|tls| tls.acme.as_ref()));
    Ok(Some(ManagerHandle::start(settings, around)?))
}

/// Looks after the files that may change while we run.
struct ReloadWatcher {
    path: PathBuf,
    gateway: Arc<Gateway>,
    status: RuntimeStatus,
    certificates: Option<Arc<tls::CertificateResolver>>,
    manager: Option<ManagerHandle>,
    files: Option<tls::Settings>,
    /// The part of the configuration that changes at a restart, as it was when we started.
    fixed: String,
}

/// What only a restart changes, in words that can be compared.
fn fixed(config: &Config) -> String {
    let (mut server, mut admin) = (config.server.clone(), config.admin.clone());
    admin.token = None;
    if let Some(tls) = &mut server.tls {
        tls.certificates.clear();
        tls.acme = None;
    }
    let (store, collector) = (&config.gateway.store, &config.gateway.collector);
    format!("{server:?} {store:?} {collector:?} {admin:?} {:?}", config.log.form)
}

impl ReloadWatcher {
    async fn run(mut self) {
        let Ok(mut hangup) = signals::hangup() else { return };
        let (mut seen, mut changing) = (self.look(), false);
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(POLL_INTERVAL) => false,
                () = ordered(self.certificates.as_deref()) => {
                    self.show_certificates();
                    continue;
                }
            };
            // A renewal writes two files, one after the other: what has changed is read when it
            // has stopped changing.
            let now = self.look();
            let settled = changing && now == seen;
            changing = !asked && now != seen;
            seen = now;
            if asked || settled {
                self.reload();
                // Other files may be named now. Of those we know, the look from before counts: one
                // that was written while we read is read again.
                for (path, state) in self.look() {
                    seen.entry(path).or_insert(state);
                }
            }
        }
    }

    /// The new file is checked whole, then put in force between two requests; a bad one changes
    /// nothing.
    fn reload(&mut self) {
        let accepted = self.try_reload();
        self.gateway.metrics().reload(accepted);
    }

    fn try_reload(&mut self) -> bool {
        let mut config = match Config::load(&self.path) {
            Ok(config) => config,
            Err(complaints) => return self.refuse(warnings(&complaints)),
        };
        check_descriptors(&mut config, descriptors::raise_limit());
        warn(&config);
        // Also those that cannot be used are looked at from now on: they may be mended.
        self.files.clone_from(&config.server.tls);
        let chosen = match self.files.as_ref().map(tls::FileCertificates::load).transpose() {
            Ok(chosen) => chosen,
            Err(error) => return self.refuse(vec![error_chain::line(&error)]),
        };
        let acme = self.files.as_ref().and_then(|tls| tls.acme.as_ref());
        if let Some(Err(error)) = acme.map(ManagerHandle::check) {
            return self.refuse(vec![error_chain::line(&error)]);
        }
        let (fixed, token) = (fixed(&config), config.admin.token);
        let (log, shown) = (config.log, config.shown);
        if let Err(error) = self.gateway.reload(config.gateway) {
            return self.refuse(vec![error_chain::line(&error)]);
        }
        self.status.levels().settle(&log);
        self.status.set_admin_token(token.as_ref());
        self.status.set_accepted(self.path.clone(), shown, warnings(&config.warnings));
        if let (Some(certificates), Some(chosen)) = (&self.certificates, chosen) {
            certificates.replace(chosen);
            let acme = self.files.as_ref().and_then(|tls| tls.acme.as_ref());
            if let Some(keeper) = &self.manager {
                keeper.update_settings(certificates.missing_domains(acme));
            }
        }
        self.show_certificates();
        self.note(AuditEvent::ok(AuditKind::Reload, "configuration and certificates reloaded"));
        let restart = fixed != self.fixed;
        self.status.set_restart_required(restart);
        if restart {
            let what = "some changed settings need a restart";
            let which =
                "[server], [admin], [store], the format of [log] or the collector of [trace]";
            self.note(AuditEvent::failed(AuditKind::Reload, what).with("reason", which));
        }
        true
    }

    /// Says what is wrong with the new configuration.
    fn refuse(&self, complaints: Vec<String>) -> bool {
        for complaint in &complaints {
            tracing::error!(target: "audit", "{complaint}");
        }
        let what = "the new configuration was refused; the old one stays";
        let first = complaints.first().cloned().unwrap_or_default();
        self.note(AuditEvent::failed(AuditKind::Reload, what).with("error", first));
        self.status.set_rejected(complaints);
        false
    }

    fn note(&self, event: AuditEvent) {
        self.gateway.audit().record(event);
    }

    /// Tells when our certificates end.
    fn show_certificates(&self) {
        let shown = self.certificates.as_ref().map(|it| it.certificate_views()).unwrap_or_default();
        let first = |names: &[String]| names.first().cloned().unwrap_or_else(|| "-".to_owned());
        let lives: Vec<_> =
            shown.iter().map(|it| (first(&it.names), [it.begins, it.expires])).collect();
        self.gateway.metrics().certificates(&lives);
        let certificates = shown.into_iter().map(|CertificateInfo { names, begins, expires }| {
            CertificateView { names, begins, expires }
        });
        self.status.set_certificates(certificates.collect());
    }

    /// What can be seen of the files without reading them.
    fn look(&self) -> BTreeMap<PathBuf, Option<(SystemTime, u64, u64)>> {
        let files = self.files.iter().flat_map(|tls| &tls.certificates);
        let files = files.flat_map(|files| [&files.cert, &files.key]).chain([&self.path]);
        let look = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        files.map(|path| (path.clone(), look(path))).collect()
    }
}

/// Waits until other certificates are shown that were ordered.
async fn ordered(certificates: Option<&tls::CertificateResolver>) {
    match certificates {
        Some(certificates) => certificates.shelf().changed().await,
        None => std::future::pending().await,
    }
}

/// Complaints, one line each.
fn warnings(diagnostics: &Diagnostics) -> Vec<String> {
    diagnostics.into_iter().map(|complaint| diagnostics.line(complaint)).collect()
}

fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{}", config.warnings.line(warning));
    }
}

/// Tells systemd, if it is there to hear.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
