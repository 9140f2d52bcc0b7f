//! `[[account]]`. Pure.

use std::{collections::HashMap, sync::Arc};

use super::{address, secret::secret};
use crate::{
    config::{
        diagnostic::Diagnostic,
        reader::{LoadContext, StrValue, TableReader},
        schema,
    },
    httputil::{Host, Origin},
    site::{Account, AccountKind, CallbackHost},
};

/// An account as the file has it. One that is wrong keeps its name, so that sites may speak of it.
pub struct DeclaredAccount<'a> {
    /// What the operator calls it.
    pub name: StrValue<'a>,
    /// Whether visitors log in at WeChat itself, which turns other browsers away.
    pub at_wechat: bool,
    /// Where its visitors log in.
    pub kind: AccountKind,
    /// What it became.
    pub account: Option<Arc<Account>>,
}

/// Reads every account.
pub fn accounts<'a>(file: &TableReader<'a>) -> Vec<DeclaredAccount<'a>> {
    let tables = file.tables("account", &schema::ACCOUNT);
    if file.value("account").is_none() {
        let help = "add an [[account]] with `name`, `app_id` and `app_secret`";
        file.context.error(None, "there is no [[account]]: nobody can log in", help);
    }
    let mut listed: Vec<DeclaredAccount<'a>> = Vec::new();
    let mut proofs = Vec::new();
    for table in &tables {
        let Some(account) = account(table, &mut proofs) else { continue };
        if let Some(first) = listed.iter().find(|other| other.name.text == account.name.text) {
            let message = format!("two accounts are called {}", account.name.text);
            let complaint = Diagnostic::error(account.name.at.clone(), message)
                .help("give each account a name of its own")
                .related(first.name.at.clone(), "the first");
            table.context.report(complaint);
        }
        listed.push(account);
    }
    listed
}

/// Warns of accounts that no site logs in with.
pub fn unused(context: &LoadContext<'_>, accounts: &[DeclaredAccount<'_>], used: &[&str]) {
    // A site whose account is misspelt is complained about already.
    let known = |name: &&str| accounts.iter().any(|listed| listed.name.text == *name);
    if !used.iter().all(known) {
        return;
    }
    for DeclaredAccount { name, .. } in accounts {
        if !used.contains(&name.text) {
            let help = format!("write `account = \"{}\"` in a [[site]]", name.text);
            context.warn(name.at.clone(), format!("no site uses the account {}", name.text), help);
        }
    }
}

fn account<'a>(
    table: &TableReader<'a>,
    proofs: &mut Vec<(StrValue<'a>, &'a str)>,
) -> Option<DeclaredAccount<'a>> {
    let name = table.required("name");
    if let Some(name) = &name {
        check_name(table, name);
    }
    let kind = kind(table);
    let app_id = table.required("app_id");
    let app_secret = secret(table, "app_secret");
    let authorize_url = authorize_url(table);
    let at_wechat = authorize_url.as_ref().is_none_or(is_wechat);
    let callback = callback_host(table, at_wechat);
    if let Some(app_id) = &app_id {
        check_app_id(table, app_id, at_wechat);
    }
    let api_urls = api_urls(table);
    let verify_files = verify_files(table, proofs);
    let name = name?;
    let account = || {
        Some(Arc::new(Account {
            name: name.text.to_owned(),
            kind,
            callback,
            app_id: app_id?.text.to_owned(),
            app_secret: app_secret?.secret,
            authorize_url: authorize_url?.as_str().to_owned(),
            api_urls,
            verify_files,
        }))
    };
    Some(DeclaredAccount { account: account(), kind, name, at_wechat })
}

fn check_name(table: &TableReader<'_>, name: &StrValue<'_>) {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(1..=64).contains(&name.text.len()) || !name.text.bytes().all(good) {
        let message = format!("\"{}\" cannot be the name of an account", name.text);
        let help = "use 1 to 64 letters, digits, `.`, `_` and `-`: sites read it in a header";
        table.context.error(name.at.clone(), message, help);
    }
}

fn kind(table: &TableReader<'_>) -> AccountKind {
    let Some(kind) = table.word("kind") else { return AccountKind::Official };
    match kind.text {
        "official" => (),
        "website" => return AccountKind::Website,
        "wecom" => {
            let help = "write `kind = \"official\"` (公众号) or `kind = \"website\"` (网站应用)";
            table.unsupported(kind.at, "an account of kind \"wecom\"", help);
        }
        _ => table.not_one_of("kind", &kind, &["official", "website"]),
    }
    AccountKind::Official
}

/// One authorised host for sites of many domains. A port is for the emulated WeChat only.
fn callback_host(table: &TableReader<'_>, at_wechat: bool) -> Option<CallbackHost> {
    let word = table.word("callback_host")?;
    let authority = word.text.to_ascii_lowercase();
    let Some(host) = Host::parse(&authority) else {
        let message = format!("`callback_host` must be a host, not \"{}\"", word.text);
        let help = match address::origin_of(word.text)
            .as_deref()
            .and_then(|it| it.split_once("://"))
        {
            Some((_, near)) => format!("write \"{near}\": the scheme is that of each site"),
            None => "write the 网页授权域名 of the account, as in \"auth.example.com\"".to_owned(),
        };
        table.context.error(word.at, message, help);
        return None;
    };
    if at_wechat && host.as_str() != authority {
        let message = "WeChat sends nobody back to a port";
        table.context.warn(word.at, message, format!("write \"{host}\""));
    }
    Some(CallbackHost { host, authority })
}

fn check_app_id(table: &TableReader<'_>, id: &StrValue<'_>, at_wechat: bool) {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if id.text.is_empty() || !id.text.bytes().all(good) {
        let message = format!("\"{}\" cannot be an app id", id.text);
        table.context.error(id.at.clone(), message, WHERE_APP_ID);
        return;
    }
    let usual = |rest: &str| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    if at_wechat && !id.text.strip_prefix("wx").is_some_and(usual) {
        let message = if id.text.starts_with("gh_") {
            "this is the original id (原始ID) of the account, not its app id"
        } else {
            "this does not look like an app id of WeChat's"
        };
        table.context.warn(id.at.clone(), message, WHERE_APP_ID);
    }
}

const WHERE_APP_ID: &str =
    "the console of the 公众号 shows it as 开发者ID(AppID): \"wx\" and 16 digits or letters a to f";

fn authorize_url(table: &TableReader<'_>) -> Option<Origin> {
    match table.word("authorize_url") {
        Some(word) => origin(table, "authorize_url", &word),
        None if table.value("authorize_url").is_some() => None,
        None => Origin::parse("https://open.weixin.qq.com"),
    }
}

fn is_wechat(origin: &Origin) -> bool {
    let host = origin.host().as_str();
    host == "weixin.qq.com" || host.ends_with(".weixin.qq.com")
}

fn api_urls(table: &TableReader<'_>) -> Vec<String> {
    let Some(words) = table.words("api_urls") else {
        return ["https://api.weixin.qq.com", "https://api2.weixin.qq.com"]
            .map(str::to_owned)
            .into();
    };
    if let Some(at) = table.empty_array("api_urls") {
        table.context.error(at, "`api_urls` names no server", "leave it out for WeChat's own");
    }
    let mut urls = Vec::new();
    for word in words {
        let Some(url) = origin(table, "api_urls", &word) else { continue };
        if !url.is_secure() && !address::is_loopback(url.host()) {
            let message = "the app secret would cross the network unencrypted";
            table.context.warn(word.at, message, "use https, except for an emulated WeChat");
        }
        urls.push(url.as_str().to_owned());
    }
    urls
}

fn origin(table: &TableReader<'_>, key: &str, word: &StrValue<'_>) -> Option<Origin> {
    let origin = Origin::parse(word.text);
    if origin.is_none() {
        let message = format!("`{key}` must be a scheme and a host, not \"{}\"", word.text);
        let help = match address::origin_of(word.text) {
            Some(near) => format!("write \"{near}\": the paths are known"),
            None => format!("write it as in `{}`", table.section.example(key).unwrap_or(key)),
        };
        table.context.error(word.at.clone(), message, help);
    }
    origin
}

fn verify_files<'a>(
    table: &TableReader<'a>,
    proofs: &mut Vec<(StrValue<'a>, &'a str)>,
) -> HashMap<String, String> {
    let mut files = HashMap::new();
    for (name, content) in table.pairs("verify_files") {
        if !is_proof(name.text) {
            let message = format!("\"{}\" is no name of a proof file", name.text);
            let help = "WeChat calls them \"MP_verify_\", letters and digits, \".txt\"";
            table.context.error(name.at.clone(), message, help);
        }
        if content.text.trim().is_empty() {
            let help = "paste the text of the file that the 公众号 console offers for download";
            table.context.error(content.at.clone(), format!("{} is empty", name.text), help);
        }
        let other = proofs.iter().find(|(other, _)| other.text == name.text);
        if let Some((first, text)) = other
            && *text != content.text
        {
            let message = format!("{} has another text in another account", name.text);
            let complaint = Diagnostic::error(content.at.clone(), message)
                .help("every host answers WeChat with the same file: keep the right one")
                .related(first.at.clone(), "the first");
            table.context.report(complaint);
        }
        files.insert(name.text.to_owned(), content.text.to_owned());
        proofs.push((name, content.text));
    }
    files
}

fn is_proof(name: &str) -> bool {
    let middle = name.strip_prefix("MP_verify_").and_then(|name| name.strip_suffix(".txt"));
    middle.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric()))
}
