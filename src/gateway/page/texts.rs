//! What the pages say, in both languages. Pure.

use serde::{Deserialize, Serialize};

use super::{Fault, Lang, Notice};

const ZH: &str = include_str!("texts/zh.toml");
const EN: &str = include_str!("texts/en.toml");

/// Both languages.
#[derive(Debug)]
pub(super) struct Texts {
    zh: Language,
    en: Language,
}

/// All texts in one language. A text that is missing is an error when the file is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Language {
    /// Below every notice.
    pub foot: Foot,
    /// The page with the QR code.
    pub open_in_wechat: OpenInWeChat,
    /// Before WeChat asks for consent.
    pub prompt: Text,
    /// On the way to the login.
    pub remember: Text,
    /// In the preview.
    pub snapshot: Text,
    /// Before logging out.
    pub logout: Text,
    /// After logging out.
    pub goodbye: Text,
    notice: Notices,
}

/// The words of one page.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
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
pub(super) struct Foot {
    trace: String,
    hint: String,
}

/// The words around the QR code.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenInWeChat {
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
struct Notices {
    login_expired: Text,
    cookies_lost: Text,
    declined: Text,
    consent_needed: Text,
    code_failed: Text,
    wechat_busy: Text,
    wechat_unreachable: Text,
    misconfigured: Text,
    not_allowed: Text,
    wechat_only: Text,
    site_unreachable: Text,
    site_slow: Text,
    unknown_host: Text,
    unknown_return: Text,
    bad_request: Text,
    not_found: Text,
    forbidden: Text,
    method_not_allowed: Text,
    too_large: Text,
    too_slow: Text,
    too_many: Text,
    headers_too_large: Text,
    overloaded: Text,
    store_away: Text,
    unsure: Text,
    internal: Text,
}

impl Texts {
    /// Reads the two files that are part of the program.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self { zh: read("zh.toml", ZH)?, en: read("en.toml", EN)? })
    }

    /// The texts in one language.
    pub fn of(&self, lang: Lang) -> &Language {
        match lang {
            Lang::Zh => &self.zh,
            Lang::En => &self.en,
        }
    }
}

impl Language {
    /// The words of a notice.
    pub fn notice(&self, notice: Notice) -> &Text {
        let all = &self.notice;
        match notice {
            Notice::LoginExpired => &all.login_expired,
            Notice::CookiesLost => &all.cookies_lost,
            Notice::Declined => &all.declined,
            Notice::ConsentNeeded => &all.consent_needed,
            Notice::CodeFailed => &all.code_failed,
            Notice::WeChatBusy => &all.wechat_busy,
            Notice::WeChatUnreachable => &all.wechat_unreachable,
            Notice::Misconfigured => &all.misconfigured,
            Notice::NotAllowed => &all.not_allowed,
            Notice::WeChatOnly => &all.wechat_only,
            Notice::SiteUnreachable => &all.site_unreachable,
            Notice::SiteSlow => &all.site_slow,
            Notice::UnknownHost => &all.unknown_host,
            Notice::UnknownReturn => &all.unknown_return,
            Notice::BadRequest => &all.bad_request,
            Notice::NotFound => &all.not_found,
            Notice::Forbidden => &all.forbidden,
            Notice::MethodNotAllowed => &all.method_not_allowed,
            Notice::TooLarge => &all.too_large,
            Notice::TooSlow => &all.too_slow,
            Notice::TooMany => &all.too_many,
            Notice::HeadersTooLarge => &all.headers_too_large,
            Notice::Overloaded => &all.overloaded,
            Notice::StoreAway => &all.store_away,
            Notice::Unsure => &all.unsure,
            Notice::Internal => &all.internal,
        }
    }
}

fn read(name: &str, source: &str) -> Result<Language, Fault> {
    toml::from_str(source).map_err(|error| Fault {
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
            for notice in Notice::ALL {
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
