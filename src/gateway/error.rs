//! Everything that can stop a request, whose doing it is, and what we call it.

use std::{borrow::Cow, net::IpAddr};

use http::StatusCode;

use super::page::ErrorPage;
use crate::{
    auth::token::CryptoError,
    error_chain,
    httputil::PathError,
    logs::{AuditEvent, AuditKind},
    store, upstream,
    wechat::{
        self,
        protocol::{ApiError, ErrorClass},
    },
};

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could be read in two ways, or in none.
    #[error("the request is not well formed: {0}")]
    BadRequest(&'static str),
    /// The path could mean one thing to us and another to the site.
    #[error("ambiguous path")]
    AmbiguousPath(#[source] PathError),
    /// A header with an underscore, on a site that refuses those.
    #[error("a header name with an underscore")]
    UnderscoreInHeaderName,
    /// A header that says who a visitor is, from a visitor.
    #[error("a header that only the gateway may set")]
    Impersonation,
    /// A header that names another method than the one that is judged, on a site with a route for
    /// some methods only.
    #[error("a header that overrides the method")]
    MethodOverride,
    /// No site answers to that host.
    #[error("no site for this host")]
    UnknownHost,
    /// Nothing of ours has this path.
    #[error("no such page of the gateway")]
    NotFound,
    /// That cannot be done there.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The site is for the WeChat browser only.
    #[error("a browser outside WeChat")]
    WeChatOnly,
    /// Another site sent the visitor here to log them out.
    #[error("cross-site logout request")]
    CrossSiteLogout,
    /// A proxy asks about a request that we would not take ourselves.
    #[error("original request rejected")]
    BehindProxy(#[source] Box<Self>),
    /// The word of whoever asked about another's request is not taken.
    #[error("verify was asked by {0}, which is not in trusted_proxies")]
    UntrustedVerifyCaller(IpAddr),
    /// The state is not ours, or ten minutes old.
    #[error("callback does not belong to a pending login")]
    LoginExpired,
    /// The state, or the ticket with it, was written in the future of this replica's clock.
    #[error("the login began {seconds} s in the future of this replica's clock")]
    ClockSkew {
        /// How far in the future.
        seconds: u64,
        /// Where to try again.
        retry: Option<&'static str>,
    },
    /// The state is good, but this browser does not remember it.
    #[error("a callback without its flow cookie")]
    CookiesLost {
        /// Where to try again.
        retry: String,
    },
    /// The broker knows no login that this callback could belong to, nor where it should lead.
    #[error("callback does not belong to a pending broker login")]
    UnknownBrokerLogin,
    /// The broker sends nobody to an address that no client has registered.
    #[error("return address is not registered for any client")]
    UnknownReturn,
    /// What a login of the broker's needs cannot be kept or read.
    #[error("store unavailable for broker login")]
    Store(#[from] store::StoreUnavailable),
    /// The visitor said no to WeChat.
    #[error("the visitor declined")]
    Declined {
        /// Where to try again.
        retry: String,
    },
    /// WeChat did not say who the visitor is.
    #[error("the login failed")]
    Login {
        /// Where to try again.
        retry: String,
        /// What WeChat said.
        source: wechat::Error,
    },
    /// For too long nobody has told us which sessions were ended.
    #[error("revocation log unavailable for longer than `revocation` allows")]
    RevocationUnknown,
    /// The site switched to a protocol that nobody asked for.
    #[error("upstream sent 101 without an upgrade request")]
    UnexpectedUpgrade,
    /// This address has done more of that than it may.
    #[error("too many {what} from this address")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Seconds until it may try again.
        wait: u64,
    },
    /// The site failed.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// A token could not be made.
    #[error("cannot create token")]
    Token(#[from] CryptoError),
}

impl Error {
    /// The same about a request that a proxy asks about: a refusal that all of them understand.
    #[must_use]
    pub fn behind_proxy(self) -> Self {
        Self::BehindProxy(Box::new(self))
    }

    /// What the visitor's browser is told. Every variant is named, so a new one cannot be
    /// forgotten.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_)
            | Self::AmbiguousPath(_)
            | Self::UnderscoreInHeaderName
            | Self::Impersonation
            | Self::MethodOverride
            | Self::Upstream(upstream::Error::MalformedBody)
            | Self::LoginExpired
            | Self::ClockSkew { .. }
            | Self::UnknownBrokerLogin
            | Self::UnknownReturn
            | Self::CookiesLost { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::WeChatOnly
            | Self::CrossSiteLogout
            | Self::BehindProxy(_)
            | Self::UntrustedVerifyCaller(_)
            | Self::Declined { .. } => StatusCode::FORBIDDEN,
            Self::Login { source, .. } => login_status(source),
            Self::Upstream(upstream::Error::ResponseTimeout(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(upstream::Error::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Upstream(upstream::Error::BodyTimeout) => StatusCode::REQUEST_TIMEOUT,
            Self::Upstream(upstream::Error::SessionOver) => StatusCode::UNAUTHORIZED,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UnexpectedUpgrade
            | Self::Upstream(
                upstream::Error::Unreachable(_) | upstream::Error::ConnectionClosed(_),
            ) => StatusCode::BAD_GATEWAY,
            Self::RevocationUnknown
            | Self::Store(_)
            | Self::Upstream(upstream::Error::Overloaded | upstream::Error::NoDescriptor(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the visitor is told.
    pub fn notice(&self) -> ErrorPage {
        match self {
            Self::BadRequest(_)
            | Self::AmbiguousPath(_)
            | Self::UnderscoreInHeaderName
            | Self::Impersonation
            | Self::MethodOverride
            | Self::Upstream(upstream::Error::MalformedBody) => ErrorPage::BadRequest,
            Self::UnknownHost => ErrorPage::UnknownHost,
            Self::NotFound => ErrorPage::NotFound,
            Self::MethodNotAllowed => ErrorPage::MethodNotAllowed,
            Self::WeChatOnly => ErrorPage::WeChatOnly,
            Self::CrossSiteLogout | Self::UntrustedVerifyCaller(_) => ErrorPage::Forbidden,
            Self::BehindProxy(cause) => cause.notice(),
            Self::LoginExpired
            | Self::ClockSkew { .. }
            | Self::UnknownBrokerLogin
            | Self::Upstream(upstream::Error::SessionOver) => ErrorPage::LoginExpired,
            Self::UnknownReturn => ErrorPage::UnknownReturn,
            Self::Store(_) => ErrorPage::StoreAway,
            Self::CookiesLost { .. } => ErrorPage::CookiesLost,
            Self::Declined { .. } => ErrorPage::Declined,
            Self::Login { source, .. } => login_notice(source),
            Self::Upstream(upstream::Error::ResponseTimeout(_)) => ErrorPage::SiteSlow,
            Self::Upstream(upstream::Error::TooLarge) => ErrorPage::TooLarge,
            Self::Upstream(upstream::Error::BodyTimeout) => ErrorPage::TooSlow,
            Self::TooMany { .. } => ErrorPage::TooMany,
            Self::UnexpectedUpgrade
            | Self::Upstream(
                upstream::Error::Unreachable(_) | upstream::Error::ConnectionClosed(_),
            ) => ErrorPage::SiteUnreachable,
            Self::Upstream(upstream::Error::Overloaded | upstream::Error::NoDescriptor(_)) => {
                ErrorPage::Overloaded
            }
            Self::RevocationUnknown => ErrorPage::Unsure,
            Self::Token(_) => ErrorPage::Internal,
        }
    }

    /// Why a login failed, if it is one that did.
    pub fn failed_login(&self) -> Option<&'static str> {
        let is_login = matches!(
            self,
            Self::LoginExpired
                | Self::ClockSkew { .. }
                | Self::UnknownBrokerLogin
                | Self::UnknownReturn
                | Self::Store(_)
                | Self::CookiesLost { .. }
                | Self::Declined { .. }
                | Self::Login { .. }
        );
        is_login.then(|| self.reason())
    }

    /// The word for it in logs and metrics: that of the page, except where the page does not tell the
    /// visitor what the operator has to know.
    fn reason(&self) -> &'static str {
        if let Self::ClockSkew { .. } = self { "clock_skew" } else { self.notice().word() }
    }

    /// Where the button of the page leads.
    pub fn retry(&self) -> Option<&str> {
        match self {
            Self::CookiesLost { retry } | Self::Declined { retry } | Self::Login { retry, .. } => {
                Some(retry)
            }
            Self::LoginExpired | Self::Upstream(upstream::Error::SessionOver) => Some("/"),
            Self::ClockSkew { retry, .. } => *retry,
            Self::BadRequest(_)
            | Self::AmbiguousPath(_)
            | Self::UnderscoreInHeaderName
            | Self::Impersonation
            | Self::MethodOverride
            | Self::UnknownHost
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::WeChatOnly
            | Self::CrossSiteLogout
            | Self::UnknownBrokerLogin
            | Self::UnknownReturn
            | Self::Store(_)
            | Self::RevocationUnknown
            | Self::UntrustedVerifyCaller(_)
            | Self::BehindProxy(_)
            | Self::UnexpectedUpgrade
            | Self::TooMany { .. }
            | Self::Upstream(_)
            | Self::Token(_) => None,
        }
    }

    /// The key of the limit that the visitor met, for the metrics.
    pub fn limit(&self) -> Option<&'static str> {
        if matches!(self, Self::Upstream(upstream::Error::Overloaded)) {
            return Some("upstream_connections");
        }
        if matches!(self, Self::Upstream(upstream::Error::NoDescriptor(_))) {
            return Some("descriptors");
        }
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => Some("logins_per_minute"),
            StatusCode::PAYLOAD_TOO_LARGE => Some("body_size"),
            StatusCode::REQUEST_TIMEOUT => Some("body_time"),
            _ => None,
        }
    }

    /// Whether nothing more can be read from a connection that brought this: its client and we
    /// may disagree on where the request ends.
    pub fn ends_connection(&self) -> bool {
        if let Self::BehindProxy(cause) = self {
            return cause.ends_connection();
        }
        let broken_off = matches!(
            self,
            Self::Upstream(
                upstream::Error::MalformedBody
                    | upstream::Error::BodyTimeout
                    | upstream::Error::SessionOver
            )
        );
        broken_off || matches!(self, Self::BadRequest(_) | Self::MethodNotAllowed)
    }

    /// The line about it, with every cause. It is written once, by whoever answers; nobody below
    /// logs an error it returns.
    pub fn line(&self) -> AuditEvent {
        let line = if self.failed_login().is_some() {
            AuditEvent::failed(AuditKind::Login, "login failed")
        } else if self.status().is_server_error() {
            AuditEvent::failed(AuditKind::Failure, "request failed")
        } else {
            AuditEvent::failed(AuditKind::Refusal, "request refused")
        };
        let line = line.with("reason", self.reason()).with("error", error_chain::line(self));
        line.with("remedy", self.remedy().unwrap_or_default())
    }

    /// What the operator can do, where the cause tells.
    fn remedy(&self) -> Option<Cow<'static, str>> {
        if let Self::Login { source: wechat::Error::Api(refusal), .. } = self {
            return refusal.remedy().map(Cow::Borrowed);
        }
        if let Self::Store(unavailable) = self {
            return Some(Cow::Owned(unavailable.cause.remedy()));
        }
        if let Self::ClockSkew { .. } = self {
            return Some(Cow::Borrowed(SYNCHRONIZE_CLOCKS));
        }
        None
    }
}

/// The remedy for clocks that stand too far apart.
pub const SYNCHRONIZE_CLOCKS: &str =
    "synchronize the clocks of all replicas with NTP; `wxgate check --online` compares them";

fn login_status(error: &wechat::Error) -> StatusCode {
    match error {
        wechat::Error::Unreachable(_) | wechat::Error::NoResponse(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        wechat::Error::Api(ApiError::Nonsense(_)) => StatusCode::BAD_GATEWAY,
        wechat::Error::Api(refusal) => match refusal.class() {
            ErrorClass::Code | ErrorClass::Visitor => StatusCode::FORBIDDEN,
            ErrorClass::Busy => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Setup | ErrorClass::Scope | ErrorClass::Broken => StatusCode::BAD_GATEWAY,
        },
    }
}

fn login_notice(error: &wechat::Error) -> ErrorPage {
    match error {
        wechat::Error::Unreachable(_) | wechat::Error::NoResponse(_) => {
            ErrorPage::WeChatUnreachable
        }
        wechat::Error::Api(refusal) => match refusal.class() {
            ErrorClass::Code => ErrorPage::CodeFailed,
            ErrorClass::Visitor => ErrorPage::NotAllowed,
            ErrorClass::Busy => ErrorPage::WeChatBusy,
            ErrorClass::Setup | ErrorClass::Scope => ErrorPage::Misconfigured,
            ErrorClass::Broken => ErrorPage::WeChatUnreachable,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn login(source: impl Into<wechat::Error>) -> Error {
        Error::Login { retry: String::new(), source: source.into() }
    }

    fn refusal(code: i64) -> Error {
        login(ApiError::Code { code, message: String::new() })
    }

    /// The status and the words: of the page, of logs and metrics, of a failed login, of the limit, and of
    /// the failure of the site.
    #[test]
    fn serialized_words() {
        use upstream::Error::{
            BodyTimeout, ConnectionClosed, MalformedBody, Overloaded, ResponseTimeout, SessionOver,
            TooLarge,
        };
        let retry = String::new;
        let rows: Vec<(Error, &str)> = vec![
            (Error::BadRequest(""), "400 bad_request bad_request - - -"),
            (Error::UnderscoreInHeaderName, "400 bad_request bad_request - - -"),
            (Error::Impersonation, "400 bad_request bad_request - - -"),
            (Error::MethodOverride, "400 bad_request bad_request - - -"),
            (Error::UnknownHost, "421 unknown_host unknown_host - - -"),
            (Error::NotFound, "404 not_found not_found - - -"),
            (Error::MethodNotAllowed, "405 method_not_allowed method_not_allowed - - -"),
            (Error::WeChatOnly, "403 wechat_only wechat_only - - -"),
            (Error::CrossSiteLogout, "403 forbidden forbidden - - -"),
            (Error::NotFound.behind_proxy(), "403 not_found not_found - - -"),
            (Error::UntrustedVerifyCaller([127, 0, 0, 1].into()), "403 forbidden forbidden - - -"),
            (Error::LoginExpired, "400 login_expired login_expired login_expired - -"),
            (
                Error::ClockSkew { seconds: 61, retry: None },
                "400 login_expired clock_skew clock_skew - -",
            ),
            (
                Error::CookiesLost { retry: retry() },
                "400 cookies_lost cookies_lost cookies_lost - -",
            ),
            (Error::UnknownBrokerLogin, "400 login_expired login_expired login_expired - -"),
            (Error::UnknownReturn, "400 unknown_return unknown_return unknown_return - -"),
            (
                Error::Store(store::StoreUnavailable::internal("")),
                "503 store_away store_away store_away - -",
            ),
            (Error::Declined { retry: retry() }, "403 declined declined declined - -"),
            (
                login(wechat::Error::Unreachable(String::new())),
                "503 wechat_unreachable wechat_unreachable wechat_unreachable - -",
            ),
            (
                login(wechat::Error::NoResponse(String::new())),
                "503 wechat_unreachable wechat_unreachable wechat_unreachable - -",
            ),
            (
                login(ApiError::Nonsense("")),
                "502 wechat_unreachable wechat_unreachable wechat_unreachable - -",
            ),
            (refusal(40_029), "403 code_failed code_failed code_failed - -"),
            (refusal(40_125), "502 misconfigured misconfigured misconfigured - -"),
            (refusal(48_001), "502 misconfigured misconfigured misconfigured - -"),
            (refusal(-1), "403 code_failed code_failed code_failed - -"),
            (Error::RevocationUnknown, "503 unsure unsure - - -"),
            (Error::UnexpectedUpgrade, "502 site_unreachable site_unreachable - - -"),
            (Error::TooMany { what: "", wait: 1 }, "429 too_many too_many - logins_per_minute -"),
            (Error::Upstream(Overloaded), "503 overloaded overloaded - upstream_connections full"),
            (
                Error::Upstream(ResponseTimeout(std::time::Duration::ZERO)),
                "504 site_slow site_slow - - slow",
            ),
            (
                Error::Upstream(ConnectionClosed(io::Error::other(""))),
                "502 site_unreachable site_unreachable - - broken",
            ),
            (Error::Upstream(TooLarge), "413 too_large too_large - body_size -"),
            (Error::Upstream(BodyTimeout), "408 too_slow too_slow - body_time -"),
            (Error::Upstream(MalformedBody), "400 bad_request bad_request - - -"),
            (Error::Upstream(SessionOver), "401 login_expired login_expired - - -"),
            (Error::Token(CryptoError), "500 internal internal - - -"),
        ];
        let dash = |word: Option<&'static str>| word.unwrap_or("-");
        for (error, recorded) in rows {
            let upstream = if let Error::Upstream(error) = &error { error.reason() } else { None };
            let (status, page, log) = (error.status(), error.notice().word(), error.reason());
            let [login, limit, upstream] =
                [error.failed_login(), error.limit(), upstream].map(dash);
            let now = format!("{} {page} {log} {login} {limit} {upstream}", status.as_u16());
            assert_eq!(now, recorded, "{error:?}");
        }
    }
}
