//! Leaving: a page that asks, and a POST that must come from that page or from the site itself.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body_util::{BodyExt, Collected, Limited};
use tokio::time::timeout;
use url::form_urlencoded;

use super::{
    Body, ClientPreferences, Error, RequestContext, RequestHandler, WorkerState, login,
    voice::LogoutOutcome,
};
use crate::{
    auth::{KeyRing, Revocation, Session, token::MacPurpose},
    http1::Incoming,
    logs::{AuditEvent, AuditKind},
};

/// The form has one field, which comes with the head or right after it.
const LONGEST_FORM: usize = 4096;
const FORM_TIME: Duration = Duration::from_secs(5);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl RequestHandler {
    /// Shows the page with the button.
    pub(super) fn ask_logout<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Response<Body> {
        let (rules, asker) = (&*state.rules, ClientPreferences::of(request));
        match self.authenticate_locally(state, request, cx) {
            Ok(known) => rules.responder.ask_logout(&token(&rules.keys, &known.session), &asker),
            Err(_) => rules.responder.logged_out(LogoutOutcome::Complete, &asker),
        }
    }

    /// Ends the session, here and in the browser.
    pub(super) async fn logout(
        &self,
        state: &WorkerState,
        request: &mut Request<Incoming>,
        cx: &RequestContext<'_>,
    ) -> Result<Response<Body>, Error> {
        let (rules, site, asker) = (&*state.rules, cx.site, ClientPreferences::of(request));
        let known = self.authenticate_locally(state, request, cx).ok();
        let body = std::mem::take(request.body_mut());
        let form = timeout(FORM_TIME, Limited::new(body, LONGEST_FORM).collect()).await;
        let form = form.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
        let shown = form_urlencoded::parse(&form).find(|(name, _)| name == "token");
        let ours = match (&known, shown) {
            (Some(known), Some((_, shown))) => vouched(&rules.keys, &known.session, &shown),
            (_, _) => false,
        };
        if !ours && !from_the_site(request.headers(), site.public_url.as_str()) {
            return Err(Error::CrossSiteLogout);
        }
        let mut outcome = LogoutOutcome::Complete;
        if let Some(known) = known {
            let order = Revocation::of(&known.session, cx.now);
            if let Err(error) = self.gateway.revocations.publish(order).await {
                outcome = LogoutOutcome::NotStored;
                let remedy = error.cause.remedy();
                tracing::warn!(%error, remedy, "logout not stored yet: store unavailable");
            }
            let line = AuditEvent::ok(AuditKind::Logout, "logged out")
                .with("appid", known.session.appid.as_str())
                .with("openid", known.session.identity.openid.as_str())
                .with("session", known.tag.to_string());
            self.gateway.audit.record(cx.audit_event(line));
        }
        let answer = rules.responder.logged_out(outcome, &asker);
        Ok(login::without_session(answer, site))
    }
}

/// Whether the browser says that a page of this origin sent the request. Our own page sends no
/// referrer, so its form comes with the origin `null`; newer browsers tell more, and for the
/// others the page carries a token.
fn from_the_site(headers: &HeaderMap, origin: &str) -> bool {
    let says = |name: &HeaderName, word: &str| {
        headers.get(name).is_some_and(|value| value.as_bytes() == word.as_bytes())
    };
    says(&header::ORIGIN, origin)
        || (says(&header::ORIGIN, "null") && says(&SEC_FETCH_SITE, "same-origin"))
}

fn token(keys: &KeyRing, session: &Session) -> String {
    let code = keys.create_mac(MacPurpose::Logout, session.sid.as_bytes());
    format!("{:032x}", u128::from_be_bytes(code))
}

fn vouched(keys: &KeyRing, session: &Session, shown: &str) -> bool {
    let code = u128::from_str_radix(shown, 16).map(u128::to_be_bytes).unwrap_or_default();
    shown.len() == 32 && keys.verify_mac(MacPurpose::Logout, session.sid.as_bytes(), &code)
}
