//! What a browser meets: authorize, the consent sheet, the QR page, and the way back.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use minijinja::context;
use url::form_urlencoded;

use super::{
    authorize::{self, AuthorizeOutcome, AuthorizeRequest, ConsentState, LoginPage},
    control_api,
    errcode::AuthorizeError,
    faults::{ApiEndpoint, Fault, FaultKind},
    lang,
    listen::Body,
    params::Params,
    service::{LoggedResponse, ReceivedRequest, Service, respond},
    token_store::Grant,
    users::User,
};
use crate::clock;

/// The cookie that says who the browser is.
pub const USER_COOKIE: &str = "wx_emulator_user";
/// There always is a first user; this one only spares us a promise.
static NOBODY: User =
    User { id: String::new(), nickname: String::new(), avatar: None, openid: None, unionid: None };
/// Both callbacks of `two_codes`, for test clients that run no scripts.
const CALLBACK_HEADER: HeaderName = HeaderName::from_static("x-emulator-callback");

/// `/connect/oauth2/authorize` and `/connect/qrconnect`.
pub fn authorize(service: &Service, call: &ReceivedRequest, door: LoginPage) -> LoggedResponse {
    let fault = service.state().faults.take(ApiEndpoint::Authorize);
    let mut answer = match fault.as_ref().and_then(|fault| fault.errcode) {
        Some(number) => refuse(service, call, &AuthorizeError::Numbered(number)),
        None => admit(service, call, door),
    };
    answer.fault = fault.or(answer.fault);
    answer
}

/// The visitor's answer on one of our pages: `link` is the query of the page they were on.
pub fn confirm(service: &Service, call: &ReceivedRequest, door: LoginPage) -> LoggedResponse {
    let params = Params::parse(&call.query);
    let asked = match authorize::read(door, params.get("link").unwrap_or_default(), &service.apps) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(service, call, &refusal),
    };
    let user = params
        .get("user")
        .and_then(|id| service.user(id))
        .unwrap_or_else(|| visitor(service, call));
    if params.get("answer") != Some("allow") {
        let fault = service.state().faults.take_twist(ApiEndpoint::Authorize, FaultKind::Decline);
        return decline(service, call, &asked, fault);
    }
    if door == LoginPage::Official {
        service.state().tokens.consent(&user.id, &asked.app_id, clock::system());
    }
    let mut answer = grant(service, call, &asked, user);
    control_api::remember(&mut answer.response, &user.id);
    answer
}

/// Who the browser is: as its cookie says, else the first user.
pub fn visitor<'a>(service: &'a Service, call: &ReceivedRequest) -> &'a User {
    let cookies = call.headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs =
        cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let chosen =
        pairs.filter(|(name, _)| *name == USER_COOKIE).find_map(|(_, id)| service.user(id));
    chosen.or(service.users.first()).unwrap_or(&NOBODY)
}

/// A way to somewhere else.
pub fn redirect(url: &str) -> Response<Body> {
    let mut response = respond(StatusCode::FOUND, "text/html; charset=utf-8", "");
    if let Ok(location) = HeaderValue::from_str(url) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn admit(service: &Service, call: &ReceivedRequest, door: LoginPage) -> LoggedResponse {
    let is_framed = call.header("sec-fetch-dest") == Some("iframe");
    let is_wechat = call
        .header("user-agent")
        .is_some_and(|agent| agent.to_lowercase().contains("micromessenger"));
    if door == LoginPage::Official && service.require_wechat && (is_framed || !is_wechat) {
        return refuse(service, call, &AuthorizeError::OutsideWeChat);
    }
    let asked = match authorize::read(door, &call.query, &service.apps) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(service, call, &refusal),
    };
    let user = visitor(service, call);
    let refusal = match door {
        LoginPage::Official => {
            service.state().faults.take_twist(ApiEndpoint::Authorize, FaultKind::Decline)
        }
        LoginPage::Website => None,
    };
    let mind = {
        let state = service.state();
        match refusal {
            Some(_) => ConsentState::Refuses,
            None if state.faults.has_pending(ApiEndpoint::Authorize, FaultKind::Snapshot) => {
                ConsentState::Virtual
            }
            None if state.tokens.has_consent(&user.id, &asked.app_id, clock::system()) => {
                ConsentState::Agreed
            }
            None => ConsentState::Open,
        }
    };
    match asked.step(door, mind) {
        AuthorizeOutcome::Grant => grant(service, call, &asked, user),
        AuthorizeOutcome::Decline => decline(service, call, &asked, refusal),
        AuthorizeOutcome::Consent => ask(service, call, &asked, "consent.html"),
        AuthorizeOutcome::Scan => ask(service, call, &asked, "scan.html"),
    }
}

/// The visitor goes home with a code, or with whatever a fault makes of it.
fn grant(
    service: &Service,
    call: &ReceivedRequest,
    asked: &AuthorizeRequest,
    user: &User,
) -> LoggedResponse {
    let mut state = service.state();
    let fault = state.faults.take_outcome(ApiEndpoint::Authorize);
    let has = |twist| fault.as_ref().is_some_and(|fault| fault.has(twist));
    let grant = Grant {
        app_id: asked.app_id.clone(),
        user_id: user.id.clone(),
        scope: asked.scope.clone(),
        is_snapshot: has(FaultKind::Snapshot),
    };
    let now = clock::system();
    let url = asked.return_url(Some(&state.tokens.issue_code(grant.clone(), now)));
    let second = has(FaultKind::TwoCodes)
        .then(|| asked.return_url(Some(&state.tokens.issue_code(grant, now))));
    drop(state);
    let also_visit = has(FaultKind::DuplicateCallback).then(|| url.clone());
    let response = match second {
        Some(second) => twice(service, call, &url, &second),
        None => redirect(&url),
    };
    let note = Some(format!("{} granted by {}", asked.scope, user.id));
    LoggedResponse { note, fault, also_visit, ..response.into() }
}

/// WeChat just closes the page; only the fault sends the state home.
fn decline(
    service: &Service,
    call: &ReceivedRequest,
    asked: &AuthorizeRequest,
    fault: Option<Fault>,
) -> LoggedResponse {
    let response = match fault {
        Some(_) => redirect(&asked.return_url(None)),
        None => {
            service.pages.render("closed.html", context! { zh => lang::is_chinese(&call.headers) })
        }
    };
    LoggedResponse { note: Some("declined".to_owned()), fault, ..response.into() }
}

fn refuse(service: &Service, call: &ReceivedRequest, refusal: &AuthorizeError) -> LoggedResponse {
    let zh = lang::is_chinese(&call.headers);
    let (in_chinese, in_english) = refusal.hint();
    let page = context! {
        zh,
        message => refusal.message(),
        number => refusal.number(),
        hint => if zh { in_chinese } else { in_english },
    };
    let response = service.pages.render("refused.html", page);
    let note = Some(refusal.message().to_owned());
    LoggedResponse { errcode: refusal.number(), note, ..response.into() }
}

/// The consent sheet or the QR page: the same question on two kinds of paper.
fn ask(
    service: &Service,
    call: &ReceivedRequest,
    asked: &AuthorizeRequest,
    template: &str,
) -> LoggedResponse {
    let chosen = visitor(service, call);
    let people = super::page::people(&service.users, &chosen.id);
    // After choosing another person the sheet comes again, as them.
    let back = format!("{}?{}", call.path, call.query);
    let page = context! {
        zh => is_chinese(call),
        app_id => asked.app_id.as_str(),
        host => url::Url::parse(&asked.redirect_uri).ok().and_then(|url| url.host_str().map(str::to_owned)),
        people,
        qr => super::page::code(),
        link => call.query.as_str(),
        back => form_urlencoded::byte_serialize(back.as_bytes()).collect::<String>(),
    };
    LoggedResponse { note: Some("asked".to_owned()), ..service.pages.render(template, page).into() }
}

/// The QR page is told its language in the link.
fn is_chinese(call: &ReceivedRequest) -> bool {
    match Params::parse(&call.query).get("lang") {
        Some("en") => false,
        Some("cn") => true,
        _ => lang::is_chinese(&call.headers),
    }
}

fn twice(service: &Service, call: &ReceivedRequest, first: &str, second: &str) -> Response<Body> {
    let page = context! { zh => lang::is_chinese(&call.headers), first, second };
    let mut response = service.pages.render("twice.html", page);
    for url in [first, second] {
        if let Ok(value) = HeaderValue::from_str(url) {
            response.headers_mut().append(CALLBACK_HEADER, value);
        }
    }
    response
}
