//! A tea shop of 2009 that has never heard of WeChat: it reads who is there from request headers.

use std::{io, net::SocketAddr, sync::Arc};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use minijinja::{Environment, Error, UndefinedBehavior, Value, context};
use serde_json::json;
use tokio::net::TcpListener;

use self::visitor::Visitor;
use crate::emulator::{
    lang,
    listen::{self, Body, full},
};

mod echo;
mod visitor;
mod sse;
#[cfg(test)]
mod tests;

const TEMPLATES: [(&str, &str); 6] = [
    ("base.html", include_str!("site/page/base.html")),
    ("home.html", include_str!("site/page/home.html")),
    ("hello.html", include_str!("site/page/hello.html")),
    ("orders.html", include_str!("site/page/orders.html")),
    ("member.html", include_str!("site/page/member.html")),
    ("lost.html", include_str!("site/page/lost.html")),
];

/// Nothing from outside but the visitor's picture.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: http: https:; connect-src 'self' ws: wss:; base-uri 'none'; frame-ancestors 'none'";

/// The sample site, with its socket.
pub struct SampleSite {
    listener: TcpListener,
    pages: Environment<'static>,
}

impl SampleSite {
    /// Takes the address; port 0 takes a free one.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let pages = pages().map_err(io::Error::other)?;
        Ok(Self { listener, pages })
    }

    /// Where it listens.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let pages = Arc::new(self.pages);
        listen::serve(self.listener, stop, move |request| {
            let pages = Arc::clone(&pages);
            async move { answer(&pages, request) }
        })
        .await;
    }
}

fn pages() -> Result<Environment<'static>, Error> {
    let mut pages = Environment::new();
    pages.set_undefined_behavior(UndefinedBehavior::Strict);
    for (name, source) in TEMPLATES {
        pages.add_template(name, source)?;
    }
    Ok(pages)
}

fn answer(pages: &Environment<'static>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let (name, status) = match path {
        "/" => ("home.html", StatusCode::OK),
        "/static/hello" => ("hello.html", StatusCode::OK),
        "/orders" => ("orders.html", StatusCode::OK),
        "/member" => ("member.html", StatusCode::OK),
        "/api/me" => return me(&request),
        "/events" => return sse::stream(),
        "/ws" => return echo::upgrade(request),
        _ => ("lost.html", StatusCode::NOT_FOUND),
    };
    let guest = Visitor::read(request.headers());
    let page = context! {
        zh => lang::is_chinese(request.headers()),
        path,
        guest => guest.card(),
        headers => visitor::told(request.headers()),
    };
    render(pages, name, status, page)
}

fn render(
    pages: &Environment<'static>,
    name: &str,
    status: StatusCode,
    page: Value,
) -> Response<Body> {
    match pages.get_template(name).and_then(|template| template.render(page)) {
        Ok(html) => {
            let mut response = respond("text/html; charset=utf-8", html);
            *response.status_mut() = status;
            let policy = HeaderValue::from_static(POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        }
        Err(error) => {
            tracing::error!(%error, name, "a page of the sample site cannot be drawn");
            let mut response = respond("text/plain", "this page cannot be drawn\n".to_owned());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Who the site thinks is asking, for its own scripts.
fn me(request: &Request<Incoming>) -> Response<Body> {
    let guest = Visitor::read(request.headers());
    let body = json!({
        "openid": guest.openid,
        "unionid": guest.unionid,
        "nickname": guest.nickname,
        "avatar": guest.avatar,
        "scope": guest.scope,
    });
    respond("application/json", body.to_string())
}

fn respond(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Every page shows a person.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
