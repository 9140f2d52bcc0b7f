//! Access lines on their way out.
//!
//! A thread writes its lines into a buffer of its own, which a writer elsewhere takes from time to
//! time: a slow disk or pipe holds up nobody, and a request pays for a few bytes in memory.

use std::{
    cell::{Cell, RefCell},
    fmt,
    io::Write,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use tracing_appender::non_blocking::NonBlocking;

use super::Entry;
use crate::{clock::Timestamp, logs::Form, traces::Traces};

/// Bytes of lines that a thread gathers before it hands them over.
const BATCH: usize = 16 * 1024;

/// Where access lines go, and how they look.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<(Form, NonBlocking)>);

impl AccessLog {
    /// To this writer.
    pub fn new(form: Form, writer: NonBlocking) -> Self {
        Self(Some((form, writer)))
    }
}

/// One thread's lines.
pub struct Lines {
    log: AccessLog,
    pub(super) traces: Traces,
    gathered: RefCell<Vec<u8>>,
    /// The second of the last line, as it is written.
    stamp: RefCell<String>,
    second: Cell<Timestamp>,
}

impl Lines {
    /// No lines yet.
    pub fn new(log: AccessLog, traces: Traces) -> Rc<Self> {
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

    pub(super) fn add(&self, entry: &Entry, total: Duration) {
        let Some((form, _)) = self.log.0 else { return };
        let now = entry.began.plus(total);
        if self.second.replace(now) != now {
            let time = UNIX_EPOCH + Duration::from_secs(now.0);
            *self.stamp.borrow_mut() = humantime::format_rfc3339_seconds(time).to_string();
        }
        // Writing to memory cannot fail.
        let _ = match form {
            Form::Json => self.json(entry, total),
            Form::Text => self.text(entry, total),
        };
        if form == Form::Text || self.gathered.borrow().len() >= BATCH {
            self.flush();
        }
    }

    /// Only the path can hold a quotation mark; the rest is checked or ours.
    fn json(&self, entry: &Entry, total: Duration) -> std::io::Result<()> {
        let mut out = self.gathered.borrow_mut();
        write!(
            out,
            r#"{{"timestamp":"{}","target":"access","request_id":"{}","trace_id":"{:032x}","client":"{}","peer":"{}","site":"{}","route":"{}","method":"{}","status":{},"bytes":{},"seconds":{},"total_seconds":{},"#,
            self.stamp.borrow(),
            entry.id.to_str().unwrap_or_default(),
            entry.trace.id,
            entry.client,
            entry.peer.text.to_str().unwrap_or_default(),
            entry.site(),
            entry.class.word(),
            entry.method,
            entry.status(),
            entry.bytes,
            Seconds(entry.head(total)),
            Seconds(total),
        )?;
        if let Some(took) = entry.upstream {
            write!(out, r#""upstream_seconds":{},"#, Seconds(took))?;
        }
        if let Some(session) = &entry.session {
            write!(out, r#""session":"{session}","#)?;
        }
        out.extend_from_slice(br#""path":"#);
        serde_json::to_writer(&mut *out, entry.uri.path())?;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn text(&self, entry: &Entry, total: Duration) -> std::io::Result<()> {
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

/// Seconds with their microseconds. Integers, because the digits of a float cost more than the rest
/// of the line.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}
