//! Real sites in other languages, each reading the header in its own way.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    harness::{TestConfig, TestGateway},
    visitor::Visitor,
};

/// A program that serves until the test ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn free_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Starts one of `deploy/examples` and waits until it takes connections.
async fn start(program: &str, arguments: &[&str]) -> (Program, SocketAddr) {
    let port = free_port().await;
    let arguments = arguments.iter().map(|it| it.replace("PORT", &port.to_string()));
    let child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed, `make test` installs it: {error}"));
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let program = Program(child);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(addr).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no site came up at {addr}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (program, addr)
}

async fn reads_who_it_is(program: &str, arguments: &[&str]) {
    let (_program, addr) = start(program, arguments).await;
    let routes = "[[site.route]]\npath = \"/*\"\nscope = \"snsapi_userinfo\"\nprompt = \"direct\"";
    let plan =
        TestConfig { upstream: Some(format!("\"http://{addr}\"")), ..TestConfig::site(routes) };
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let page = crate::login::consent(&mut visitor, "/whoami").await;
    assert_eq!(page.status, 200, "{}", page.text);
    let who: serde_json::Value = serde_json::from_str(&page.text).unwrap();
    assert_eq!(who["nickname"], "李雷", "{who}");
    assert_eq!(who["scope"], "snsapi_userinfo", "{who}");
    let openid = who["openid"].as_str().unwrap().to_owned();

    // What a visitor sends under any spelling changes nothing, also where the site folds names.
    let forged = ["X-WeChat-OpenId", "x_wechat_openid", "X.WeChat.OpenId", "X-WeChat_OpenId"]
        .map(|name| (name, "forged"));
    let again = visitor.send("GET", "/whoami", &forged, "").await;
    let who: serde_json::Value = serde_json::from_str(&again.text).unwrap();
    assert_eq!(who["openid"], openid, "{who}");
    street.close().await;
}

#[tokio::test]
async fn php_reads_who_it_is() {
    reads_who_it_is("php", &["-S", "127.0.0.1:PORT", "deploy/examples/php/index.php"]).await;
}

#[tokio::test]
async fn node_reads_who_it_is() {
    reads_who_it_is("node", &["deploy/examples/node/server.mjs", "PORT"]).await;
}

#[tokio::test]
async fn python_reads_who_it_is() {
    reads_who_it_is("python3", &["deploy/examples/python/wsgi_app.py", "PORT"]).await;
}
