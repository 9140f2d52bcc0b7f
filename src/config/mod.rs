//! `config.toml` → the settings each room declares.
