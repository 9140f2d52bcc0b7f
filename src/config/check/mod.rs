//! From words to settings. Whatever this accepts, no room has to doubt again. Pure.

use std::sync::Arc;

use toml::de::DeTable;

use super::{
    raw,
    reader::{Desk, Table},
};
use crate::{
    admin, gateway, server,
    site::{Account, Sites},
};

mod account;
mod address;
mod headers;
mod listener;
mod place;
mod route;
mod secret;
mod session;
mod site;
mod upstream;

/// The settings of every room.
pub struct Checked {
    /// How to listen.
    pub server: server::Settings,
    /// Where the other listener is.
    pub admin: admin::Settings,
    /// How to answer.
    pub gateway: gateway::Settings,
    /// Every account.
    pub accounts: Vec<Arc<Account>>,
}

/// Turns a document into settings. Complaints are left at the desk; where nothing comes back,
/// there is at least one.
pub fn check<'a>(document: &'a DeTable<'a>, desk: &'a Desk<'a>) -> Option<Checked> {
    let file = Table::file(&raw::FILE, document, desk);
    let front = listener::front(&file);
    let session = session::settings(&file.table("session", &raw::SESSION));
    store(&file.table("store", &raw::STORE));
    let pages = place::pages(&file.table("pages", &raw::PAGES));
    if let Some(at) = file.place("broker") {
        file.unsupported(at, "the code broker", "remove [broker] and its clients");
    }
    let accounts = account::accounts(&file);
    let plan = site::Plan {
        accounts: &accounts,
        prefix: &front.prefix,
        cookie: session.as_ref().map_or("wxgate", |session| &session.cookie),
        listeners: &front.listeners,
    };
    let (sites, used) = site::sites(&file, &plan);
    account::unused(desk, &accounts, &used);
    Some(Checked {
        server: front.server,
        admin: front.admin,
        accounts: accounts.into_iter().filter_map(|listed| listed.account).collect(),
        gateway: gateway::Settings {
            sites: Sites::new(sites),
            session: session?,
            trusted: front.trusted,
            prefix: front.prefix,
            body: front.body,
            logins_per_minute: front.logins_per_minute,
            pages,
        },
    })
}

fn store(store: &Table<'_>) {
    let Some(kind) = store.word("kind") else {
        return only_with_other_stores(store);
    };
    match kind.text {
        "memory" => only_with_other_stores(store),
        "file" | "redis" => {
            let what = format!("a store of kind \"{}\"", kind.text);
            let help = "write `kind = \"memory\"`, and run a single gateway";
            store.unsupported(kind.at, &what, help);
        }
        _ => store.not_one_of("kind", &kind, &["memory"]),
    }
}

fn only_with_other_stores(store: &Table<'_>) {
    for key in ["path", "url", "sentinels", "cluster"] {
        if let Some(at) = store.place(key) {
            let message = format!("`{key}` means nothing to a store of kind \"memory\"");
            store.desk.error(at, message, "remove it: other kinds of store are not yet supported");
        }
    }
}
