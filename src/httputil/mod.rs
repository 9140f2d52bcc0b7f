//! HTTP manners: what every room needs to know about a message. Pure.

pub mod cookie;
pub mod forwarded;
pub mod headers;
mod host;
pub mod url;
pub mod outbound;
mod path;
pub mod trace_context;

pub use host::{Host, Origin, Scheme};
pub use path::{Path, PathError, WindowsNames, readings};
pub use url::HttpUrl;

/// Any error, once nobody needs to tell it apart.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
