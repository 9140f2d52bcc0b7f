//! The API of api.weixin.qq.com: parameters in, WeChat's own JSON out.

use http::Method;

use super::{
    authorize::{Apps, UnknownApp},
    errcode::Errcode,
    faults::ApiEndpoint,
    json::JsonObject,
    params::Params,
    random,
    token_store::{Grant, TokenPair, TokenStore},
    users::{AccountUser, User},
};
use crate::clock::Timestamp;

/// What an answer is made from.
pub struct ApiContext<'a> {
    pub apps: &'a Apps,
    pub users: &'a [User],
    pub tokens: &'a mut TokenStore,
    /// Where pictures are served: the host the caller used.
    pub host: &'a str,
    pub now: Timestamp,
}

/// One call.
pub struct ApiCall<'a> {
    pub method: &'a Method,
    /// From the query, or from the JSON body of a POST; `None` when that is no JSON.
    pub params: Option<&'a Params>,
    /// Whether the person shall be a virtual one.
    pub is_snapshot: bool,
}

/// What goes back, always with status 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiReply {
    /// The `errcode` in it, where there is one.
    pub errcode: Option<i64>,
    pub body: String,
    pub content_type: &'static str,
}

impl ApiEndpoint {
    /// Which call a path is.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/sns/oauth2/access_token" => Some(Self::AccessToken),
            "/sns/oauth2/refresh_token" => Some(Self::RefreshToken),
            "/sns/userinfo" => Some(Self::Userinfo),
            "/sns/auth" => Some(Self::Auth),
            "/cgi-bin/stable_token" => Some(Self::StableToken),
            "/cgi-bin/token" => Some(Self::Token),
            "/cgi-bin/ticket/getticket" => Some(Self::Getticket),
            _ => None,
        }
    }

    /// `/sns/*` says text, the rest says JSON (and spells "charset" in its own way).
    fn content_type(self) -> &'static str {
        match self {
            Self::StableToken | Self::Token | Self::Getticket => "application/json; encoding=utf-8",
            Self::Authorize
            | Self::AccessToken
            | Self::RefreshToken
            | Self::Userinfo
            | Self::Auth => "text/plain",
        }
    }
}

impl ApiContext<'_> {
    /// Answers one call.
    pub fn answer(&mut self, place: ApiEndpoint, call: &ApiCall<'_>) -> ApiReply {
        match self.object(place, call) {
            Ok(object) => ApiReply {
                errcode: matches!(place, ApiEndpoint::Auth | ApiEndpoint::Getticket).then_some(0),
                body: object.finish(),
                content_type: place.content_type(),
            },
            Err(errcode) => refuse(place, errcode),
        }
    }

    fn object(&mut self, place: ApiEndpoint, call: &ApiCall<'_>) -> Result<JsonObject, Errcode> {
        match (place, call.method) {
            (ApiEndpoint::StableToken, &Method::POST) => (),
            (ApiEndpoint::StableToken, _) => return Err(Errcode::POST_ONLY),
            (_, &Method::GET) => (),
            (_, _) => return Err(Errcode::GET_ONLY),
        }
        let params = call.params.ok_or(Errcode::NOT_JSON)?;
        match place {
            ApiEndpoint::AccessToken => self.access_token(params, call.is_snapshot),
            ApiEndpoint::RefreshToken => self.refresh_token(params),
            ApiEndpoint::Userinfo => self.userinfo(params),
            ApiEndpoint::Auth => self.auth(params),
            ApiEndpoint::StableToken | ApiEndpoint::Token => self.global_token(place, params),
            ApiEndpoint::Getticket => self.ticket(params),
            ApiEndpoint::Authorize => Err(Errcode::INVALID_ARGS),
        }
    }

    fn access_token(&mut self, params: &Params, is_snapshot: bool) -> Result<JsonObject, Errcode> {
        let app_id = params.get("appid").ok_or(Errcode::NO_APPID)?;
        let secret = params.get("secret").ok_or(Errcode::NO_SECRET)?;
        let code = params.get("code").ok_or(Errcode::NO_CODE)?;
        if params.get("grant_type") != Some("authorization_code") {
            return Err(Errcode::INVALID_GRANT_TYPE);
        }
        self.check_app(app_id, Some(secret))?;
        let mut grant = self.tokens.take_code(code, app_id, self.now)?;
        grant.is_snapshot |= is_snapshot;
        let tokens = self.tokens.issue_tokens(&grant, self.now);
        let person = self.person(&grant);
        let unionid = person.unionid.as_deref().filter(|_| grant.covers_profile());
        let object =
            token_object(&tokens).text("openid", &person.openid).text("scope", &grant.scope);
        let object = if grant.is_snapshot { object.number("is_snapshotuser", 1) } else { object };
        Ok(object.maybe("unionid", unionid))
    }

    fn refresh_token(&mut self, params: &Params) -> Result<JsonObject, Errcode> {
        let app_id = params.get("appid").ok_or(Errcode::NO_APPID)?;
        let token = params.get("refresh_token").ok_or(Errcode::NO_REFRESH_TOKEN)?;
        if params.get("grant_type") != Some("refresh_token") {
            return Err(Errcode::INVALID_GRANT_TYPE);
        }
        self.check_app(app_id, None)?;
        let (grant, tokens) = self.tokens.refresh(token, app_id, self.now)?;
        let person = self.person(&grant);
        // A real answer had the openid first: the order of the fields is free, and ours differs.
        Ok(JsonObject::default()
            .text("openid", &person.openid)
            .text("access_token", &tokens.access)
            .number("expires_in", 7200)
            .text("refresh_token", &tokens.refresh)
            .text("scope", &grant.scope))
    }

    fn userinfo(&self, params: &Params) -> Result<JsonObject, Errcode> {
        let (grant, person) = self.bearer(params)?;
        if !grant.covers_profile() {
            return Err(Errcode::UNAUTHORIZED);
        }
        let user_id = &grant.user_id;
        let drawn = || format!("http://{}/mmopen/{user_id}/132", self.host);
        let avatar = person.avatar.unwrap_or_else(drawn);
        Ok(JsonObject::default()
            .text("openid", &person.openid)
            .text("nickname", &person.nickname)
            .number("sex", 0)
            .text("language", "")
            .text("city", "")
            .text("province", "")
            .text("country", "")
            .text("headimgurl", &avatar)
            .raw("privilege", "[]")
            .maybe("unionid", person.unionid.as_deref()))
    }

    fn auth(&self, params: &Params) -> Result<JsonObject, Errcode> {
        self.bearer(params)?;
        Ok(JsonObject::default().number("errcode", 0).text("errmsg", "ok"))
    }

    fn global_token(&mut self, place: ApiEndpoint, params: &Params) -> Result<JsonObject, Errcode> {
        if params.get("grant_type") != Some("client_credential") {
            return Err(Errcode::INVALID_GRANT_TYPE);
        }
        let app_id = params.get("appid").ok_or(Errcode::NO_APPID)?;
        let secret = params.get("secret").ok_or(Errcode::NO_SECRET)?;
        self.check_app(app_id, Some(secret))?;
        let (token, seconds) = if place == ApiEndpoint::StableToken {
            let is_forced = params.get("force_refresh") == Some("true");
            self.tokens.stable_token(app_id, is_forced, self.now)
        } else {
            self.tokens.global_token(app_id, self.now)
        };
        Ok(JsonObject::default().text("access_token", &token).number("expires_in", seconds))
    }

    fn ticket(&mut self, params: &Params) -> Result<JsonObject, Errcode> {
        let token = params.get("access_token").ok_or(Errcode::NO_ACCESS_TOKEN)?;
        let kind = params.get("type").filter(|kind| matches!(*kind, "jsapi" | "wx_card"));
        let kind = kind.ok_or(Errcode::INVALID_ARGS)?;
        let (ticket, seconds) = self.tokens.ticket(token, kind, self.now)?;
        let object = JsonObject::default().number("errcode", 0).text("errmsg", "ok");
        Ok(object.text("ticket", &ticket).number("expires_in", seconds))
    }

    /// Who a page token speaks for, when the openid beside it is theirs.
    fn bearer(&self, params: &Params) -> Result<(&Grant, AccountUser), Errcode> {
        let token = params.get("access_token").ok_or(Errcode::NO_ACCESS_TOKEN)?;
        let openid = params.get("openid").ok_or(Errcode::NO_OPENID)?;
        let grant = self.tokens.find_by_access_token(token, self.now)?;
        let person = self.person(grant);
        if person.openid == openid { Ok((grant, person)) } else { Err(Errcode::INVALID_OPENID) }
    }

    fn check_app(&self, app_id: &str, secret: Option<&str>) -> Result<(), Errcode> {
        let app = self.apps.find(app_id).map_err(|UnknownApp| Errcode::INVALID_APPID)?;
        match (app, secret) {
            (Some(app), Some(secret)) if app.secret != secret => Err(Errcode::INVALID_SECRET),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn person(&self, grant: &Grant) -> AccountUser {
        let user = self.users.iter().find(|user| user.id == grant.user_id);
        match user {
            Some(user) if grant.is_snapshot => user.snapshot_for(&grant.app_id),
            Some(user) => user.seen_by(&grant.app_id),
            None => AccountUser {
                openid: String::new(),
                nickname: String::new(),
                avatar: None,
                unionid: None,
            },
        }
    }
}

/// An error as WeChat words it.
pub fn refuse(place: ApiEndpoint, errcode: Errcode) -> ApiReply {
    let message = match errcode {
        Errcode(0) => "ok".to_owned(),
        // The token check is terse.
        Errcode::INVALID_OPENID => errcode.text().to_owned(),
        _ => format!("{}, rid: {}", errcode.text(), random::request_id()),
    };
    let object = JsonObject::default().number("errcode", errcode.0).text("errmsg", &message);
    ApiReply { errcode: Some(errcode.0), body: object.finish(), content_type: place.content_type() }
}

fn token_object(tokens: &TokenPair) -> JsonObject {
    JsonObject::default()
        .text("access_token", &tokens.access)
        .number("expires_in", 7200)
        .text("refresh_token", &tokens.refresh)
}

#[cfg(test)]
mod tests;
