//! Access lines on their way out.
//!
//! A thread writes its lines into a buffer of its own, which a writer elsewhere takes from time to
//! time: a slow disk or pipe holds up nobody, and a request pays for a few bytes in memory.

use std::{
    cell::{Cell, RefCell},
    io::Write,
    net::IpAddr,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use tracing_appender::non_blocking::NonBlocking;

use super::{AccessLogEntry, Peer};
use crate::{
    clock::Timestamp, httputil::trace_context::hexadecimal, logs::LogFormat, traces::Tracer,
};

/// Bytes of lines that a thread gathers before it hands them over.
const BATCH: usize = 64 * 1024;

/// Where access lines go, and how they look.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<(LogFormat, NonBlocking)>);

impl AccessLog {
    /// To this writer.
    pub fn new(form: LogFormat, writer: NonBlocking) -> Self {
        Self(Some((form, writer)))
    }
}

/// One thread's lines.
pub struct AccessLogBuffer {
    log: AccessLog,
    pub(super) traces: Tracer,
    gathered: RefCell<Vec<u8>>,
    /// The second of the last line, as it is written.
    stamp: RefCell<String>,
    second: Cell<Timestamp>,
}

impl AccessLogBuffer {
    /// No lines yet.
    pub fn new(log: AccessLog, traces: Tracer) -> Rc<Self> {
        let gathered = RefCell::new(Vec::new());
        Rc::new(Self { log, traces, gathered, stamp: RefCell::default(), second: Cell::default() })
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

    pub(super) fn add(&self, entry: &AccessLogEntry, total: Duration) {
        let Some((form, _)) = self.log.0 else { return };
        let now = entry.began.plus(total);
        if self.second.replace(now) != now {
            let time = UNIX_EPOCH + Duration::from_secs(now.0);
            *self.stamp.borrow_mut() = humantime::format_rfc3339_seconds(time).to_string();
        }
        // Writing to memory cannot fail.
        let _ = match form {
            LogFormat::Json => self.json(entry, total),
            LogFormat::Text => self.text(entry, total),
        };
        if form == LogFormat::Text || self.gathered.borrow().len() >= BATCH {
            self.flush();
        }
    }

    /// Only the path can hold a quotation mark; the rest is checked or ours. Piece by piece, because
    /// `write!` costs more than all the pieces.
    fn json(&self, entry: &AccessLogEntry, total: Duration) -> std::io::Result<()> {
        let mut line = LineBuilder(&mut self.gathered.borrow_mut());
        line.text(r#"{"timestamp":""#).text(&self.stamp.borrow());
        line.text(r#"","target":"access","request_id":""#).bytes(entry.id.as_bytes());
        line.text(r#"","trace_id":""#).bytes(&hexadecimal(entry.trace.id));
        line.text(r#"","client":""#).address(entry.client, &entry.peer);
        line.text(r#"","peer":""#).bytes(entry.peer.text.as_bytes());
        line.text(r#"","site":""#).text(entry.site());
        line.text(r#"","route":""#).text(entry.class.label());
        line.text(r#"","method":""#).text(entry.method.as_str());
        line.text(r#"","status":"#).number(entry.status().into());
        line.text(r#","bytes":"#).number(entry.bytes);
        line.text(r#","seconds":"#).seconds(entry.head(total));
        line.text(r#","total_seconds":"#).seconds(total);
        if let Some(took) = entry.upstream {
            line.text(r#","upstream_seconds":"#).seconds(took);
        }
        if let Some(session) = entry.session {
            let digits = hexadecimal(session.number().into());
            line.text(r#","session":""#).bytes(digits.split_at(16).1).text(r#"""#);
        }
        line.text(r#","path":"#);
        serde_json::to_writer(&mut *line.0, entry.uri.path())?;
        line.text("}\n");
        Ok(())
    }

    fn text(&self, entry: &AccessLogEntry, total: Duration) -> std::io::Result<()> {
        writeln!(
            self.gathered.borrow_mut(),
            "{} {} {} {} {} {} {:.1} ms {} B {}",
            self.stamp.borrow(),
            entry.status(),
            entry.method,
            entry.site(),
            entry.uri.path().escape_debug(),
            entry.client,
            total.as_secs_f64() * 1_000.0,
            entry.bytes,
            entry.id.to_str().unwrap_or_default(),
        )
    }
}

/// A line that is being written.
struct LineBuilder<'a>(&'a mut Vec<u8>);

impl LineBuilder<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Seconds with their microseconds. Integers, because the digits of a float cost more than the
    /// rest of the line.
    fn seconds(&mut self, took: Duration) -> &mut Self {
        // A million more has a digit in each of the six places, zeros too.
        let mut digits = itoa::Buffer::new();
        let micros = digits.format(took.subsec_micros().saturating_add(1_000_000));
        self.number(took.as_secs()).text(".").text(micros.get(1..).unwrap_or_default())
    }

    /// Nearly always the peer's own, which is written already.
    fn address(&mut self, address: IpAddr, peer: &Peer) -> &mut Self {
        if address == peer.ip {
            return self.bytes(peer.text.as_bytes());
        }
        // Writing to memory cannot fail.
        let _ = write!(self.0, "{address}");
        self
    }
}
