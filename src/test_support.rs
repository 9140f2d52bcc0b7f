//! A configuration and a world to try things with: what `benching` and `fuzzing` have in common, and
//! in no other build.
#![expect(clippy::unwrap_used, reason = "what is tried is known to be good")]

use std::{io, path};

use crate::{
    auth::{KeyRing, KeySettings},
    clock::Timestamp,
    config::{Config, Environment, ReferencedFile},
    secret::Secret,
};

/// The one secret there is.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The time it is.
pub const NOW: Timestamp = Timestamp(1_800_000_000);

/// What every site needs before it.
const HEAD: &str = r#"
[session]
keys = [{ id = "a", secret = { env = "KEY" } }]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = { env = "SECRET" }
"#;

/// A world with one secret, whatever it is called.
pub struct FixedEnvironment;

impl Environment for FixedEnvironment {
    fn variable(&self, _: &str) -> Result<String, String> {
        Ok(SECRET.to_owned())
    }

    fn file(&self, _: &path::Path) -> io::Result<ReferencedFile> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn is_folder(&self, _: &path::Path) -> bool {
        false
    }
}

/// These sites, and one account.
pub fn config(sites: &str) -> Config {
    let config = Config::parse("config.toml", &format!("{HEAD}{sites}"), &FixedEnvironment);
    config.map_err(|complaints| complaints.to_string()).unwrap()
}

/// The key that it signs with.
pub fn keys() -> KeyRing {
    KeyRing::new(&[KeySettings { id: "a".to_owned(), secret: Secret::new(SECRET) }]).unwrap()
}

/// One site, for [`config`].
#[cfg(test)]
pub const SITE: &str = r#"
[[site]]
hosts = ["h5.example.com"]
public_url = "https://h5.example.com"
account = "main"
upstream = ["http://127.0.0.1:1"]
"#;
