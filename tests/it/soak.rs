//! Everything at once: every combination of what a callback may carry, and thousands of logins
//! with a WeChat that fails in every way it can.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    harness::TestGateway,
    visitor::{Answer, Visitor, raw},
};

/// What a part of a callback may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Absent,
    Empty,
    Good,
    Wrong,
    Doubled,
    Huge,
}

const PARTS: [Part; 6] =
    [Part::Absent, Part::Empty, Part::Good, Part::Wrong, Part::Doubled, Part::Huge];

impl Part {
    /// As fields of a query.
    fn query(self, name: &str, good: &str) -> String {
        match self {
            Self::Absent => String::new(),
            Self::Empty => format!("&{name}="),
            Self::Good => format!("&{name}={good}"),
            Self::Wrong => format!("&{name}={}", wrong(good)),
            Self::Doubled => format!("&{name}={good}&{name}={good}"),
            Self::Huge => format!("&{name}={}", "a".repeat(3000)),
        }
    }

    /// As cookies.
    fn cookies(self, name: &str, good: &str) -> Vec<(String, String)> {
        let cookie = |value: &str| (name.to_owned(), value.to_owned());
        match self {
            Self::Absent => Vec::new(),
            Self::Empty => vec![cookie("")],
            Self::Good => vec![cookie(good)],
            Self::Wrong => vec![cookie(&wrong(good))],
            Self::Doubled => vec![cookie(good), cookie(good)],
            Self::Huge => vec![cookie(&"a".repeat(5000))],
        }
    }
}

/// The same length, another value.
fn wrong(good: &str) -> String {
    let flip = |c: char| if c == '0' { '1' } else { '0' };
    good.chars()
        .rev()
        .enumerate()
        .map(|(at, c)| if at == 5 { flip(c) } else { c })
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}

#[tokio::test]
async fn e3_whatever_a_callback_carries_it_ends_in_a_redirect_or_a_page() {
    let street = TestGateway::usual().await;
    let mut known = Visitor::wechat(street.gateway);
    let _ = known.open("/").await;
    let session = known.cookie("wxgate");
    let mut rows = 0;
    for code in PARTS {
        for state in PARTS {
            let mut start = Visitor::wechat(street.gateway);
            let away = start.get("/orders").await;
            let (_, back) = start.follow(&away, "/").await;
            let field = |name: &str| {
                back.location()
                    .split(&format!("{name}="))
                    .nth(1)
                    .unwrap()
                    .split('&')
                    .next()
                    .unwrap()
                    .to_owned()
            };
            let query = format!(
                "rd=/orders{}{}",
                code.query("code", &field("code")),
                state.query("state", &field("state"))
            );
            let (flow_name, flow_value) = start.cookies["h5.example.com"][0].clone();
            let pairs = PARTS.into_iter().flat_map(|flow| PARTS.map(|held| (flow, held)));
            for (flow, held) in pairs {
                let mut visitor = start.clone();
                let cookies =
                    [flow.cookies(&flow_name, &flow_value), held.cookies("wxgate", &session)]
                        .concat();
                visitor.cookies.insert("h5.example.com".to_owned(), cookies);
                let row =
                    format!("code {code:?}, state {state:?}, flow {flow:?}, session {held:?}");
                let answer = visitor.get(&format!("/_wx/callback?{query}")).await;
                assert!((300..500).contains(&answer.status), "{row}: {}", answer.status);
                let believed = state == Part::Good && matches!(flow, Part::Good | Part::Doubled);
                let logged_in =
                    answer.header("set-cookie").is_some_and(|it| it.starts_with("wxgate=ey"));
                assert!(!logged_in || (believed && code == Part::Good), "{row} logged somebody in");
                assert!(held != Part::Good || answer.location() == "/orders", "{row}");
                rows += 1;
            }
        }
    }
    assert_eq!(rows, 6 * 6 * 6 * 6);
    street.close().await;
}

/// Every fault of the emulator at five in a hundred.
const FAULTS: &str = r#"[
    {"at":"access_token","errcode":-1,"percent":5},
    {"at":"access_token","errcode":40029,"percent":5},
    {"at":"access_token","errcode":40163,"percent":5},
    {"at":"access_token","errcode":45011,"percent":5},
    {"at":"access_token","http_status":502,"percent":5},
    {"at":"access_token","garbage":true,"percent":5},
    {"at":"access_token","delay_ms":200,"percent":5},
    {"at":"authorize","decline":true,"percent":5},
    {"at":"authorize","duplicate_callback":true,"percent":5},
    {"at":"authorize","two_codes":true,"percent":5},
    {"at":"authorize","snapshot":true,"percent":5}
]"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_logins_with_every_fault_end_inside_or_on_a_page_with_a_button() {
    let logins: usize =
        std::env::var_os("SOAK").map_or(1_000, |it| it.to_str().unwrap().parse().unwrap());
    let street = Arc::new(TestGateway::usual().await);
    street.fault(FAULTS).await;
    let next = Arc::new(AtomicUsize::new(0));
    let crowd =
        (0..32).map(|_| tokio::spawn(log_in(Arc::clone(&street), Arc::clone(&next), logins)));
    let (mut inside, mut waiting) = (0, 0);
    for visitor in crowd.collect::<Vec<_>>() {
        let (came_in, stayed_out) = visitor.await.unwrap();
        inside += came_in;
        waiting += stayed_out;
    }
    assert_eq!(inside + waiting, logins);
    assert!(inside * 10 >= logins * 6, "{inside} of {logins} came in");
    println!("{logins} logins: {inside} inside, {waiting} on a page with a button");
    no_code_was_sent_twice(&street).await;
}

/// One visitor after the other, each with a fresh browser: how many came in, and how many were
/// left on a page with a button.
async fn log_in(street: Arc<TestGateway>, next: Arc<AtomicUsize>, logins: usize) -> (usize, usize) {
    let (mut inside, mut waiting) = (0, 0);
    while next.fetch_add(1, Ordering::Relaxed) < logins {
        let mut visitor = Visitor::wechat(street.gateway);
        let (at, page) = visitor.open("/orders").await;
        if page.status == 200 && !page.received("x-wechat-openid").is_empty() {
            assert_eq!(at, "/orders");
            inside += 1;
            continue;
        }
        let snapshot = page.text.contains("使用完整服务");
        assert!(snapshot || page.links_to("/_wx/login?rd=/orders"), "{at}: {page:?}");
        waiting += 1;
    }
    (inside, waiting)
}

/// Of the calls the emulator remembers, no two exchanges carried the same code.
async fn no_code_was_sent_twice(street: &TestGateway) {
    let request = format!(
        "GET /_emulator/requests HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        street.wechat
    );
    let calls = Answer::parse(&raw(street.wechat, &request).await).text;
    let calls: Vec<serde_json::Value> = serde_json::from_str(&calls).unwrap();
    let mut seen = HashSet::new();
    for call in calls.iter().filter(|call| call["path"] == "/sns/oauth2/access_token") {
        let code = call["query"]["code"].as_str().unwrap();
        assert!(seen.insert(code.to_owned()), "{code} was sent twice");
    }
    assert!(seen.len() > 100, "only {} exchanges seen", seen.len());
}
