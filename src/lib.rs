//! An authentication gateway in front of WeChat H5 sites.
//!
//! A visitor opens a page inside WeChat. If the page requires a login, the gateway redirects the
//! visitor to WeChat's authorization page, exchanges the code that comes back and sets a signed
//! session cookie. Every later request is forwarded to the site with identity headers.
//!
//! # Modules
//!
//! The modules form layers, highest first. **A module imports only modules below it in this list**;
//! `tests/architecture.rs` holds that.
//!
//! | module             | what it is for                                                  | I/O                |
//! |--------------------|-----------------------------------------------------------------|--------------------|
//! | `bench_support`    | fixtures of `benches/`; in no other build                       | none               |
//! | `fuzzing`          | entry points of `fuzz/`, also run by a test; in no other build  | none               |
//! | `test_support`     | fixtures that these two and the unit tests share                | none               |
//! | [`cli`]            | commands, signals, exit codes                                   | process            |
//! | [`demo`]           | gateway, emulated WeChat and a sample site in one process       | starts the others  |
//! | [`emulator`]       | the emulated WeChat: pages, API, fault injection                | sockets in         |
//! | [`config`]         | `config.toml` to the settings that each module declares         | one file           |
//! | [`server`]         | listeners, threads, TLS, connections, drain                     | sockets in         |
//! | [`admin`]          | the admin listener: health, metrics, status page                | sockets in         |
//! | [`gateway`]        | one request from its head to its response; the login; our pages | uses the others    |
//! | [`acme`]           | certificates ordered from a CA, and renewed                     | sockets out, files |
//! | [`wechat`]         | client of WeChat's OAuth API                                    | sockets out        |
//! | [`upstream`]       | client of the sites: load balancer, pools, forwarding, tunnels  | sockets out        |
//! | [`http1`]          | HTTP/1.1 on sockets: strict parser, body framing, splice        | sockets            |
//! | [`store`]          | what replicas share: codes, tokens, revocations                 | one file, or Redis |
//! | [`traces`]         | spans and their exporter                                        | sockets out        |
//! | [`metrics`]        | counters, gauges, histograms, health of components              | memory             |
//! | [`logs`]           | log levels and formats; the audit log                           | stdout             |
//! | [`auth`]           | sessions, pending logins, the access decision                   | none               |
//! | [`site`]           | sites, routes and what they require                             | none               |
//! | [`httputil`]       | hosts, paths, headers, cookies, forwarding                      | none               |
//! | [`clock`]          | the time                                                        | reads the clock    |
//! | [`descriptors`]    | the files that the process may open                             | asks the system    |
//! | [`error_chain`]    | an error and its causes in one line                             | none               |
//! | [`secret`]         | strings that never reach a log                                  | none               |
//! | [`bench_toggles`]  | what a measuring build leaves out                               | none               |
//! | `serialized`       | compares serialized values with recorded ones; in tests only    | golden files       |
//!
//! # One request
//!
//! ```text
//! TcpStream                server/http1.rs          parse the head                 → ParsedRequest, Peer
//!    │
//! RequestHandler::handle   gateway/mod.rs           open the access log entry, always respond
//!    │  resolve            gateway/context.rs       host, site, route, client      → RequestContext
//!    │  authenticate       gateway/authenticate.rs  cookie → verified session      → AccessRequest
//! auth::decide             auth/mod.rs              pure; nothing else decides     → Decision
//!    ├─ Forward…           upstream/                strip headers, add identity, stream both ways
//!    ├─ Login              gateway/login/           pending login → cookie + state → 302 to WeChat
//!    └─ Unauthorized …     gateway/reply.rs         a page, or 401 JSON for scripts
//! ```
//!
//! Requests for the code broker's host and prefix branch off before that: `gateway/broker.rs` has its
//! endpoints, `site/broker.rs` its clients and return addresses, `httputil/url.rs` parses URLs.
//!
//! A revocation on one replica reaches all of them: `gateway/revocation_sync.rs` follows the store's
//! revocation log in a task of its own, and requests read the snapshot that it keeps.
//!
//! Each thread owns a runtime, its listeners, its upstream connections and its cache of verified
//! cookies. On the request path threads share only read-only snapshots, counters, and the atomics
//! that hold the health of upstream servers (`upstream/backend.rs`).

#[cfg(feature = "benching")]
#[doc(hidden)]
pub mod bench_support;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(feature = "benching", fuzzing, test))]
mod test_support;
pub mod cli;
pub mod demo;
pub mod emulator;
pub mod config;
pub mod server;
pub mod admin;
pub mod gateway;
mod acme;
mod wechat;
mod upstream;
mod http1;
mod store;
mod traces;
mod metrics;
pub mod logs;
mod auth;
mod site;
mod httputil;
pub mod clock;
mod descriptors;
mod error_chain;
mod secret;
mod bench_toggles;
#[cfg(test)]
mod serialized;
