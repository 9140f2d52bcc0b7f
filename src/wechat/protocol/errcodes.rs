//! What each of WeChat's error codes means and what to do about it, in Chinese and English, for
//! the status page. Pure.
//!
//! The meanings are those of Tencent's pages and of what SDKs and their users saw on the wire.

/// The words for one label of [`super::ApiError::label`], or of a call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrcodeHelp {
    /// The label.
    pub label: &'static str,
    /// What it means: Chinese, English.
    pub meaning: [&'static str; 2],
    /// What to do: Chinese, English.
    pub remedy: [&'static str; 2],
}

/// A visitor's next login cures it.
const AGAIN: [&str; 2] = [
    "无需处理：网关会自动重新登录。若大量出现，检查是否有页面被分享时带上了 ?code=。",
    "Nothing to do: the gateway starts the login again. In great numbers: is a link with ?code= in it being shared?",
];
const CONSOLE: [&str; 2] = [
    "核对 config.toml 中的 app_id 与公众号后台“基本配置”里的开发者 ID。",
    "Compare app_id in config.toml with the developer id in the 公众号 console.",
];
const PLATFORM: [&str; 2] = [
    "该公众号已授权给第三方平台：请通过该平台登录，或取消授权。",
    "The account is delegated to a third-party platform: log in through it, or withdraw the delegation.",
];
const OURS: [&str; 2] = [
    "这是网关的缺陷，请附上日志中的 rid 反馈。",
    "A mistake of the gateway's: report it with the rid from the log.",
];

const fn words(
    label: &'static str,
    meaning: [&'static str; 2],
    remedy: [&'static str; 2],
) -> ErrcodeHelp {
    ErrcodeHelp { label, meaning, remedy }
}

/// Every label there is but `ok`.
pub const ALL: [ErrcodeHelp; 36] = [
    words(
        "unreachable",
        ["连不上微信接口", "No API host of WeChat's took the connection"],
        [
            "检查本机到 api_urls（默认 api.weixin.qq.com:443）的网络、DNS 与防火墙；已登录的访客不受影响。",
            "Check the way from this machine to api_urls, by default api.weixin.qq.com:443: network, DNS, firewall. Visitors who are logged in notice nothing.",
        ],
    ),
    words(
        "silent",
        ["微信接口没有作答", "The call went out and no useful answer came back"],
        [
            "多为网络或微信侧故障，通常自行恢复；检查出口代理是否截断或改写应答。",
            "Mostly the network or WeChat itself, and it passes. Look for a proxy on the way out that cuts or rewrites answers.",
        ],
    ),
    words(
        "garbled",
        ["应答不是微信的 JSON", "The answer is not WeChat's JSON"],
        [
            "有东西夹在中间：检查出口代理、DNS 劫持和 api_urls。",
            "Something stands in between: look at outgoing proxies, DNS and api_urls.",
        ],
    ),
    words(
        "other",
        ["不认识的错误码", "An error code we do not know"],
        ["查看日志中的原文与 rid。", "See WeChat's words and the rid in the log."],
    ),
    words("-1", ["系统繁忙", "System busy; the code is spent all the same"], AGAIN),
    words(
        "40001",
        ["AppSecret 错误，或令牌已失效", "Wrong AppSecret, or a token that is no longer good"],
        [
            "在公众号后台核对 AppSecret（可能已被重置），填入现值后重载配置。",
            "Compare app_secret with the console (it may have been reset), enter the present one and reload.",
        ],
    ),
    words("40002", ["grant_type 不对", "A wrong grant_type"], OURS),
    words(
        "40003",
        ["openid 与令牌或公众号不符", "The openid is not of this token or account"],
        AGAIN,
    ),
    words("40013", ["AppID 无效", "WeChat knows no such AppID"], CONSOLE),
    words("40014", ["access_token 无效", "The access token is not good"], AGAIN),
    words(
        "40029",
        [
            "code 无效：过期、已用过，或属于另一个 AppID",
            "The code is expired, used, garbled, or another AppID's",
        ],
        AGAIN,
    ),
    words("40030", ["refresh_token 无效", "The refresh token is not good"], AGAIN),
    words(
        "40125",
        ["AppSecret 错误", "Wrong AppSecret"],
        [
            "在公众号后台“基本配置”核对或重置 AppSecret，写入 app_secret 后发送 SIGHUP。",
            "Look up or reset the AppSecret in the console, put it where app_secret points and send SIGHUP.",
        ],
    ),
    words("40163", ["code 已被用过", "The code was used before"], AGAIN),
    words(
        "40164",
        ["本机 IP 不在白名单", "This machine's address is not in the IP whitelist"],
        [
            "在公众号后台“IP 白名单”加入本机出口地址。",
            "Add the address this machine goes out with to the IP whitelist of the console.",
        ],
    ),
    words(
        "40226",
        ["高风险用户，被微信拦截", "WeChat blocks this visitor as high-risk"],
        [
            "无需处理：这是微信对该访客的决定。",
            "Nothing to do: it is WeChat's decision about this visitor.",
        ],
    ),
    words(
        "40243",
        ["AppSecret 已被冻结", "The AppSecret is frozen"],
        ["在公众号后台解冻 AppSecret。", "Unfreeze the AppSecret in the console."],
    ),
    words("41001", ["缺少 access_token", "The access token is missing"], OURS),
    words("41002", ["缺少 appid", "The appid is missing"], OURS),
    words("41004", ["缺少 secret", "The secret is missing"], OURS),
    words("41008", ["缺少 code", "The code is missing"], AGAIN),
    words("42001", ["access_token 已过期", "The access token has expired"], AGAIN),
    words("42002", ["refresh_token 已过期", "The refresh token has expired"], AGAIN),
    words("42003", ["code 已过期", "The code has expired: five minutes"], AGAIN),
    words(
        "42007",
        [
            "用户改了微信密码，令牌作废",
            "The visitor changed their WeChat password; tokens are void",
        ],
        AGAIN,
    ),
    words(
        "45009",
        ["当日接口调用次数已用尽", "The account's daily quota is used up"],
        [
            "在公众号后台“接口权限”清零（每月十次），或等到次日。",
            "Clear the quota in the console, or wait for tomorrow.",
        ],
    ),
    words(
        "45011",
        ["每分钟调用过于频繁", "The quota of this minute is used up"],
        [
            "会自行恢复；若持续，检查是否有人刷登录。",
            "It passes. If it stays: is somebody driving logins?",
        ],
    ),
    words(
        "48001",
        [
            "接口未授权：以 base 授权取资料，或公众号无此权限",
            "The call may not be made with what was granted",
        ],
        [
            "若站点需要昵称头像，确认公众号已认证且具备网页授权 snsapi_userinfo 权限。",
            "If a site needs nickname and picture: is the account certified, and does it have snsapi_userinfo?",
        ],
    ),
    words(
        "48004",
        ["接口已被封禁", "WeChat has banned this interface for the account"],
        ["查看公众号后台的通知并申诉。", "See the notices in the console."],
    ),
    words("50001", ["用户未授权该接口", "The visitor has not granted this"], AGAIN),
    words(
        "50002",
        ["用户受限", "WeChat restricts this visitor"],
        [
            "无需处理：这是微信对该访客的决定。",
            "Nothing to do: it is WeChat's decision about this visitor.",
        ],
    ),
    words(
        "61003",
        ["公众号未授权给该第三方平台", "The account is not delegated to this platform"],
        PLATFORM,
    ),
    words(
        "61004",
        ["来源 IP 未在第三方平台登记", "The address is not registered with the platform"],
        PLATFORM,
    ),
    words(
        "61007",
        ["接口未授权给该第三方平台", "The call is not delegated to the platform"],
        PLATFORM,
    ),
    words(
        "61023",
        ["第三方平台的 refresh_token 无效", "The platform's refresh token is not good"],
        PLATFORM,
    ),
    words("ok", ["成功", "It worked"], ["", ""]),
];

/// The words for a label.
pub fn of(label: &str) -> Option<&'static ErrcodeHelp> {
    ALL.iter().find(|words| words.label == label)
}

#[cfg(test)]
mod tests {
    use super::super::{ApiError, KNOWN};
    use super::*;

    #[test]
    fn every_label_has_words() {
        let known = KNOWN.map(|code| ApiError::Code { code, message: String::new() });
        let nonsense = ApiError::Nonsense("");
        let strange = ApiError::Code { code: 7, message: String::new() };
        let mut labels: Vec<String> =
            known.iter().chain([&nonsense, &strange]).map(ApiError::label).collect();
        labels.extend(["unreachable", "silent", "ok"].map(str::to_owned));
        for label in &labels {
            let words = of(label).unwrap_or_else(|| panic!("no words for {label}"));
            assert!(words.meaning.iter().all(|text| !text.is_empty()), "{label}");
        }
        assert_eq!(labels.len(), ALL.len(), "words for what is no label");
    }
}
