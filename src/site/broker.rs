//! The code broker: sites that are not behind us and have their visitors logged in by us all the
//! same. Which client an address belongs to, and which one a secret. Pure.

use std::sync::Arc;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};

use super::{Account, AccountKind, OutsideWeChat};
use crate::{
    httputil::{HttpUrl, Origin, cookie::CookieNames},
    secret::Secret,
};

/// The broker and its clients.
#[derive(Clone, Debug)]
pub struct Broker {
    /// What visitors come to: the base of every address that WeChat gets.
    pub public_url: Origin,
    /// Where its paths begin, such as `/api/wechat`; nothing where they begin at the root.
    pub prefix: String,
    /// Who may use it.
    pub clients: Vec<Arc<Client>>,
    /// The names of its cookies.
    pub cookies: CookieNames,
    /// `public_url` and `prefix`: where its paths are in full.
    pub base: String,
    /// What its states are good for. No site's audience looks like it.
    pub audience: String,
}

/// A site that has its visitors logged in.
#[derive(Clone, Debug)]
pub struct Client {
    /// What the operator calls it, and the audience of what we sign for it.
    pub name: String,
    /// Who logs its visitors in.
    pub account: Arc<Account>,
    /// What its visitors outside WeChat meet; never [`OutsideWeChat::Anonymous`].
    pub outside_wechat: OutsideWeChat,
    /// Where its visitors may be sent back to.
    pub return_to: Vec<AllowedReturn>,
    /// What they bring along.
    pub result: Delivery,
    /// What its server says to be believed.
    pub secret: Option<ClientSecret>,
    /// Whether its pages are signed for the JS-SDK.
    pub jssdk: bool,
}

/// An origin, and the path that everything of the client's lies below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedReturn {
    /// Scheme, host and port.
    pub origin: Origin,
    /// From the slash on.
    pub path: String,
}

/// How a client learns who came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// The openid, and the profile, in the query of the address.
    #[default]
    Params,
    /// A one-time ticket there, which the client's server redeems.
    Ticket,
}

/// A secret that a program presents. Only its hash is held and compared, so that the time of a
/// comparison tells nothing of its length.
#[derive(Clone)]
pub struct ClientSecret([u8; 32]);

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl ClientSecret {
    /// That of this text.
    pub fn new(secret: &Secret) -> Self {
        Self::of(secret.expose().as_bytes())
    }

    /// Returns whether this is the secret that was presented, in a time that tells nothing of it.
    pub fn is(&self, presented: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &Self::of(presented).0).is_ok()
    }

    fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl Broker {
    /// The client that a visitor may be sent back to with this address: whose place is the most
    /// exact one.
    pub fn client_at(&self, url: &HttpUrl) -> Option<&Arc<Client>> {
        let here = self.places().filter(|(place, _)| url.is_at(&place.origin));
        let here = here.filter(|(place, _)| url.is_below(&place.path));
        here.max_by_key(|(place, _)| place.path.len()).map(|(_, client)| client)
    }

    /// The client whose account signs this page for the JS-SDK. WeChat knows domains only, and a
    /// browser keeps no page of an origin from another, so any path of the origin will do.
    pub fn signer_of(&self, url: &HttpUrl) -> Option<&Arc<Client>> {
        let here = self.places().filter(|(place, client)| client.jssdk && url.is_at(&place.origin));
        let nearness = |place: &AllowedReturn| (url.is_below(&place.path), place.path.len());
        here.max_by_key(|(place, _)| nearness(place)).map(|(_, client)| client)
    }

    fn places(&self) -> impl Iterator<Item = (&AllowedReturn, &Arc<Client>)> {
        let places = |client| move |place| (place, client);
        self.clients.iter().flat_map(move |client| client.return_to.iter().map(places(client)))
    }

    /// The client of this name.
    pub fn client(&self, name: &str) -> Option<&Arc<Client>> {
        self.clients.iter().find(|client| client.name == name)
    }

    /// The client who has this secret. All are looked at, and each in constant time.
    pub fn holder(&self, secret: &[u8]) -> Option<&Arc<Client>> {
        let mut found = None;
        for client in &self.clients {
            if client.secret.as_ref().is_some_and(|own| own.is(secret)) {
                found = Some(client);
            }
        }
        found
    }

    /// Whether this origin is that of a page that is signed for the JS-SDK.
    pub fn signs_for(&self, origin: &[u8]) -> bool {
        let same = |place: &AllowedReturn| place.origin.as_str().as_bytes() == origin;
        self.places().any(|(place, client)| client.jssdk && same(place))
    }

    /// Whether anybody's pages are.
    pub fn has_jssdk(&self) -> bool {
        self.clients.iter().any(|client| client.jssdk)
    }

    /// Every account that logs visitors in here.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.clients.iter().flat_map(|client| client.accounts())
    }
}

impl Client {
    /// The account for visitors inside WeChat, and the one for those outside.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        let outside = match &self.outside_wechat {
            OutsideWeChat::Login(account) => Some(account),
            OutsideWeChat::Page | OutsideWeChat::Anonymous | OutsideWeChat::Deny => None,
        };
        [&self.account].into_iter().chain(outside)
    }

    /// The account whose login page a visitor can use, inside WeChat or outside. That of a website
    /// can be used anywhere.
    pub fn account_for(&self, inside: bool) -> Option<&Arc<Account>> {
        match &self.outside_wechat {
            _ if inside || self.account.kind == AccountKind::Website => Some(&self.account),
            OutsideWeChat::Login(account) => Some(account),
            OutsideWeChat::Page | OutsideWeChat::Anonymous | OutsideWeChat::Deny => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn account() -> Arc<Account> {
        Arc::new(Account {
            name: "main".to_owned(),
            kind: AccountKind::Official,
            callback: None,
            app_id: "wx1".to_owned(),
            app_secret: Secret::new("s"),
            authorize_url: String::new(),
            api_urls: Vec::new(),
            verify_files: std::collections::HashMap::new(),
        })
    }

    fn client(name: &str, places: &[(&str, &str)], jssdk: bool) -> Arc<Client> {
        let place = |(origin, path): &(&str, &str)| AllowedReturn {
            origin: Origin::parse(origin).unwrap(),
            path: (*path).to_owned(),
        };
        Arc::new(Client {
            name: name.to_owned(),
            account: account(),
            outside_wechat: OutsideWeChat::Page,
            return_to: places.iter().map(place).collect(),
            result: Delivery::Params,
            secret: Some(ClientSecret::new(&Secret::new(format!("secret of {name}")))),
            jssdk,
        })
    }

    fn broker() -> Broker {
        let shop = "https://shop.example.com";
        Broker {
            public_url: Origin::parse("https://auth.example.com").unwrap(),
            prefix: "/api/wechat".to_owned(),
            clients: vec![
                client("shop", &[(shop, "/"), ("http://shop.example.com", "/")], true),
                client("admin", &[(shop, "/admin/")], false),
                client("news", &[("https://news.example.com", "/app")], true),
            ],
            cookies: CookieNames::new("wxgate", true),
            base: "https://auth.example.com/api/wechat".to_owned(),
            audience: String::new(),
        }
    }

    #[test]
    fn d3_an_address_belongs_to_the_most_exact_place_or_to_nobody() {
        let broker = broker();
        let cases = [
            ("https://shop.example.com/cart", Some("shop"), Some("shop")),
            ("https://shop.example.com/admin/x", Some("admin"), Some("shop")),
            ("https://shop.example.com/admin", Some("shop"), Some("shop")),
            ("http://shop.example.com/", Some("shop"), Some("shop")),
            ("https://news.example.com/app/1", Some("news"), Some("news")),
            ("https://news.example.com/", None, Some("news")),
            ("https://news.example.com/application", None, Some("news")),
            ("https://evil.example/", None, None),
            ("https://shop.example.com:8443/", None, None),
        ];
        for (url, back, signs) in cases {
            let link = HttpUrl::parse(url).unwrap();
            let name = |client: &Arc<Client>| client.name.clone();
            assert_eq!(broker.client_at(&link).map(name).as_deref(), back, "{url}");
            assert_eq!(broker.signer_of(&link).map(name).as_deref(), signs, "{url}");
        }
        let none = Broker { clients: Vec::new(), ..broker };
        let link = HttpUrl::parse("https://shop.example.com/").unwrap();
        assert!(none.client_at(&link).is_none(), "an empty list allows nothing");
    }

    #[test]
    fn the_account_is_one_whose_page_the_visitor_can_use() {
        let (official, web) = (
            account(),
            Arc::new(Account { kind: AccountKind::Website, ..Account::clone(&account()) }),
        );
        let cases = [
            (&official, OutsideWeChat::Page, [true, false]),
            (&official, OutsideWeChat::Deny, [true, false]),
            (&official, OutsideWeChat::Login(Arc::clone(&web)), [true, true]),
            (&web, OutsideWeChat::Page, [true, true]),
        ];
        for (account, outside_wechat, expected) in cases {
            let shop = Client::clone(&client("shop", &[], false));
            let shop = Client { account: Arc::clone(account), outside_wechat, ..shop };
            let found = [true, false].map(|inside| shop.account_for(inside).is_some());
            assert_eq!(found, expected, "{:?}", shop.outside_wechat);
        }
    }

    #[test]
    fn f6_a_secret_is_its_holders_and_nobody_elses() {
        let broker = broker();
        let cases = [
            ("secret of shop", Some("shop")),
            ("secret of news", Some("news")),
            ("secret of sho", None),
            ("secret of shop ", None),
            ("", None),
        ];
        for (secret, expected) in cases {
            let holder = broker.holder(secret.as_bytes()).map(|client| client.name.as_str());
            assert_eq!(holder, expected, "{secret:?}");
        }
        assert!(!format!("{broker:?}").contains("secret of"));
    }
}
