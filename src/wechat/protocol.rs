//! WeChat's URLs, answers and error codes, as `open.weixin.qq.com` and `api.weixin.qq.com` speak
//! them. Pure.
//!
//! Sources are Tencent's pages on web authorization (网页授权) and what SDKs and their bug trackers
//! saw on the wire, which is not always the same.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde_json::{Map, Value};

pub mod jssdk;

use crate::{
    auth::{Device, Identity},
    secret::Secret,
    site::{Account, AccountKind, Scope},
};

pub mod errcodes;

/// Codes with a label of their own.
const KNOWN: [i64; 31] = [
    -1, 40001, 40002, 40003, 40013, 40014, 40029, 40030, 40125, 40163, 40164, 40226, 40243, 41001,
    41002, 41004, 41008, 42001, 42002, 42003, 42007, 45009, 45011, 48001, 48004, 50001, 50002,
    61003, 61004, 61007, 61023,
];

/// The longest answer that is read, in bytes.
pub const LONGEST_ANSWER: usize = 64 * 1024;

/// The address a visitor is sent to. The order of the parameters, their case and the fragment are
/// the documented ones: WeChat calls the match strict.
///
/// Phones get `connect_redirect=1`: without it some drop their first visit to the callback and
/// come again. It goes after the state.
pub fn authorize_url(account: &Account, leave: &AuthorizeParams<'_>) -> String {
    let (page, scope) = match account.kind {
        AccountKind::Official => ("oauth2/authorize", leave.scope.as_str()),
        AccountKind::Website => ("qrconnect", "snsapi_login"),
    };
    let once = match (account.kind, leave.device) {
        (AccountKind::Official, Device::Mobile) => "&connect_redirect=1",
        (AccountKind::Official, Device::Desktop) | (AccountKind::Website, _) => "",
    };
    let mut url = String::with_capacity(512);
    url.extend([account.authorize_url.as_str(), "/connect/", page, "?appid="]);
    url.extend(encode(&account.app_id));
    url.push_str("&redirect_uri=");
    url.extend(encode(leave.callback));
    url.extend(["&response_type=code&scope=", scope, "&state=", leave.state, once]);
    url.push_str("#wechat_redirect");
    url
}

/// What a visitor is sent to WeChat with.
#[derive(Clone, Copy, Debug)]
pub struct AuthorizeParams<'a> {
    /// Where to come back to.
    pub callback: &'a str,
    /// How much to ask for.
    pub scope: Scope,
    /// What ties the way back to the way out: letters and digits.
    pub state: &'a str,
    /// What they travel on.
    pub device: Device,
}

/// The address that exchanges a code. It holds the secret, so it never reaches a log.
pub fn token_url(api: &str, account: &Account, code: &str) -> Secret {
    Secret::new(format!(
        "{api}/sns/oauth2/access_token?appid={}&secret={}&code={}&grant_type=authorization_code",
        encode(&account.app_id),
        encode(account.app_secret.expose()),
        encode(code),
    ))
}

/// The address that renews an access token. Without the app secret, but the token is as good.
pub fn refresh_url(api: &str, account: &Account, refresh_token: &Secret) -> Secret {
    Secret::new(format!(
        "{api}/sns/oauth2/refresh_token?appid={}&grant_type=refresh_token&refresh_token={}",
        encode(&account.app_id),
        encode(refresh_token.expose()),
    ))
}

/// The address that tells who somebody is.
pub fn userinfo_url(api: &str, tokens: &TokenResponse) -> Secret {
    Secret::new(format!(
        "{api}/sns/userinfo?access_token={}&openid={}&lang=zh_CN",
        encode(tokens.access_token.expose()),
        encode(&tokens.openid),
    ))
}

/// Where the account's global token is asked for.
pub fn stable_token_url(api: &str) -> String {
    format!("{api}/cgi-bin/stable_token")
}

/// The question for it. Without `force_refresh` the token that others hold stays as it is.
pub fn stable_token_body(account: &Account) -> Secret {
    let question = serde_json::json!({
        "grant_type": "client_credential",
        "appid": account.app_id,
        "secret": account.app_secret.expose(),
        "force_refresh": false,
    });
    Secret::new(question.to_string())
}

/// As `encodeURIComponent`: a space is `%20`, never `+`, and the escapes are upper case.
fn encode(text: &str) -> PercentEncode<'_> {
    const ENCODE_SET: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
    utf8_percent_encode(text, ENCODE_SET)
}

/// What a code was good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResponse {
    /// Good for [`userinfo_url`] and nothing of ours afterwards.
    pub access_token: Secret,
    /// For so many seconds.
    pub expires_in: u64,
    /// Good for [`refresh_url`], for thirty days.
    pub refresh_token: Option<Secret>,
    /// Who came, to this account.
    pub openid: String,
    /// Who came, to all accounts of the company.
    pub unionid: Option<String>,
    /// What the visitor granted, which may be less than what was asked.
    pub scope: Scope,
    /// Whether the visitor is a virtual one of a snapshot page (快照页).
    pub snapshot: bool,
}

/// What the visitor shows of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// May hold anything.
    pub nickname: Option<String>,
    /// An http or https address.
    pub avatar: Option<String>,
    /// As in [`TokenResponse`].
    pub unionid: Option<String>,
    /// The rest, as WeChat gave it: nothing of worth since 2021, but old programs read it.
    pub rest: Map<String, Value>,
}

/// What there may be in [`Profile::rest`].
const OTHER_PROFILE_KEYS: [&str; 6] =
    ["sex", "language", "city", "province", "country", "privilege"];

/// WeChat's answer was no, or made no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// An error code, with the text Tencent's support asks for. It holds no secret.
    #[error("WeChat answered {code}: {message}")]
    Code {
        /// WeChat's number.
        code: i64,
        /// Its words, and the id of the call.
        message: String,
    },
    /// Not the JSON that was expected.
    #[error("invalid response from WeChat: {0}")]
    Nonsense(&'static str),
}

/// Whose fault a refusal is, which decides what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The code was used, has expired or is garbled: another login helps.
    Code,
    /// WeChat is busy or we are over quota: later.
    Busy,
    /// The account is set up wrongly: the operator must act.
    Setup,
    /// WeChat does not let this visitor in.
    Visitor,
    /// This call may not be made with what the visitor granted.
    Scope,
    /// WeChat broke.
    Broken,
}

impl ApiError {
    /// The number alone, for the log.
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Code { code, .. } => Some(*code),
            Self::Nonsense(_) => None,
        }
    }

    /// The number as a label, of which there are only so many.
    pub fn label(&self) -> String {
        match self.code() {
            Some(code) if KNOWN.contains(&code) => code.to_string(),
            Some(_) => "other".to_owned(),
            None => "garbled".to_owned(),
        }
    }

    /// Whose fault it is, by the table of error codes.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Nonsense(_) => ErrorClass::Broken,
            Self::Code { code, .. } => match code {
                // -1 is "system busy", but the code is spent all the same: a retry was answered
                // "code been used".
                -1 | 40029 | 40163 | 42003 | 41008 => ErrorClass::Code,
                40003 | 40014 | 40030 | 42001 | 42002 | 42007 | 50001 => ErrorClass::Code,
                45009 | 45011 => ErrorClass::Busy,
                40226 | 50002 => ErrorClass::Visitor,
                48001 => ErrorClass::Scope,
                _ => ErrorClass::Setup,
            },
        }
    }

    /// Whether WeChat refuses this machine's address, and said nothing of the account.
    pub fn is_about_address(&self) -> bool {
        self.code() == Some(40164)
    }

    /// Whether a refresh token is worth nothing any more, so that the visitor has to log in.
    pub fn invalidates_refresh_token(&self) -> bool {
        matches!(self.code(), Some(40030 | 42002 | 42007 | 50001))
    }

    /// Whether an access token has to be renewed.
    pub fn invalidates_access_token(&self) -> bool {
        matches!(self.code(), Some(40001 | 40014 | 42001))
    }

    /// What the operator can do about it, for the log.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self.code()? {
            40013 => "app_id is not one WeChat knows: compare it with the 公众号 console",
            40001 | 40125 => {
                "app_secret is not this account's, or was reset since: enter the present one and restart"
            }
            40164 => "add this server's address to the IP whitelist in the console",
            40243 => "the AppSecret is frozen: unfreeze it in the console",
            48004 => {
                "WeChat has banned this interface for the account: see the notices in the console"
            }
            45009 => {
                "the account's daily quota is used up: clear it in the console or wait for tomorrow"
            }
            61003 | 61004 | 61007 => {
                "the account is delegated to a third-party platform: log in through that platform"
            }
            _ => return None,
        })
    }
}

/// Reads the answer to [`token_url`].
pub fn read_grant(body: &[u8]) -> Result<TokenResponse, ApiError> {
    let answer = read(body)?;
    let openid = text(&answer, "openid").ok_or(ApiError::Nonsense("no openid"))?;
    let token = text(&answer, "access_token").ok_or(ApiError::Nonsense("no access_token"))?;
    let visible = openid.len() <= 128 && openid.bytes().all(|b| b.is_ascii_graphic());
    if !visible {
        return Err(ApiError::Nonsense("an openid of strange characters"));
    }
    // Newer field tables lack `scope`. Then nothing more than base is believed.
    let scopes = text(&answer, "scope").unwrap_or_default();
    let granted = scopes.split(',').filter_map(|scope| match scope.trim() {
        "snsapi_login" => Some(Scope::UserInfo), // a website account's
        scope => Scope::parse(scope),
    });
    Ok(TokenResponse {
        access_token: Secret::new(token),
        expires_in: seconds(&answer),
        refresh_token: text(&answer, "refresh_token").map(Secret::new),
        openid,
        unionid: text(&answer, "unionid"),
        scope: granted.max().unwrap_or(Scope::Base),
        snapshot: is_true(answer.get("is_snapshotuser")),
    })
}

/// Reads the answer to [`userinfo_url`].
pub fn read_profile(body: &[u8]) -> Result<Profile, ApiError> {
    let answer = read(body)?;
    Ok(Profile {
        nickname: text(&answer, "nickname"),
        // Pictures are served over https too, and a page on https shows no others.
        avatar: text(&answer, "headimgurl").map(|url| match url.strip_prefix("http://") {
            Some(rest) if rest.contains(".qlogo.cn/") => format!("https://{rest}"),
            Some(_) | None => url,
        }),
        unionid: text(&answer, "unionid"),
        rest: OTHER_PROFILE_KEYS
            .iter()
            .filter_map(|it| Some(((*it).to_owned(), answer.get(it)?.clone())))
            .collect(),
    })
}

impl TokenResponse {
    /// Who the visitor is, with the profile where one was to be had.
    pub fn identity(self, profile: Profile) -> Identity {
        Identity {
            openid: self.openid,
            unionid: profile.unionid.or(self.unionid),
            nickname: profile.nickname,
            avatar: profile.avatar,
            scope: self.scope,
        }
    }
}

/// Bytes to JSON, as leniently as WeChat needs: it says text/plain, and nicknames put raw control
/// bytes and broken UTF-8 into strings. Outside strings control bytes are only white space, so
/// replacing them all is safe.
fn read(body: &[u8]) -> Result<Value, ApiError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text: String =
        String::from_utf8_lossy(body).chars().map(|c| if c < ' ' { ' ' } else { c }).collect();
    let answer: Value = serde_json::from_str(&text).map_err(|_| ApiError::Nonsense("not JSON"))?;
    if !answer.is_object() {
        return Err(ApiError::Nonsense("not a JSON object"));
    }
    match number(answer.get("errcode")) {
        None | Some(0) => Ok(answer),
        Some(code) => Err(ApiError::Code { code, message: message(&answer) }),
    }
}

/// WeChat's words, cut short and without what could break a log line.
fn message(answer: &Value) -> String {
    let words = answer.get("errmsg").and_then(Value::as_str).unwrap_or_default();
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// How long a token or a ticket is good for. Fixtures in the wild have it as a string, and as a
/// fraction.
fn seconds(answer: &Value) -> u64 {
    match answer.get("expires_in") {
        Some(Value::Number(number)) => number.as_u64().unwrap_or_default(),
        Some(Value::String(text)) => text.trim().parse().unwrap_or_default(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => 0,
    }
}

fn text(answer: &Value, name: &str) -> Option<String> {
    let text = answer.get(name)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `1`, `1.0`, `"1"` and `true` have all been seen.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
        Some(Value::String(text)) => !matches!(text.trim(), "" | "0" | "false"),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

#[cfg(test)]
mod tests;
