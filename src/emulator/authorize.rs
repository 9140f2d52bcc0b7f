//! What the authorize and QR pages make of a link: the checks, in WeChat's order. Pure.

use super::{App, callback, errcode::Refusal, params::Params};

/// Which of the two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/connect/oauth2/authorize`: inside WeChat, for an official account.
    Official,
    /// `/connect/qrconnect`: any browser, for a website app.
    Website,
}

/// A link that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub app_id: String,
    pub redirect_uri: String,
    pub scope: String,
    pub state: String,
    pub force_popup: bool,
}

/// What is known of the visitor's mind before they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mind {
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
pub enum Step {
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
pub struct NoSuchApp;

/// The accounts that exist; none listed means that any does.
#[derive(Clone)]
pub struct Apps(pub Vec<App>);

impl Apps {
    /// An account, or nothing known against it where any account exists.
    pub fn find(&self, app_id: &str) -> Result<Option<&App>, NoSuchApp> {
        match self.0.iter().find(|app| app.app_id == app_id) {
            None if !self.0.is_empty() => Err(NoSuchApp),
            found => Ok(found),
        }
    }
}

/// Reads and checks the query of a link.
pub fn read(door: Door, query: &str, apps: &Apps) -> Result<Asked, Refusal> {
    let params = Params::parse(query);
    let app_id = params.get("appid").ok_or(Refusal::Numbered(10012))?;
    let redirect_uri = params.get("redirect_uri").ok_or(Refusal::Numbered(10011))?;
    if !params.get("response_type").is_some_and(|kind| kind.eq_ignore_ascii_case("code")) {
        return Err(Refusal::Malformed("response_type=code"));
    }
    let scope = params.get("scope").ok_or(Refusal::Numbered(10010))?;
    let state = match (door, params.get("state")) {
        (Door::Official, None) => return Err(Refusal::Numbered(10013)),
        (Door::Official, Some(state)) if state.len() > 128 => return Err(Refusal::LongState),
        (Door::Official | Door::Website, state) => state.unwrap_or_default(),
    };
    check_order(&params)?;
    let app = apps.find(app_id).map_err(|NoSuchApp| Refusal::UnknownApp)?;
    if !scope.split(',').all(|scope| door.offers(scope)) {
        return Err(Refusal::Numbered(10005));
    }
    let domains = app.map(|app| app.domains.as_slice()).unwrap_or_default();
    if !callback::is_authorised(redirect_uri, domains) {
        return Err(Refusal::Numbered(10003));
    }
    Ok(Asked {
        app_id: app_id.to_owned(),
        redirect_uri: redirect_uri.to_owned(),
        scope: scope.to_owned(),
        state: state.to_owned(),
        force_popup: params.get("forcePopup") == Some("true"),
    })
}

impl Asked {
    /// What the visitor meets.
    pub fn step(&self, door: Door, mind: Mind) -> Step {
        let is_base = self.scope.split(',').all(|scope| scope == "snsapi_base");
        match (door, mind) {
            (Door::Website, _) => Step::Scan,
            (Door::Official, Mind::Refuses) => Step::Decline,
            (Door::Official, Mind::Virtual) => Step::Grant,
            (Door::Official, Mind::Open | Mind::Agreed) if is_base => Step::Grant,
            (Door::Official, Mind::Agreed) if !self.force_popup => Step::Grant,
            (Door::Official, Mind::Open | Mind::Agreed) => Step::Consent,
        }
    }

    /// Back to the site, with a code where one was granted.
    pub fn way_back(&self, code: Option<&str>) -> String {
        let state = callback::returned_state(&self.state);
        let pairs = code.map(|code| ("code", code)).into_iter().chain([("state", state.as_str())]);
        callback::with_params(&self.redirect_uri, &pairs.collect::<Vec<_>>())
    }
}

impl Door {
    fn offers(self, scope: &str) -> bool {
        match self {
            Self::Official => matches!(scope, "snsapi_base" | "snsapi_userinfo"),
            Self::Website => matches!(scope, "snsapi_login" | "snsapi_userinfo" | "snsapi_base"),
        }
    }
}

/// The link is documented as a strict pattern: these five, each once, in this order. What comes
/// between or behind them (`connect_redirect=1`, `uin=…`) is nobody's business.
fn check_order(params: &Params) -> Result<(), Refusal> {
    const PATTERN: [&str; 5] = ["appid", "redirect_uri", "response_type", "scope", "state"];
    let places: Vec<_> =
        params.names().filter_map(|name| PATTERN.iter().position(|known| *known == name)).collect();
    if places.is_sorted_by(|earlier, later| earlier < later) {
        return Ok(());
    }
    Err(Refusal::Malformed("appid → redirect_uri → response_type → scope → state"))
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
        let order = Refusal::Malformed("appid → redirect_uri → response_type → scope → state");
        let kind = Refusal::Malformed("response_type=code");
        let rows = [
            (Door::Official, full.clone(), None),
            (
                Door::Official,
                tail("scope=snsapi_userinfo&state=S&forcePopup=true&connect_redirect=1"),
                None,
            ),
            (Door::Official, tail("scope=snsapi_base,snsapi_userinfo&state=S"), None),
            (Door::Official, String::new(), Some(Refusal::Numbered(10012))),
            (Door::Official, "AppID=wx1".to_owned(), Some(Refusal::Numbered(10012))),
            (Door::Official, "appid=wx1".to_owned(), Some(Refusal::Numbered(10011))),
            (Door::Official, format!("appid=wx1&{CB}"), Some(kind.clone())),
            (Door::Official, format!("appid=wx1&{CB}&response_type=token"), Some(kind)),
            (Door::Official, tail(""), Some(Refusal::Numbered(10010))),
            (Door::Official, tail("scope=snsapi_base"), Some(Refusal::Numbered(10013))),
            (Door::Official, long.clone(), Some(Refusal::LongState)),
            (Door::Official, tail("state=S&scope=snsapi_base"), Some(order.clone())),
            (Door::Official, tail("scope=snsapi_base&state=S&state=T"), Some(order)),
            (Door::Official, tail("scope=snsapi_login&state=S"), Some(Refusal::Numbered(10005))),
            (Door::Official, tail("scope=test&state=S"), Some(Refusal::Numbered(10005))),
            (Door::Official, full.replace("wx1", "wx2"), Some(Refusal::UnknownApp)),
            (Door::Official, full.replace("h5.", "h6."), Some(Refusal::Numbered(10003))),
            (Door::Website, long.replace("snsapi_base", "snsapi_login"), None),
            (Door::Website, tail("scope=snsapi_login"), None),
            (Door::Website, tail("scope=snsapi_login,snsapi_userinfo&state="), None),
        ];
        for (door, query, expected) in rows {
            assert_eq!(read(door, &query, &apps()).err(), expected, "{door:?} {query}");
        }
        assert!(read(Door::Official, &full.replace("wx1", "wx2"), &Apps(Vec::new())).is_ok());
    }

    #[test]
    fn steps() {
        let rows = [
            (Door::Official, "snsapi_base", false, Mind::Open, Step::Grant),
            (Door::Official, "snsapi_base", true, Mind::Open, Step::Grant),
            (Door::Official, "snsapi_userinfo", false, Mind::Open, Step::Consent),
            (Door::Official, "snsapi_userinfo", false, Mind::Agreed, Step::Grant),
            (Door::Official, "snsapi_userinfo", true, Mind::Agreed, Step::Consent),
            (Door::Official, "snsapi_base,snsapi_userinfo", false, Mind::Open, Step::Consent),
            (Door::Official, "snsapi_base", false, Mind::Refuses, Step::Decline),
            (Door::Official, "snsapi_userinfo", false, Mind::Refuses, Step::Decline),
            (Door::Official, "snsapi_userinfo", true, Mind::Virtual, Step::Grant),
            (Door::Website, "snsapi_login", false, Mind::Agreed, Step::Scan),
        ];
        for (door, scope, force_popup, mind, expected) in rows {
            let (app_id, redirect_uri) = ("wx1".to_owned(), "https://x.example/cb".to_owned());
            let (scope, state) = (scope.to_owned(), "S".to_owned());
            let asked = Asked { app_id, redirect_uri, scope, state, force_popup };
            assert_eq!(asked.step(door, mind), expected, "{door:?} {asked:?} {mind:?}");
            assert_eq!(asked.way_back(None), "https://x.example/cb?state=S");
        }
    }
}
