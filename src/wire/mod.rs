//! HTTP manners: what every room needs to know about a message. Pure.

pub mod cookie;
pub mod forwarded;
pub mod headers;
mod host;
pub mod link;
pub mod onward;
mod path;
pub mod trace;

pub use host::{Host, Origin, Scheme};
pub use link::Link;
pub use path::{Path, PathError};

/// Any error, once nobody needs to tell it apart.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
