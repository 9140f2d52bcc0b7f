//! The real Pebble, an authority for tests, and a DNS server to which every name is this machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::redis::free_port;

/// An authority, which ends with its owner.
pub struct Pebble {
    pub port: u16,
    manage: u16,
    folder: tempfile::TempDir,
    dns: u16,
    process: Option<Child>,
    _names: Child,
}

impl Pebble {
    /// One that connects to this port when it wants a name proven, and whose certificates last so
    /// many seconds. It does not run yet.
    pub async fn new(tls: u16, seconds: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, manage, dns, names] =
            [free_port().await, free_port().await, free_port().await, free_port().await];
        let made = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = made.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("authority.pem"), cert.pem()).unwrap();
        std::fs::write(folder.path().join("authority.key"), key.serialize_pem()).unwrap();
        let config = format!(
            r#"{{"pebble": {{"listenAddress": "127.0.0.1:{port}", "managementListenAddress": "127.0.0.1:{manage}",
            "certificate": "authority.pem", "privateKey": "authority.key", "httpPort": 1, "tlsPort": {tls},
            "certificateValidityPeriod": {seconds}}}}}"#
        );
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let names = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", ""])
            .args(["-tlsalpn01", "", "-dns01", &format!("127.0.0.1:{dns}")])
            .args(["-management", &format!("127.0.0.1:{names}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("pebble is missing: tests/tools.sh installs it");
        Self { port, manage, folder, dns, process: None, _names: names }
    }

    /// Makes it one that knows its customers: there is one, by this name and with this key.
    pub fn know(&self, kid: &str, key: &str) {
        let path = self.folder.path().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        let customers = format!(
            r#"{{"pebble": {{"externalAccountBindingRequired": true, "externalAccountMACKeys": {{"{kid}": "{key}"}},"#
        );
        std::fs::write(path, config.replacen(r#"{"pebble": {"#, &customers, 1)).unwrap();
    }

    /// Starts it, strict, forgetting all that was before. It refuses good nonces now and then, as it
    /// is its habit.
    pub async fn start(&mut self) {
        let log = std::fs::File::create(self.log()).unwrap();
        let child = Command::new("pebble")
            .args(["-strict", "-config", "config.json"])
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .current_dir(self.folder.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("pebble is missing: tests/tools.sh installs it");
        self.process = Some(child);
        let begun = Instant::now();
        while self.fetch("roots/0").await.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "pebble does not answer");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    /// Who is to be believed: those who sign its own certificate, as a file.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Where it begins.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// The lines of a configuration that orders from it.
    pub fn table(&self, storage: &Path, more: &str) -> String {
        format!(
            "[server.acme]\nterms_agreed = true\ndirectory = \"{}\"\nca = \"{}\"\nstorage = \"{}\"\n{more}\n",
            self.directory(),
            self.ca().display(),
            storage.display()
        )
    }

    /// Who believes in what it signs.
    pub async fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let pem = self.fetch("roots/0").await;
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// How often something stands in its log.
    pub fn said(&self, words: &str) -> usize {
        std::fs::read_to_string(self.log()).unwrap().matches(words).count()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    async fn fetch(&self, path: &str) -> String {
        let url = format!("https://127.0.0.1:{}/{path}", self.manage);
        let output = Command::new("curl").args(["-sk", "--max-time", "2", &url]).output().await;
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}
