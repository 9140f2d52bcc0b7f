//! The broker's `OpenAPI` document, held against the real thing by schemathesis.

use std::path::Path;

use tokio::process::Command;

use crate::{
    broker::{BROKER, NEWS, SHOP},
    harness::{TestConfig, TestGateway},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_says_what_the_broker_does() {
    // The program sends the address it connects to as `Host`.
    let at_home = BROKER.replace("auth.example.com", "127.0.0.1").replace("\"deny\"", "\"page\"");
    let street = TestGateway::open(TestConfig { more: at_home, ..TestConfig::default() }).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api");
    let broker = format!("http://127.0.0.1:{}/api/wechat", street.gateway.port());
    // It leaves its notes where it is started.
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new(root.join("venv/bin/python"))
        .arg(root.join("broker.py"))
        .args([&broker, &format!("http://{}", street.wechat), SHOP, NEWS])
        .current_dir(folder.path())
        .output()
        .await
        .expect("schemathesis, see tests/tools.sh");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let documented: usize = said.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(documented, 33, "{said}");
    println!("{said}");
    street.close().await;
}
