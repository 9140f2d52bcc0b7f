//! Gateway, emulated WeChat and a sample site in one process.

pub mod site;
