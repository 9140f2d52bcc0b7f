//! The gateway seen from outside: real sockets, real configuration, an emulated WeChat.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::as_conversions,
    clippy::print_stdout,
    reason = "tests"
)]

mod echo;
mod upstream_server;
mod fleet;
mod harness;
mod load;
mod pebble;
mod redis;
mod visitor;

mod acme;
mod balance;
mod broker;
mod broker_api;
mod broker_servers;
mod clocks;
mod connection_limit;
mod descriptors;
mod access_rules;
mod admin;
mod formats;
mod forward;
mod framing;
mod h2;
mod h2_site;
mod h2_table;
mod health;
mod hostile;
mod header_hygiene;
mod limits;
mod login;
mod large_bodies;
mod online;
mod openssl;
mod probe;
mod security_requirements;
mod session_end;
mod assertion;
mod proxies;
mod queues;
mod reload;
mod replicas;
mod revocations;
mod rfc;
mod rolling;
mod store_file;
mod store_outage;
mod store_write_failures;
mod soak;
mod tls;
mod topologies;
mod traces;
mod failures;
mod proxy_checks;
mod upstream_h2;
mod upstream_h2_hostile;
mod upstream_h2_real;
mod upstream_tls;
mod upstreams;
mod verify;
mod wechat;
mod worker_threads;
