//! Who is asking, and may they pass. Pure: the same visit always gets the same decision.

use std::time::Duration;

use http::{HeaderMap, Method};

use crate::{
    secret::Secret,
    site::{Access, Outside, Prompt, Scope, Site, Snapshot},
};

pub mod client;
pub mod pending;
pub mod proof;
pub mod return_to;
pub mod revocation;
pub mod session;
pub mod token;
pub mod wanted;

pub use client::{App, Device, navigates};
pub use pending::{Pending, SoFar, State};
pub use return_to::ReturnTo;
pub use revocation::{Revocation, View, Whom};
pub use session::{Identity, Known, Session, Stranger, Tag};
pub use token::Keys;
pub use wanted::{Unclear, Wanted};

/// How long sessions last and what signs them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the cookie, before any prefix.
    pub cookie: String,
    /// A session unused for this long ends; one used past half of it is re-issued.
    pub idle: Duration,
    /// A session ends after this whatever happens.
    pub max: Duration,
    /// The first signs, all verify.
    pub keys: Vec<KeySettings>,
}

/// One key of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySettings {
    /// What tokens call it (`kid`).
    pub id: String,
    /// At least 32 bytes.
    pub secret: Secret,
}

/// Everything about a request that a decision may depend on, once its site and route are known.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Who they are, if they carry a session that is still good.
    pub session: Option<&'a Session>,
    /// How they ask.
    pub method: &'a Method,
    /// What kind of program they use, by its headers. Looked at only for strangers.
    pub headers: &'a HeaderMap,
}

/// What to do with a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pass it on, saying who they are.
    Introduce,
    /// Pass it on without a word about who they are.
    PassUnnamed,
    /// Send them through WeChat's login, asking for this much.
    Login(Scope),
    /// Show a button that leads to that login.
    OfferLogin(Scope),
    /// Show the page's address as a QR code, to be opened in WeChat.
    OpenInWeChat,
    /// Refuse a browser outside WeChat.
    WeChatOnly,
    /// Ask a snapshot visitor to press 使用完整服务.
    LeaveSnapshot,
    /// Tell a script that its page must log in.
    Unauthorized(Scope),
}

/// Decides what to do with a visit to a page of `site` that asks for `access`.
pub fn decide(site: &Site, access: Access, visit: Visit<'_>) -> Decision {
    let snapshot = visit.session.is_some_and(|session| session.snapshot);
    match (access, visit.session) {
        (Access::None, _) | (Access::Optional, None) => Decision::PassUnnamed,
        (_, Some(_)) if snapshot => decide_snapshot(site, access, visit),
        (Access::Optional, Some(_)) => Decision::Introduce,
        (Access::Required(scope, _), Some(session)) if scope <= session.identity.scope => {
            Decision::Introduce
        }
        (Access::Required(scope, prompt), _) => decide_stranger(site, scope, prompt, visit),
    }
}

/// A snapshot visitor's identity is a virtual one: only a site that wants it gets it.
fn decide_snapshot(site: &Site, access: Access, visit: Visit<'_>) -> Decision {
    match (site.snapshot, access) {
        (Snapshot::Allow, _) => Decision::Introduce,
        (Snapshot::Anonymous, _) | (Snapshot::Page, Access::None | Access::Optional) => {
            Decision::PassUnnamed
        }
        (Snapshot::Page, Access::Required(scope, _)) => {
            if navigates(visit.method, visit.headers) {
                Decision::LeaveSnapshot
            } else {
                Decision::Unauthorized(scope)
            }
        }
    }
}

fn decide_stranger(site: &Site, scope: Scope, prompt: Prompt, visit: Visit<'_>) -> Decision {
    let anywhere = matches!(site.outside_wechat, Outside::Login(_));
    let inside = anywhere || App::of(visit.headers) == App::WeChat;
    match (inside, navigates(visit.method, visit.headers), &site.outside_wechat) {
        (true, true, _) => match (scope, prompt) {
            (Scope::UserInfo, Prompt::Button) => Decision::OfferLogin(scope),
            (Scope::UserInfo, Prompt::Direct) | (Scope::Base, _) => Decision::Login(scope),
        },
        (true, false, _) => Decision::Unauthorized(scope),
        // Pictures and scripts of a page that was passed unnamed are passed unnamed too.
        (false, _, Outside::Anonymous) => Decision::PassUnnamed,
        (false, false, _) => Decision::Unauthorized(scope),
        (false, true, Outside::Deny) => Decision::WeChatOnly,
        (false, true, Outside::Page | Outside::Login(_)) => Decision::OpenInWeChat,
    }
}

#[cfg(test)]
mod tests;
