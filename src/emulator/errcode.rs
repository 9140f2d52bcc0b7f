//! WeChat's error numbers and the words it says with them. Pure.

/// A number in an API answer's `errcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errcode(pub i64);

impl Errcode {
    pub const INVALID_CREDENTIAL: Self = Self(40001);
    pub const INVALID_GRANT_TYPE: Self = Self(40002);
    pub const INVALID_OPENID: Self = Self(40003);
    pub const INVALID_APPID: Self = Self(40013);
    pub const INVALID_CODE: Self = Self(40029);
    pub const INVALID_REFRESH_TOKEN: Self = Self(40030);
    pub const INVALID_ARGS: Self = Self(40097);
    pub const INVALID_SECRET: Self = Self(40125);
    pub const CODE_USED: Self = Self(40163);
    pub const NO_ACCESS_TOKEN: Self = Self(41001);
    pub const NO_APPID: Self = Self(41002);
    pub const NO_REFRESH_TOKEN: Self = Self(41003);
    pub const NO_SECRET: Self = Self(41004);
    pub const NO_CODE: Self = Self(41008);
    pub const NO_OPENID: Self = Self(41009);
    pub const ACCESS_TOKEN_EXPIRED: Self = Self(42001);
    pub const REFRESH_TOKEN_EXPIRED: Self = Self(42002);
    pub const CODE_EXPIRED: Self = Self(42003);
    pub const GET_ONLY: Self = Self(43001);
    pub const POST_ONLY: Self = Self(43002);
    pub const NOT_JSON: Self = Self(47001);
    pub const UNAUTHORIZED: Self = Self(48001);

    /// The fixed part of `errmsg`; WeChat adds a request id behind it.
    pub fn text(self) -> &'static str {
        match self.0 {
            -1 => "system error",
            0 => "ok",
            40001 => "invalid credential, access_token is invalid or not latest",
            40002 => "invalid grant_type",
            40003 => "invalid openid",
            40013 => "invalid appid",
            40014 => "invalid access_token",
            40029 => "invalid code",
            40030 => "invalid refresh_token",
            40097 => "invalid args",
            40125 => "invalid appsecret",
            40163 => "code been used",
            40164 => "invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist",
            40226 => "code blocked",
            40243 => "appsecret is frozen",
            41001 => "access_token missing",
            41002 => "appid missing",
            41003 => "refresh_token missing",
            41004 => "appsecret missing",
            41008 => "missing code",
            41009 => "missing openid",
            42001 => "access_token expired",
            42002 => "refresh_token expired",
            42003 => "oauth_code expired",
            42007 => "access_token and refresh_token exception",
            43001 => "require GET method",
            43002 => "require POST method",
            43003 => "require https",
            45009 => "reach max api daily quota limit",
            45011 => "api minute-quota reach limit, must slower, retry next minute",
            47001 => "data format error",
            48001 => "api unauthorized",
            48004 => "api forbidden",
            50001 => "user unauthorized",
            50002 => "user limited",
            _ => "error",
        }
    }
}

/// What a page of open.weixin.qq.com says instead of logging the visitor in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizeError {
    /// One of the numbered pages.
    Numbered(i64),
    /// More than 128 bytes of state; this page has no number.
    LongState,
    /// The link does not follow the documented pattern. The text is for the developer.
    Malformed(&'static str),
    /// No such account.
    UnknownApp,
    /// Not in the WeChat browser.
    OutsideWeChat,
}

impl AuthorizeError {
    /// The number under the message, where there is one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Numbered(number) => Some(*number),
            Self::LongState | Self::Malformed(_) | Self::UnknownApp | Self::OutsideWeChat => None,
        }
    }

    /// WeChat's own words; its pages speak Chinese to everybody.
    pub fn message(&self) -> &'static str {
        match self {
            Self::Numbered(number) => numbered(*number),
            Self::LongState => "state参数过长",
            Self::Malformed(_) => "该链接无法访问",
            Self::UnknownApp => "AppID 参数错误",
            Self::OutsideWeChat => "请在微信客户端打开链接",
        }
    }

    /// What a developer should look at: Chinese, then English.
    pub fn hint(&self) -> (&'static str, &'static str) {
        match self {
            Self::Numbered(10003) => (
                "redirect_uri 的域名、端口或路径不在该公众号的网页授权域名内。",
                "The host, port or path of redirect_uri is not an authorised domain of this account.",
            ),
            Self::Numbered(10005) => (
                "scope 只能是 snsapi_base 或 snsapi_userinfo（扫码登录是 snsapi_login）。",
                "The scope must be snsapi_base or snsapi_userinfo (snsapi_login for the QR page).",
            ),
            Self::Numbered(_) => ("", ""),
            Self::LongState => ("state 最多 128 字节。", "state may have at most 128 bytes."),
            Self::Malformed(detail) => (detail, detail),
            Self::UnknownApp => ("模拟器里没有这个 appid。", "The emulator has no such appid."),
            Self::OutsideWeChat => (
                "模拟器以 require_wechat 运行，只接受带 MicroMessenger 的顶层页面。",
                "The emulator runs with require_wechat: top-level pages of MicroMessenger only.",
            ),
        }
    }
}

fn numbered(number: i64) -> &'static str {
    match number {
        10003 => "redirect_uri域名与后台配置不一致",
        10004 => "此公众号被封禁",
        10005 => "此公众号并没有这些scope的权限",
        10006 => "必须关注此测试号",
        10009 => "操作太频繁了,请稍后重试",
        10010 => "scope不能为空",
        10011 => "redirect_uri不能为空",
        10012 => "appid不能为空",
        10013 => "state不能为空",
        10015 => "公众号未授权第三方平台,请检查授权状态",
        10016 => "不支持微信开放平台的Appid,请使用公众号Appid",
        _ => "系统错误,请稍后重试",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let rows = [
            (-1, "system error"),
            (40029, "invalid code"),
            (40163, "code been used"),
            (7, "error"),
        ];
        for (number, text) in rows {
            assert_eq!(Errcode(number).text(), text, "{number}");
        }
    }
}
