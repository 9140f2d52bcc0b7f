//! What `config.toml` shows of `[server.acme]`, and the names it means.

use super::*;

#[test]
fn the_orders_it_shows_load_and_show_the_defaults() {
    let text = include_str!("../../../config.toml");
    let (_, orders) = text.split_once("# [server.acme]").unwrap();
    let line = |key: &str| {
        let found = orders.lines().find(|line| line.starts_with(&format!("# {key} = ")));
        found.unwrap().strip_prefix("# ").unwrap()
    };
    let shown = |lines: &str| {
        let table = format!("[server.tls]\n[server.acme]\nterms_agreed = true\n{lines}\n");
        parse(&format!("{table}{MINIMAL}")).server.tls.unwrap().acme.unwrap()
    };
    let usual = shown("");
    for key in ["domains", "directory", "storage"] {
        assert_eq!(shown(line(key)), usual, "{key}");
    }
    assert_eq!(line("terms_agreed"), "terms_agreed = true");
    assert_eq!(shown(line("contact")).contact, ["mailto:ops@example.com"]);
    let more = "[[site]]\nhosts = [\"H5.example.org\", \"127.0.0.1\", \"a_b.example.org\"]\n\
                public_url = \"https://h5.example.org\"\naccount = \"main\"\nupstream = \"http://10.0.0.5\"\n\
                [broker]\nhost = \"auth.example.com\"\n[[broker.client]]\nname = \"shop\"\n\
                account = \"main\"\nreturn_to = [\"https://shop.example.com/\"]\n";
    let text = format!("[server.tls]\n[server.acme]\nterms_agreed = true\n{MINIMAL}{more}");
    let text =
        text.replace("name = \"main\"", "name = \"main\"\ncallback_host = \"in.example.com\"");
    let orders = parse(&text).server.tls.unwrap().acme.unwrap();
    let all = ["h5.example.com", "h5.example.org", "in.example.com", "auth.example.com"];
    assert_eq!(orders.domains, all, "all hosts that are names");
}
