//! What the program itself knows and the gateway does not: whether it is ready, the text of its
//! configuration, its certificates, its levels. Whoever starts and reloads writes it here; the
//! status page reads it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use crate::{
    clock::{self, Timestamp},
    logs::LevelControl,
    secret::Secret,
    site::broker::ClientSecret,
};

/// Shared by those who write and those who read.
#[derive(Clone, Debug, Default)]
pub struct RuntimeStatus(Arc<RuntimeState>);

#[derive(Debug, Default)]
struct RuntimeState {
    ready: AtomicBool,
    levels: Mutex<LevelControl>,
    file: Mutex<ConfigFileStatus>,
    admin_token: Mutex<Option<ClientSecret>>,
    certificates: Mutex<Vec<CertificateView>>,
}

/// The configuration in force, and what became of the last one.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigFileStatus {
    /// Where it stands.
    pub path: PathBuf,
    /// What stands in it. Fetched apart.
    #[serde(skip)]
    pub shown: ConfigView,
    /// When it was read.
    pub loaded: Timestamp,
    /// How often that has been: a page that shows the text fetches it again.
    pub edition: u64,
    /// What was wrong with the last one, if it was refused: when, and the complaints.
    pub refused: Option<(Timestamp, Vec<String>)>,
    /// Whether something has changed that only a restart puts in force.
    pub wants_restart: bool,
    /// What the operator should know of it all the same.
    pub warnings: Vec<String>,
}

/// What stands in a configuration, secrets covered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigView {
    /// Word for word.
    pub text: String,
    /// As tables.
    pub groups: Vec<ConfigViewTable>,
}

/// One table of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigViewTable {
    /// How the operator writes it, and which one it is where there are several.
    pub title: String,
    /// Its keys.
    pub keys: Vec<ConfigViewEntry>,
}

/// One key and what goes for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigViewEntry {
    /// Its name.
    pub key: &'static str,
    /// As it was written, or the default as it would be.
    pub value: String,
    /// Whether it was written.
    pub written: bool,
}

/// A certificate that is shown to visitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it begins.
    pub begins: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl RuntimeStatus {
    /// Says whether new visitors should be sent here.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Release);
    }

    /// Whether new visitors should be sent here.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Hands over what chooses the levels of the log.
    pub fn set_levels(&self, levels: LevelControl) {
        *lock(&self.0.levels) = levels;
    }

    /// What chooses the levels of the log.
    pub fn levels(&self) -> LevelControl {
        lock(&self.0.levels).clone()
    }

    /// A configuration has come into force.
    pub fn set_accepted(&self, path: PathBuf, shown: ConfigView, warnings: Vec<String>) {
        let mut file = lock(&self.0.file);
        let edition = file.edition + 1;
        let (loaded, wants_restart) = (clock::system(), file.wants_restart);
        *file = ConfigFileStatus {
            path,
            shown,
            loaded,
            edition,
            refused: None,
            wants_restart,
            warnings,
        };
    }

    /// A configuration was refused, and the old one stays.
    pub fn set_rejected(&self, complaints: Vec<String>) {
        lock(&self.0.file).refused = Some((clock::system(), complaints));
    }

    /// Something has changed that only a restart puts in force, or is as it was.
    pub fn set_restart_required(&self, wants: bool) {
        lock(&self.0.file).wants_restart = wants;
    }

    /// The configuration in force.
    pub fn file(&self) -> ConfigFileStatus {
        lock(&self.0.file).clone()
    }

    /// Puts the token of `[admin]` in force, or takes it away.
    pub fn set_admin_token(&self, token: Option<&Secret>) {
        let mut current = self.0.admin_token.lock().unwrap_or_else(PoisonError::into_inner);
        *current = token.map(ClientSecret::new);
    }

    /// The token that every POST has to present.
    pub fn admin_token(&self) -> Option<ClientSecret> {
        self.0.admin_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificates in force.
    pub fn set_certificates(&self, certificates: Vec<CertificateView>) {
        *lock(&self.0.certificates) = certificates;
    }

    /// The certificates in force.
    pub fn certificates(&self) -> Vec<CertificateView> {
        lock(&self.0.certificates).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_configuration_and_certificates() {
        let keys = vec![ConfigViewEntry { key: "listen", value: "a".to_owned(), written: true }];
        let groups = vec![ConfigViewTable { title: "[server]".to_owned(), keys }];
        let shown = ConfigView { text: "text".to_owned(), groups };
        let certificate = CertificateView {
            names: vec!["h5.example.com".to_owned()],
            begins: Timestamp(1),
            expires: Timestamp(2),
        };
        let file = ConfigFileStatus {
            path: "config.toml".into(),
            shown: shown.clone(),
            loaded: Timestamp(1),
            edition: 2,
            refused: Some((Timestamp(3), vec!["why".to_owned()])),
            wants_restart: true,
            warnings: vec!["warning".to_owned()],
        };
        let rows = [
            (
                serde_json::to_string(&shown).unwrap(),
                r#"{"text":"text","groups":[{"title":"[server]","keys":[{"key":"listen","value":"a","written":true}]}]}"#,
            ),
            (
                serde_json::to_string(&certificate).unwrap(),
                r#"{"names":["h5.example.com"],"begins":1,"expires":2}"#,
            ),
            (
                serde_json::to_string(&file).unwrap(),
                r#"{"path":"config.toml","loaded":1,"edition":2,"refused":[3,["why"]],"wants_restart":true,"warnings":["warning"]}"#,
            ),
        ];
        for (now, recorded) in rows {
            assert_eq!(now, recorded);
        }
    }
}
