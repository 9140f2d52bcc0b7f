//! `[store] kind = "file"` on a disk that fills up: what could not be written is said to be so, waits in
//! memory, and is written when there is room, without a restart.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    fleet::Process,
    harness::{ROUTES, TestConfig, TestGateway},
    online,
    redis::free_port,
    visitor::{Visitor, raw},
};

const SAYS: &str = "the disk of the store's file is full";

/// A file system of its own, of four megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Nothing where this machine lets nobody mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path());
        let done = mount.output().is_ok_and(|output| output.status.success());
        done.then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Writes until there is no room.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("--lazy").arg(self.path()).status();
    }
}

async fn until(what: &str, patience: Duration, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < patience, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

async fn get(admin: u16, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    raw(SocketAddr::from(([127, 0, 0, 1], admin)), &request).await
}

async fn revoke(file: &Path, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wxgate"));
    command.arg("revoke").arg("--config").arg(file).args(words);
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

async fn log_in(gateway: SocketAddr) -> Visitor {
    let mut visitor = Visitor::wechat(gateway);
    let (_, page) = visitor.open("/orders").await;
    assert_eq!(page.status, 200);
    visitor
}

async fn sid(visitor: &Visitor) -> String {
    visitor.clone().get("/orders").await.received("x-wechat-session")[0].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_full_disk_loses_no_revocation_and_needs_no_restart() {
    let Some(disk) = SmallDisk::mount() else {
        println!("left out: this machine lets nobody mount a tmpfs, so no disk can be filled");
        return;
    };
    let street = TestGateway::usual().await;
    let (port, admin) = (free_port().await, free_port().await);
    let store = disk.path().join("store");
    let more = format!(
        "[store]\nkind = \"file\"\npath = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"",
        store.display()
    );
    let plan = TestConfig { more, ..TestConfig::site(ROUTES) };
    let text = plan.text(street.wechat, &format!("\"http://{}\"", street.site.addr));
    let text = text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &text).unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let local = online::local(&text);
    let is_made = online::check(&local, &[]).await;
    assert!(is_made.line("ok    store     ").contains("is made at the start"), "{}", is_made.text);
    assert!(!store.exists(), "a check makes no store");

    let mut process = Process::start(&file, addr, admin).await;
    let (inside, leaving) = (log_in(addr).await, log_in(addr).await);
    let (logged_out, by_command) = (log_in(addr).await, log_in(addr).await);
    let well = online::check(&local, &[]).await;
    assert!(well.line("ok    store     ").contains("the running gateway writes it"));

    // A full disk is seen before anybody needs it.
    disk.fill();
    let seen = until("a full disk that is seen", Duration::from_millis(2_500), async || {
        get(admin, "/metrics").await.contains("wxgate_store_up{store=\"store\"} 0\n")
    });
    println!("a full disk is seen after {:?}", seen.await);
    let ready = get(admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "this process knows all there is: {ready}");
    assert!(ready.contains(&format!("\nstore: {SAYS}")) && !ready.contains("Redis"), "{ready}");
    let checked = online::check(&local, &[]).await;
    let line = checked.line("bad   store     ");
    assert!(line.contains(SAYS) && line.contains("make room"), "{line}");
    until("a finding on the status page", Duration::from_secs(5), async || {
        let status = get(admin, "/status.json").await;
        status.contains("\"cause\":\"store_away\"") && status.contains("存储文件所在的磁盘已满")
    })
    .await;

    // What ends, ends here, and is not said to be safe.
    let (code, said) = revoke(&file, &["--session", &sid(&by_command).await]).await;
    assert!(code == 1 && said.contains(SAYS) && !said.contains("Redis"), "{code}: {said}");
    let json = format!(r#"{{"session":"{}"}}"#, sid(&leaving).await);
    let request = format!(
        "POST /revocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    );
    let given = raw(SocketAddr::from(([127, 0, 0, 1], admin)), &request).await;
    assert!(given.contains("\"handed_over\":false") && given.contains(SAYS), "{given}");
    let captured = logged_out.clone();
    let origin = ("origin", "http://h5.example.com");
    let bye = logged_out.script().send("POST", "/_wx/logout", &[origin], "").await;
    assert!(bye.status == 200 && bye.text.contains("\"handed_over\":false"), "{}", bye.text);
    let ended = [&by_command, &leaving, &captured];
    let hits = street.site.hits();
    for visitor in ended {
        assert_eq!(visitor.clone().get("/orders").await.status, 302);
    }
    assert_eq!(street.site.hits(), hits, "a session that was ended reached the site");
    assert_eq!(inside.clone().get("/orders").await.status, 200, "the others go on");
    let waiting = get(admin, "/readyz").await;
    assert!(waiting.contains("\nrevocations that wait to be stored: 3\n"), "{waiting}");

    // There is room again, and nobody restarts anything.
    disk.make_room();
    let back = until("a store that is well", Duration::from_secs(5), async || {
        let ready = get(admin, "/readyz").await;
        let metrics = get(admin, "/metrics").await;
        !ready.contains("\nstore: ")
            && !ready.contains("wait to be stored")
            && metrics.contains("wxgate_store_up{store=\"store\"} 1\n")
    });
    println!("there is room: written after {:?}", back.await);
    process.child.kill().await.unwrap();

    // A check of a file that no gateway has, with room and without.
    let well = online::check(&local, &[]).await;
    assert!(well.line("ok    store     ").contains("can be written"), "{}", well.text);
    disk.fill();
    let full = online::check(&local, &[]).await;
    assert_eq!(full.code, 78, "{}", full.text);
    let line = full.line("bad   store     ");
    assert!(line.contains("No space left") && !line.contains("Redis"), "{line}");
    disk.make_room();

    let mut process = Process::start(&file, addr, admin).await;
    let hits = street.site.hits();
    for visitor in ended {
        assert_eq!(visitor.clone().get("/orders").await.status, 302, "it is in the file");
    }
    assert_eq!(street.site.hits(), hits, "a session that was ended reached the site");
    assert_eq!(inside.clone().get("/orders").await.status, 200);
    let (code, said) = revoke(&file, &["--all"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(inside.clone().get("/orders").await.status, 302);
    process.child.kill().await.unwrap();
    street.close().await;
}
