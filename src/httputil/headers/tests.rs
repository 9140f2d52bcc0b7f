//! What passes and what does not, however it is spelled.

use proptest::prelude::*;

use super::*;
use crate::httputil::outbound::tests::forwarded_fields;

fn stripped(sent: &[(&str, &str)], reserved: &ReservedHeaders, trusted: bool) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let kept = forwarded_fields(&headers, reserved, trusted);
    let mut kept: Vec<String> = kept.keys().map(|name| name.as_str().to_owned()).collect();
    kept.sort();
    kept
}

#[test]
fn b1_hop_by_hop_ends_here_with_what_connection_names() {
    let sent = [
        ("connection", "keep-alive, X-Private"),
        ("connection", "te, cookie, host"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("keep-alive", "5"),
        ("upgrade", "h2c"),
        ("transfer-encoding", "chunked"),
        ("proxy-authorization", "Basic x"),
        ("cookie", "a=1"),
        ("host", "h"),
        ("accept", "*/*"),
    ];
    let kept = stripped(&sent, &ReservedHeaders::default(), false);
    assert_eq!(kept, ["accept", "cookie"], "and the host, which we say anew");
}

#[test]
fn b2_b3_b4_no_spelling_of_a_reserved_name_gets_through() {
    let custom = [HeaderName::from_static("remote-user"), HeaderName::from_static("x-wx-openid")];
    let reserved = ReservedHeaders::new(custom.iter(), UnderscorePolicy::Pass);
    let cases = [
        // name, kept from a stranger, kept from a trusted proxy
        ("X-WeChat-OpenId", false, false),
        ("x_wechat_openid", false, false),
        ("X-WeChat_OpenId", false, false),
        ("X.WeChat.OpenId", false, false),
        ("x-wechat-anything", false, false),
        ("Remote-User", false, false),
        ("remote_user", false, false),
        ("REMOTE.USER", false, false),
        ("X-WX-OPENID", false, false),
        ("x_wx_openid", false, false),
        ("X-Forwarded-For", false, false), // we say it anew
        ("x_forwarded_for", false, true),
        ("X-Forwarded-Prefix", false, true),
        ("Forwarded", false, true),
        ("X-Real-IP", false, false),
        ("X-Original-URL", false, false),
        ("X-Rewrite-URL", false, false),
        ("X-Requested-With", true, true),
        ("x-wechatty", true, true),
        ("accept", true, true),
        ("under_score", true, true),
    ];
    for (name, stranger, trusted) in cases {
        let kept = |it| !stripped(&[(name, "forged")], &reserved, it).is_empty();
        assert_eq!((kept(false), kept(true)), (stranger, trusted), "{name}");
    }
}

#[test]
fn b4_underscores_are_dropped_refused_or_passed() {
    let cases = [
        (UnderscorePolicy::Drop, Ok(()), 0),
        (UnderscorePolicy::Refuse, Err(RejectedHeader), 0),
        (UnderscorePolicy::Pass, Ok(()), 1),
    ];
    for (policy, admitted, kept) in cases {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("a_b"), HeaderValue::from_static("1"));
        let reserved = ReservedHeaders::new([].iter(), policy);
        assert_eq!(reserved.check(&headers, false), admitted, "{policy:?}");
        assert_eq!(forwarded_fields(&headers, &reserved, false).len(), kept, "{policy:?}");
    }
}

#[test]
fn b6_trailers_frame_route_and_identify_nothing() {
    let sent = "connection x-named te transfer-encoding host content-length content-type cookie \
                set-cookie authorization cache-control trailer grpc-status x-checksum date";
    let mut trailers = HeaderMap::new();
    for name in sent.split_whitespace() {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("x-named"));
    }
    sanitize_trailers(&mut trailers);
    let mut kept: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["grpc-status", "x-checksum"]);
}

/// Names near to those that matter, with every separator a header name may hold.
fn name() -> impl Strategy<Value = String> {
    let words = "x-wechat-openid x-wechat- x-wechat x-wechatty-a remote-user remoteuser \
                 x-wx-openid x-wx-openid-2 x-forwarded-for x-forwarded forwarded x-real-ip \
                 x-request-id x-original-url x-rewrite-url x-rewrite te keep-alive \
                 transfer-encoding accept x-custom";
    let words: Vec<&str> = words.split_whitespace().collect();
    let separators = vec!['-', '-', '_', '.', '!', '~', '*'];
    let lot = (proptest::sample::select(separators), any::<bool>());
    let lots = proptest::collection::vec(lot, 24);
    let respelled = (proptest::sample::select(words), lots).prop_map(|(word, lots)| {
        let letters = word.chars().zip(lots);
        letters
            .map(|(c, (separator, upper))| match c {
                '-' => separator,
                c if upper => c.to_ascii_uppercase(),
                c => c,
            })
            .collect()
    });
    prop_oneof![4 => respelled, 1 => "[a-z0-9_.-]{1,12}"]
}

/// How PHP, WSGI and old CGI see a name.
fn as_php_sees_it(name: &str) -> String {
    name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

proptest! {
    #[test]
    fn b2_nothing_that_folds_to_a_reserved_name_is_left_and_nothing_else_is_lost(
        sent in proptest::collection::vec(name(), 1..12),
        trusted in any::<bool>(),
        pass in any::<bool>(),
    ) {
        let custom =
            [HeaderName::from_static("remote-user"), HeaderName::from_static("x-wx-openid")];
        let policy = if pass { UnderscorePolicy::Pass } else { UnderscorePolicy::Drop };
        let reserved = ReservedHeaders::new(custom.iter(), policy);
        let names: Vec<HeaderName> =
            sent.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (at, name) in names.iter().enumerate() {
            headers.append(name, HeaderValue::from(at));
        }
        let passed = forwarded_fields(&headers, &reserved, trusted);
        for name in &names {
            let seen = as_php_sees_it(name.as_str());
            let forwarded = seen.starts_with("x_forwarded_")
                || ["forwarded", "x_real_ip", "x_request_id"].contains(&&*seen);
            let ours = ["x-forwarded-for", "x-real-ip", "x-request-id"].contains(&name.as_str());
            let gone = seen.starts_with("x_wechat_")
                || ["remote_user", "x_wx_openid"].contains(&&*seen)
                || seen.starts_with("x_original_")
                || seen.starts_with("x_rewrite_")
                || (forwarded && !trusted)
                || ours
                || ["te", "keep-alive", "transfer-encoding"].contains(&name.as_str())
                || (!pass && name.as_str().contains('_'));
            let all = |headers: &HeaderMap| -> Vec<HeaderValue> {
                headers.get_all(name).iter().cloned().collect()
            };
            let expected = if gone { Vec::new() } else { all(&headers) };
            prop_assert_eq!(all(&passed), expected, "{}", name);
        }
    }
}
