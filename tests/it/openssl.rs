//! What `openssl s_client` is offered: versions, certificates, protocols, resumption.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{
    harness::TestGateway,
    tls::{Certified, certified},
};

/// A client of its own make, which believes in the certificates of the test.
struct OpenSsl {
    addr: SocketAddr,
    folder: PathBuf,
}

impl OpenSsl {
    fn new(street: &TestGateway, certified: &Certified) -> Self {
        Self { addr: street.tls.unwrap(), folder: certified.folder.path().to_owned() }
    }

    async fn says(&self, options: &str, words: &str) -> String {
        says(self.addr, &self.folder, options, words).await
    }
}

/// What the client prints when it connects so, says this, and reads to the end.
pub async fn says(addr: SocketAddr, folder: &Path, options: &str, words: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &addr.to_string()])
        .args(options.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    // One that was refused has gone already.
    let _ = input.write_all(words.as_bytes()).await;
    // Its input stays open: at an end of it, it would hang up at once.
    let output = timeout(Duration::from_secs(15), client.wait_with_output());
    let output = output.await.unwrap().unwrap();
    drop(input);
    let [out, err] = [output.stdout, output.stderr];
    format!("{}\n{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
}

const PAGE: &str = "GET /static/a HTTP/1.1\r\nhost: h5.example.com\r\nconnection: close\r\n\r\n";
const SERVED: &str = "HTTP/1.1 200 OK";

#[tokio::test]
async fn versions_protocols_and_suites() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let openssl = OpenSsl::new(&street, &certified);
    // SECLEVEL=0 lets the client offer what it would be ashamed of.
    let cases = [
        ("-tls1_3", "New, TLSv1.3", true),
        ("-tls1_2", "New, TLSv1.2", true),
        ("-tls1_1 -cipher ALL@SECLEVEL=0", "alert handshake failure", false),
        ("-tls1 -cipher ALL@SECLEVEL=0", "alert handshake failure", false),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20-POLY1305", true),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA@SECLEVEL=0", "alert handshake failure", false),
        ("-tls1_2 -cipher aNULL:eNULL@SECLEVEL=0", "alert handshake failure", false),
        ("-tls1_2 -cipher kRSA:kDHE@SECLEVEL=0", "alert handshake failure", false),
        ("-alpn h2,http/1.1", "ALPN protocol: h2", false),
        ("-alpn http/1.1", "ALPN protocol: http/1.1", true),
        ("-alpn spdy/3", "alert no application protocol", false),
        ("-tls1_3", "Compression: NONE", true),
        ("-tls1_2", "Compression: NONE", true),
        ("-tls1_2", "Secure Renegotiation IS supported", true),
        ("-tls1_3", "Max Early Data: 0", true),
    ];
    for (options, said, served) in cases {
        let words =
            if options.contains("h2,") { "no preface, so it is closed\r\n\r\n" } else { PAGE };
        let output = openssl.says(options, words).await;
        assert!(output.contains(said), "{options}: no {said:?} in {output}");
        assert_eq!(output.contains(SERVED), served, "{options}: {output}");
    }
    street.close().await;
}

#[tokio::test]
async fn nobody_shakes_hands_twice_on_a_connection() {
    let mut certified = certified(&["h5.example.com"]);
    certified.plan.server += "\n[server.limits]\nheader_time = \"1s\"";
    let street = TestGateway::open(certified.plan.clone()).await;
    // The client's command for a new handshake. It waits in vain, until the time of a head is over.
    let output = OpenSsl::new(&street, &certified).says("-tls1_2", "R\n").await;
    let (before, after) = output.split_once("RENEGOTIATING").unwrap();
    assert!(before.contains("verify return:1"), "{output}");
    assert!(!after.contains("verify return:1"), "{output}");
    assert!(after.contains("unexpected eof") || after.contains("no renegotiation"), "{output}");
    street.close().await;
}

#[tokio::test]
async fn sessions_are_resumed() {
    let certified = certified(&["h5.example.com"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let openssl = OpenSsl::new(&street, &certified);
    let ways = [
        ("TLSv1.3", "-tls1_3"),
        ("TLSv1.2", "-tls1_2"),
        ("TLSv1.2", "-tls1_2 -no_ticket"), // by the session's id
    ];
    for (version, way) in ways {
        let first = openssl.says(&format!("{way} -sess_out session"), PAGE).await;
        assert!(first.contains(&format!("New, {version}")) && first.contains(SERVED), "{first}");
        let again = openssl.says(&format!("{way} -sess_in session"), PAGE).await;
        assert!(again.contains(&format!("Reused, {version}")), "{way}: {again}");
        assert!(again.contains(SERVED), "{way}: {again}");
        std::fs::remove_file(openssl.folder.join("session")).unwrap();
    }
    street.close().await;
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let certified = certified(&["h5.example.com", "*.example.org"]);
    let street = TestGateway::open(certified.plan.clone()).await;
    let openssl = OpenSsl::new(&street, &certified);
    let (first, other) = ("h5.example.com", "*.example.org");
    let cases = [
        ("-servername h5.example.com", first),
        ("-servername H5.EXAMPLE.COM", first),
        ("-servername shop.example.org", other),
        ("-servername a.shop.example.org", first), // a star is one label
        ("-servername example.org", first),
        ("-servername other.example.net", first),
        ("-noservername", first),
    ];
    for version in ["-tls1_2", "-tls1_3"] {
        for (asked, shown) in cases {
            let output = openssl.says(&format!("{version} {asked}"), PAGE).await;
            let pem = std::fs::read_to_string(openssl.folder.join(format!("{shown}.pem"))).unwrap();
            let line = pem.lines().nth(5).unwrap().trim();
            assert!(output.contains(line), "{version} {asked}: {output}");
        }
    }
    street.close().await;
}
