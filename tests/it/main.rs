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
mod farm;
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
mod decide;
mod forward;
mod framing;
mod h2;
mod h2_site;
mod h2_table;
mod health;
mod hostile;
mod hygiene;
mod limits;
mod login;
mod long;
mod online;
mod openssl;
mod probe;
mod promises;
mod proof;
mod proxies;
mod queues;
mod reload;
mod replicas;
mod revocations;
mod rfc;
mod rolling;
mod silence;
mod soak;
mod tls;
mod topologies;
mod traces;
mod trouble;
mod twenty;
mod upstream_h2;
mod upstream_h2_hostile;
mod upstream_h2_real;
mod upstream_tls;
mod upstreams;
mod verify;
mod wechat;
