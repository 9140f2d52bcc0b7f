//! New settings between two requests.

use crate::{
    harness::{KEY, Plan, ROUTES, Street},
    visitor::Visitor,
};

#[tokio::test]
async fn routes_change_between_two_requests() {
    let street = Street::usual().await;
    let mut visitor = Visitor::desktop(street.gateway);
    assert_eq!(visitor.get("/orders").await.status, 403);
    street.reload(&Plan::site("[[site.route]]\npath = \"/*\"\nauth = \"none\""));
    assert_eq!(visitor.get("/orders").await.status, 200);
    street.reload(&Plan::site(ROUTES));
    assert_eq!(visitor.get("/orders").await.status, 403);
    street.close().await;
}

#[tokio::test]
async fn keys_rotate_without_logging_anybody_out() {
    let street = Street::usual().await;
    let mut visitor = Visitor::wechat(street.gateway);
    let _ = visitor.open("/").await;
    let new = "fedcba9876543210fedcba9876543210";
    let ring = |keys: &str| Plan { session: format!("keys = [{keys}]"), ..Plan::site(ROUTES) };
    let (old, next) = (
        format!("{{ id = \"k1\", secret = \"{KEY}\" }}"),
        format!("{{ id = \"k2\", secret = \"{new}\" }}"),
    );

    street.reload(&ring(&format!("{next}, {old}")));
    assert_eq!(visitor.get("/orders").await.status, 200, "the old key still verifies");
    let mut newcomer = Visitor::wechat(street.gateway);
    let _ = newcomer.open("/").await;

    street.reload(&ring(&next));
    assert_eq!(visitor.get("/orders").await.status, 302, "and then it does not");
    assert_eq!(newcomer.get("/orders").await.status, 200, "the new one signed");
    street.close().await;
}
