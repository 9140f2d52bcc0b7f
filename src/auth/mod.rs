//! Who is asking, and may they pass. Pure: the same visit always gets the same decision.

use std::time::Duration;

use http::{HeaderMap, Method};

use crate::{
    secret::Secret,
    site::{Access, OutsideWeChat, Prompt, Scope, Site, SnapshotPolicy},
};

pub mod user_agent;
pub mod pending;
pub mod assertion;
pub mod return_to;
pub mod revocation;
pub mod session;
pub mod token;
pub mod revocation_request;

pub use pending::{OAuthState, PartialLogin, PendingLogin};
pub use return_to::ReturnTo;
pub use revocation::{ActiveRevocations, Revocation, RevocationTarget};
pub use revocation_request::{InvalidRevocationRequest, RevocationRequest};
pub use session::{Identity, Session, SessionError, SessionLogId, VerifiedSession};
pub use token::KeyRing;
pub use user_agent::{App, Device, navigates};

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
    /// Bytes that the caches of verified cookies of all threads may take up together.
    pub verified_cache: u64,
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
pub struct AccessRequest<'a> {
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
    ForwardWithIdentity,
    /// Pass it on without a word about who they are.
    ForwardAnonymous,
    /// Send them through WeChat's login, asking for this much.
    Login(Scope),
    /// Show a button that leads to that login.
    ShowLoginPage(Scope),
    /// Show the page's address as a QR code, to be opened in WeChat.
    ShowQrPage,
    /// Refuse a browser outside WeChat.
    Forbidden,
    /// Ask a snapshot visitor to press 使用完整服务.
    ShowSnapshotPage,
    /// Tell a script that its page must log in.
    Unauthorized(Scope),
}

/// Decides what to do with a visit to a page of `site` that asks for `access`.
pub fn decide(site: &Site, access: Access, visit: AccessRequest<'_>) -> Decision {
    let snapshot = visit.session.is_some_and(|session| session.snapshot);
    match (access, visit.session) {
        (Access::None, _) | (Access::Optional, None) => Decision::ForwardAnonymous,
        (_, Some(_)) if snapshot => decide_snapshot(site, access, visit),
        (Access::Optional, Some(_)) => Decision::ForwardWithIdentity,
        (Access::Required(scope, _), Some(session)) if scope <= session.identity.scope => {
            Decision::ForwardWithIdentity
        }
        (Access::Required(scope, prompt), _) => decide_unauthenticated(site, scope, prompt, visit),
    }
}

/// A snapshot visitor's identity is a virtual one: only a site that wants it gets it.
fn decide_snapshot(site: &Site, access: Access, visit: AccessRequest<'_>) -> Decision {
    match (site.snapshot, access) {
        (SnapshotPolicy::Allow, _) => Decision::ForwardWithIdentity,
        (SnapshotPolicy::Anonymous, _)
        | (SnapshotPolicy::Page, Access::None | Access::Optional) => Decision::ForwardAnonymous,
        (SnapshotPolicy::Page, Access::Required(scope, _)) => {
            if navigates(visit.method, visit.headers) {
                Decision::ShowSnapshotPage
            } else {
                Decision::Unauthorized(scope)
            }
        }
    }
}

fn decide_unauthenticated(
    site: &Site,
    scope: Scope,
    prompt: Prompt,
    visit: AccessRequest<'_>,
) -> Decision {
    let anywhere = matches!(site.outside_wechat, OutsideWeChat::Login(_));
    let inside = anywhere || App::of(visit.headers) == App::WeChat;
    match (inside, navigates(visit.method, visit.headers), &site.outside_wechat) {
        (true, true, _) => match (scope, prompt) {
            (Scope::UserInfo, Prompt::Button) => Decision::ShowLoginPage(scope),
            (Scope::UserInfo, Prompt::Direct) | (Scope::Base, _) => Decision::Login(scope),
        },
        (true, false, _) => Decision::Unauthorized(scope),
        // Pictures and scripts of a page that was passed unnamed are passed unnamed too.
        (false, _, OutsideWeChat::Anonymous) => Decision::ForwardAnonymous,
        (false, false, _) => Decision::Unauthorized(scope),
        (false, true, OutsideWeChat::Deny) => Decision::Forbidden,
        (false, true, OutsideWeChat::Page | OutsideWeChat::Login(_)) => Decision::ShowQrPage,
    }
}

#[cfg(test)]
pub mod tests;
