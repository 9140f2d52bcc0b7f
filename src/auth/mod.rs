//! Who is asking, and may they pass. Pure.
use crate::secret::Secret;
use std::time::Duration;
/// How long sessions last and what signs them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the cookie, before any prefix.
    pub cookie: String,
    /// A session unused for this long ends; one used past half of it is re-issued.
    pub idle: Duration,
    /// A session ends after this whatever happens.
    pub max: Duration,
    /// The first signs, all verify.
    pub keys: Vec<KeySettings>,
}
/// One key of the ring.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// What tokens call it (`kid`).
    pub id: String,
    /// At least 32 bytes.
    pub secret: Secret,
}
