//! One line for every request, whatever became of it.
//!
//! A thread writes its lines into a buffer of its own, which a writer elsewhere takes from time to
//! time: a slow disk or pipe holds up nobody, and a request pays for a few bytes in memory.

use std::{
    cell::{Cell, RefCell},
    io::Write,
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;
use tracing_appender::non_blocking::NonBlocking;

use super::{Peer, rules::Desk};
use crate::{
    clock::Timestamp,
    metrics::Class,
    site::{Access, Broker, Site},
    wire::forwarded::REQUEST_ID,
};

/// Bytes of lines that a thread gathers before it hands them over.
const BATCH: usize = 16 * 1024;

/// Where access lines go, and how they look.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<(Form, NonBlocking)>);

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object, for machines.
    Json,
    /// For somebody at a terminal.
    Text,
}

impl AccessLog {
    /// To this writer.
    pub fn new(form: Form, writer: NonBlocking) -> Self {
        Self(Some((form, writer)))
    }
}

/// One thread's lines.
pub struct Lines {
    log: AccessLog,
    gathered: RefCell<Vec<u8>>,
    /// The second of the last line, as it is written.
    stamp: RefCell<String>,
    second: Cell<Timestamp>,
}

impl Lines {
    /// No lines yet.
    pub fn new(log: AccessLog) -> Self {
        let gathered = RefCell::new(Vec::new());
        Self { log, gathered, stamp: RefCell::default(), second: Cell::default() }
    }

    /// Hands over what has been gathered.
    pub fn flush(&self) {
        let mut gathered = self.gathered.borrow_mut();
        if let Some((_, writer)) = &self.log.0
            && !gathered.is_empty()
        {
            // The writer drops what it has no room for rather than wait.
            let _ = writer.clone().write_all(&gathered);
            gathered.clear();
        }
    }

    fn add(&self, entry: &Entry<'_>, status: StatusCode, now: Timestamp) {
        let Some((form, _)) = self.log.0 else { return };
        if self.second.replace(now) != now {
            let time = UNIX_EPOCH + Duration::from_secs(now.0);
            *self.stamp.borrow_mut() = humantime::format_rfc3339_seconds(time).to_string();
        }
        // Writing to memory cannot fail.
        let _ = match form {
            Form::Json => self.json(entry, status),
            Form::Text => self.text(entry, status),
        };
        if form == Form::Text || self.gathered.borrow().len() >= BATCH {
            self.flush();
        }
    }

    /// Only the path can hold a quotation mark; the rest is checked or ours.
    fn json(&self, entry: &Entry<'_>, status: StatusCode) -> std::io::Result<()> {
        let mut out = self.gathered.borrow_mut();
        write!(
            out,
            r#"{{"timestamp":"{}","target":"access","request_id":"{}","peer":"{}","site":"{}","method":"{}","status":{},"seconds":{:.6},"path":"#,
            self.stamp.borrow(),
            entry.id.to_str().unwrap_or_default(),
            entry.peer.to_str().unwrap_or_default(),
            entry.site(),
            entry.method,
            status.as_u16(),
            entry.since.elapsed().as_secs_f64(),
        )?;
        serde_json::to_writer(&mut *out, entry.uri.path())?;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn text(&self, entry: &Entry<'_>, status: StatusCode) -> std::io::Result<()> {
        writeln!(
            self.gathered.borrow_mut(),
            "{} {} {} {} {} {} {:.1} ms {}",
            self.stamp.borrow(),
            status.as_u16(),
            entry.method,
            entry.site(),
            entry.uri.path().escape_debug(),
            entry.peer.to_str().unwrap_or_default(),
            entry.since.elapsed().as_secs_f64() * 1_000.0,
            entry.id.to_str().unwrap_or_default(),
        )
    }
}

/// A line being written: opened when a request arrives, closed when its answer begins.
pub struct Entry<'a> {
    id: HeaderValue,
    method: Method,
    uri: Uri,
    peer: &'a HeaderValue,
    client: IpAddr,
    site: Option<&'a Site>,
    broker: Option<&'a Broker>,
    class: Class,
    since: Instant,
}

impl<'a> Entry<'a> {
    /// Notes what was asked. A proxy of ours may have given the request an id already.
    pub fn open<B>(request: &Request<B>, peer: &'a Peer, trusted: bool) -> Self {
        let given = request.headers().get(REQUEST_ID).filter(|_| trusted);
        let plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        let usable = |id: &&HeaderValue| id.len() <= 128 && id.as_bytes().iter().all(plain);
        Self {
            id: given.filter(usable).cloned().unwrap_or_else(fresh_id),
            method: request.method().clone(),
            uri: request.uri().clone(),
            peer: &peer.text,
            client: peer.ip,
            site: None,
            broker: None,
            class: Class::Own,
            since: Instant::now(),
        }
    }

    /// Notes that something came which is no request.
    pub fn unread(peer: &'a Peer) -> Self {
        let mut nothing = Request::new(());
        *nothing.method_mut() = Method::from_bytes(b"-").unwrap_or_default();
        Self::open(&nothing, peer, false)
    }

    /// What this request is called in every log it passes.
    pub fn request_id(&self) -> &HeaderValue {
        &self.id
    }

    /// Notes who sent it, where a proxy of ours brought it.
    pub fn came_from(&mut self, client: IpAddr) {
        self.client = client;
    }

    /// Who sent it.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// Notes which site it is for.
    pub fn landed(&mut self, site: &'a Site) {
        self.site = Some(site);
    }

    /// Notes that it is for the code broker.
    pub fn at_broker(&mut self, broker: &'a Broker) {
        self.broker = Some(broker);
    }

    /// Notes what its route asks.
    pub fn routed(&mut self, access: Access) {
        self.class = match access {
            Access::None => Class::Public,
            Access::Optional => Class::Optional,
            Access::Required(..) => Class::Required,
        };
    }

    /// Writes the line, and counts it. The query may hold a code, so it is left out.
    pub fn close(self, status: StatusCode, now: Timestamp, lines: &Lines, desk: &Desk) {
        lines.add(&self, status, now);
        let counters = match self.broker {
            Some(_) => desk.broker_counters(),
            None => desk.counters(self.site),
        };
        counters.count(self.class, status.as_u16(), self.since.elapsed());
    }

    fn site(&self) -> &str {
        let broker = || self.broker.map_or("-", |broker| broker.public_url.host().as_str());
        self.site.map_or_else(broker, |site| site.name.as_str())
    }
}

/// 128 random bits in hexadecimal, the form of a W3C trace id.
fn fresh_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = rand::random::<[u8; 16]>();
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mut id = [0; 32];
    for (pair, byte) in id.chunks_exact_mut(2).zip(bytes) {
        for (to, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *to = digit(nibble);
        }
    }
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(form: Form, uri: &str) -> String {
        let page = Page::default();
        let (writer, guard) = NonBlocking::new(page.clone());
        let lines = Lines::new(AccessLog::new(form, writer));
        let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let peer = Peer::new([192, 0, 2, 1].into(), false, place);
        let request = Request::get(uri).header("x-request-id", "abc\"").body(()).unwrap();
        let entry = Entry::open(&request, &peer, true);
        lines.add(&entry, StatusCode::OK, Timestamp(1_795_501_895));
        lines.flush();
        drop((lines, guard));
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn g4_lines_are_json_without_the_query() {
        let line = written(Form::Json, "/a\"b?code=secret");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/a\"b");
        assert_eq!(value["timestamp"], "2026-11-24T06:31:35Z");
        assert_eq!((&value["status"], &value["peer"]), (&200.into(), &"192.0.2.1".into()));
        assert_eq!(value["request_id"].as_str().unwrap().len(), 32, "a strange id is not taken");
        assert!(!line.contains("secret") && line.ends_with("}\n"));
    }

    #[test]
    fn g4_lines_for_people_stay_one_line() {
        let line = written(Form::Text, "/\u{85}\u{2028}x?code=secret");
        assert_eq!(line.lines().count(), 1, "{line:?}");
        assert!(line.starts_with("2026-11-24T06:31:35Z 200 GET - /"), "{line}");
        assert!(!line.contains("secret"));
    }
}
