//! What kind of program is asking, by the headers it sends. Pure.
//!
//! A user agent proves nothing: it decides which page a stranger is shown, never who they are.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, Method, header};
use memchr::memmem::Finder;

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

/// What the app runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A phone or a tablet.
    Mobile,
    /// A desk.
    Desktop,
}

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// The user agent in lower case.
fn agent(headers: &HeaderMap) -> Vec<u8> {
    let agent = headers.get(header::USER_AGENT);
    agent.map(|agent| agent.as_bytes().to_ascii_lowercase()).unwrap_or_default()
}

impl App {
    /// By the user agent; `wxwork` before `micromessenger`: 企业微信 sends both.
    pub fn of(headers: &HeaderMap) -> Self {
        let agent = agent(headers);
        if WECOM.is_in(&agent) {
            Self::WeCom
        } else if WECHAT.is_in(&agent) {
            Self::WeChat
        } else {
            Self::Other
        }
    }
}

impl Device {
    /// By the user agent. `WindowsWechat` does not mean Windows: old WeChat for the Mac and 企业微信
    /// carry it too. Either way it is a desk.
    pub fn of(headers: &HeaderMap) -> Self {
        let agent = agent(headers);
        if DESKS.iter().any(|word| word.is_in(&agent)) { Self::Desktop } else { Self::Mobile }
    }
}

static WECOM: Needle = Needle::new("wxwork/");
static WECHAT: Needle = Needle::new("micromessenger");
static DESKS: [Needle; 5] = [
    Needle::new("windows nt"),
    Needle::new("macintosh"),
    Needle::new("windowswechat"),
    Needle::new("macwechat"),
    Needle::new("x11; linux"),
];
static HTML: Needle = Needle::new("text/html");

/// A word to look for. To get ready for a search takes longer than the search.
struct Needle(&'static str, OnceLock<Finder<'static>>);

impl Needle {
    const fn new(word: &'static str) -> Self {
        Self(word, OnceLock::new())
    }

    fn is_in(&self, text: &[u8]) -> bool {
        self.1.get_or_init(|| Finder::new(self.0)).find(text).is_some()
    }
}

/// Whether a request loads a page, so that whoever sent it can be led to the login and shown what we say.
///
/// Only a page load can be redirected to a login: a script, a picture or a frame would get
/// WeChat's page where it expects something else. Browsers that send `Sec-Fetch-*` say so
/// themselves; for the others `Accept` has to do.
pub fn navigates(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName, word: &str| match headers.get(name) {
        None => true,
        Some(value) => value.as_bytes() == word.as_bytes(),
    };
    let accepts = headers.get_all(header::ACCEPT);
    let accepts_html = accepts.iter().any(|value| HTML.is_in(value.as_bytes()));
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

    /// Every sample line of the protocol reference, section 7.1.
    #[test]
    fn user_agents() {
        use {
            App::{Other, WeChat, WeCom},
            Device::{Desktop, Mobile},
        };
        let cases = [
            (
                "iOS",
                "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN",
                WeChat,
                Mobile,
            ),
            (
                "iOS mini program",
                "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) Mobile/15E148 MicroMessenger/8.0.50(0x18003234) NetType/WIFI Language/zh_CN miniProgram/wx7696c66d2245d107",
                WeChat,
                Mobile,
            ),
            (
                "Android XWeb",
                "Mozilla/5.0 (Linux; Android 14; 23013RK75C Build/UKQ1.230804.001; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/126.0.6478.134 Mobile Safari/537.36 XWEB/1260093 MMWEBSDK/20240501 MMWEBID/1234 MicroMessenger/8.0.58.2840(0x28003A5D) WeChat/arm64 Weixin NetType/WIFI Language/zh_CN ABI/arm64",
                WeChat,
                Mobile,
            ),
            (
                "Android old",
                "Mozilla/5.0 (Linux; Android 4.4.4; Che1-CL10 Build/Che1-CL10; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/53.0.2785.49 Mobile MQQBrowser/6.2 TBS/043128 Safari/537.36 MicroMessenger/6.5.7.1041 NetType/WIFI Language/zh_CN",
                WeChat,
                Mobile,
            ),
            (
                "Windows",
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/132.0.0.0 Safari/537.36 NetType/WIFI MicroMessenger/7.0.20.1781(0x6700143B) WindowsWechat(0x63090a13) UnifiedPCWindowsWechat(0xf254162e) XWEB/18163 Flue",
                WeChat,
                Desktop,
            ),
            (
                "Windows mini program",
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) MicroMessenger/7.0.20.1781(0x6700143B) NetType/WIFI MiniProgramEnv/Windows WindowsWechat/WMPF WindowsWechat(0x63090a13) UnifiedPCWindowsWechat(0xf2541a1b) XWEB/19921",
                WeChat,
                Desktop,
            ),
            (
                "Mac",
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) MicroMessenger/6.8.0(0x16080000) MacWechat/3.3(0x13030013) NetType/WIFI WindowsWechat",
                WeChat,
                Desktop,
            ),
            (
                "Mac mini program",
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) MicroMessenger/6.8.0 MiniProgramEnv/Mac MacWechat/WMPF MacWechat/3.8.7(0x13080712) UnifiedPCMacWechat(0xf2641c1d) XWEB/25300",
                WeChat,
                Desktop,
            ),
            (
                "WeCom iOS",
                "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) Mobile/15E148 wxwork/4.1.30 MicroMessenger/7.0.1 Language/zh ColorScheme/Light wwmver/3.26.13.714",
                WeCom,
                Mobile,
            ),
            (
                "WeCom Android",
                "Mozilla/5.0 (Linux; Android 14) XWEB/1380275 MMWEBSDK/20250202 MMWEBID/3998 wxwork/5.0.6 MicroMessenger/7.0.1 NetType/WIFI Language/zh Lang/zh ColorScheme/Light wwmver/3.26.506.647",
                WeCom,
                Mobile,
            ),
            (
                "WeCom Windows",
                "Mozilla/5.0 (Windows NT 10.0; WOW64) Chrome/129.0.6668.101 Safari/537.36 Language/zh ColorScheme/Light wxwork/5.0.8 (MicroMessenger/6.2) WindowsWechat  MailPlugin_Electron WeMail embeddisk wwmver/3.26.508.633",
                WeCom,
                Desktop,
            ),
            (
                "WeCom Harmony",
                "Mozilla/5.0 (linux; Android 13; Phone; OpenHarmony 6.1) Mobile MicroMessenger/7.0.1 wxwork/5.0.8",
                WeCom,
                Mobile,
            ),
            (
                "developer tools",
                "Mozilla/5.0 (iPhone; CPU iPhone OS 10_3 like Mac OS X) Mobile/14E304 Safari/602.1 wechatdevtools/1.06.2209190 MicroMessenger/8.0.5 Language/zh_CN webview/",
                WeChat,
                Mobile,
            ),
            ("any case", "micromessenger/8", WeChat, Mobile),
            (
                "Chrome",
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/132.0.0.0 Safari/537.36",
                Other,
                Desktop,
            ),
            ("nothing", "", Other, Mobile),
        ];
        for (name, agent, app, device) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            assert_eq!((App::of(&headers), Device::of(&headers)), (app, device), "{name}");
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
