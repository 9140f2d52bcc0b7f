//! From a cookie to a visitor we know, or to the reason why we do not.

use std::rc::Rc;

use http::Request;

use super::{Error, RequestContext, RequestHandler, WorkerState, profile_refresh::RefreshOutcome};
use crate::{
    auth::{self, AccessRequest, Decision, Session, SessionError, VerifiedSession},
    httputil::cookie,
    site::Access,
};

impl RequestHandler {
    /// Who comes to a path that asks for `access`, and what is to be done about it.
    pub(super) fn authorize<B>(
        &self,
        access: Access,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<(Result<Rc<VerifiedSession>, SessionError>, Decision), Error> {
        let known = self.authenticate_for(access, state, request, cx)?;
        let visit = AccessRequest {
            session: known.as_ref().ok().map(|known| &known.session),
            method: request.method(),
            headers: request.headers(),
        };
        let decision = auth::decide(cx.site, access, visit);
        Ok((known, decision))
    }

    /// Who comes to a path that asks for `access`, as they are now. Where a login is required, it is
    /// an error if nobody can say whether theirs was ended: to log in again would not help.
    fn authenticate_for<B>(
        &self,
        access: Access,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Result<Rc<VerifiedSession>, SessionError>, Error> {
        match access {
            Access::None => Ok(Err(SessionError::Missing)),
            Access::Required(..) if self.revocation_unknown(cx.site) => {
                Err(Error::RevocationUnknown)
            }
            Access::Optional | Access::Required(..) => {
                let known = self.authenticate(state, request, cx);
                Ok(known.and_then(|known| self.refresh_profile(state, request, cx, known)))
            }
        }
    }

    /// Who sent the request, unless nobody can say whether their session was ended elsewhere.
    pub(super) fn authenticate<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Rc<VerifiedSession>, SessionError> {
        let found = self.authenticate_locally(state, request, cx).and_then(|known| {
            if self.revocation_unknown(cx.site) {
                Err(SessionError::RevocationUnknown)
            } else {
                Ok(known)
            }
        });
        if let Err(why) = &found {
            self.record_session_refusal(*why, cx);
        }
        if let Ok(known) = &found {
            cx.session.set(Some(known.tag));
        }
        found
    }

    /// Who sent the request, as far as we have heard: good enough for a logout. Several cookies of
    /// our name are several claims: exactly one may be good, or somebody planted one.
    pub(super) fn authenticate_locally<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
    ) -> Result<Rc<VerifiedSession>, SessionError> {
        let mut found = Err(SessionError::Missing);
        for value in cookie::values(request.headers(), cx.site.cookies.session()) {
            match (self.verify_cookie(state, value, cx), &found) {
                (Ok(_), Ok(_)) => return Err(SessionError::Ambiguous),
                (Ok(known), Err(_)) => found = Ok(known),
                (Err(why), Err(_)) => found = Err(why),
                (Err(_), Ok(_)) => (),
            }
        }
        found
    }

    /// The same visitor with nickname and picture as they are now, where the site wants that and
    /// WeChat has told us. Who has to log in again is a stranger at their next page.
    fn refresh_profile<B>(
        &self,
        state: &WorkerState,
        request: &Request<B>,
        cx: &RequestContext<'_>,
        known: Rc<VerifiedSession>,
    ) -> Result<Rc<VerifiedSession>, SessionError> {
        let (site, session) = (cx.site, &known.session);
        if !site.profile_refresh.is_some_and(|age| session.profile_is_stale(age, cx.now)) {
            return Ok(known);
        }
        let account = site.login_account(&session.appid).unwrap_or(&site.account);
        let news = match self.gateway.refreshes.outcome(&state.rules, account, session) {
            None => return Ok(known),
            Some(RefreshOutcome::LoginRequired)
                if auth::navigates(request.method(), request.headers()) =>
            {
                return Err(SessionError::Expired);
            }
            Some(RefreshOutcome::Updated(profile)) => Some((profile.nickname, profile.avatar)),
            Some(RefreshOutcome::Unchanged | RefreshOutcome::LoginRequired) => None,
        };
        let session = session.with_profile(news, cx.now);
        Ok(Rc::new(VerifiedSession { changed: true, ..VerifiedSession::new(session, site) }))
    }

    /// The session of one cookie, if it is good here and now. Only the cryptography is remembered.
    fn verify_cookie(
        &self,
        state: &WorkerState,
        cookie: &[u8],
        cx: &RequestContext<'_>,
    ) -> Result<Rc<VerifiedSession>, SessionError> {
        let remembered = state.verified.borrow().get(cookie).map(Rc::clone);
        let is_first = remembered.is_none();
        let known = if let Some(known) = remembered {
            known.session.check(cx.site, cx.now)?;
            known
        } else {
            let session = Session::open(cookie, &state.rules.keys)?;
            session.check(cx.site, cx.now)?;
            let known = Rc::new(VerifiedSession::new(session, cx.site));
            state.verified.borrow_mut().insert(cookie, &known);
            known
        };
        // A `max` that was made shorter counts for those who are here already.
        if known.session.auth_time.plus(state.rules.session.max) <= cx.now {
            return Err(SessionError::Expired);
        }
        if self.gateway.revocations.is_revoked(&known.session) {
            return Err(SessionError::Revoked);
        }
        // Another replica may have renewed it: the first request with a cookie tells.
        if is_first {
            self.gateway.expiries.extend(&known.session);
        }
        Ok(known)
    }
}
