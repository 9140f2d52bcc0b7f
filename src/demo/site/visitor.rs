//! Who is there, as far as the request headers tell. Pure.

use http::HeaderMap;
use minijinja::{Value, context};
use percent_encoding::percent_decode_str;

/// Who first, then the rest by name.
const FIRST: [&str; 5] = [
    "x-wechat-openid",
    "x-wechat-unionid",
    "x-wechat-nickname",
    "x-wechat-avatar",
    "x-wechat-scope",
];

/// What the headers say about the visitor; nobody in particular when they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visitor {
    pub openid: Option<String>,
    pub unionid: Option<String>,
    pub nickname: Option<String>,
    pub avatar: Option<String>,
    pub scope: Option<String>,
    pub is_snapshot: bool,
}

impl Visitor {
    /// Believes every word: the gateway in front lets nobody else write these headers.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            Some(headers.get(name)?.to_str().ok()?.to_owned()).filter(|text| !text.is_empty())
        };
        let is_link = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        Self {
            openid: text("x-wechat-openid"),
            unionid: text("x-wechat-unionid"),
            nickname: text("x-wechat-nickname").map(|name| decode(&name)),
            avatar: text("x-wechat-avatar").filter(is_link),
            scope: text("x-wechat-scope"),
            is_snapshot: text("x-wechat-snapshot").is_some(),
        }
    }

    /// What pages show.
    pub fn card(&self) -> Value {
        let nickname = self.nickname.as_deref();
        let initial = nickname.and_then(|name| name.chars().find(|letter| !letter.is_control()));
        let openid = self.openid.as_deref().unwrap_or_default();
        let tail: Vec<char> = openid.chars().rev().take(8).collect();
        context! {
            openid => self.openid.as_deref(),
            nickname,
            avatar => self.avatar.as_deref(),
            initial => initial.map(String::from),
            number => tail.into_iter().rev().collect::<String>().to_uppercase(),
            is_snapshot => self.is_snapshot,
        }
    }
}

/// Every header that somebody in front of the site has written, and what it means.
pub fn told(headers: &HeaderMap) -> Vec<Value> {
    let ours = |name: &str| {
        name.starts_with("x-wechat-")
            || name.starts_with("x-forwarded-")
            || matches!(name, "x-real-ip" | "x-request-id")
    };
    let mut rows: Vec<_> = headers.iter().filter(|(name, _)| ours(name.as_str())).collect();
    rows.sort_by_key(|(name, _)| {
        let name = name.as_str();
        let place = FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
        (!name.starts_with("x-wechat-"), place, name)
    });
    let row = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let meaning = (name == "x-wechat-nickname").then(|| decode(&value));
        context! { name => spelt(name.as_str()), value, meaning }
    };
    rows.into_iter().map(row).collect()
}

fn decode(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// `x-wechat-openid` as the manual writes it; hyper lower-cases what it reads.
fn spelt(name: &str) -> String {
    let word = |word: &str| match word {
        "wechat" => "WeChat".to_owned(),
        "openid" => "OpenId".to_owned(),
        "unionid" => "UnionId".to_owned(),
        "appid" => "AppId".to_owned(),
        "ip" => "IP".to_owned(),
        _ => {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect()
        }
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, its value, and the nickname it makes.
    type Row<'a> = (&'a str, &'a [u8], &'a str);

    #[test]
    fn guests() {
        let rows: [Row<'_>; 6] = [
            ("x-wechat-nickname", b"%E6%9D%8E%E9%9B%B7", "李雷"),
            ("x-wechat-nickname", b"%FF%14x", "\u{fffd}\u{14}x"),
            ("x-wechat-nickname", b"\xff", ""),
            ("x-wechat-nickname", b"", ""),
            ("x-wechat-avatar", b"https://x/1", ""),
            ("x-nickname", b"Li", ""),
        ];
        for (name, value, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_bytes(value).unwrap());
            let guest = Visitor::read(&headers);
            assert_eq!(guest.nickname.unwrap_or_default(), expected, "{name} {value:?}");
            assert_eq!(guest.avatar.is_some(), name == "x-wechat-avatar");
        }
    }

    #[test]
    fn names() {
        let rows = [
            ("x-wechat-openid", "X-WeChat-OpenId"),
            ("x-wechat-auth-time", "X-WeChat-Auth-Time"),
            ("x-real-ip", "X-Real-IP"),
            ("x-forwarded-for", "X-Forwarded-For"),
        ];
        for (name, expected) in rows {
            assert_eq!(spelt(name), expected);
        }
    }
}
