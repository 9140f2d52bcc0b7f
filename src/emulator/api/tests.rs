//! Tables for the API: shapes of success and of every error.

use serde_json::Value;

use super::*;
use crate::emulator::{App, users};

const NOW: Timestamp = Timestamp(1_800_000_000);

struct Room {
    apps: Apps,
    users: Vec<User>,
    tokens: TokenStore,
}

impl Room {
    fn new() -> Self {
        let app = |id: &str| App {
            app_id: id.to_owned(),
            secret: "s3cret".to_owned(),
            domains: Vec::new(),
        };
        Self {
            apps: Apps(vec![app("wx1"), app("wx2")]),
            users: users::built_in(),
            tokens: TokenStore::new(random::letters),
        }
    }

    fn code(&mut self, user: &str, scope: &str) -> String {
        let (app_id, user_id, scope) = ("wx1".to_owned(), user.to_owned(), scope.to_owned());
        self.tokens.issue_code(Grant { app_id, user_id, scope, is_snapshot: false }, NOW)
    }

    fn get(&mut self, path: &str, query: &str) -> ApiReply {
        self.call(&Method::GET, path, Some(&Params::parse(query)), false)
    }

    fn call(
        &mut self,
        method: &Method,
        path: &str,
        params: Option<&Params>,
        is_snapshot: bool,
    ) -> ApiReply {
        let Self { apps, users, tokens: book } = self;
        let mut desk = ApiContext { apps, users, tokens: book, host: "127.0.0.1:9100", now: NOW };
        desk.answer(ApiEndpoint::of(path).unwrap(), &ApiCall { method, params, is_snapshot })
    }

    fn login(&mut self, user: &str, scope: &str) -> Value {
        let code = self.code(user, scope);
        let query = format!("appid=wx1&secret=s3cret&code={code}&grant_type=authorization_code");
        json(&self.get("/sns/oauth2/access_token", &query))
    }
}

fn json(reply: &ApiReply) -> Value {
    let clean: String = reply.body.chars().filter(|letter| !letter.is_control()).collect();
    serde_json::from_str(&clean).unwrap()
}

#[test]
fn refusals() {
    let mut room = Room::new();
    let code = room.code("lilei", "snapi_base");
    let base = room.login("lilei", "snsapi_base");
    let token = base["access_token"].as_str().unwrap();
    let openid = base["openid"].as_str().unwrap();
    let good = format!("appid=wx1&secret=s3cret&code={code}&grant_type=authorization_code");
    let (exchange, refresh) = ("/sns/oauth2/access_token", "/sns/oauth2/refresh_token");
    let rows = [
        (exchange, String::new(), 41002),
        (exchange, "appid=wx1".to_owned(), 41004),
        (exchange, "appid=wx1&secret=s3cret".to_owned(), 41008),
        (exchange, good.replace("authorization_code", "password"), 40002),
        (exchange, good.replace("wx1", "wx3"), 40013),
        (exchange, good.replace("s3cret", "guess"), 40125),
        (exchange, good.replace("wx1", "wx2"), 40029),
        (exchange, good.replace(&code, "021wn10w3otnc23Qtt0w3QFXD62wn10D"), 40029),
        (exchange, good.clone(), 0),
        (exchange, good, 40163),
        (refresh, "refresh_token=r".to_owned(), 41002),
        (refresh, "appid=wx1&grant_type=refresh_token".to_owned(), 41003),
        (refresh, "appid=wx1&refresh_token=r".to_owned(), 40002),
        (refresh, "appid=wx1&grant_type=refresh_token&refresh_token=r".to_owned(), 40030),
        ("/sns/userinfo", format!("openid={openid}"), 41001),
        ("/sns/userinfo", format!("access_token={token}"), 41009),
        ("/sns/userinfo", format!("access_token=x&openid={openid}"), 40001),
        ("/sns/userinfo", format!("access_token={token}&openid=x"), 40003),
        ("/sns/userinfo", format!("access_token={token}&openid={openid}"), 48001),
        ("/sns/auth", format!("access_token={token}&openid=x"), 40003),
        ("/sns/auth", format!("access_token={token}&openid={openid}"), 0),
        ("/cgi-bin/token", "grant_type=client_credential&appid=wx1&secret=x".to_owned(), 40125),
        ("/cgi-bin/token", "grant_type=x&appid=wx1&secret=s3cret".to_owned(), 40002),
        ("/cgi-bin/stable_token", String::new(), 43002),
        ("/cgi-bin/ticket/getticket", format!("access_token={token}&type=jsapi"), 40001),
        ("/cgi-bin/ticket/getticket", "access_token=x".to_owned(), 40097),
    ];
    for (path, query, errcode) in rows {
        let reply = room.get(path, &query);
        assert_eq!(reply.errcode.unwrap_or(0), errcode, "{path}?{query}: {}", reply.body);
    }
    let post = room.call(&Method::POST, "/cgi-bin/stable_token", None, false);
    let wrong = room.call(&Method::POST, exchange, Some(&Params::default()), false);
    assert_eq!((post.errcode, wrong.errcode), (Some(47001), Some(43001)));
}

#[test]
fn errors_look_like_wechat() {
    let reply = refuse(ApiEndpoint::AccessToken, Errcode(40029));
    let (start, rid) = reply.body.split_once(", rid: ").unwrap();
    assert_eq!(start, r#"{"errcode":40029,"errmsg":"invalid code"#);
    assert_eq!(rid.trim_end_matches("\"}").split('-').map(str::len).collect::<Vec<_>>(), [8, 8, 8]);
    assert_eq!(reply.content_type, "text/plain");
    let terse = refuse(ApiEndpoint::Auth, Errcode::INVALID_OPENID);
    assert_eq!(terse.body, r#"{"errcode":40003,"errmsg":"invalid openid"}"#);
}

#[test]
fn logins() {
    let rows = [
        ("lilei", "snsapi_base", false, false),
        ("lilei", "snsapi_userinfo", true, true),
        ("qiya", "snsapi_userinfo", true, true),
        ("xiaoming", "snsapi_userinfo", true, false),
        ("lilei", "snsapi_login", true, true),
        ("lilei", "snsapi_base,snsapi_userinfo", true, true),
    ];
    for (user, scope, has_profile, has_unionid) in rows {
        let mut room = Room::new();
        let tokens = room.login(user, scope);
        assert_eq!(tokens["scope"], scope);
        assert_eq!(tokens["expires_in"], 7200);
        assert_eq!(tokens.get("unionid").is_some(), has_unionid, "{user} {scope}");
        assert!(tokens.get("errcode").or(tokens.get("is_snapshotuser")).is_none());
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        let query =
            format!("access_token={}&openid={}&lang=zh_CN", text("access_token"), text("openid"));
        let reply = room.get("/sns/userinfo", &query);
        assert_eq!(reply.errcode.is_none(), has_profile, "{user} {scope}: {}", reply.body);
        let refresh =
            format!("appid=wx1&grant_type=refresh_token&refresh_token={}", text("refresh_token"));
        let refreshed = json(&room.get("/sns/oauth2/refresh_token", &refresh));
        assert_eq!(refreshed["openid"], tokens["openid"]);
    }
}

#[test]
fn profiles() {
    let rows = [
        (
            "lilei",
            "\"nickname\":\"李雷\"",
            r#""headimgurl":"http:\/\/127.0.0.1:9100\/mmopen\/lilei\/132""#,
        ),
        ("qiya", "\"nickname\":\"\u{14}琦娅🍭\"", r#"\/mmopen\/qiya\/132""#),
        ("xiaoming", "\"nickname\":\"小明\"", r#""headimgurl":"","#),
    ];
    for (user, nickname, avatar) in rows {
        let mut room = Room::new();
        let tokens = room.login(user, "snsapi_userinfo");
        let text = |name: &str| tokens[name].as_str().unwrap();
        let query = format!("access_token={}&openid={}", text("access_token"), text("openid"));
        let body = room.get("/sns/userinfo", &query).body;
        assert!(body.contains(nickname) && body.contains(avatar), "{body}");
    }
}

#[test]
fn snapshot_visitors_are_virtual() {
    let mut room = Room::new();
    let real = room.login("lilei", "snsapi_userinfo");
    let code = room.code("lilei", "snsapi_userinfo");
    let query = format!("appid=wx1&secret=s3cret&code={code}&grant_type=authorization_code");
    let params = Params::parse(&query);
    let tokens = json(&room.call(&Method::GET, "/sns/oauth2/access_token", Some(&params), true));
    assert_eq!(tokens["is_snapshotuser"], 1);
    assert!(tokens["openid"] != real["openid"] && tokens["scope"] == "snsapi_userinfo");
    let text = |name: &str| tokens[name].as_str().unwrap();
    let query = format!("access_token={}&openid={}", text("access_token"), text("openid"));
    assert_eq!(json(&room.get("/sns/userinfo", &query))["nickname"], "微信用户");
}

#[test]
fn tickets() {
    let mut room = Room::new();
    let body = br#"{"grant_type":"client_credential","appid":"wx1","secret":"s3cret"}"#;
    let params = Params::from_json(body).unwrap();
    let tokens = json(&room.call(&Method::POST, "/cgi-bin/stable_token", Some(&params), false));
    let query = format!("access_token={}&type=jsapi", tokens["access_token"].as_str().unwrap());
    let ticket = json(&room.get("/cgi-bin/ticket/getticket", &query));
    assert_eq!((&ticket["errcode"], &ticket["expires_in"]), (&Value::from(0), &Value::from(7200)));
    assert_eq!(ticket["ticket"].as_str().unwrap().len(), 86);
}
