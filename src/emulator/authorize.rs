//! What the authorize and QR pages make of a link: the checks, in WeChat's order. Pure.

use super::{App, callback, errcode::AuthorizeError, params::Params};

/// Which of the two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginPage {
    /// `/connect/oauth2/authorize`: inside WeChat, for an official account.
    Official,
    /// `/connect/qrconnect`: any browser, for a website app.
    Website,
}

/// A link that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizeRequest {
    pub app_id: String,
    pub redirect_uri: String,
    pub scope: String,
    pub state: String,
    pub force_popup: bool,
}

/// What is known of the visitor's mind before they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsentState {
    /// Nothing.
    Open,
    /// They agreed lately.
    Agreed,
    /// A fault makes them refuse.
    Refuses,
    /// A fault shows them a snapshot page, which asks nobody: the virtual visitor just passes.
    Virtual,
}

/// What happens to a visitor with a good link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizeOutcome {
    /// Straight back with a code; the visitor sees nothing.
    Grant,
    /// Straight back without one.
    Decline,
    /// The consent sheet.
    Consent,
    /// The page with the QR code.
    Scan,
}

/// There are accounts, and this is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownApp;

/// The accounts that exist; none listed means that any does.
#[derive(Clone)]
pub struct Apps(pub Vec<App>);

impl Apps {
    /// An account, or nothing known against it where any account exists.
    pub fn find(&self, app_id: &str) -> Result<Option<&App>, UnknownApp> {
        match self.0.iter().find(|app| app.app_id == app_id) {
            None if !self.0.is_empty() => Err(UnknownApp),
            found => Ok(found),
        }
    }
}

/// Reads and checks the query of a link.
pub fn read(door: LoginPage, query: &str, apps: &Apps) -> Result<AuthorizeRequest, AuthorizeError> {
    let params = Params::parse(query);
    let app_id = params.get("appid").ok_or(AuthorizeError::Numbered(10012))?;
    let redirect_uri = params.get("redirect_uri").ok_or(AuthorizeError::Numbered(10011))?;
    if !params.get("response_type").is_some_and(|kind| kind.eq_ignore_ascii_case("code")) {
        return Err(AuthorizeError::Malformed("response_type=code"));
    }
    let scope = params.get("scope").ok_or(AuthorizeError::Numbered(10010))?;
    let state = match (door, params.get("state")) {
        (LoginPage::Official, None) => return Err(AuthorizeError::Numbered(10013)),
        (LoginPage::Official, Some(state)) if state.len() > 128 => {
            return Err(AuthorizeError::LongState);
        }
        (LoginPage::Official | LoginPage::Website, state) => state.unwrap_or_default(),
    };
    check_order(&params)?;
    let app = apps.find(app_id).map_err(|UnknownApp| AuthorizeError::UnknownApp)?;
    if !scope.split(',').all(|scope| door.offers(scope)) {
        return Err(AuthorizeError::Numbered(10005));
    }
    let domains = app.map(|app| app.domains.as_slice()).unwrap_or_default();
    if !callback::is_authorised(redirect_uri, domains) {
        return Err(AuthorizeError::Numbered(10003));
    }
    Ok(AuthorizeRequest {
        app_id: app_id.to_owned(),
        redirect_uri: redirect_uri.to_owned(),
        scope: scope.to_owned(),
        state: state.to_owned(),
        force_popup: params.get("forcePopup") == Some("true"),
    })
}

impl AuthorizeRequest {
    /// What the visitor meets.
    pub fn step(&self, door: LoginPage, mind: ConsentState) -> AuthorizeOutcome {
        let is_base = self.scope.split(',').all(|scope| scope == "snsapi_base");
        match (door, mind) {
            (LoginPage::Website, _) => AuthorizeOutcome::Scan,
            (LoginPage::Official, ConsentState::Refuses) => AuthorizeOutcome::Decline,
            (LoginPage::Official, ConsentState::Virtual) => AuthorizeOutcome::Grant,
            (LoginPage::Official, ConsentState::Open | ConsentState::Agreed) if is_base => {
                AuthorizeOutcome::Grant
            }
            (LoginPage::Official, ConsentState::Agreed) if !self.force_popup => {
                AuthorizeOutcome::Grant
            }
            (LoginPage::Official, ConsentState::Open | ConsentState::Agreed) => {
                AuthorizeOutcome::Consent
            }
        }
    }

    /// Back to the site, with a code where one was granted.
    pub fn return_url(&self, code: Option<&str>) -> String {
        let state = callback::returned_state(&self.state);
        let pairs = code.map(|code| ("code", code)).into_iter().chain([("state", state.as_str())]);
        callback::with_params(&self.redirect_uri, &pairs.collect::<Vec<_>>())
    }
}

impl LoginPage {
    fn offers(self, scope: &str) -> bool {
        match self {
            Self::Official => matches!(scope, "snsapi_base" | "snsapi_userinfo"),
            Self::Website => matches!(scope, "snsapi_login" | "snsapi_userinfo" | "snsapi_base"),
        }
    }
}

/// The link is documented as a strict pattern: these five, each once, in this order. What comes
/// between or behind them (`connect_redirect=1`, `uin=…`) is nobody's business.
fn check_order(params: &Params) -> Result<(), AuthorizeError> {
    const PATTERN: [&str; 5] = ["appid", "redirect_uri", "response_type", "scope", "state"];
    let places: Vec<_> =
        params.names().filter_map(|name| PATTERN.iter().position(|known| *known == name)).collect();
    if places.is_sorted_by(|earlier, later| earlier < later) {
        return Ok(());
    }
    Err(AuthorizeError::Malformed("appid → redirect_uri → response_type → scope → state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CB: &str = "redirect_uri=https%3A%2F%2Fh5.example.com%2Fcb";

    fn apps() -> Apps {
        let domains = vec!["h5.example.com".to_owned()];
        Apps(vec![App { app_id: "wx1".to_owned(), secret: "s".to_owned(), domains }])
    }

    #[test]
    fn links() {
        let long = format!(
            "appid=wx1&{CB}&response_type=code&scope=snsapi_base&state={}",
            "a".repeat(129)
        );
        let full = format!(
            "appid=wx1&{CB}&response_type=code&scope=snsapi_base&state={}",
            "a".repeat(128)
        );
        let tail = |tail: &str| format!("appid=wx1&{CB}&response_type=code&{tail}");
        let order =
            AuthorizeError::Malformed("appid → redirect_uri → response_type → scope → state");
        let kind = AuthorizeError::Malformed("response_type=code");
        let rows = [
            (LoginPage::Official, full.clone(), None),
            (
                LoginPage::Official,
                tail("scope=snsapi_userinfo&state=S&forcePopup=true&connect_redirect=1"),
                None,
            ),
            (LoginPage::Official, tail("scope=snsapi_base,snsapi_userinfo&state=S"), None),
            (LoginPage::Official, String::new(), Some(AuthorizeError::Numbered(10012))),
            (LoginPage::Official, "AppID=wx1".to_owned(), Some(AuthorizeError::Numbered(10012))),
            (LoginPage::Official, "appid=wx1".to_owned(), Some(AuthorizeError::Numbered(10011))),
            (LoginPage::Official, format!("appid=wx1&{CB}"), Some(kind.clone())),
            (LoginPage::Official, format!("appid=wx1&{CB}&response_type=token"), Some(kind)),
            (LoginPage::Official, tail(""), Some(AuthorizeError::Numbered(10010))),
            (LoginPage::Official, tail("scope=snsapi_base"), Some(AuthorizeError::Numbered(10013))),
            (LoginPage::Official, long.clone(), Some(AuthorizeError::LongState)),
            (LoginPage::Official, tail("state=S&scope=snsapi_base"), Some(order.clone())),
            (LoginPage::Official, tail("scope=snsapi_base&state=S&state=T"), Some(order)),
            (
                LoginPage::Official,
                tail("scope=snsapi_login&state=S"),
                Some(AuthorizeError::Numbered(10005)),
            ),
            (
                LoginPage::Official,
                tail("scope=test&state=S"),
                Some(AuthorizeError::Numbered(10005)),
            ),
            (LoginPage::Official, full.replace("wx1", "wx2"), Some(AuthorizeError::UnknownApp)),
            (
                LoginPage::Official,
                full.replace("h5.", "h6."),
                Some(AuthorizeError::Numbered(10003)),
            ),
            (LoginPage::Website, long.replace("snsapi_base", "snsapi_login"), None),
            (LoginPage::Website, tail("scope=snsapi_login"), None),
            (LoginPage::Website, tail("scope=snsapi_login,snsapi_userinfo&state="), None),
        ];
        for (door, query, expected) in rows {
            assert_eq!(read(door, &query, &apps()).err(), expected, "{door:?} {query}");
        }
        assert!(read(LoginPage::Official, &full.replace("wx1", "wx2"), &Apps(Vec::new())).is_ok());
    }

    #[test]
    fn steps() {
        let rows = [
            (
                LoginPage::Official,
                "snsapi_base",
                false,
                ConsentState::Open,
                AuthorizeOutcome::Grant,
            ),
            (LoginPage::Official, "snsapi_base", true, ConsentState::Open, AuthorizeOutcome::Grant),
            (
                LoginPage::Official,
                "snsapi_userinfo",
                false,
                ConsentState::Open,
                AuthorizeOutcome::Consent,
            ),
            (
                LoginPage::Official,
                "snsapi_userinfo",
                false,
                ConsentState::Agreed,
                AuthorizeOutcome::Grant,
            ),
            (
                LoginPage::Official,
                "snsapi_userinfo",
                true,
                ConsentState::Agreed,
                AuthorizeOutcome::Consent,
            ),
            (
                LoginPage::Official,
                "snsapi_base,snsapi_userinfo",
                false,
                ConsentState::Open,
                AuthorizeOutcome::Consent,
            ),
            (
                LoginPage::Official,
                "snsapi_base",
                false,
                ConsentState::Refuses,
                AuthorizeOutcome::Decline,
            ),
            (
                LoginPage::Official,
                "snsapi_userinfo",
                false,
                ConsentState::Refuses,
                AuthorizeOutcome::Decline,
            ),
            (
                LoginPage::Official,
                "snsapi_userinfo",
                true,
                ConsentState::Virtual,
                AuthorizeOutcome::Grant,
            ),
            (
                LoginPage::Website,
                "snsapi_login",
                false,
                ConsentState::Agreed,
                AuthorizeOutcome::Scan,
            ),
        ];
        for (door, scope, force_popup, mind, expected) in rows {
            let (app_id, redirect_uri) = ("wx1".to_owned(), "https://x.example/cb".to_owned());
            let (scope, state) = (scope.to_owned(), "S".to_owned());
            let asked = AuthorizeRequest { app_id, redirect_uri, scope, state, force_popup };
            assert_eq!(asked.step(door, mind), expected, "{door:?} {asked:?} {mind:?}");
            assert_eq!(asked.return_url(None), "https://x.example/cb?state=S");
        }
    }
}
