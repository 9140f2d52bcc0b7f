//! From a cookie to a visitor we know, or to the reason why we do not.

use std::rc::Rc;

use http::Request;

use super::{Arrival, Desk, Error, Worker, refresh::News};
use crate::{
    auth::{self, Decision, Known, Session, Stranger, Visit},
    site::Access,
    wire::cookie,
};

impl Worker {
    /// Who comes to a path that asks for `access`, and what is to be done about it.
    pub(super) fn judge<B>(
        &self,
        access: Access,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<(Result<Rc<Known>, Stranger>, Decision), Error> {
        let known = self.admit(access, desk, request, arrival)?;
        let visit = Visit {
            session: known.as_ref().ok().map(|known| &known.session),
            method: request.method(),
            headers: request.headers(),
        };
        let decision = auth::decide(arrival.site, access, visit);
        Ok((known, decision))
    }

    /// Who comes to a path that asks for `access`, as they are now. Where a login is required, it is
    /// an error if nobody can say whether theirs was ended: to log in again would not help.
    fn admit<B>(
        &self,
        access: Access,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Result<Rc<Known>, Stranger>, Error> {
        match access {
            Access::None => Ok(Err(Stranger::New)),
            Access::Required(..) if self.unsure(arrival.site) => Err(Error::Unsure),
            Access::Optional | Access::Required(..) => {
                let known = self.recognise(desk, request, arrival);
                Ok(known.and_then(|known| self.brought_up_to_date(desk, request, arrival, known)))
            }
        }
    }

    /// Who sent the request, unless nobody can say whether their session was ended elsewhere.
    pub(super) fn recognise<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Rc<Known>, Stranger> {
        let found = self.recognise_unsure(desk, request, arrival).and_then(|known| {
            if self.unsure(arrival.site) { Err(Stranger::Unsure) } else { Ok(known) }
        });
        if let Err(why) = &found
            && let Some(reason) = why.refused()
        {
            self.refused(reason, arrival);
        }
        if let Ok(known) = &found {
            arrival.session.set(Some(known.tag));
        }
        found
    }

    /// Who sent the request, as far as we have heard: good enough for a logout. Several cookies of
    /// our name are several claims: exactly one may be good, or somebody planted one.
    pub(super) fn recognise_unsure<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Result<Rc<Known>, Stranger> {
        let mut found = Err(Stranger::New);
        for value in cookie::values(request.headers(), arrival.site.cookies.session()) {
            match (self.vouch(desk, value, arrival), &found) {
                (Ok(_), Ok(_)) => return Err(Stranger::Several),
                (Ok(known), Err(_)) => found = Ok(known),
                (Err(why), Err(_)) => found = Err(why),
                (Err(_), Ok(_)) => (),
            }
        }
        found
    }

    /// The same visitor with nickname and picture as they are now, where the site wants that and
    /// WeChat has told us. Who has to log in again is a stranger at their next page.
    fn brought_up_to_date<B>(
        &self,
        desk: &Desk,
        request: &Request<B>,
        arrival: &Arrival<'_>,
        known: Rc<Known>,
    ) -> Result<Rc<Known>, Stranger> {
        let (site, session) = (arrival.site, &known.session);
        if !site.profile_refresh.is_some_and(|age| session.is_dated(age, arrival.now)) {
            return Ok(known);
        }
        let account = site.login_account(&session.appid).unwrap_or(&site.account);
        let news = match self.gateway.refreshes.news(&desk.rules, account, session) {
            None => return Ok(known),
            Some(News::Gone) if auth::navigates(request.method(), request.headers()) => {
                return Err(Stranger::Expired);
            }
            Some(News::Fresh(profile)) => Some((profile.nickname, profile.avatar)),
            Some(News::Same | News::Gone) => None,
        };
        let session = session.profiled(news, arrival.now);
        Ok(Rc::new(Known { is_news: true, ..Known::new(session, site) }))
    }

    /// The session of one cookie, if it is good here and now. Only the cryptography is remembered.
    fn vouch(
        &self,
        desk: &Desk,
        cookie: &[u8],
        arrival: &Arrival<'_>,
    ) -> Result<Rc<Known>, Stranger> {
        let remembered = desk.verified.borrow_mut().get(cookie).map(Rc::clone);
        let known = if let Some(known) = remembered {
            known.session.check(arrival.site, arrival.now)?;
            known
        } else {
            let session = Session::open(cookie, &desk.rules.keys)?;
            session.check(arrival.site, arrival.now)?;
            let known = Rc::new(Known::new(session, arrival.site));
            desk.verified.borrow_mut().insert(cookie.into(), Rc::clone(&known));
            known
        };
        // A `max` that was made shorter counts for those who are here already.
        if known.session.auth_time.plus(desk.rules.session.max) <= arrival.now {
            return Err(Stranger::Expired);
        }
        if self.gateway.feed.ends(&known.session) {
            return Err(Stranger::Ended);
        }
        Ok(known)
    }
}
