//! What `check` says of the code broker.

use std::fmt::{self, Write as _};

use serde_json::{Value, json as value};

use crate::{
    config::Config,
    site::{
        Account, Broker,
        broker::{Client, Delivery},
    },
};

/// For people.
pub fn about(broker: &Broker) -> Result<String, fmt::Error> {
    let mut text = format!("\nBroker {}\n", broker.base);
    for client in &broker.clients {
        let Client { name, account, result, secret, jssdk, .. } = &**client;
        writeln!(text, "  client   {name}, account {}", account.name)?;
        writeln!(text, "    back to {}", places(client).join(", "))?;
        let mut gets = vec![match result {
            Delivery::Params => "openid in the query",
            Delivery::Ticket => "a ticket in the query",
        }];
        gets.extend(secret.as_ref().map(|_| "JSON for its server"));
        gets.extend(jssdk.then_some("signatures for the JS-SDK"));
        writeln!(text, "    gets    {}", gets.join(", "))?;
    }
    Ok(text)
}

/// For scripts.
pub fn json(broker: &Broker) -> Value {
    let client = |client: &std::sync::Arc<Client>| {
        value!({
            "name": client.name,
            "account": client.account.name,
            "return_to": places(client),
            "ticket": client.result == Delivery::Ticket,
            "secret": client.secret.is_some(),
            "jssdk": client.jssdk,
        })
    };
    value!({
        "base": broker.base,
        "clients": broker.clients.iter().map(client).collect::<Vec<_>>(),
    })
}

/// The broker's host, where visitors of this account come back to it.
pub fn callback_domain(account: &Account, config: &Config) -> Option<String> {
    let broker = config.gateway.broker.as_ref()?;
    let named = broker.accounts().any(|other| other.name == account.name);
    named.then(|| broker.public_url.host().to_string())
}

/// Whether a client's pages are signed with this account's ticket.
pub fn signs_with(account: &Account, config: &Config) -> bool {
    let clients = config.gateway.broker.iter().flat_map(|broker| &broker.clients);
    clients.filter(|client| client.jssdk).any(|client| client.account.name == account.name)
}

fn places(client: &Client) -> Vec<String> {
    client.return_to.iter().map(|it| format!("{}{}", it.origin, it.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::explain::PlaceholderEnvironment;

    const CONFIG: &str = r#"
[session]
keys = [{ id = "1", secret = { env = "KEY" } }]
[[account]]
name = "main"
app_id = "wx0123456789abcdef"
app_secret = { env = "SECRET" }
[broker]
host = "auth.example.com"
[[broker.client]]
name = "shop"
account = "main"
return_to = ["https://shop.example.com/", "https://例子.com/店/"]
result = "ticket"
secret = { env = "SHOP_SECRET" }
jssdk = true
"#;

    #[test]
    fn a_broker_is_summed_up_and_needs_no_site() {
        let config = Config::parse("config.toml", CONFIG, &PlaceholderEnvironment).unwrap();
        assert!(config.warnings.is_empty(), "{}", config.warnings);
        let broker = config.gateway.broker.as_ref().unwrap();
        let expected = "
Broker https://auth.example.com/api/wechat
  client   shop, account main
    back to https://shop.example.com/, https://xn--fsqu00a.com/%E5%BA%97/
    gets    a ticket in the query, JSON for its server, signatures for the JS-SDK
";
        assert_eq!(about(broker).unwrap(), expected);
        assert_eq!(json(broker)["clients"][0]["return_to"][0], "https://shop.example.com/");
        let domain = callback_domain(&config.accounts[0], &config);
        assert_eq!(domain.as_deref(), Some("auth.example.com"));
    }
}
