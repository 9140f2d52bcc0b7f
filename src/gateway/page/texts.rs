//! What the pages say, in both languages. Pure.

use serde::{Deserialize, Serialize};

use super::{ErrorPage, Lang, TemplateError};

const ZH: &str = include_str!("texts/zh.toml");
const EN: &str = include_str!("texts/en.toml");

/// Both languages.
#[derive(Debug)]
pub(super) struct Translations {
    zh: Translation,
    en: Translation,
}

/// All texts in one language. A text that is missing is an error when the file is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Translation {
    /// Below every notice.
    pub foot: FooterText,
    /// The page with the QR code.
    pub open_in_wechat: QrPageText,
    /// Before WeChat asks for consent.
    pub prompt: PageText,
    /// On the way to the login.
    pub remember: PageText,
    /// In the preview.
    pub snapshot: PageText,
    /// Before logging out.
    pub logout: PageText,
    /// After logging out.
    pub goodbye: PageText,
    notice: ErrorTexts,
}

/// The words of one page.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageText {
    title: String,
    /// What happened.
    what: String,
    /// What to do about it.
    todo: String,
    button: String,
}

/// The words around the trace id.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FooterText {
    trace: String,
    hint: String,
}

/// The words around the QR code.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QrPageText {
    title: String,
    what: String,
    /// Read out by a screen reader in place of the code.
    picture: String,
    scan: String,
    shortened: String,
    too_long: String,
    copy: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorTexts {
    login_expired: PageText,
    cookies_lost: PageText,
    declined: PageText,
    consent_needed: PageText,
    code_failed: PageText,
    wechat_busy: PageText,
    wechat_unreachable: PageText,
    misconfigured: PageText,
    not_allowed: PageText,
    wechat_only: PageText,
    site_unreachable: PageText,
    site_slow: PageText,
    unknown_host: PageText,
    unknown_return: PageText,
    bad_request: PageText,
    not_found: PageText,
    forbidden: PageText,
    method_not_allowed: PageText,
    too_large: PageText,
    too_slow: PageText,
    too_many: PageText,
    headers_too_large: PageText,
    overloaded: PageText,
    store_away: PageText,
    unsure: PageText,
    internal: PageText,
}

impl Translations {
    /// Reads the two files that are part of the program.
    pub fn new() -> Result<Self, TemplateError> {
        Ok(Self { zh: read("zh.toml", ZH)?, en: read("en.toml", EN)? })
    }

    /// The texts in one language.
    pub fn of(&self, lang: Lang) -> &Translation {
        match lang {
            Lang::Zh => &self.zh,
            Lang::En => &self.en,
        }
    }
}

impl Translation {
    /// The words of a notice.
    pub fn notice(&self, notice: ErrorPage) -> &PageText {
        let all = &self.notice;
        match notice {
            ErrorPage::LoginExpired => &all.login_expired,
            ErrorPage::CookiesLost => &all.cookies_lost,
            ErrorPage::Declined => &all.declined,
            ErrorPage::ConsentNeeded => &all.consent_needed,
            ErrorPage::CodeFailed => &all.code_failed,
            ErrorPage::WeChatBusy => &all.wechat_busy,
            ErrorPage::WeChatUnreachable => &all.wechat_unreachable,
            ErrorPage::Misconfigured => &all.misconfigured,
            ErrorPage::NotAllowed => &all.not_allowed,
            ErrorPage::WeChatOnly => &all.wechat_only,
            ErrorPage::SiteUnreachable => &all.site_unreachable,
            ErrorPage::SiteSlow => &all.site_slow,
            ErrorPage::UnknownHost => &all.unknown_host,
            ErrorPage::UnknownReturn => &all.unknown_return,
            ErrorPage::BadRequest => &all.bad_request,
            ErrorPage::NotFound => &all.not_found,
            ErrorPage::Forbidden => &all.forbidden,
            ErrorPage::MethodNotAllowed => &all.method_not_allowed,
            ErrorPage::TooLarge => &all.too_large,
            ErrorPage::TooSlow => &all.too_slow,
            ErrorPage::TooMany => &all.too_many,
            ErrorPage::HeadersTooLarge => &all.headers_too_large,
            ErrorPage::Overloaded => &all.overloaded,
            ErrorPage::StoreAway => &all.store_away,
            ErrorPage::Unsure => &all.unsure,
            ErrorPage::Internal => &all.internal,
        }
    }
}

fn read(name: &str, source: &str) -> Result<Translation, TemplateError> {
    toml::from_str(source).map_err(|error| TemplateError {
        template: name.to_owned(),
        line: None,
        reason: error.message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn both_languages_say_everything() {
        let (zh, en) = (flat(ZH), flat(EN));
        assert!(zh.len() > 90, "found only {} texts", zh.len());
        assert!(zh.keys().eq(en.keys()), "the languages differ in their keys");
        for (key, text) in &zh {
            assert!(text.chars().any(is_han), "{key} is not in Chinese: {text}");
            assert!(!text.contains(['"', '<', ',', '?', '!']), "{key} has a foreign mark: {text}");
        }
        for (key, text) in &en {
            let is_wechats_own_label = key == "snapshot.button";
            assert!(is_wechats_own_label || !text.is_empty(), "{key} is empty");
            assert!(is_wechats_own_label || !text.chars().any(is_han), "{key}: {text}");
        }
    }

    #[test]
    fn each_notice_finds_its_own_words() {
        for source in [ZH, EN] {
            let (language, flat) = (read("", source).unwrap(), flat(source));
            for notice in ErrorPage::ALL {
                let title = flat.get(&format!("notice.{}.title", notice.word()));
                assert_eq!(Some(&language.notice(notice).title), title, "{notice:?}");
            }
        }
    }

    fn is_han(c: char) -> bool {
        ('\u{4e00}'..='\u{9fff}').contains(&c)
    }

    /// `notice.declined.title` → the text.
    fn flat(source: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![(String::new(), source.parse::<toml::Table>().unwrap())];
        while let Some((section, table)) = open.pop() {
            for (name, value) in table {
                let key = format!("{section}{name}");
                if let Some(text) = value.as_str() {
                    found.insert(key, text.to_owned());
                } else {
                    open.push((format!("{key}."), value.as_table().unwrap().clone()));
                }
            }
        }
        found
    }
}
