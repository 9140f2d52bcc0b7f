//! Real servers behind us that speak HTTP/2, a real gRPC service, and `WebSocket`s beside.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use h2::server::Builder;
use tokio::{
    io::{AsyncBufReadExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{
    h2_site::{self, say},
    harness::{TestConfig, TestGateway},
    tls::certified,
    upstream_h2::{get, plan},
    visitor::{Visitor, raw},
};

const ROUTE: &str = "[[site.route]]\npath = \"/demo.Greeter/*\"\nauth = \"none\"\n";

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Starts a server that speaks HTTP/2 without TLS, by the configuration that it reads from a file.
async fn start(program: &str, folder: &Path) -> (Child, SocketAddr) {
    let addr = free().await;
    let (file, text) = (folder.join(program), configuration(program, folder, addr));
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    match program {
        "nginx" => command.args(["-e", "stderr", "-c"]).arg(&file),
        "caddy" => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file),
        _ => command.arg("-db").arg("-f").arg(&file),
    };
    command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("{program} is needed, `make test` installs it: {error}");
    });
    let begun = Instant::now();
    while TcpStream::connect(addr).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{program} did not come up");
        sleep(Duration::from_millis(20)).await;
    }
    (child, addr)
}

fn configuration(program: &str, folder: &Path, addr: SocketAddr) -> String {
    let at = folder.display();
    match program {
        "nginx" => format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {at}/a;\nproxy_temp_path {at}/b;\n\
             fastcgi_temp_path {at}/c;\nuwsgi_temp_path {at}/d;\nscgi_temp_path {at}/e;\n\
             server {{ listen {addr} http2; location / {{ return 200 \"$server_protocol $http_host $scheme\\n\"; }} }}\n}}\n"
        ),
        "caddy" => format!(
            "{{\n\tadmin off\n\tauto_https off\n\tservers {{\n\t\tprotocols h1 h2c\n\t}}\n}}\n\
             http://:{} {{\n\tbind 127.0.0.1\n\trespond \"{{http.request.proto}} {{http.request.host}} {{http.request.scheme}}\"\n}}\n",
            addr.port()
        ),
        _ => format!(
            "defaults\n\tmode http\n\ttimeout client 5s\n\ttimeout server 5s\n\ttimeout connect 5s\n\
             frontend f\n\tbind {addr} proto h2\n\thttp-request return status 200 content-type text/plain lf-string \"HTTP/%[req.ver] %[req.hdr(host)] http\"\n"
        ),
    }
}

#[tokio::test]
async fn nginx_caddy_and_haproxy_are_spoken_to() {
    for program in ["nginx", "caddy", "haproxy"] {
        let folder = tempfile::tempdir().unwrap();
        let (_child, addr) = start(program, folder.path()).await;
        let street = TestGateway::open(plan(format!("\"http://{addr}\""))).await;
        for _ in 0..20 {
            let answer = get(&street, "/static/a").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{program}: {answer}");
            let says = answer.contains("HTTP/2.0 h5.example.com http");
            // HAProxy calls it by its version alone.
            assert!(says || answer.contains("HTTP/2 h5.example.com http"), "{program}: {answer}");
        }
        let upload = "x".repeat(100_000);
        let answer = Visitor::desktop(street.gateway).send("POST", "/static/a", &[], &upload).await;
        assert_eq!(answer.status, 200, "{program}");
        street.close().await;
    }
}

/// A site that speaks both, as what stands behind us often does.
async fn both(echo: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = [0; 3];
                while stream.peek(&mut first).await.unwrap() < 3 {}
                if &first == b"PRI" {
                    let deed = |it| say("over two", it);
                    return h2_site::serve(stream, Builder::new(), deed, std::sync::Arc::default())
                        .await;
                }
                let mut echo = TcpStream::connect(echo).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut echo).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn websockets_have_a_connection_of_their_own() {
    let echo = crate::echo::Echo::start().await;
    let upstream = format!("\"http://{}\"", both(echo.addr).await);
    let mut plan = plan(upstream);
    plan.workers = 1;
    let street = TestGateway::open(plan).await;
    let mut visitor = Visitor::wechat(street.gateway);
    let (_, page) = visitor.open("/").await;
    assert_eq!(page.text, "over two");
    for _ in 0..2 {
        let stream = TcpStream::connect(street.gateway).await.unwrap();
        let mut request = "ws://h5.example.com/ws".into_client_request().unwrap();
        let cookie = format!("wxgate={}", visitor.cookie("wxgate"));
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        for word in ["one", "二"] {
            socket.send(Message::text(word)).await.unwrap();
            let back = timeout(Duration::from_secs(5), socket.next()).await.unwrap();
            assert_eq!(back.unwrap().unwrap().to_text().unwrap(), word);
        }
    }
    // One that the site refuses leaves a connection that is for nothing else.
    let refused = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n";
    assert!(raw(street.gateway, refused).await.contains("GET /static/a HTTP/1.1"));
    assert!(get(&street, "/static/b").await.ends_with("over two"));
    assert_eq!(echo.connections(), 3);
    street.close().await;
}

#[tokio::test]
async fn grpc_passes_with_every_kind_of_call() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("tests/proof/venv/bin/python");
    let peer = root.join("tests/proof/grpc_peer.py");
    let mut service = Command::new(&python)
        .arg(&peer)
        .arg("serve")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("`make test` installs it");
    let mut said = BufReader::new(service.stdout.take().unwrap()).lines();
    let port = timeout(Duration::from_secs(20), said.next_line()).await.unwrap().unwrap().unwrap();

    let certified = certified(&["h5.example.com"]);
    let mut own = plan(format!("\"http://127.0.0.1:{port}\""));
    own.site = format!("{}{ROUTE}", own.site);
    let street =
        TestGateway::open(TestConfig { server: certified.plan.server.clone(), ..own }).await;
    let client = Command::new(&python)
        .arg(&peer)
        .args(["call", &street.tls.unwrap().to_string()])
        .arg(certified.folder.path().join("h5.example.com.pem"))
        .kill_on_drop(true)
        .output();
    let client = timeout(Duration::from_mins(1), client).await.unwrap().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&client.stdout), String::from_utf8_lossy(&client.stderr));
    assert_eq!(out.trim(), "all is well", "{err}");
    street.close().await;
}
