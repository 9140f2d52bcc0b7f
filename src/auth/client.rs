//! What kind of program is asking, by the headers it sends. Pure.
//!
//! A user agent proves nothing: it decides which page a stranger is shown, never who they are.

use http::{HeaderMap, HeaderName, Method, header};

/// The program a stranger uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Which app's browser it is.
    pub app: App,
    /// Whether it loads a page, so that it can follow us to the login and show what we say.
    pub navigates: bool,
}

/// Whose built-in browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// WeChat's, on any device, mini-program web-views and developer tools included.
    WeChat,
    /// 企业微信: it names `MicroMessenger` too, but knows no official accounts.
    WeCom,
    /// Any other.
    Other,
}

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

impl Client {
    /// Reads a request's method and headers.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let app =
            headers.get(header::USER_AGENT).map_or(App::Other, |agent| App::of(agent.as_bytes()));
        Self { app, navigates: navigates(method, headers) }
    }
}

impl App {
    /// `wxwork` before `MicroMessenger`: 企业微信 sends both.
    pub fn of(user_agent: &[u8]) -> Self {
        let agent = user_agent.to_ascii_lowercase();
        let names = |word: &str| memchr::memmem::find(&agent, word.as_bytes()).is_some();
        if names("wxwork/") {
            Self::WeCom
        } else if names("micromessenger") {
            Self::WeChat
        } else {
            Self::Other
        }
    }
}

/// Only a page load can be redirected to a login: a script, a picture or a frame would get
/// WeChat's page where it expects something else. Browsers that send `Sec-Fetch-*` say so
/// themselves; for the others `Accept` has to do.
fn navigates(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName, word: &str| match headers.get(name) {
        None => true,
        Some(value) => value.as_bytes() == word.as_bytes(),
    };
    let accepts_html = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| memchr::memmem::find(value.as_bytes(), b"text/html").is_some());
    (method == Method::GET || method == Method::HEAD)
        && accepts_html
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
        && !headers.contains_key(header::UPGRADE)
        && headers.get(X_REQUESTED_WITH).is_none_or(|by| by.as_bytes() != b"XMLHttpRequest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_agents() {
        let cases = [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN",
                App::WeChat,
            ),
            (
                "Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN miniProgram/wx7696c66d2245d107",
                App::WeChat,
            ),
            (
                "Chrome/132.0.0.0 Safari/537.36 NetType/WIFI MicroMessenger/7.0.20.1781(0x6700143B) WindowsWechat(0x63090a13) UnifiedPCWindowsWechat(0xf254162e) XWEB/18163 Flue",
                App::WeChat,
            ),
            (
                "Mobile/14E304 Safari/602.1 wechatdevtools/1.06.2209190 MicroMessenger/8.0.5 Language/zh_CN webview/",
                App::WeChat,
            ),
            ("micromessenger/8", App::WeChat),
            (
                "Mobile/15E148 wxwork/4.1.30 MicroMessenger/7.0.1 Language/zh ColorScheme/Light wwmver/3.26.13.714",
                App::WeCom,
            ),
            (
                "(linux; Android 13; Phone; OpenHarmony 6.1) Mobile MicroMessenger/7.0.1 wxwork/5.0.8",
                App::WeCom,
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/132.0.0.0 Safari/537.36",
                App::Other,
            ),
            ("", App::Other),
            ("\u{fffd}", App::Other),
        ];
        for (agent, expected) in cases {
            assert_eq!(App::of(agent.as_bytes()), expected, "{agent:?}");
        }
    }

    #[test]
    fn only_page_loads_navigate() {
        const PAGE: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        type Row = (Method, &'static [(&'static str, &'static str)], bool);
        let cases: [Row; 13] = [
            (Method::GET, &[PAGE], true),
            (Method::HEAD, &[PAGE], true),
            (Method::POST, &[PAGE], false),
            (Method::GET, &[], false),
            (Method::GET, &[("accept", "*/*")], false),
            (Method::GET, &[("accept", "application/json")], false),
            (
                Method::GET,
                &[PAGE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
                true,
            ),
            (Method::GET, &[PAGE, ("sec-fetch-mode", "cors")], false),
            (
                Method::GET,
                &[PAGE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
                false,
            ),
            (Method::GET, &[PAGE, ("sec-fetch-dest", "image")], false),
            (Method::GET, &[PAGE, ("x-requested-with", "XMLHttpRequest")], false),
            (Method::GET, &[PAGE, ("x-requested-with", "com.tencent.mm")], true),
            (Method::GET, &[PAGE, ("upgrade", "websocket")], false),
        ];
        for (method, sent, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(navigates(&method, &headers), expected, "{method} {sent:?}");
        }
    }
}
