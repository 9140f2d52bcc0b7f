//! Everything the gateway says in its own voice, to people as a page and to programs as JSON.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::{
    Body, Error,
    page::{ErrorPage, Page, PageTemplates},
    reply::{self, ClientPreferences},
};
use crate::{auth::ReturnTo, site::Site};

/// When somebody whom we could not serve may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// What became of a logout. Here it counts in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogoutOutcome {
    /// There was no session, or its end is stored.
    Complete,
    /// The store did not take it: other replicas do not know yet, and neither does a restart.
    NotStored,
}

/// The pages, and the paths they lead to.
pub struct PageResponder {
    pages: PageTemplates,
    logout: String,
}

impl PageResponder {
    /// These pages, for a gateway whose own paths begin with `prefix`.
    pub fn new(pages: PageTemplates, prefix: &str) -> Self {
        Self { pages, logout: format!("{prefix}/logout") }
    }

    /// Says what stopped a request: its status and what to do, never its cause.
    pub fn error_response(
        &self,
        error: &Error,
        preferences: &ClientPreferences,
        request_id: &HeaderValue,
    ) -> Response<Body> {
        let trace = request_id.to_str().unwrap_or_default();
        let (status, notice, retry) = (error.status(), error.notice(), error.retry());
        let mut response = if preferences.reads_html() {
            self.page(status, &Page::Notice { notice, trace, retry }, preferences)
        } else {
            reply::json(status, &json!({ "error": notice.word(), "trace": trace }))
        };
        if let Error::TooMany { wait, .. } = error {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*wait));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }

    /// One button that leads to WeChat's consent page.
    pub fn login_page(&self, login_url: &str, preferences: &ClientPreferences) -> Response<Body> {
        self.page(StatusCode::OK, &Page::Prompt { login_url }, preferences)
    }

    /// Remembers the fragment on the way to the login.
    pub fn remember_fragment(
        &self,
        login_url: &str,
        preferences: &ClientPreferences,
    ) -> Response<Body> {
        self.page(StatusCode::OK, &Page::Remember { login_url }, preferences)
    }

    /// The QR code of the page asked for.
    pub fn open_in_wechat(
        &self,
        site: &Site,
        going: &ReturnTo,
        preferences: &ClientPreferences,
    ) -> Response<Body> {
        self.open_url_in_wechat(&format!("{}{}", site.public_url, going.as_str()), preferences)
    }

    /// The QR code of an address in full.
    pub fn open_url_in_wechat(&self, url: &str, preferences: &ClientPreferences) -> Response<Body> {
        self.page(StatusCode::FORBIDDEN, &Page::OpenInWeChat { url }, preferences)
    }

    /// Asks a snapshot visitor to press 使用完整服务.
    pub fn leave_snapshot(&self, preferences: &ClientPreferences) -> Response<Body> {
        self.page(StatusCode::OK, &Page::Snapshot, preferences)
    }

    /// Says that the page needs more than the visitor granted.
    pub fn ask_consent(&self, login_url: &str, preferences: &ClientPreferences) -> Response<Body> {
        let (notice, retry) = (ErrorPage::ConsentNeeded, Some(login_url));
        self.page(StatusCode::FORBIDDEN, &Page::Notice { notice, trace: "", retry }, preferences)
    }

    /// Asks whether to log out.
    pub fn ask_logout(&self, token: &str, preferences: &ClientPreferences) -> Response<Body> {
        self.page(StatusCode::OK, &Page::Logout { action: &self.logout, token }, preferences)
    }

    /// Says that nobody is logged in any more.
    pub fn logged_out(
        &self,
        outcome: LogoutOutcome,
        preferences: &ClientPreferences,
    ) -> Response<Body> {
        if preferences.reads_html() {
            return self.page(StatusCode::OK, &Page::Goodbye { home: "/" }, preferences);
        }
        let json = match outcome {
            LogoutOutcome::Complete => json!({ "logged_out": true }),
            LogoutOutcome::NotStored => json!({ "logged_out": true, "handed_over": false }),
        };
        reply::json(StatusCode::OK, &json)
    }

    fn page(
        &self,
        status: StatusCode,
        page: &Page<'_>,
        preferences: &ClientPreferences,
    ) -> Response<Body> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        match self.pages.render(page, preferences.lang(), &nonce) {
            Ok(html) => reply::html(status, html, &nonce),
            Err(error) => {
                tracing::error!(%error, "cannot render page");
                reply::text(status.canonical_reason().unwrap_or_default())
            }
        }
    }
}
