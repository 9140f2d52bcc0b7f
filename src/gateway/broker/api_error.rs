//! Why a client's server gets nothing, in words for it and for the log. Pure, but for the log.

use std::fmt;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::{
    error_chain,
    gateway::{Body, Error, login::is_code_spent, reply},
    logs::{AuditEvent, AuditKind},
    wechat,
};

/// Why a server gets nothing.
pub enum BrokerApiError {
    /// The secret is no client's, or there is none.
    WrongSecret,
    /// Something is missing or makes no sense.
    Invalid(&'static str),
    /// The ticket was redeemed before, has expired, or is not this client's.
    TicketGone,
    /// The visitor has not granted their profile.
    NoProfile,
    /// WeChat does not take the code.
    CodeSpent(wechat::Error),
    /// The same as would stop a browser.
    Other(Error),
}

impl From<Error> for BrokerApiError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<wechat::Error> for BrokerApiError {
    fn from(source: wechat::Error) -> Self {
        if is_code_spent(&source) {
            Self::CodeSpent(source)
        } else {
            Self::Other(Error::Login { retry: String::new(), source })
        }
    }
}

impl BrokerApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::WrongSecret => StatusCode::UNAUTHORIZED,
            Self::Invalid(_) | Self::TicketGone | Self::CodeSpent(_) => StatusCode::BAD_REQUEST,
            Self::NoProfile => StatusCode::FORBIDDEN,
            Self::Other(error) => error.status(),
        }
    }

    /// Programs and dashboards count on it: it never changes.
    pub fn word(&self) -> &'static str {
        match self {
            Self::WrongSecret => "invalid_client",
            Self::Invalid(_) => "invalid_request",
            Self::TicketGone => "invalid_ticket",
            Self::NoProfile => "consent_needed",
            Self::CodeSpent(_) => "code_failed",
            Self::Other(error) => error.notice().word(),
        }
    }

    /// Whether the caller has done too much of something.
    pub fn meets_limit(&self) -> bool {
        self.status() == StatusCode::TOO_MANY_REQUESTS
    }

    /// What WeChat said, if it is WeChat's doing.
    fn wechat(&self) -> Option<&wechat::Error> {
        match self {
            Self::CodeSpent(error) | Self::Other(Error::Login { source: error, .. }) => Some(error),
            Self::WrongSecret
            | Self::Invalid(_)
            | Self::TicketGone
            | Self::NoProfile
            | Self::Other(_) => None,
        }
    }

    /// The line about it, with every cause.
    pub fn line(&self) -> AuditEvent {
        let line = if self.status().is_server_error() {
            AuditEvent::failed(AuditKind::Failure, "a client's server was not served")
        } else {
            AuditEvent::failed(AuditKind::Refusal, "a client's server was refused")
        };
        let error = match self {
            Self::Other(error) => error_chain::line(error),
            Self::CodeSpent(error) => format!("{self}: {error}"),
            Self::WrongSecret | Self::Invalid(_) | Self::TicketGone | Self::NoProfile => {
                self.to_string()
            }
        };
        let remedy = match (self, self.wechat()) {
            (Self::Other(Error::Store(unavailable)), _) => Some(unavailable.cause.remedy()),
            (_, Some(wechat::Error::Api(refusal))) => refusal.remedy().map(str::to_owned),
            (_, Some(wechat::Error::Unreachable(_) | wechat::Error::NoResponse(_)) | None) => None,
        };
        line.with("reason", self.word())
            .with("error", error)
            .with("remedy", remedy.unwrap_or_default())
    }

    /// The answer. It holds no secret, and of what WeChat said nothing but the number, by which old
    /// programs tell what to do.
    pub fn answer(&self, request_id: &str) -> Response<Body> {
        let (word, message) = (self.word(), self.to_string());
        let mut fields = json!({ "error": word, "message": message, "trace": request_id });
        if let Some(wechat::Error::Api(refusal)) = self.wechat()
            && let (Some(code), Some(fields)) = (refusal.code(), fields.as_object_mut())
        {
            fields.insert("errcode".to_owned(), code.into());
        }
        let mut response = reply::json(self.status(), &fields);
        let status = self.status();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::Other(Error::TooMany { wait, .. }) = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*wait));
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl fmt::Display for BrokerApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongSecret => f.write_str("no client of the broker has this secret"),
            Self::Invalid(what) => f.write_str(what),
            Self::TicketGone => {
                f.write_str("the ticket was redeemed before, has expired, or is another client's")
            }
            Self::NoProfile => f.write_str("the visitor has not granted their profile"),
            Self::CodeSpent(_) => {
                f.write_str("WeChat does not take the code: it was used, or has expired")
            }
            Self::Other(Error::Login { .. }) => {
                f.write_str("WeChat did not say who the visitor is")
            }
            Self::Other(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::protocol::ApiError;

    #[test]
    fn serialized_words_of_the_brokers_api() {
        let used = ApiError::Code { code: 40_163, message: String::new() };
        let rows = [
            (BrokerApiError::WrongSecret, 401, "invalid_client"),
            (BrokerApiError::Invalid("`code` is missing"), 400, "invalid_request"),
            (BrokerApiError::TicketGone, 400, "invalid_ticket"),
            (BrokerApiError::NoProfile, 403, "consent_needed"),
            (BrokerApiError::CodeSpent(used.into()), 400, "code_failed"),
            (BrokerApiError::Other(Error::RevocationUnknown), 503, "unsure"),
        ];
        for (error, status, word) in rows {
            assert_eq!((error.status().as_u16(), error.word()), (status, word));
        }
    }
}
