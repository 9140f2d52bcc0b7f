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
    let reserved =
        ReservedHeaders::new(custom.iter(), UnderscorePolicy::Pass, MethodOverridePolicy::Drop);
    let cases = [
        // name, kept from a stranger, kept from a trusted proxy
        ("X-WeChat-OpenId", false, false),
        ("x_wechat_openid", false, false),
        ("X-WeChat_OpenId", false, false),
        ("X.WeChat.OpenId", false, false),
        ("x-wechat-anything", false, false),
        ("HTTP_X_WECHAT_OPENID", false, false),
        ("Remote-User", false, false),
        ("remote_user", false, false),
        ("REMOTE.USER", false, false),
        ("HTTP_REMOTE_USER", false, false),
        // Tencent cloud's family, whole, whether or not aliases are on.
        ("X-WX-OPENID", false, false),
        ("x_wx_openid", false, false),
        ("X-WX-UNIONID", false, false),
        ("X-WX-APPID", false, false),
        ("X-WX-FROM-OPENID", false, false),
        ("X-WX-FROM-UNIONID", false, false),
        ("X-WX-FROM-APPID", false, false),
        ("X-WX-SOURCE", false, false),
        ("X-WX-ENV", false, false),
        ("X-WX-CALL-ID", false, false),
        ("x.wx.anything", false, false),
        ("x-wxy", true, true),
        // Forwarded headers: those that the gateway rebuilds, and the two that a proxy may add.
        ("X-Forwarded-For", false, false),
        ("x_forwarded_for", false, false),
        ("X-Forwarded-Host", false, false),
        ("X-Forwarded-Proto", false, false),
        ("X-Forwarded-Port", false, true),
        ("X-Forwarded-Prefix", false, true),
        ("X_Forwarded_Prefix", false, false),
        ("X-Forwarded-User", false, false),
        ("X-Forwarded-Email", false, false),
        ("X-Forwarded-Groups", false, false),
        ("X-Forwarded-Preferred-Username", false, false),
        ("X-Forwarded-Access-Token", false, false),
        ("X-Forwarded-Ssl", false, false),
        ("X-Forwarded-Scheme", false, false),
        ("X-Forwarded-Uri", false, false),
        ("X-Forwarded-Path", false, false),
        ("X-Forwarded-Method", false, false),
        ("X-Forwarded-Server", false, false),
        ("X-Forwarded", false, false),
        ("Forwarded", false, false),
        ("X-Real-IP", false, false),
        ("x_real_ip", false, false),
        ("x_request_id", false, false),
        ("X-Host", false, false),
        ("X-HTTP-Host-Override", false, false),
        ("X-Real-Host", false, false),
        ("X-Real-Port", false, false),
        ("X-Real-Scheme", false, false),
        ("X-Scheme", false, false),
        ("x_scheme", false, false),
        ("X-Url-Scheme", false, false),
        ("X-Proxied-Https", false, false),
        ("Front-End-Https", false, false),
        ("WL-Proxy-SSL", false, false),
        ("X-Forward", false, false),
        ("X-Envoy-Original-Path", false, false),
        ("X-Envoy-Internal", false, false),
        ("$WSRU", false, false),
        ("$WSRA", false, false),
        ("X-Real-Name", true, true),
        ("X-Schema", true, true),
        ("X-Envoy", true, true),
        // The client's address under the names that legacy code knows.
        ("Client-IP", false, false),
        ("HTTP_CLIENT_IP", false, false),
        ("HTTP_X_FORWARDED_FOR", false, false),
        ("X-Client-IP", false, false),
        ("X_CLIENT.IP", false, false),
        ("True-Client-IP", false, false),
        ("CF-Connecting-IP", false, false),
        ("CF-Connecting-IPv6", false, false),
        ("CF-Pseudo-IPv4", false, false),
        ("X-Cluster-Client-IP", false, false),
        ("Forwarded-For", false, false),
        ("Forwarded-For-IP", false, false),
        ("X-Forward-For", false, false),
        ("X-Original-Forwarded-For", false, false),
        ("X-Remote-IP", false, false),
        ("X-Remote-Addr", false, false),
        ("Remote-Addr", false, false),
        ("X-Originating-IP", false, false),
        ("X-ProxyUser-Ip", false, false),
        ("Proxy-Client-IP", false, false),
        ("WL-Proxy-Client-IP", false, false),
        ("Fastly-Client-IP", false, false),
        ("Ali-CDN-Real-IP", false, false),
        ("Cdn-Src-Ip", false, false),
        ("X-Azure-ClientIP", false, false),
        ("X-Azure-SocketIP", false, false),
        ("X-Appengine-User-IP", false, false),
        ("X-Envoy-External-Address", false, false),
        ("X-Custom-IP-Authorization", false, false),
        ("X-Forwarder-For", false, false),
        ("Z-Forwarded-For", false, false),
        ("X-Coming-From", false, false),
        ("Coming-From", false, false),
        ("X-Remote-Host", false, false),
        ("Remote-Host", false, false),
        ("X-Client-Address", false, false),
        ("Client-Address", false, false),
        ("Remote-Address", false, false),
        ("remote.address", false, false),
        ("X-IP-Address", false, false),
        ("IP-Address", false, false),
        ("X-Client-IP-Address", false, false),
        ("X-Nokia-IPAddress", false, false),
        ("RLNClientIPAddr", false, false),
        ("X-Client-SrcIP", false, false),
        ("X-Ship-Address", true, true),
        ("X-Membership-Address", true, true),
        ("Delivery-Address", true, true),
        ("X-Ship", true, true),
        ("X-Tip", true, true),
        ("X-Trip-Id", true, true),
        ("X-Addressee", true, true),
        // Another target than the one that was judged.
        ("X-Original-URL", false, false),
        ("X-Rewrite-URL", false, false),
        ("X-HTTP-DestinationURL", false, false),
        ("x_http_destinationurl", false, false),
        ("X-Override-URL", false, false),
        ("X-Proxy-URL", false, false),
        ("Proxy", false, false),
        ("Request-URI", false, false),
        ("HTTP_REQUEST_URI", false, false),
        ("X-Request-URL", false, false),
        ("Request-Base", false, false),
        ("Base-URL", false, false),
        ("X-Script-Name", false, false),
        ("X_SCRIPT_NAME", false, false),
        ("Script-Name", false, false),
        ("SCRIPT_NAME", false, false),
        ("PATH_INFO", false, false),
        ("X-Path-Info", false, false),
        ("X-Matched-Path", false, false),
        ("X-Invoke-Path", false, false),
        ("X-Real-URL", false, false),
        ("X-Route-Prefix", false, false),
        ("Destination", true, true), // WebDAV
        ("Range", true, true),
        ("Request-Timeout", true, true),
        ("Script", true, true),
        ("URL", true, true),
        // Another method, on a site with a route for some methods.
        ("X-HTTP-Method-Override", false, false),
        ("X_HTTP_METHOD_OVERRIDE", false, false),
        ("X-HTTP-Method", false, false),
        ("X-Method-Override", false, false),
        ("Method-Override", false, false),
        ("X-Request-Method", false, false),
        ("Request-Method", false, false),
        ("HTTP-Method", false, false),
        ("X-Requested-With", true, true),
        ("x-wechatty", true, true),
        ("accept", true, true),
        ("referer", true, true),
        ("under_score", true, true),
    ];
    for (name, stranger, trusted) in cases {
        let kept = |it| !stripped(&[(name, "forged")], &reserved, it).is_empty();
        assert_eq!((kept(false), kept(true)), (stranger, trusted), "{name}");
    }
}

#[test]
fn method_overrides_pass_where_no_route_names_methods() {
    let reserved = ReservedHeaders::default();
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "Method-Override",
        "X-Request-Method",
        "Request-Method",
    ] {
        assert_eq!(stripped(&[(name, "DELETE")], &reserved, false).len(), 1, "{name}");
        assert!(!reserved.is_method_override(name), "{name}");
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
        let reserved = ReservedHeaders::new([].iter(), policy, MethodOverridePolicy::Pass);
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
                 transfer-encoding accept x-custom x-wx-source x-wx client-ip cf-connecting-ipv6 \
                 remote-addr forwarded-for x-forwarded-port x-forwarded-user x-override-url proxy \
                 x-http-method-override http-client-ip http-x-wechat-openid ship x-script-name \
                 request-uri path-info base-url x-scheme x-real-host client-address ship-address \
                 coming-from wl-proxy-ssl request-method";
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
        strict in any::<bool>(),
    ) {
        let custom =
            [HeaderName::from_static("remote-user"), HeaderName::from_static("x-wx-openid")];
        let policy = if pass { UnderscorePolicy::Pass } else { UnderscorePolicy::Drop };
        let methods = if strict { MethodOverridePolicy::Drop } else { MethodOverridePolicy::Pass };
        let reserved = ReservedHeaders::new(custom.iter(), policy, methods);
        let names: Vec<HeaderName> =
            sent.iter().map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).collect();
        let mut headers = HeaderMap::new();
        for (at, name) in names.iter().enumerate() {
            headers.append(name, HeaderValue::from(at));
        }
        let passed = forwarded_fields(&headers, &reserved, trusted);
        for name in &names {
            let folded = as_php_sees_it(name.as_str());
            let seen = folded.strip_prefix("http_").unwrap_or(&folded);
            let last = seen.rsplit('_').next().unwrap();
            let address = ["ip", "ips", "ipv4", "ipv6", "addr"].contains(&last)
                || ["forwarded_for", "client_address", "coming_from"]
                    .iter()
                    .any(|ending| seen.ends_with(ending));
            let way = ["forwarded", "x_forwarded", "x_request_id", "x_scheme", "x_real_host"];
            let forwarded = seen.starts_with("x_forwarded_")
                || way.contains(&seen)
                || seen == "wl_proxy_ssl"
                || address;
            let paths = ["x_override_url", "proxy", "x_script_name", "request_uri", "path_info"];
            let methods = ["x_http_method_override", "request_method"];
            let from_proxy = trusted && name == "x-forwarded-port";
            let gone = seen.starts_with("x_wechat_")
                || seen.starts_with("x_wx_")
                || seen == "remote_user"
                || seen.starts_with("x_original_")
                || seen.starts_with("x_rewrite_")
                || paths.contains(&seen)
                || seen == "base_url"
                || (strict && methods.contains(&seen))
                || (forwarded && !from_proxy)
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
