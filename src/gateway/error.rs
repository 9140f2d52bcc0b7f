//! Everything that can stop a request, whose doing it is, and what we call it.

use std::net::IpAddr;

use http::StatusCode;

use super::page::Notice;
use crate::{
    auth::token::Unusable,
    causes,
    logs::{Kind, Line},
    store, upstream,
    wechat::{
        self,
        protocol::{Fault, Refusal},
    },
    wire::PathError,
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
    Underscore,
    /// A header that says who a visitor is, from a visitor.
    #[error("a header that only the gateway may set")]
    Impersonation,
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
    #[error("a logout that does not come from the site")]
    ForeignLogout,
    /// A proxy asks about a request that we would not take ourselves.
    #[error("the request that a proxy asked about")]
    BehindProxy(#[source] Box<Self>),
    /// The word of whoever asked about another's request is not taken.
    #[error("verify was asked by {0}, which is not in trusted_proxies")]
    ForeignVerify(IpAddr),
    /// The state is not ours, or ten minutes old.
    #[error("no login under way that this callback could belong to")]
    LoginExpired,
    /// The state is good, but this browser does not remember it.
    #[error("a callback without its flow cookie")]
    CookiesLost {
        /// Where to try again.
        retry: String,
    },
    /// The broker knows no login that this callback could belong to, nor where it should lead.
    #[error("no login of the broker's under way that this callback could belong to")]
    Astray,
    /// The broker sends nobody to an address that no client has registered.
    #[error("the address to come back to is no client's")]
    UnknownReturn,
    /// What a login of the broker's needs cannot be kept or read.
    #[error("a login of the broker's needs the store")]
    Store(#[from] store::Away),
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
    #[error("the store has been away for longer than the site allows")]
    Unsure,
    /// The site switched to a protocol that nobody asked for.
    #[error("the site answered 101 to a request that asked for no upgrade")]
    UnaskedSwitch,
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
    #[error("a token could not be made")]
    Token(#[from] Unusable),
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
            | Self::Underscore
            | Self::Impersonation
            | Self::Upstream(upstream::Error::Garbled)
            | Self::LoginExpired
            | Self::Astray
            | Self::UnknownReturn
            | Self::CookiesLost { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::WeChatOnly
            | Self::ForeignLogout
            | Self::BehindProxy(_)
            | Self::ForeignVerify(_)
            | Self::Declined { .. } => StatusCode::FORBIDDEN,
            Self::Login { source, .. } => login_status(source),
            Self::Upstream(upstream::Error::Slow(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(upstream::Error::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Upstream(upstream::Error::Stalled) => StatusCode::REQUEST_TIMEOUT,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UnaskedSwitch
            | Self::Upstream(upstream::Error::Unreachable(_) | upstream::Error::Broken(_)) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Unsure | Self::Store(_) | Self::Upstream(upstream::Error::Full) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Token(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the visitor is told.
    pub fn notice(&self) -> Notice {
        match self {
            Self::BadRequest(_)
            | Self::AmbiguousPath(_)
            | Self::Underscore
            | Self::Impersonation
            | Self::Upstream(upstream::Error::Garbled) => Notice::BadRequest,
            Self::UnknownHost => Notice::UnknownHost,
            Self::NotFound => Notice::NotFound,
            Self::MethodNotAllowed => Notice::MethodNotAllowed,
            Self::WeChatOnly => Notice::WeChatOnly,
            Self::ForeignLogout | Self::ForeignVerify(_) => Notice::Forbidden,
            Self::BehindProxy(cause) => cause.notice(),
            Self::LoginExpired | Self::Astray => Notice::LoginExpired,
            Self::UnknownReturn => Notice::UnknownReturn,
            Self::Store(_) => Notice::StoreAway,
            Self::CookiesLost { .. } => Notice::CookiesLost,
            Self::Declined { .. } => Notice::Declined,
            Self::Login { source, .. } => login_notice(source),
            Self::Upstream(upstream::Error::Slow(_)) => Notice::SiteSlow,
            Self::Upstream(upstream::Error::TooLarge) => Notice::TooLarge,
            Self::Upstream(upstream::Error::Stalled) => Notice::TooSlow,
            Self::TooMany { .. } => Notice::TooMany,
            Self::UnaskedSwitch
            | Self::Upstream(upstream::Error::Unreachable(_) | upstream::Error::Broken(_)) => {
                Notice::SiteUnreachable
            }
            Self::Upstream(upstream::Error::Full) => Notice::Overloaded,
            Self::Unsure => Notice::Unsure,
            Self::Token(_) => Notice::Internal,
        }
    }

    /// Why a login failed, if it is one that did.
    pub fn failed_login(&self) -> Option<&'static str> {
        let is_login = matches!(
            self,
            Self::LoginExpired
                | Self::Astray
                | Self::UnknownReturn
                | Self::Store(_)
                | Self::CookiesLost { .. }
                | Self::Declined { .. }
                | Self::Login { .. }
        );
        is_login.then(|| self.notice().word())
    }

    /// Where the button of the page leads.
    pub fn retry(&self) -> Option<&str> {
        match self {
            Self::CookiesLost { retry } | Self::Declined { retry } | Self::Login { retry, .. } => {
                Some(retry)
            }
            Self::LoginExpired => Some("/"),
            Self::BadRequest(_)
            | Self::AmbiguousPath(_)
            | Self::Underscore
            | Self::Impersonation
            | Self::UnknownHost
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::WeChatOnly
            | Self::ForeignLogout
            | Self::Astray
            | Self::UnknownReturn
            | Self::Store(_)
            | Self::Unsure
            | Self::ForeignVerify(_)
            | Self::BehindProxy(_)
            | Self::UnaskedSwitch
            | Self::TooMany { .. }
            | Self::Upstream(_)
            | Self::Token(_) => None,
        }
    }

    /// The key of the limit that the visitor met, for the metrics.
    pub fn limit(&self) -> Option<&'static str> {
        if matches!(self, Self::Upstream(upstream::Error::Full)) {
            return Some("upstream_connections");
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
        let broken_off =
            matches!(self, Self::Upstream(upstream::Error::Garbled | upstream::Error::Stalled));
        broken_off || matches!(self, Self::BadRequest(_) | Self::MethodNotAllowed)
    }

    /// The line about it, with every cause. It is written once, by whoever answers; nobody below
    /// logs an error it returns.
    pub fn line(&self) -> Line {
        let line = if self.failed_login().is_some() {
            Line::bad(Kind::Login, "login failed")
        } else if self.status().is_server_error() {
            Line::bad(Kind::Failure, "request failed")
        } else {
            Line::bad(Kind::Refusal, "request refused")
        };
        let line = line.with("reason", self.notice().word()).with("error", causes::line(self));
        line.with("remedy", self.remedy().unwrap_or_default())
    }

    /// What the operator can do, where the cause tells.
    fn remedy(&self) -> Option<&'static str> {
        if let Self::Login { source: wechat::Error::Refused(refusal), .. } = self {
            return refusal.remedy();
        }
        None
    }
}

fn login_status(error: &wechat::Error) -> StatusCode {
    match error {
        wechat::Error::Unreachable(_) | wechat::Error::Silent(_) => StatusCode::SERVICE_UNAVAILABLE,
        wechat::Error::Refused(Refusal::Nonsense(_)) => StatusCode::BAD_GATEWAY,
        wechat::Error::Refused(refusal) => match refusal.fault() {
            Fault::Code | Fault::Visitor => StatusCode::FORBIDDEN,
            Fault::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Setup | Fault::Scope | Fault::Broken => StatusCode::BAD_GATEWAY,
        },
    }
}

fn login_notice(error: &wechat::Error) -> Notice {
    match error {
        wechat::Error::Unreachable(_) | wechat::Error::Silent(_) => Notice::WeChatUnreachable,
        wechat::Error::Refused(refusal) => match refusal.fault() {
            Fault::Code => Notice::CodeFailed,
            Fault::Visitor => Notice::NotAllowed,
            Fault::Busy => Notice::WeChatBusy,
            Fault::Setup | Fault::Scope => Notice::Misconfigured,
            Fault::Broken => Notice::WeChatUnreachable,
        },
    }
}
