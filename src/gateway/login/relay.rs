//! One authorised host for the sites of many domains: WeChat brings everybody back to the
//! account's `callback_host`, which hands each visitor on to their own site with a ticket.
//!
//! The host keeps nothing and asks WeChat nothing. The ticket carries the code, sealed, for one
//! site and sixty seconds; there the flow cookie of the browser that left must meet it, and the
//! code in it works once, so a ticket does too.

use std::time::Duration;

use http::{Request, Response};
use serde::{Deserialize, Serialize};

use super::callback::{CallbackParams, CodeParam};
use crate::{
    auth::{
        KeyRing, OAuthState,
        pending::{StateError, site_number},
        token::{CryptoError, NONCE},
    },
    clock::Timestamp,
    gateway::{Body, Error, RequestContext, context, reply, rules::RuntimeConfig},
    site::Site,
};

/// How long a ticket is good for.
const RELAY_TICKET_LIFETIME: Duration = Duration::from_mins(1);

/// What the callback host hands on.
#[derive(Serialize, Deserialize)]
pub struct RelayTicket {
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rd: Option<String>,
    iat: Timestamp,
}

impl RelayTicket {
    fn seal(
        &self,
        keys: &KeyRing,
        audience: &str,
        random: [u8; NONCE],
    ) -> Result<String, CryptoError> {
        let json = serde_json::to_vec(self).map_err(|_| CryptoError)?;
        keys.seal(&json, &place(audience), random)
    }

    /// Reads what the callback said out of a ticket for the site of `arrival`, while it is good.
    /// `skew` is how far the clock of the replica that wrote it may be from this one's, on either side.
    pub fn open(
        sealed: &str,
        keys: &KeyRing,
        cx: &RequestContext<'_>,
        skew: Duration,
    ) -> Option<CallbackParams> {
        let json = keys.open(sealed.as_bytes(), &place(cx.site.public_url.as_str())).ok()?;
        let ticket: Self = serde_json::from_slice(&json).ok()?;
        if cx.now.plus(skew) < ticket.iat {
            let clock_skew = Some(ticket.iat.since(cx.now));
            return Some(CallbackParams { clock_skew, ..CallbackParams::none() });
        }
        (cx.now < ticket.iat.plus(RELAY_TICKET_LIFETIME + skew)).then(|| CallbackParams {
            state: Some(ticket.state),
            code: ticket.code.map_or(CodeParam::Absent, CodeParam::Some),
            hint: ticket.rd,
            clock_skew: None,
        })
    }
}

fn place(audience: &str) -> String {
    format!("ticket of {audience}")
}

/// Answers a callback that arrived on an account's own host for a site of another. `None` when
/// the request is none of that.
pub fn relay<B>(
    rules: &RuntimeConfig,
    request: &Request<B>,
    now: Timestamp,
) -> Option<Result<Response<Body>, Error>> {
    let rest = request.uri().path().strip_prefix(rules.prefix.as_str())?;
    if rest != "/callback" {
        return None;
    }
    let host = context::host(request).ok()?;
    if !rules.sites.has_callback(&host) {
        return None;
    }
    let words = CallbackParams::of(request.uri().query());
    let here = rules.sites.find(&host);
    let site = words.state.as_deref().and_then(|state| site_of(rules, state, now));
    match site {
        Some((site, _)) if site.public_url.host().as_str() == host => None,
        Some((site, Ok(()))) => Some(redirect_to_site(rules, site, words, now)),
        Some((_, Err(StateError::ClockSkew { seconds }))) => {
            Some(Err(Error::ClockSkew { seconds, retry: None }))
        }
        Some((_, Err(StateError::Expired | StateError::Forged))) | None if here.is_some() => None,
        Some((_, Err(StateError::Expired | StateError::Forged))) | None => {
            Some(Err(Error::LoginExpired))
        }
    }
}

/// The site that a state was made for, and whether the state is good at this moment.
fn site_of<'a>(
    rules: &'a RuntimeConfig,
    state: &str,
    now: Timestamp,
) -> Option<(&'a Site, Result<(), StateError>)> {
    let number = OAuthState::site(state)?;
    rules.sites.all().iter().find_map(|site| {
        let audience = site.public_url.as_str();
        if site_number(audience) != number {
            return None;
        }
        let opened = OAuthState::open(state, &rules.keys, audience, now).map(|_| ());
        (opened != Err(StateError::Forged)).then_some((&**site, opened))
    })
}

fn redirect_to_site(
    rules: &RuntimeConfig,
    site: &Site,
    words: CallbackParams,
    now: Timestamp,
) -> Result<Response<Body>, Error> {
    let audience = site.public_url.as_str();
    let code = match words.code {
        CodeParam::Some(code) => Some(code),
        CodeParam::Absent => None,
        CodeParam::Unusable => return Err(Error::BadRequest("an unusable code")),
    };
    let ticket =
        RelayTicket { state: words.state.unwrap_or_default(), code, rd: words.hint, iat: now };
    let sealed = ticket.seal(&rules.keys, audience, rand::random::<[u8; NONCE]>())?;
    Ok(reply::redirect(&format!("{audience}{}/accept?ticket={sealed}", rules.prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serialized::assert_serialized, test_support::keys};

    #[test]
    fn serialized_relay_ticket() {
        let (keys, site) = (keys(), "https://h5.example.com");
        let ticket = |code: Option<&str>, rd: Option<&str>| RelayTicket {
            state: "00ff".to_owned(),
            code: code.map(str::to_owned),
            rd: rd.map(str::to_owned),
            iat: Timestamp(10_000),
        };
        let rows = [
            (
                ticket(Some("c1"), Some("/a?b=c")),
                "AQEBAQEBAQEBAQEBy1k4pagXI9UGQUhMK3H5WW6n7yV8xcKUpXZwK7PbxquRHX4kyb6rqEmqXXDlIygmNeX5XO1vVi0hjwJZ1MohJFrOvOcyhQ",
                r#"{"state":"00ff","code":"c1","rd":"/a?b=c","iat":10000}"#,
            ),
            (
                ticket(None, None),
                "AQEBAQEBAQEBAQEBy1k4pagXI9UGQUhMK3H5WW6t4TU73cmG9ndiekM5m0JbvHvIIlZA1SON1dI",
                r#"{"state":"00ff","iat":10000}"#,
            ),
        ];
        for (ticket, recorded, recorded_payload) in rows {
            let sealed = ticket.seal(&keys, site, [1; NONCE]).unwrap();
            let payload = keys.open(sealed.as_bytes(), "ticket of https://h5.example.com").unwrap();
            let payload = String::from_utf8(payload).unwrap();
            assert_serialized(&[
                ("payload", payload, recorded_payload),
                ("ticket", sealed, recorded),
            ]);
            let read: RelayTicket = serde_json::from_str(recorded_payload).unwrap();
            assert_eq!((read.code, read.rd, read.iat), (ticket.code, ticket.rd, ticket.iat));
        }
    }
}
