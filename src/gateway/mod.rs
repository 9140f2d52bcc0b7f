//! One request, from door to door.
pub mod page;
use crate::{auth, site::Sites, wire::forwarded::Trusted};
use std::path::PathBuf;
/// What the gateway needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sites behind us.
    pub sites: Sites,
    /// Sessions.
    pub session: auth::Settings,
    /// The proxies in front of us.
    pub trusted: Trusted,
    /// Where our own paths begin, such as `/_wx`.
    pub prefix: String,
    /// The largest request body, in bytes; zero is no limit.
    pub body_size: u64,
    /// The operator's own templates, which replace ours by name.
    pub pages: Option<PathBuf>,
}
