//! Every trouble a visitor can meet, by name. Pure.

/// What went wrong, in the visitor's terms. The status code is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorPage {
    /// The login took longer than it may, or its link was used before.
    LoginExpired,
    /// The browser came back from WeChat without the cookie it left with.
    CookiesLost,
    /// The visitor pressed "cancel" on WeChat's consent sheet.
    Declined,
    /// WeChat granted less than the page asks for.
    ConsentNeeded,
    /// WeChat refused the code, and starting over did not help.
    CodeFailed,
    /// WeChat answered "busy", or a quota is used up.
    WeChatBusy,
    /// WeChat did not answer.
    WeChatUnreachable,
    /// WeChat does not accept our credentials; only the operator can help.
    Misconfigured,
    /// WeChat refuses this very visitor.
    NotAllowed,
    /// A browser outside WeChat, on a site that does not want any.
    WeChatOnly,
    /// The site behind us cannot be reached.
    SiteUnreachable,
    /// The site behind us did not answer in time.
    SiteSlow,
    /// The host belongs to none of the sites.
    UnknownHost,
    /// The site that wants the visitor logged in is not registered with the broker.
    UnknownReturn,
    /// The request could be read in two ways, or in none.
    BadRequest,
    /// One of our own paths that does not exist.
    NotFound,
    /// The visitor may not do this.
    Forbidden,
    /// The path exists, for another method.
    MethodNotAllowed,
    /// The body is larger than the site allows.
    TooLarge,
    /// What the visitor sends comes too slowly.
    TooSlow,
    /// This visitor, or somebody at the same address, tried too often.
    TooMany,
    /// The headers are larger than we read.
    HeadersTooLarge,
    /// More visitors than we can serve.
    Overloaded,
    /// The store is away, without which this login cannot begin or end.
    StoreAway,
    /// Nobody can say right now whether the visitor's session was ended elsewhere.
    Unsure,
    /// A mistake of ours.
    Internal,
}

impl ErrorPage {
    /// All of them, for metrics, documents and tests.
    pub const ALL: [Self; 26] = [
        Self::LoginExpired,
        Self::CookiesLost,
        Self::Declined,
        Self::ConsentNeeded,
        Self::CodeFailed,
        Self::WeChatBusy,
        Self::WeChatUnreachable,
        Self::Misconfigured,
        Self::NotAllowed,
        Self::WeChatOnly,
        Self::SiteUnreachable,
        Self::SiteSlow,
        Self::UnknownHost,
        Self::UnknownReturn,
        Self::BadRequest,
        Self::NotFound,
        Self::Forbidden,
        Self::MethodNotAllowed,
        Self::TooLarge,
        Self::TooSlow,
        Self::TooMany,
        Self::HeadersTooLarge,
        Self::Overloaded,
        Self::StoreAway,
        Self::Unsure,
        Self::Internal,
    ];

    /// The name in logs, metrics and templates. Dashboards count on it: it never changes.
    pub fn word(self) -> &'static str {
        match self {
            Self::LoginExpired => "login_expired",
            Self::CookiesLost => "cookies_lost",
            Self::Declined => "declined",
            Self::ConsentNeeded => "consent_needed",
            Self::CodeFailed => "code_failed",
            Self::WeChatBusy => "wechat_busy",
            Self::WeChatUnreachable => "wechat_unreachable",
            Self::Misconfigured => "misconfigured",
            Self::NotAllowed => "not_allowed",
            Self::WeChatOnly => "wechat_only",
            Self::SiteUnreachable => "site_unreachable",
            Self::SiteSlow => "site_slow",
            Self::UnknownHost => "unknown_host",
            Self::UnknownReturn => "unknown_return",
            Self::BadRequest => "bad_request",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::TooMany => "too_many",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Overloaded => "overloaded",
            Self::StoreAway => "store_away",
            Self::Unsure => "unsure",
            Self::Internal => "internal",
        }
    }

    /// The drawing above the title: what kind of trouble it is, at a glance.
    pub(super) fn icon(self) -> Icon {
        match self {
            Self::LoginExpired
            | Self::WeChatBusy
            | Self::SiteSlow
            | Self::TooSlow
            | Self::TooMany
            | Self::Overloaded
            | Self::StoreAway
            | Self::Unsure => Icon::Clock,
            Self::Declined | Self::ConsentNeeded => Icon::Person,
            Self::NotAllowed | Self::Forbidden | Self::MethodNotAllowed => Icon::Stop,
            Self::WeChatOnly => Icon::Phone,
            Self::UnknownHost | Self::UnknownReturn | Self::NotFound => Icon::Question,
            Self::CookiesLost
            | Self::CodeFailed
            | Self::WeChatUnreachable
            | Self::Misconfigured
            | Self::SiteUnreachable
            | Self::BadRequest
            | Self::TooLarge
            | Self::HeadersTooLarge
            | Self::Internal => Icon::Alert,
        }
    }
}

/// The drawings of `icon.html`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icon {
    /// Something needs attention.
    Alert,
    /// Look to the corner.
    Arrow,
    /// Done.
    Check,
    /// Wait, or too late.
    Clock,
    /// The way out.
    Door,
    /// The visitor.
    Person,
    /// In WeChat, please.
    Phone,
    /// Nobody knows this address.
    Question,
    /// Not for you.
    Stop,
}

impl Icon {
    /// Its name in `icon.html` and `style.css`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Arrow => "arrow",
            Self::Check => "check",
            Self::Clock => "clock",
            Self::Door => "door",
            Self::Person => "person",
            Self::Phone => "phone",
            Self::Question => "question",
            Self::Stop => "stop",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_distinct_and_plain() {
        let words: HashSet<_> = ErrorPage::ALL.iter().map(|notice| notice.word()).collect();
        assert_eq!(words.len(), 26, "two notices share a word");
        for word in words {
            assert!(word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{word}");
        }
    }
}
