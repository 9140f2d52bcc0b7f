//! An authentication gateway in front of WeChat H5 sites.
//!
//! A visitor arrives inside WeChat. If the page they ask for needs to know who they are, they
//! take one trip through WeChat's OAuth page and come back with a signed session cookie. From
//! then on each request is passed to the site behind us, with their identity in its headers.
//!
//! # The house
//!
//! One room per module, listed from the street down to the cellar. **Imports only ever point
//! down this list.** `tests/layers.rs` holds us to it.
//!
//! | room         | owns                                                  | I/O                |
//! |--------------|-------------------------------------------------------|--------------------|
//! | `benching`   | what `benches/` measures; in no other build           | none               |
//! | `fuzzing`    | what `fuzz/` calls, and a test; in no other build     | none               |
//! | `trial`      | what these two try things with; in no other build     | none               |
//! | [`cli`]      | the commands, signals, exit codes                     | process            |
//! | [`demo`]     | gateway, emulated WeChat and a sample site, together  | starts the others  |
//! | [`emulator`] | the emulated WeChat: pages, API, faults               | sockets in         |
//! | [`config`]   | `config.toml` → the settings each room declares       | one file           |
//! | [`server`]   | listeners, threads, TLS, connections, draining        | sockets in         |
//! | [`admin`]    | the other listener: health, metrics, the status page  | sockets in         |
//! | [`gateway`]  | one request from door to door; the login; our pages   | joins the others   |
//! | [`acme`]     | certificates ordered from an authority, and renewed   | sockets out, files |
//! | [`wechat`]   | WeChat's OAuth API                                    | sockets out        |
//! | [`upstream`] | the sites behind us: pools, forwarding, tunnels       | sockets out        |
//! | [`http1`]    | HTTP/1.1 on sockets: strict heads, framed bodies          | sockets            |
//! | [`store`]    | what replicas share: codes, tokens, ended sessions    | one file, or Redis |
//! | [`traces`]   | spans of requests on their way to a collector         | sockets out        |
//! | [`metrics`]  | what is counted                                       | memory             |
//! | [`logs`]     | lines and their levels; the trail of what was decided | stdout             |
//! | [`auth`]     | sessions, logins, and who may pass                    | none               |
//! | [`site`]     | which site, which route, what it asks for             | none               |
//! | [`wire`]     | HTTP manners: hosts, paths, headers, cookies          | none               |
//! | [`clock`]    | the time                                              | reads the clock    |
//! | [`causes`]   | an error and everything behind it, in one line        | none               |
//! | [`secret`]   | strings that never reach a log                        | none               |
//! | [`left_out`] | what a measurement does not record; elsewhere nothing | none               |
//!
//! # One request
//!
//! ```text
//! TcpStream            server/http1.rs       handshake, parse           → Request + Peer
//!    │
//! Worker::handle       gateway/mod.rs        opens the access-log line; whatever happens, answers
//!    │  receive        wire::Host, site      which site, which route    → Arrival
//!    │  recognise      gateway/recognise.rs  cookie → known visitor     → Visit
//! auth::decide         auth/mod.rs  PURE     the only place that judges → Decision
//!    ├─ Pass           upstream/             hygiene, introduce, stream both ways
//!    ├─ Login          gateway/login/        pending login → cookie + state → 302 to WeChat
//!    └─ Refuse …       gateway/reply.rs      a page, or 401 for scripts
//! ```
//!
//! A request for the code broker's host and prefix turns off before all that: `gateway/broker.rs`
//! has its paths, `site/broker.rs` says who may be sent where, `wire/link.rs` what an address is.
//!
//! What ends on one replica ends on all: `gateway/feed.rs` follows the store's log of ended sessions
//! from a task of its own, and requests look at the snapshot it keeps.
//!
//! Each thread owns a runtime, its listeners, its upstream connections and its cache of verified
//! cookies. Threads share nothing on this path but read-only snapshots, and the atomics that say how
//! the servers behind us are (`upstream/backend.rs`).

#[cfg(feature = "benching")]
#[doc(hidden)]
pub mod benching;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(feature = "benching", fuzzing, test))]
mod trial;
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
mod wire;
pub mod clock;
mod causes;
mod secret;
mod left_out;
