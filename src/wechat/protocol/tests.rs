//! The vectors of the protocol reference: URLs of SDK tests and official samples, answers seen on
//! the wire.

use super::*;
use crate::site::AccountKind;

fn account(app_id: &str, secret: &str) -> Account {
    Account {
        name: "main".to_owned(),
        kind: AccountKind::Official,
        callback: None,
        app_id: app_id.to_owned(),
        app_secret: Secret::new(secret),
        authorize_url: "https://open.weixin.qq.com".to_owned(),
        api_urls: Vec::new(),
        verify_files: [].into(),
    }
}

#[test]
fn authorize_urls() {
    use Scope::{Base, UserInfo};
    let cases = [
        // A1 and A2, node-webot/wechat-oauth
        (
            "appid",
            "http://diveintonode.org/",
            Base,
            "hehe",
            "appid=appid&redirect_uri=http%3A%2F%2Fdiveintonode.org%2F&response_type=code&scope=snsapi_base&state=hehe",
        ),
        (
            "appid",
            "http://diveintonode.org/",
            UserInfo,
            "hehe",
            "appid=appid&redirect_uri=http%3A%2F%2Fdiveintonode.org%2F&response_type=code&scope=snsapi_userinfo&state=hehe",
        ),
        // A6, official
        (
            "wx520c15f417810387",
            "https://chong.qq.com/php/index.php?d=&c=wxAdapter&m=mobileDeal&showwxpaytitle=1&vb2ctag=4_2030_5_1194_60",
            Base,
            "123",
            "appid=wx520c15f417810387&redirect_uri=https%3A%2F%2Fchong.qq.com%2Fphp%2Findex.php%3Fd%3D%26c%3DwxAdapter%26m%3DmobileDeal%26showwxpaytitle%3D1%26vb2ctag%3D4_2030_5_1194_60&response_type=code&scope=snsapi_base&state=123",
        ),
        // A7, official
        (
            "wx807d86fb6b3d4fd2",
            "http://developers.weixin.qq.com",
            UserInfo,
            "STATE",
            "appid=wx807d86fb6b3d4fd2&redirect_uri=http%3A%2F%2Fdevelopers.weixin.qq.com&response_type=code&scope=snsapi_userinfo&state=STATE",
        ),
        // derived: one encoding, spaces as %20, upper-case escapes
        (
            "a",
            "https://h5.example.com/_wx/cb?rd=/a b&x=中文+1",
            Base,
            "s",
            "appid=a&redirect_uri=https%3A%2F%2Fh5.example.com%2F_wx%2Fcb%3Frd%3D%2Fa%20b%26x%3D%E4%B8%AD%E6%96%87%2B1&response_type=code&scope=snsapi_base&state=s",
        ),
    ];
    for (app_id, callback, scope, state, query) in cases {
        let account = account(app_id, "s");
        let to =
            |device| authorize_url(&account, &AuthorizeParams { callback, scope, state, device });
        let expected = format!("https://open.weixin.qq.com/connect/oauth2/authorize?{query}");
        assert_eq!(to(Device::Desktop), format!("{expected}#wechat_redirect"));
        // A5: WxJava puts it there, too.
        assert_eq!(to(Device::Mobile), format!("{expected}&connect_redirect=1#wechat_redirect"));
    }
    // A3, node-webot/wechat-oauth
    let website = Account { kind: AccountKind::Website, ..account("appid", "s") };
    let (callback, scope, device) = ("http://diveintonode.org/", Base, Device::Desktop);
    let leave = AuthorizeParams { callback, scope, state: "hehe", device };
    assert_eq!(
        authorize_url(&website, &leave),
        "https://open.weixin.qq.com/connect/qrconnect?appid=appid&redirect_uri=http%3A%2F%2Fdiveintonode.org%2F&response_type=code&scope=snsapi_login&state=hehe#wechat_redirect"
    );
}

#[test]
fn api_urls() {
    let account = account("my-client-id", "my-client-secret");
    let code = "a6ed8e7f-471f-44f1-903b-65946475f351";
    // T6
    assert_eq!(
        token_url("https://api.weixin.qq.com", &account, code).expose(),
        "https://api.weixin.qq.com/sns/oauth2/access_token?appid=my-client-id&secret=my-client-secret&code=a6ed8e7f-471f-44f1-903b-65946475f351&grant_type=authorization_code"
    );
    let hostile = token_url("https://api", &account, "x&appid=other#");
    assert!(hostile.expose().contains("&code=x%26appid%3Dother%23&grant_type="));
}

#[test]
fn grants() {
    let grant = |openid: &str, unionid: Option<&str>, scope, snapshot| {
        Ok((openid.to_owned(), unionid.map(str::to_owned), scope, snapshot))
    };
    let refused = |code, message: &str| Err(ApiError::Code { code, message: message.to_owned() });
    let cases = [
        (
            "T1",
            r#"{"access_token":"ACCESS_TOKEN","expires_in":7200,"refresh_token":"REFRESH_TOKEN","openid":"OPENID","scope":"SCOPE","is_snapshotuser":1,"unionid":"UNIONID"}"#,
            grant("OPENID", Some("UNIONID"), Scope::Base, true),
        ),
        (
            "T2",
            r#"{"access_token":"5_pEk49","expires_in":7200,"refresh_token":"5_Bqs","openid":"ob8F-wFENFWw7_FR6Gx8KbPacFEw","scope":"snsapi_base","unionid":"oTpR9xAIiebFOc6p04tMTaLhviCQ"}"#,
            grant(
                "ob8F-wFENFWw7_FR6Gx8KbPacFEw",
                Some("oTpR9xAIiebFOc6p04tMTaLhviCQ"),
                Scope::Base,
                false,
            ),
        ),
        (
            "T3",
            r#"{"access_token":"AT","expires_in":7200,"refresh_token":"RT","openid":"ojHK1v9VKtd2r7BrUqRSGnymyH_Q","scope":"snsapi_userinfo","unionid":"oLDegwLanAyzhdUfaBqh6Dt4MqtY","is_snapshotuser":1}"#,
            grant(
                "ojHK1v9VKtd2r7BrUqRSGnymyH_Q",
                Some("oLDegwLanAyzhdUfaBqh6Dt4MqtY"),
                Scope::UserInfo,
                true,
            ),
        ),
        (
            "T4",
            r#"{"access_token":"secret-access-token","token_type":"access","refresh_token":"secret-refresh-token","expires_in":"300","openid":"my-open-id"}"#,
            grant("my-open-id", None, Scope::Base, false),
        ),
        (
            "T5",
            r#"{"access_token":"ACCESS_TOKEN","expires_in":0.1,"refresh_token":"REFRESH_TOKEN","openid":"OPENID","scope":"SCOPE"}"#,
            grant("OPENID", None, Scope::Base, false),
        ),
        (
            "errcode 0",
            r#"{"errcode":0,"access_token":"AT","openid":"o","scope":"snsapi_base,snsapi_userinfo"}"#,
            grant("o", None, Scope::UserInfo, false),
        ),
        (
            "snapshot 1.0",
            r#"{"access_token":"AT","openid":"o","is_snapshotuser":1.0}"#,
            grant("o", None, Scope::Base, true),
        ),
        (
            "snapshot \"1\"",
            r#"{"access_token":"AT","openid":"o","is_snapshotuser":"1"}"#,
            grant("o", None, Scope::Base, true),
        ),
        (
            "snapshot true",
            r#"{"access_token":"AT","openid":"o","is_snapshotuser":true}"#,
            grant("o", None, Scope::Base, true),
        ),
        (
            "snapshot 0",
            r#"{"access_token":"AT","openid":"o","is_snapshotuser":0}"#,
            grant("o", None, Scope::Base, false),
        ),
        (
            "BOM",
            "\u{feff}{\"access_token\":\"AT\",\"openid\":\"o\"}",
            grant("o", None, Scope::Base, false),
        ),
        (
            "E1",
            r#"{"errcode":40029,"errmsg":"invalid code, rid: 65c17d8c-5cf05990-781aabe9"}"#,
            refused(40029, "invalid code, rid: 65c17d8c-5cf05990-781aabe9"),
        ),
        (
            "E2",
            r#"{"errcode":40163,"errmsg":"code been used, rid: 6206378a-793424c0-2e4091cc"}"#,
            refused(40163, "code been used, rid: 6206378a-793424c0-2e4091cc"),
        ),
        (
            "E3",
            r#"{"errcode":41008,"errmsg":"missing code, hints: [ req_id: plAv90053th21 ]"}"#,
            refused(41008, "missing code, hints: [ req_id: plAv90053th21 ]"),
        ),
        (
            "E4",
            r#"{"errcode":-1,"errmsg":"system error, hints: [ req_id: 4FFbQDshE-npwHqA ]"}"#,
            refused(-1, "system error, hints: [ req_id: 4FFbQDshE-npwHqA ]"),
        ),
        (
            "E7",
            r#"{"errcode":"40226","errmsg":"code blocked\u0007"}"#,
            refused(40226, "code blocked"),
        ),
        ("no openid", r#"{"access_token":"AT"}"#, Err(ApiError::Nonsense("no openid"))),
        ("no token", r#"{"openid":"o"}"#, Err(ApiError::Nonsense("no access_token"))),
        (
            "strange openid",
            r#"{"access_token":"AT","openid":"o\r\nX: y"}"#,
            Err(ApiError::Nonsense("an openid of strange characters")),
        ),
        ("html", "<html>502</html>", Err(ApiError::Nonsense("not JSON"))),
        ("empty", "", Err(ApiError::Nonsense("not JSON"))),
        ("list", "[]", Err(ApiError::Nonsense("not a JSON object"))),
    ];
    for (name, body, expected) in cases {
        let read = read_grant(body.as_bytes());
        let read = read.map(|it| (it.openid, it.unionid, it.scope, it.snapshot));
        assert_eq!(read, expected, "{name}");
    }
}

#[test]
fn profiles() {
    let some = |text: &str| Some(text.to_owned());
    let cases: [(&str, &[u8], Profile); 7] = [
        ("U1", br#"{"openid":"of_Hl5zVpyj0vwzIlAyIlnXe1234","nickname":"\u98de\u7fd4\u7684\u4f01\u9e45","sex":1,"language":"zh_CN","headimgurl":"https:\/\/thirdwx.qlogo.cn\/mmopen\/vi_32\/Q0j4\/132","privilege":[],"unionid":"oxW9O1VAL8x-zfWP2hrqW9c81234"}"#,
         Profile { nickname: some("飞翔的企鹅"), avatar: some("https://thirdwx.qlogo.cn/mmopen/vi_32/Q0j4/132"), unionid: some("oxW9O1VAL8x-zfWP2hrqW9c81234"), ..Profile::default() }),
        ("U2", br#"{"openid":"OPENID","nickname":"N","sex":0,"province":"","headimgurl":"https://thirdwx.qlogo.cn/mmopen/132","privilege":[]}"#,
         Profile { nickname: some("N"), avatar: some("https://thirdwx.qlogo.cn/mmopen/132"), unionid: None, ..Profile::default() }),
        ("U3", br#"{"openid":"OPENID","nickname":"NICKNAME","sex":"1","headimgurl":"http://wx.qlogo.cn/mmopen/46","privilege":["PRIVILEGE1"]}"#,
         Profile { nickname: some("NICKNAME"), avatar: some("https://wx.qlogo.cn/mmopen/46"), unionid: None, ..Profile::default() }),
        ("U4", br#"{"unionid":"","nickname":"John Smith","sex":"Male"}"#,
         Profile { nickname: some("John Smith"), avatar: None, unionid: None, ..Profile::default() }),
        ("U5", b"{\"nickname\":\"\x14\xE7\x90\xA6\xE5\xA8\x85\xF0\x9F\x8D\xAD\x07!\"}",
         Profile { nickname: some("琦娅🍭 !"), ..Profile::default() }),
        ("U6", br#"{"nickname":"n","headimgurl":""}"#, Profile { nickname: some("n"), ..Profile::default() }),
        ("broken UTF-8", b"{\"nickname\":\"a\xff\"}", Profile { nickname: some("a\u{fffd}"), ..Profile::default() }),
    ];
    for (name, body, expected) in cases.clone() {
        let read = read_profile(body).unwrap();
        assert_eq!(Profile { rest: Map::new(), ..read }, expected, "{name}");
    }
    let rest = read_profile(cases[0].1).unwrap().rest;
    assert_eq!(
        Value::Object(rest),
        serde_json::json!({ "sex": 1, "language": "zh_CN", "privilege": [] })
    );
    let e9 = read_profile(br#"{"errcode":48001,"errmsg":"api unauthorized, rid: x"}"#).unwrap_err();
    assert_eq!(e9.class(), ErrorClass::Scope);
}

#[test]
fn avatars_move_to_https_where_wechat_serves_them() {
    let cases = [
        ("http://wx.qlogo.cn/mmopen/46", "https://wx.qlogo.cn/mmopen/46"),
        ("https://thirdwx.qlogo.cn/a/132", "https://thirdwx.qlogo.cn/a/132"),
        ("http://127.0.0.1:9100/mmopen/1/132", "http://127.0.0.1:9100/mmopen/1/132"),
    ];
    for (given, expected) in cases {
        let profile = read_profile(format!(r#"{{"headimgurl":"{given}"}}"#).as_bytes()).unwrap();
        assert_eq!(profile.avatar.as_deref(), Some(expected));
    }
}

#[test]
fn faults() {
    let cases = [
        (-1, ErrorClass::Code),
        (40029, ErrorClass::Code),
        (40163, ErrorClass::Code),
        (42003, ErrorClass::Code),
        (40001, ErrorClass::Setup),
        (40013, ErrorClass::Setup),
        (40125, ErrorClass::Setup),
        (40164, ErrorClass::Setup),
        (45009, ErrorClass::Busy),
        (45011, ErrorClass::Busy),
        (40226, ErrorClass::Visitor),
        (50002, ErrorClass::Visitor),
        (48001, ErrorClass::Scope),
        (99999, ErrorClass::Setup),
    ];
    for (code, expected) in cases {
        let refusal = ApiError::Code { code, message: String::new() };
        assert_eq!(refusal.class(), expected, "{code}");
    }
}

proptest::proptest! {
    #[test]
    fn e6_any_bytes_are_an_answer_or_a_refusal(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = read_grant(&bytes);
        let _ = read_profile(&bytes);
    }

    #[test]
    fn e6_an_openid_is_visible_ascii_or_none(
        openid in proptest::prop_oneof!["[!-~]{1,140}", ".{0,40}"],
        scope in ".{0,20}",
        cut in 0..200_usize,
    ) {
        let answer = serde_json::json!({
            "access_token": "t", "expires_in": 7200, "openid": openid, "scope": scope,
            "is_snapshotuser": 1, "unionid": openid,
        });
        let bytes = answer.to_string().into_bytes();
        if let Ok(grant) = read_grant(&bytes) {
            proptest::prop_assert!((1..=128).contains(&grant.openid.len()));
            proptest::prop_assert!(grant.openid.bytes().all(|b| b.is_ascii_graphic()));
            proptest::prop_assert_eq!(grant.openid.as_str(), openid.trim());
        }
        // An answer that breaks off is no answer.
        proptest::prop_assert!(read_grant(&bytes[..cut.min(bytes.len() - 1)]).is_err());
    }
}
