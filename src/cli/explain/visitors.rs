//! What each kind of visitor meets. Pure.

use http::Method;

use crate::site::{Access, FragmentPolicy, OutsideWeChat, Prompt, Scope, Site, SnapshotPolicy};

/// Who comes, and what happens.
pub type VisitorOutcome = (String, String);

/// The rows for a request that falls on a route.
pub fn on_route(site: &Site, access: Access, method: &Method) -> Vec<VisitorOutcome> {
    let row = |who: &str, what: &str| (who.to_owned(), what.to_owned());
    match access {
        Access::None => vec![row("everybody", "passed on; nobody is introduced")],
        Access::Optional => vec![
            row("with a session", "passed on and introduced"),
            row("everybody else", "passed on, without an identity"),
        ],
        Access::Required(scope, prompt) => required(site, (scope, prompt), method),
    }
}

/// The rows for a path that could be read in two ways, where it is refused.
pub fn on_refused() -> Vec<VisitorOutcome> {
    vec![("everybody".to_owned(), "400, the site sees nothing".to_owned())]
}

fn required(site: &Site, (scope, prompt): (Scope, Prompt), method: &Method) -> Vec<VisitorOutcome> {
    let login = way_in(site, scope, prompt);
    let script = "401, {\"error\":\"login_required\"} with the URL of the login".to_owned();
    let outside = match &site.outside_wechat {
        OutsideWeChat::Page => "our page with this URL as a QR code for WeChat".to_owned(),
        OutsideWeChat::Anonymous => "passed on, without an identity".to_owned(),
        OutsideWeChat::Deny => "403".to_owned(),
        OutsideWeChat::Login(account) => {
            format!("{login}, over the account {}", account.name)
        }
    };
    let snapshot = match site.snapshot {
        SnapshotPolicy::Page => "our page, which asks to press 使用完整服务",
        SnapshotPolicy::Anonymous => "passed on, without an identity",
        SnapshotPolicy::Allow => "passed on, with a virtual openid and X-WeChat-Snapshot: 1",
    };
    let mut rows = vec![(
        format!("with a session of {}{}", scope.as_str(), or_more(scope)),
        "passed on and introduced".to_owned(),
    )];
    if scope == Scope::UserInfo {
        let known = "as without a session: the login asks for more".to_owned();
        rows.push(("with a session of snsapi_base".to_owned(), known));
    }
    let opens_pages = matches!(*method, Method::GET | Method::HEAD);
    // Passing unnamed is the one thing that does not ask whether a page is being opened.
    let (others, scripts) = match (&site.outside_wechat, opens_pages) {
        (OutsideWeChat::Anonymous, true) => {
            ("another browser or WeCom", "a script or an image in WeChat")
        }
        (OutsideWeChat::Anonymous, false) => ("another browser or WeCom", "in WeChat"),
        (_, true) => ("another browser or WeCom, opening a page", "a script or an image"),
        (_, false) => ("", "everybody else"),
    };
    if opens_pages {
        rows.push(("WeChat, opening a page".to_owned(), login));
    }
    if !others.is_empty() {
        rows.push((others.to_owned(), outside));
    }
    rows.push((scripts.to_owned(), script));
    if opens_pages || site.snapshot != SnapshotPolicy::Page {
        rows.push(("from a snapshot page (快照页)".to_owned(), snapshot.to_owned()));
    }
    rows
}

/// What a stranger in WeChat meets who opens a page.
fn way_in(site: &Site, scope: Scope, prompt: Prompt) -> String {
    match prompt {
        Prompt::Direct if site.fragment == FragmentPolicy::Keep => {
            format!(
                "a small page that keeps the #/route, then WeChat's login for {}",
                scope.as_str()
            )
        }
        Prompt::Direct => format!("302 to WeChat's login for {}", scope.as_str()),
        Prompt::Button => {
            format!("our page with a 登录 button, then WeChat's login for {}", scope.as_str())
        }
    }
}

fn or_more(scope: Scope) -> &'static str {
    match scope {
        Scope::Base => " or more",
        Scope::UserInfo => "",
    }
}
