//! `wxgate probe` at a good street, and at bad ones: each fault that it is there to find is built for
//! real, and has to be found.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    echo::Echo,
    harness::{ROUTES, TestConfig, TestGateway},
};

/// What the probe said, and how it ended.
struct Said {
    json: Value,
    code: i32,
}

/// Probes `/orders` of a street by way of this address.
async fn probe(addr: SocketAddr, more: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_wxgate"))
        .args(["probe", "--json", "--connect", &addr.to_string()])
        .args(more)
        .arg("http://h5.example.com/orders")
        .output()
        .await
        .unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(errors.is_empty(), "{}", String::from_utf8_lossy(&errors));
    Said { json: serde_json::from_str(&text).unwrap(), code: output.status.code().unwrap() }
}

impl Said {
    /// The tricks with this verdict: kind and words.
    fn with(&self, verdict: &str) -> Vec<(&str, &str)> {
        let tricks = self.json["tricks"].as_array().unwrap().iter();
        let found = tricks.filter(|trick| trick["verdict"] == verdict);
        found.map(|it| (it["kind"].as_str().unwrap(), it["what"].as_str().unwrap())).collect()
    }

    /// The kinds of which something got through, each once.
    fn kinds_through(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.with("through").iter().map(|(kind, _)| *kind).collect();
        kinds.dedup();
        kinds
    }
}

/// An nginx that passes everything on to the gateway, with these lines in its one server.
struct Nginx {
    addr: SocketAddr,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn start(http: &str, server: &str) -> Self {
        let (folder, addr) = (tempfile::tempdir().unwrap(), free());
        let server = format!(
            "server {{\nlisten {addr};\nserver_name h5.example.com;\nproxy_set_header Host $host;\nproxy_http_version 1.1;\n{server}\n}}"
        );
        Self::with(folder, addr, &format!("{http}\n{server}")).await
    }

    /// What an operator copies, with another port and without certificates.
    async fn recipe(street: &TestGateway) -> Self {
        let (folder, addr) = (tempfile::tempdir().unwrap(), free());
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx/wxgate.conf");
        let text = std::fs::read_to_string(file).unwrap();
        let tls =
            |line: &&str| line.contains("listen [::]") || line.trim_start().starts_with("ssl_");
        let text = text.lines().filter(|line| !tls(line)).collect::<Vec<_>>().join("\n");
        let plain = format!("listen unix:{}/plain;", folder.path().display());
        let changes = [
            ("127.0.0.1:8080", street.gateway.to_string()),
            ("listen 443 ssl http2;", format!("listen {addr};")),
            ("listen 80;", plain),
        ];
        let text = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "the recipe has no {from}");
            text.replace(from, to)
        });
        Self::with(folder, addr, &text).await
    }

    async fn with(folder: tempfile::TempDir, addr: SocketAddr, http: &str) -> Self {
        std::fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), http))
            .unwrap();
        let process = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .args(["-e", "stderr"])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is missing: tests/tools.sh installs it");
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(addr).await.is_ok() {
                return Self { addr, _process: process, _folder: folder };
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nginx does not answer");
    }
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn configuration(folder: &Path, http: &str) -> String {
    let folder = folder.display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}{http}\n}}\n"
    )
}

#[tokio::test]
async fn nothing_gets_through_a_gateway() {
    let street = TestGateway::usual().await;
    let said = probe(street.gateway, &["--echo", "/static/echo"]).await;
    assert_eq!((said.code, said.with("through")), (0, vec![]), "{:#}", said.json);
    assert_eq!(said.with("unseen"), [], "{:#}", said.json);
    assert!(said.with("held").len() > 80, "{:#}", said.json);
    assert_eq!(said.json["notes"].as_array().unwrap().len(), 0, "{:#}", said.json);
    // Public pages did receive what was sent to them: they were told nothing false.
    assert!(street.site.hits() > 20, "{}", street.site.hits());
}

#[tokio::test]
async fn nothing_gets_through_nginx_in_front_of_it() {
    let plan = TestConfig {
        server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let nginx = Nginx::recipe(&street).await;
    let said = probe(nginx.addr, &["--echo", "/static/echo"]).await;
    assert_eq!((said.code, said.with("through")), (0, vec![]), "{:#}", said.json);
}

#[tokio::test]
async fn a_page_that_is_served_past_the_gateway() {
    let street = TestGateway::usual().await;
    let server = format!(
        "ignore_invalid_headers off; underscores_in_headers on; location /static/ {{ proxy_pass http://{}; }}\nlocation / {{ proxy_pass http://{}; }}",
        street.site.addr, street.gateway
    );
    let nginx = Nginx::start("", &server).await;
    let blind = probe(nginx.addr, &[]).await;
    assert!(blind.json["notes"][0].as_str().unwrap().contains("--echo"), "{:#}", blind.json);
    let said = probe(nginx.addr, &["--echo", "/static/echo"]).await;
    assert_eq!(
        (said.code, said.kinds_through()),
        (1, vec!["identity", "forwarded", "cookie", "path"])
    );
    let through = said.with("through");
    for words in ["as written", "with _", "with .", "the session cookie, unsigned"] {
        assert!(through.iter().any(|(_, what)| what.contains(words)), "{words}: {through:?}");
    }
    let first = said.json["tricks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["verdict"] == "through")
        .unwrap();
    assert!(first["remedy"].as_str().unwrap().contains("through wxgate"), "{first}");
}

/// nginx judges the path it has cleaned and passes on another: the oldest trick of all.
#[tokio::test]
async fn a_proxy_that_judges_one_path_and_passes_another() {
    let street = TestGateway::usual().await;
    let server = format!(
        "location / {{ proxy_pass http://{}; }}\nlocation ~ \\.css$ {{ proxy_pass http://{}; }}\nlocation ~* /static/.*orders {{ proxy_pass http://{}; }}",
        street.gateway, street.site.addr, street.site.addr
    );
    let said = probe(Nginx::start("", &server).await.addr, &[]).await;
    assert_eq!((said.code, said.kinds_through()), (1, vec!["path"]), "{:#}", said.json);
    assert!(said.with("through").contains(&("path", "a parameter")), "{:#}", said.json);
}

#[tokio::test]
async fn a_proxy_that_believes_whoever_speaks() {
    let plan = TestConfig {
        server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
        ..TestConfig::site(ROUTES)
    };
    let street = TestGateway::open(plan).await;
    let server = format!("location / {{ proxy_pass http://{}; }}", street.gateway);
    let said = probe(Nginx::start("", &server).await.addr, &["--echo", "/static/echo"]).await;
    assert_eq!((said.code, said.kinds_through()), (1, vec!["forwarded"]), "{:#}", said.json);
    let through = said.with("through");
    assert!(
        through.iter().any(|(_, what)| what.starts_with("X-Forwarded-For: 198")),
        "{through:?}"
    );
}

/// The cookie of one stranger's login goes to the next.
#[tokio::test]
async fn a_cache_before_the_gateway() {
    let street = TestGateway::usual().await;
    let cache = "proxy_cache_path cache keys_zone=c:1m;";
    let server = format!(
        "location / {{ proxy_cache c; proxy_cache_valid any 1m; proxy_ignore_headers Cache-Control Set-Cookie Vary; proxy_cache_key $uri$http_accept; proxy_pass http://{}; }}",
        street.gateway
    );
    let said = probe(Nginx::start(cache, &server).await.addr, &[]).await;
    assert_eq!((said.code, said.kinds_through()), (1, vec!["login"]), "{:#}", said.json);
}

#[tokio::test]
async fn doors_that_stand_open() {
    let street = TestGateway::usual().await;
    let admin = street.admin().await;
    let server = format!(
        "location / {{ proxy_pass http://{}; }}\nlocation /metrics {{ proxy_set_header Host $proxy_host; proxy_pass http://{admin}; }}",
        street.gateway
    );
    let nginx = Nginx::start("", &server).await;
    // A site that anybody reaches, and one that nobody does.
    let direct = street.site.addr.to_string();
    let nobody = free().to_string();
    let said = probe(nginx.addr, &["--upstream", &direct, "--upstream", &nobody]).await;
    assert_eq!(said.code, 1);
    let expected =
        [("door", "GET /metrics"), ("upstream", &*format!("{direct}, past the gateway"))];
    assert_eq!(said.with("through"), expected, "{:#}", said.json);
}

/// No gateway at all: whatever stands there is open, and the probe says that it cannot tell.
#[tokio::test]
async fn a_page_that_is_open_anyway() {
    let site = Echo::start().await;
    let said = probe(site.addr, &[]).await;
    assert!(said.json["notes"][0].as_str().unwrap().contains("needs a login"), "{:#}", said.json);
    assert!(said.with("through").iter().any(|(kind, _)| *kind == "identity"), "{:#}", said.json);
    assert!(
        said.with("held").iter().all(|(kind, _)| !matches!(*kind, "path" | "identity")),
        "{:#}",
        said.json
    );
}

#[tokio::test]
async fn words_for_people_and_for_scripts() {
    let street = TestGateway::usual().await;
    let run = |more: Vec<String>| async move {
        let output = Command::new(env!("CARGO_BIN_EXE_wxgate"))
            .arg("probe")
            .args(more)
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let at = |addr: SocketAddr, url: &str| {
        vec!["--connect".to_owned(), addr.to_string(), url.to_owned()]
    };
    let (code, text) = run(at(street.gateway, "http://h5.example.com/orders")).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("held     path ") && text.ends_with("Nothing got through.\n"), "{text}");
    let nobody = free();
    let (code, text) = run(at(nobody, "http://h5.example.com/orders")).await;
    assert_eq!(code, 69, "{text}");
    let (code, text) = run(at(street.gateway, "http://other.example.com/orders")).await;
    assert!(code == 69 && text.contains("answers 421"), "{text}");
    let (code, text) = run(at(street.gateway, "ftp://h5.example.com/")).await;
    assert!(code == 64 && text.contains("http://"), "{text}");
}
