//! The folder where all this outlives us: the account, certificates with their keys, and how often
//! each name was tried. Each authority has a folder of its own; nobody else may read any of it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{StorageError, schedule::OrderAttempts};

/// The folder of one authority.
#[derive(Debug)]
pub struct CertificateStorage {
    folder: PathBuf,
    lock: File,
}

const ACCOUNT: &str = "account.json";

impl CertificateStorage {
    /// Makes the folder where it is missing, and tries whether it can be written.
    pub fn open(storage: &Path, directory: &str) -> Result<Self, StorageError> {
        let folder = storage.join(label(directory));
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            // It may have been there before, made by somebody less careful.
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            private(&folder.join("lock")).truncate(false).open(folder.join("lock"))
        };
        let lock = open().map_err(|error| StorageError(folder.clone(), error))?;
        Ok(Self { folder, lock })
    }

    /// Whether we are the one process that orders; the others show what they find here. It stays
    /// so until we end.
    pub fn lock(&self) -> Result<bool, StorageError> {
        match self.lock.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(self.failed("lock", error)),
        }
    }

    /// The account, as it was kept.
    pub fn account(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.read(ACCOUNT)
    }

    /// Keeps the account.
    pub fn save_account(&self, json: &[u8]) -> Result<(), StorageError> {
        self.write(ACCOUNT, json)
    }

    /// The authority knows the account no more.
    pub fn delete_account(&self) {
        let _ = fs::remove_file(self.folder.join(ACCOUNT));
    }

    /// The certificate of a name with its key, in PEM. One file, so that they always fit.
    pub fn certificate(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.read(&format!("{name}.pem"))
    }

    /// Keeps a certificate.
    pub fn save_certificate(&self, name: &str, pem: &[u8]) -> Result<(), StorageError> {
        self.write(&format!("{name}.pem"), pem)
    }

    /// How often a name was tried.
    pub fn tries(&self, name: &str) -> OrderAttempts {
        let kept = self.read(&format!("{name}.tries"));
        kept.and_then(|kept| serde_json::from_slice(&kept).ok()).unwrap_or_default()
    }

    /// Keeps how often a name was tried.
    pub fn save_attempts(&self, name: &str, tries: &OrderAttempts) -> Result<(), StorageError> {
        let json = serde_json::to_vec(tries).map_err(io::Error::other);
        self.write(&format!("{name}.tries"), &json.map_err(|error| self.failed(name, error))?)
    }

    fn read(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        match fs::read(self.folder.join(name)) {
            Ok(bytes) => Some(Zeroizing::new(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = self.folder.join(name);
                tracing::warn!(path = %path.display(), %error, "a file of [server.acme] storage cannot be read");
                None
            }
        }
    }

    /// All of it or nothing, whenever the power fails.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!(".{name}.new")));
        let write = || {
            let mut file = private(&new).truncate(true).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: io::Error) -> StorageError {
        StorageError(self.folder.join(name), error)
    }
}

/// How a file is opened that is nobody else's business.
fn private(path: &Path) -> OpenOptions {
    // One that is left from a crash may have been made by anybody.
    if path.extension().is_some_and(|it| it == "new") {
        let _ = fs::remove_file(path);
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// A directory's URL as the name of a folder.
pub fn label(directory: &str) -> String {
    let rest = directory.split_once("://").map_or(directory, |(_, rest)| rest);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let label: String = rest.trim_start_matches('.').chars().map(plain).take(200).collect();
    if label.is_empty() { "authority".to_owned() } else { label }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn an_authority_has_a_folder_of_its_own() {
        for (url, expected) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                "acme-v02.api.letsencrypt.org-directory",
            ),
            ("https://127.0.0.1:14000/dir", "127.0.0.1-14000-dir"),
            ("https://../../etc", "-..-etc"),
            ("", "authority"),
        ] {
            assert_eq!(label(url), expected);
        }
    }

    #[test]
    fn what_is_kept_is_for_us_alone_and_one_process_orders() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("var/acme");
        let disk = CertificateStorage::open(&storage, "https://ca.example/dir").unwrap();
        let tries =
            OrderAttempts { failures: 3, last: Timestamp(5), next: Timestamp(9), asked: true };
        disk.save_certificate("h5.example.com", b"pem").unwrap();
        disk.save_attempts("h5.example.com", &tries).unwrap();
        disk.save_account(b"{}").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let mut files = 0;
        for file in fs::read_dir(&disk.folder).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
        assert_eq!((files, mode(&disk.folder), mode(&storage)), (4, 0o700, 0o700));

        let other = CertificateStorage::open(&storage, "https://ca.example/dir").unwrap();
        assert_eq!(
            (disk.lock().unwrap(), other.lock().unwrap(), disk.lock().unwrap()),
            (true, false, true)
        );
        assert_eq!(other.tries("h5.example.com"), tries);
        assert_eq!(other.tries("www.example.com"), OrderAttempts::default());
        assert_eq!(other.certificate("h5.example.com").unwrap().as_slice(), b"pem");
        drop(disk);
        assert!(other.lock().unwrap(), "the next one takes over");
        other.delete_account();
        assert!(other.account().is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"").unwrap();
        let error =
            CertificateStorage::open(&folder.path().join("file"), "https://a/").unwrap_err();
        assert!(error.to_string().contains("file/a-"), "{error}");
    }

    #[test]
    fn serialized_files() {
        let folder = tempfile::tempdir().unwrap();
        let disk = CertificateStorage::open(folder.path(), "https://ca.example/dir").unwrap();
        let tries =
            OrderAttempts { failures: 3, last: Timestamp(5), next: Timestamp(9), asked: true };
        disk.save_account(b"{}").unwrap();
        disk.save_certificate("h5.example.com", b"pem").unwrap();
        disk.save_attempts("h5.example.com", &tries).unwrap();
        let recorded = r#"{"failures":3,"last":5,"next":9,"asked":true}"#;
        for (file, content) in [
            ("account.json", "{}"),
            ("h5.example.com.pem", "pem"),
            ("h5.example.com.tries", recorded),
            ("lock", ""),
        ] {
            let path = folder.path().join("ca.example-dir").join(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "{file}");
        }
        assert_eq!(serde_json::from_str::<OrderAttempts>(recorded).unwrap(), tries);
    }
}
