//! The templates, and what they show.

use fast_qr::{
    ECL, QRBuilder,
    convert::{Builder as _, svg::SvgBuilder},
};
use http::{HeaderValue, Response, StatusCode};
use minijinja::{Environment, Error, UndefinedBehavior, Value, context};

use super::{
    call_log::CallRecord,
    listen::Body,
    service::{respond, text},
    users::User,
};

const TEMPLATES: [(&str, &str); 7] = [
    ("base.html", include_str!("page/base.html")),
    ("index.html", include_str!("page/index.html")),
    ("consent.html", include_str!("page/consent.html")),
    ("scan.html", include_str!("page/scan.html")),
    ("refused.html", include_str!("page/refused.html")),
    ("closed.html", include_str!("page/closed.html")),
    ("twice.html", include_str!("page/twice.html")),
];

/// Nothing comes from outside but the users' own pictures, and `two_codes` calls at the site.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: http: https:; connect-src *; base-uri 'none'; frame-ancestors 'none'";

/// All our pages.
pub struct Pages(Environment<'static>);

impl Pages {
    /// Reads the templates.
    pub fn new() -> Result<Self, Error> {
        let mut pages = Environment::new();
        pages.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in TEMPLATES {
            pages.add_template(name, source)?;
        }
        Ok(Self(pages))
    }

    /// A page, with status 200 as WeChat's own have, good news or bad.
    pub fn render(&self, name: &str, page: Value) -> Response<Body> {
        match self.0.get_template(name).and_then(|template| template.render(page)) {
            Ok(html) => {
                let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", html);
                response
                    .headers_mut()
                    .insert("content-security-policy", HeaderValue::from_static(POLICY));
                response
            }
            Err(error) => {
                tracing::error!(%error, name, "a page of the emulator cannot be drawn");
                text(StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be drawn\n")
            }
        }
    }
}

/// The users, one of them chosen.
pub fn people(users: &[User], chosen: &str) -> Vec<Value> {
    let card = |user: &User| {
        let picture = match user.avatar.as_deref() {
            None => format!("/mmopen/{}/132", user.id),
            Some("") => "/mmopen/0/132".to_owned(),
            Some(url) => url.to_owned(),
        };
        context! {
            id => user.id.as_str(),
            name => user.shown_name(),
            picture,
            has_unionid => user.unionid.is_some(),
            is_chosen => user.id == chosen,
        }
    };
    users.iter().map(card).collect()
}

/// A code to look at. It holds a greeting: in here people are clicked, not scanned.
pub fn code() -> String {
    let drawn = QRBuilder::new("wxgate: this is the emulated WeChat, click somebody below")
        .ecl(ECL::H)
        .build();
    drawn.map(|code| SvgBuilder::default().margin(0).to_str(&code)).unwrap_or_default()
}

/// The latest calls.
pub fn requests(entries: &[&CallRecord]) -> Vec<Value> {
    let line = |entry: &&CallRecord| {
        context! {
            time => entry.time.0,
            what => format!("{} {}", entry.method, entry.path),
            status => entry.status,
            errcode => entry.errcode,
            note => entry.note.as_deref(),
        }
    };
    entries.iter().map(line).collect()
}
