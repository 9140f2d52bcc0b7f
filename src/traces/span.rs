//! What is done for a request, each step a span under that of the request.
//!
//! Whoever calls WeChat or the store does not know for whom. The task does: [`super::Tracer::instrument_request`]
//! lets it, and what runs inside tells its steps with [`client_span`] and [`step`]. Where nobody follows, which
//! is every request that is passed on and every trace that is not recorded, a step is nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::{QueuedSpan, Tracer};
use crate::{clock, httputil::trace_context::TraceContext};

/// Steps that one request may tell: who waits for another replica asks the store often.
const MAX_SPANS: usize = 32;

/// Whose step this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    /// Our own.
    #[default]
    Internal,
    /// Somebody we ask.
    Client,
}

/// What is said of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// In words.
    Text(String),
    /// In a number.
    Number(i64),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for AttributeValue {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// A step that has been taken.
#[derive(Debug, Default)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "of OTLP alone"))]
pub struct FinishedSpan {
    /// The trace.
    pub trace: u128,
    /// Its own span, and the one it belongs under.
    pub span: u64,
    /// See `span`.
    pub parent: u64,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub kind: SpanKind,
    /// What is said of it.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Whether it came to nothing.
    pub failed: bool,
    /// When it ended, in nanoseconds of the Unix epoch.
    pub ended: u64,
    /// How long it took, in nanoseconds.
    pub took: u64,
}

tokio::task_local! {
    static TRAIL: SpanContext;
}

/// The place in a trace where the next step belongs.
#[derive(Clone)]
struct SpanContext {
    traces: Tracer,
    trace: u128,
    parent: u64,
    told: Arc<AtomicUsize>,
}

impl SpanContext {
    fn step(&self, kind: SpanKind, name: String) -> Option<Box<ActiveSpanInner>> {
        let allowed = self.told.fetch_add(1, Ordering::Relaxed) < MAX_SPANS;
        allowed.then(|| {
            let taken = FinishedSpan {
                trace: self.trace,
                span: rand::random::<u64>().max(1),
                parent: self.parent,
                name,
                kind,
                ..FinishedSpan::default()
            };
            Box::new(ActiveSpanInner {
                trail: self.clone(),
                taken,
                since: Instant::now(),
                ends: false,
            })
        })
    }
}

impl Tracer {
    /// Does `work` as a part of the request at this place in a trace.
    pub fn instrument_request<F: Future>(
        &self,
        trace: TraceContext,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        in_trail(self.trail(trace), work)
    }

    /// The same for work that waits for nothing.
    pub fn in_scope<T>(&self, trace: TraceContext, work: impl FnOnce() -> T) -> T {
        match self.trail(trace) {
            Some(trail) => TRAIL.sync_scope(trail, work),
            None => work(),
        }
    }

    fn trail(&self, trace: TraceContext) -> Option<SpanContext> {
        let wanted = self.queue.is_some() && trace.sampled;
        wanted.then(|| SpanContext {
            traces: self.clone(),
            trace: trace.id,
            parent: super::around(trace),
            told: Arc::default(),
        })
    }
}

/// `work` for another task, in the name of the request that this task is for.
pub fn with_current_span<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    in_trail(TRAIL.try_with(Clone::clone).ok(), work)
}

fn in_trail<F: Future>(
    trail: Option<SpanContext>,
    work: F,
) -> impl Future<Output = F::Output> + use<F> {
    let work = Box::pin(work); // logins are large, and whoever waits for one would carry it twice
    async move {
        match trail {
            Some(trail) => TRAIL.scope(trail, work).await,
            None => work.await,
        }
    }
}

/// A step that is being taken; told when it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct ActiveSpan(Option<Box<ActiveSpanInner>>);

struct ActiveSpanInner {
    trail: SpanContext,
    taken: FinishedSpan,
    since: Instant,
    /// Whether its end was seen.
    ends: bool,
}

/// Somebody is asked: WeChat, or the store.
pub fn client_span(name: impl FnOnce() -> String) -> ActiveSpan {
    begin(SpanKind::Client, name)
}

/// Something is done here.
pub fn step(name: &str) -> ActiveSpan {
    begin(SpanKind::Internal, || name.to_owned())
}

fn begin(kind: SpanKind, name: impl FnOnce() -> String) -> ActiveSpan {
    let underway = TRAIL.try_with(|trail| trail.step(kind, name()));
    ActiveSpan(underway.ok().flatten())
}

impl ActiveSpan {
    /// Says something of it: never anything that is a secret, or a person's.
    pub fn set_attribute<V: Into<AttributeValue>>(
        &mut self,
        key: &'static str,
        value: impl FnOnce() -> Option<V>,
    ) {
        if let Some(underway) = &mut self.0
            && let Some(value) = value()
        {
            underway.taken.attributes.push((key, value.into()));
        }
    }

    /// It ended, and as it should.
    pub fn end_ok(mut self) {
        if let Some(underway) = &mut self.0 {
            underway.ends = true;
        }
    }

    /// It ended in an error of this kind, one of a few.
    pub fn end_error(mut self, kind: &str) {
        if let Some(underway) = &mut self.0 {
            underway.fail(kind);
        }
    }

    /// Does `work` as a part of this step.
    pub fn instrument<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let inner = self
            .0
            .as_ref()
            .map(|underway| SpanContext { parent: underway.taken.span, ..underway.trail.clone() });
        in_trail(inner, work)
    }
}

impl ActiveSpanInner {
    fn fail(&mut self, kind: &str) {
        self.ends = true;
        self.taken.failed = true;
        self.taken.attributes.push(("error.type", kind.into()));
    }
}

impl Drop for ActiveSpanInner {
    fn drop(&mut self) {
        if !self.ends {
            self.fail("cancelled"); // nobody waited for it any longer
        }
        self.taken.took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.taken.ended = clock::nanos();
        self.trail.traces.enqueue(QueuedSpan::Step(std::mem::take(&mut self.taken)));
    }
}
