//! From words to settings. Whatever this accepts, no room has to doubt again. Pure.

use std::sync::Arc;

use toml::de::DeTable;

use super::{
    reader::{LoadContext, TableReader},
    schema,
};
use crate::{
    admin,
    auth::KeySettings,
    gateway, logs, server,
    site::{Account, Broker, Site, Sites},
};

mod account;
mod acme;
mod address;
mod broker;
mod headers;
mod health;
mod listener;
mod paths;
mod route;
mod secret;
mod session;
mod site;
mod store;
mod upstream;
mod telemetry;

/// The settings of every room.
pub struct CheckedConfig {
    /// How to listen.
    pub server: server::Settings,
    /// Where the other listener is.
    pub admin: admin::Settings,
    /// How to answer.
    pub gateway: gateway::Settings,
    /// What is written down.
    pub log: logs::Settings,
    /// Every account.
    pub accounts: Vec<Arc<Account>>,
}

/// Turns a document into settings. Complaints are left at the desk; where nothing comes back,
/// there is at least one.
pub fn check<'a>(document: &'a DeTable<'a>, context: &'a LoadContext<'a>) -> Option<CheckedConfig> {
    let file = TableReader::file(&schema::FILE, document, context);
    let mut front = listener::front(&file);
    let sessions = file.table("session", &schema::SESSION);
    let session = session::settings(&sessions);
    let shelf = file.table("store", &schema::STORE);
    let store = store::settings(&shelf);
    let kind = shelf.value("kind").and_then(|kind| kind.get_ref().as_str());
    let (log, sampled) = (telemetry::log(&file), telemetry::sampled(&file));
    let collector = telemetry::collector(&file);
    let pages = paths::pages(&file.table("pages", &schema::PAGES));
    let accounts = account::accounts(&file);
    let plan = site::SiteContext {
        accounts: &accounts,
        prefix: &front.prefix,
        cookie: session.as_ref().map_or("wxgate", |session| &session.cookie),
        listeners: &front.listeners,
        replicas: kind.is_some_and(|kind| !matches!(kind, "memory" | "file")),
    };
    if let (Some(session), true) = (&session, plan.replicas) {
        session::among_replicas(&sessions, session.idle);
    }
    let (sites, mut used) = site::sites(&file, &plan);
    let (broker, clients) = broker::broker(&file, &plan);
    used.extend(clients);
    account::unused(context, &accounts, &used);
    // What replicas share is sealed.
    let ring = session.as_ref().filter(|_| plan.replicas).map(|it| it.keys.clone());
    complete_acme(
        &mut front,
        (&accounts, &sites, broker.as_ref()),
        (ring.unwrap_or_default(), context),
    );
    Some(CheckedConfig {
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
            store,
            pages,
            broker,
            sampled,
            collector,
            openids: log.openids,
        },
        log,
    })
}

/// Where the file names no names to order for, they are all those where visitors arrive.
fn complete_acme(
    front: &mut listener::ServerSection,
    (accounts, sites, broker): (&[account::DeclaredAccount<'_>], &[Site], Option<&Broker>),
    (ring, desk): (Vec<KeySettings>, &LoadContext<'_>),
) {
    let tls = front.server.tls.as_mut();
    let (Some(place), Some(orders)) = (&front.orders, tls.and_then(|tls| tls.acme.as_mut())) else {
        return;
    };
    let callbacks = accounts.iter().filter_map(|it| it.account.as_ref()?.callback.as_ref());
    let hosts = sites.iter().flat_map(|site| &site.hosts);
    let hosts = hosts.chain(callbacks.map(|callback| &callback.host));
    orders.ring = ring;
    acme::fill(orders, place, hosts.chain(broker.map(|broker| broker.public_url.host())), desk);
}
