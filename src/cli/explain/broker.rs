//! What the code broker answers on a URL of its own. Pure.

use http::Method;

use super::{Explanation, UrlParts, proof};
use crate::{
    config::Config,
    httputil::{HttpUrl, url},
    site::{
        Broker, OutsideWeChat,
        broker::{Client, Delivery},
    },
};

/// The answer, where the URL is the broker's: below its prefix, or on its host where no site is.
pub fn answer(config: &Config, target: &UrlParts) -> Option<Explanation> {
    let broker = config.gateway.broker.as_ref()?;
    let here = *broker.public_url.host() == target.host;
    let rest = target.path.strip_prefix(broker.prefix.as_str());
    let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let shared = config.gateway.sites.find(target.host.as_str()).is_some();
    // At the root the broker has its own paths, and the rest is as if it were not there.
    let rest = rest.filter(|rest| !broker.prefix.is_empty() || describe(broker, rest).is_some());
    if !here || (rest.is_none() && shared) {
        return None;
    }
    let callback = format!("{}/callback", config.gateway.prefix);
    let relays = config.gateway.sites.has_callback(target.host.as_str()) && target.path == callback;
    if rest.is_none() && relays {
        return None;
    }
    let mut answer = Explanation::new(target);
    answer.says("broker", &broker.base);
    match proof(config, target) {
        Some(proof) => answer.says("answer", &proof),
        None => tell(&mut answer, broker, target, rest.unwrap_or_default()),
    }
    Some(answer)
}

fn tell(answer: &mut Explanation, broker: &Broker, target: &UrlParts, rest: &str) {
    let Some((method, what)) = describe(broker, rest) else {
        answer.says("answer", "404, the broker has no such path");
        return;
    };
    if target.method == method {
        answer.says("answer", &format!("the broker: {what}"));
    } else {
        answer.says("answer", &format!("405, it takes {method} only"));
    }
    if matches!(rest, "/auth" | "/jssdk") {
        for_whom(answer, broker, target, rest);
    }
}

/// The method that a path takes, and what it does.
fn describe(broker: &Broker, rest: &str) -> Option<(Method, &'static str)> {
    Some(match rest {
        "/auth" => (Method::GET, "remembers `url` and sends the visitor to WeChat"),
        "/getOpenId" | "/getWxUserInfo" | "/getUserInfo" => (
            Method::GET,
            "the way back from WeChat, on to the `url`; with a client's secret: JSON for a `code`",
        ),
        "/redeem" => (Method::POST, "with a client's secret: JSON for a `ticket`, once"),
        "/jssdk" if broker.has_jssdk() => (Method::GET, "signs the page in `url` for the JS-SDK"),
        "/jwks.json" => (Method::GET, "the keys that check the JWT of /redeem"),
        "/openapi.json" => (Method::GET, "the document that describes all of this"),
        _ => return None,
    })
}

/// The client that the `url` in the question belongs to; without one, what there are.
fn for_whom(answer: &mut Explanation, broker: &Broker, target: &UrlParts, rest: &str) {
    let Some(url) = target.field("url") else {
        for client in &broker.clients {
            let places = client.return_to.iter().map(|it| format!("{}{}", it.origin, it.path));
            answer.says(
                "client",
                &format!("{}: {}", client.name, places.collect::<Vec<_>>().join(", ")),
            );
        }
        answer.note(
            "Put the address that visitors come back to into `url`, and I say whose it is."
                .to_owned(),
        );
        return;
    };
    let link = HttpUrl::parse(&url);
    let client = link.as_ref().and_then(|link| match rest {
        "/jssdk" => broker.signer_of(link),
        _ => broker.client_at(link),
    });
    if let Some(client) = client {
        of(answer, client, rest);
    } else {
        answer.says("client", "none: refused with 400");
        answer.note(why_not(&url, link.as_ref(), broker));
    }
}

fn of(answer: &mut Explanation, client: &Client, rest: &str) {
    answer.says("client", &client.name);
    answer.says("account", &client.account.name);
    answer.says("app_id", &client.account.app_id);
    if rest == "/jssdk" {
        return;
    }
    answer.says(
        "result",
        match client.result {
            Delivery::Params => {
                "openid in the query of `url`; with snsapi_userinfo nickname, headimgurl, unionid too"
            }
            Delivery::Ticket => "a ticket in the query of `url`, for POST /redeem",
        },
    );
    let outside = match &client.outside_wechat {
        OutsideWeChat::Page | OutsideWeChat::Anonymous => {
            "a page with a QR code to open in WeChat".to_owned()
        }
        OutsideWeChat::Deny => "403".to_owned(),
        OutsideWeChat::Login(account) => format!("a login over the account {}", account.name),
    };
    answer.says("outside", &outside);
}

fn why_not(url: &str, link: Option<&HttpUrl>, broker: &Broker) -> String {
    let Some(link) = link else {
        return format!("\"{url}\" is no http or https address in full, as a browser writes it.");
    };
    let places = broker.clients.iter().flat_map(|client| &client.return_to);
    let same = places.filter(|place| link.is_at(&place.origin));
    let paths: Vec<&str> = same.map(|place| place.path.as_str()).collect();
    if paths.iter().any(|path| url::path_below(link.path(), path)) {
        return "A server could take its path for one that lies elsewhere.".to_owned();
    }
    if paths.is_empty() {
        "No client has its origin in `return_to`; scheme, host and port count.".to_owned()
    } else {
        format!("Of its origin, `return_to` has what lies below: {}", paths.join(", "))
    }
}
