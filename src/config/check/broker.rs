//! `[broker]` and its clients. Pure.

use std::{ops::Range, sync::Arc};

use percent_encoding::{CONTROLS, utf8_percent_encode};

use super::{address, secret, site, site::SiteContext};
use crate::{
    config::{
        diagnostic::Diagnostic,
        reader::{StrValue, TableReader},
        schema,
    },
    httputil::{HttpUrl, Origin, Path, cookie::CookieNames, url},
    secret::Secret,
    site::{
        Broker, OutsideWeChat,
        broker::{AllowedReturn, Client, ClientSecret, Delivery},
    },
};

/// Bytes of a client's secret, at least.
const SECRET_BYTES: usize = 32;

/// What the clients before have taken.
#[derive(Default)]
struct SeenClients<'a> {
    names: Vec<StrValue<'a>>,
    places: Vec<(AllowedReturn, Range<usize>)>,
    secrets: Vec<(Secret, Range<usize>)>,
}

/// Reads the broker, if there is one, and which accounts its clients name.
pub fn broker<'a>(
    file: &TableReader<'a>,
    plan: &SiteContext<'_>,
) -> (Option<Broker>, Vec<&'a str>) {
    let table = file.table("broker", &schema::BROKER);
    if table.at.is_none() {
        return (None, Vec::new());
    }
    let public_url = public_url(&table);
    let prefix = prefix(&table, plan);
    let tables = table.tables("client", &schema::CLIENT);
    if tables.is_empty() && table.place("client").is_none() {
        let help = "add a [[broker.client]] with `name`, `account` and `return_to`";
        table.context.error(table.at.clone(), "the broker has no client", help);
    }
    let mut taken = SeenClients::default();
    let read = |table| client(table, plan, &mut taken).map(Arc::new);
    let clients = tables.iter().filter_map(read).collect();
    let named: Vec<&str> = tables.iter().flat_map(site::named).collect();
    if let Some(url) = &public_url {
        unreachable_for_wechat(&table, url, &named, plan);
    }
    let broker = public_url.map(|public_url| Broker {
        base: format!("{public_url}{prefix}"),
        audience: format!("broker at {public_url}{prefix}"),
        cookies: CookieNames::new(plan.cookie, public_url.is_secure()),
        public_url,
        prefix,
        clients,
    });
    (broker, named)
}

/// `https://` and the host, unless the file says otherwise.
fn public_url(table: &TableReader<'_>) -> Option<Origin> {
    let host = table.required("host").and_then(|word| address::host(table, &word));
    let Some(word) = table.word("public_url") else {
        return Origin::parse(&format!("https://{}", host?));
    };
    let Some(url) = Origin::parse(word.text) else {
        let message = format!("`public_url` must be a scheme and a host, not \"{}\"", word.text);
        let help = match address::origin_of(word.text) {
            Some(origin) => format!("write \"{origin}\": the path is `prefix`"),
            None => {
                "write what visitors are sent to, as in \"https://auth.example.com\"".to_owned()
            }
        };
        table.context.error(word.at, message, help);
        return None;
    };
    let host = host?;
    if *url.host() != host {
        let message = format!("{} is not the host of the broker", url.host());
        table.context.error(word.at, message, format!("`host` is {host}: make the two agree"));
        return None;
    }
    if !url.is_secure() && !address::is_loopback(url.host()) {
        let message = "over http anybody on the way can read who a visitor is";
        let help = "write https, or leave it out: cookies are `Secure` only then";
        table.context.warn(word.at, message, help);
    }
    Some(url)
}

/// Warns of an address that WeChat cannot send visitors back to.
fn unreachable_for_wechat(
    table: &TableReader<'_>,
    url: &Origin,
    named: &[&str],
    plan: &SiteContext<'_>,
) {
    let mut used = plan.accounts.iter().filter(|listed| named.contains(&listed.name.text));
    let Some(why) = address::callback_problem(url).filter(|_| used.any(|listed| listed.at_wechat))
    else {
        return;
    };
    let help = "网页授权域名 in the console is a domain name alone; for tests without one, let \
                `authorize_url` and `api_urls` of the account point at an emulated WeChat";
    let at = table.place("public_url").or_else(|| table.place("host"));
    table.context.warn(at, format!("WeChat sends nobody back to {why}"), help);
}

/// Nothing for `/`: then the broker has its few paths, and leaves all others alone.
fn prefix(table: &TableReader<'_>, plan: &SiteContext<'_>) -> String {
    let default = || "/api/wechat".to_owned();
    let word = table.word("prefix");
    if word.as_ref().is_some_and(|word| word.text == "/") {
        return String::new();
    }
    let text = word.as_ref().map_or_else(default, |word| word.text.to_owned());
    let at = word.map(|word| word.at).or_else(|| table.at.clone());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    let good = text.len() > 1
        && !text.ends_with('/')
        && text.bytes().all(plain)
        && Path::parse(&text).is_ok();
    if !good {
        let message = format!("\"{text}\" cannot be the prefix of the broker's paths");
        let help = "write a path of letters and digits without a slash at its end, as in \
                    \"/api/wechat\", or \"/\"";
        table.context.error(at, message, help);
        return default();
    }
    if url::path_below(&text, plan.prefix) || url::path_below(plan.prefix, &text) {
        let message = format!("{text} and the gateway's own paths at {} overlap", plan.prefix);
        table.context.error(at, message, "choose a `prefix` that lies beside it, not in it");
    }
    text
}

fn client<'a>(
    table: &TableReader<'a>,
    plan: &SiteContext<'_>,
    taken: &mut SeenClients<'a>,
) -> Option<Client> {
    let name = table.required("name");
    if let Some(name) = &name {
        check_name(table, name, taken);
    }
    let account = site::account(table, plan);
    let outside_wechat = outside(table, plan);
    let return_to = places(table, taken);
    let choices = [("params", Delivery::Params), ("ticket", Delivery::Ticket)];
    let result = table.one_of("result", &choices).unwrap_or_default();
    let secret = client_secret(table, taken);
    if result == Delivery::Ticket && table.value("secret").is_none() {
        let message = "`result = \"ticket\"` requires a `secret`";
        let help = "add `secret = { env = \"NAME\" }`; `wxgate keygen` makes a good one";
        table.context.error(table.place("result"), message, help);
    }
    let jssdk = table.boolean("jssdk", false);
    let name = name?;
    taken.names.push(name.clone());
    Some(Client {
        name: name.text.to_owned(),
        account: account?,
        outside_wechat,
        return_to,
        result,
        secret,
        jssdk,
    })
}

/// It is the audience of what is signed for the client, so it must never look like a site's.
fn check_name(table: &TableReader<'_>, name: &StrValue<'_>, taken: &SeenClients<'_>) {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=64).contains(&name.text.len()) || !name.text.bytes().all(good) {
        let message = format!("\"{}\" cannot be the name of a client", name.text);
        table.context.error(
            name.at.clone(),
            message,
            "use 1 to 64 letters, digits, `.`, `_` and `-`",
        );
    }
    if let Some(first) = taken.names.iter().find(|first| first.text == name.text) {
        let message = format!("two clients are called {}", name.text);
        let complaint = Diagnostic::error(name.at.clone(), message)
            .help("give each client a name of its own")
            .related(first.at.clone(), "the first");
        table.context.report(complaint);
    }
}

/// As of a site, but that nobody comes back without an openid.
fn outside(table: &TableReader<'_>, plan: &SiteContext<'_>) -> OutsideWeChat {
    let anonymous = table.word("outside_wechat").filter(|word| word.text == "anonymous");
    let Some(word) = anonymous else { return site::outside(table, plan) };
    let message = "`outside_wechat` of a client cannot be \"anonymous\"";
    let help = "a client asks who somebody is: write \"page\", \"deny\" or \"login:ACCOUNT\"";
    table.context.error(word.at, message, help);
    OutsideWeChat::Page
}

fn places(table: &TableReader<'_>, taken: &mut SeenClients<'_>) -> Vec<AllowedReturn> {
    if table.value("return_to").is_none() || table.empty_array("return_to").is_some() {
        table.missing("return_to");
    }
    let mut places = Vec::new();
    for word in table.words("return_to").unwrap_or_default() {
        let Some(place) = place(&word) else {
            let message = format!("\"{}\" is no place to send visitors back to", word.text);
            let help = match address::origin_of(word.text) {
                _ if word.text.contains('*') => {
                    "there are no wildcards: name each origin, so that no forgotten one is let in"
                        .to_owned()
                }
                Some(near) => {
                    format!("write \"{near}/\": scheme, host and the path that the pages lie below")
                }
                None => "write it as in \"https://shop.example.com/\"".to_owned(),
            };
            table.context.error(word.at, message, help);
            continue;
        };
        if let Some((_, first)) = taken.places.iter().find(|(other, _)| *other == place) {
            let message = format!("{} is claimed twice", word.text);
            let help = "it says which client a visitor comes from: each place belongs to one";
            let complaint = Diagnostic::error(word.at.clone(), message).help(help);
            table.context.report(complaint.related(first.clone(), "claimed here first"));
            continue;
        }
        if !place.origin.is_secure() && !address::is_loopback(place.origin.host()) {
            let message = "over http anybody on the way can read who a visitor is";
            table.context.warn(
                word.at.clone(),
                message,
                "write https, if that is what visitors type",
            );
        }
        taken.places.push((place.clone(), word.at));
        places.push(place);
    }
    places
}

/// An origin and a path that means one thing; no query and no fragment.
fn place(word: &StrValue<'_>) -> Option<AllowedReturn> {
    let link = HttpUrl::parse(word.text)?;
    // What a browser would resolve in silence is not what the operator meant.
    let (_, written) = word.text.split_once("://")?;
    let written = written.find('/').and_then(|at| written.get(at..)).unwrap_or("/");
    let escaped = utf8_percent_encode(written, CONTROLS).to_string();
    let plain = Path::parse(&escaped).is_ok() && !escaped.contains(['?', '#', ';', '*']);
    let (scheme, rest) = link.as_str().split_once("://")?;
    let (authority, _) = rest.split_once('/')?;
    let origin = Origin::parse(&format!("{scheme}://{authority}"))?;
    let path = link.path().to_owned();
    (plain && link.is_below(&path)).then_some(AllowedReturn { origin, path })
}

fn client_secret(table: &TableReader<'_>, taken: &mut SeenClients<'_>) -> Option<ClientSecret> {
    table.value("secret")?;
    let found = secret::secret(table, "secret")?;
    let length = found.secret.expose().len();
    if length < SECRET_BYTES {
        let unit = if length == 1 { "byte" } else { "bytes" };
        let message = format!("`secret` has {length} {unit}; it must have at least {SECRET_BYTES}");
        table.context.error(found.at.clone(), message, "run `wxgate keygen` for a good one");
    }
    let visible = found.secret.expose().bytes().all(|b| b.is_ascii_graphic());
    if !visible {
        let message = "`secret` has a character that no header carries";
        let help = "visible ASCII without spaces; `wxgate keygen` makes a good one";
        table.context.error(found.at.clone(), message, help);
    }
    if let Some((_, first)) = taken.secrets.iter().find(|(other, _)| *other == found.secret) {
        let complaint = Diagnostic::error(found.at.clone(), "two clients have the same secret")
            .help("it says which client is asking: run `wxgate keygen` for another")
            .related(first.clone(), "the first");
        table.context.report(complaint);
    }
    taken.secrets.push((found.secret.clone(), found.at));
    Some(ClientSecret::new(&found.secret))
}
