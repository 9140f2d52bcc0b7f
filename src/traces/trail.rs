//! What is done for a request, each step a span under that of the request.
//!
//! Whoever calls WeChat or the store does not know for whom. The task does: [`super::Traces::follow`]
//! lets it, and what runs inside tells its steps with [`call`] and [`step`]. Where nobody follows, which
//! is every request that is passed on and every trace that is not recorded, a step is nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::{Told, Traces};
use crate::{clock, wire::trace::Trace};

/// Steps that one request may tell: who waits for another replica asks the store often.
const MOST: usize = 32;

/// Whose step this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Our own.
    #[default]
    Internal,
    /// Somebody we ask.
    Client,
}

/// What is said of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// In words.
    Text(String),
    /// In a number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// A step that has been taken.
#[derive(Debug, Default)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "of OTLP alone"))]
pub struct Taken {
    /// The trace.
    pub trace: u128,
    /// Its own span, and the one it belongs under.
    pub span: u64,
    /// See `span`.
    pub parent: u64,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it came to nothing.
    pub failed: bool,
    /// When it ended, in nanoseconds of the Unix epoch.
    pub ended: u64,
    /// How long it took, in nanoseconds.
    pub took: u64,
}

tokio::task_local! {
    static TRAIL: Trail;
}

/// The place in a trace where the next step belongs.
#[derive(Clone)]
struct Trail {
    traces: Traces,
    trace: u128,
    parent: u64,
    told: Arc<AtomicUsize>,
}

impl Trail {
    fn step(&self, kind: Kind, name: String) -> Option<Box<Underway>> {
        let allowed = self.told.fetch_add(1, Ordering::Relaxed) < MOST;
        allowed.then(|| {
            let taken = Taken {
                trace: self.trace,
                span: rand::random::<u64>().max(1),
                parent: self.parent,
                name,
                kind,
                ..Taken::default()
            };
            Box::new(Underway { trail: self.clone(), taken, since: Instant::now(), ends: false })
        })
    }
}

impl Traces {
    /// Does `work` as a part of the request at this place in a trace.
    pub fn follow<F: Future>(
        &self,
        trace: Trace,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        in_trail(self.trail(trace), work)
    }

    /// The same for work that waits for nothing.
    pub fn within<T>(&self, trace: Trace, work: impl FnOnce() -> T) -> T {
        match self.trail(trace) {
            Some(trail) => TRAIL.sync_scope(trail, work),
            None => work(),
        }
    }

    fn trail(&self, trace: Trace) -> Option<Trail> {
        let wanted = self.queue.is_some() && trace.sampled;
        wanted.then(|| Trail {
            traces: self.clone(),
            trace: trace.id,
            parent: super::around(trace),
            told: Arc::default(),
        })
    }
}

/// `work` for another task, in the name of the request that this task is for.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    in_trail(TRAIL.try_with(Clone::clone).ok(), work)
}

fn in_trail<F: Future>(trail: Option<Trail>, work: F) -> impl Future<Output = F::Output> + use<F> {
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
pub struct Step(Option<Box<Underway>>);

struct Underway {
    trail: Trail,
    taken: Taken,
    since: Instant,
    /// Whether its end was seen.
    ends: bool,
}

/// Somebody is asked: WeChat, or the store.
pub fn call(name: impl FnOnce() -> String) -> Step {
    begin(Kind::Client, name)
}

/// Something is done here.
pub fn step(name: &str) -> Step {
    begin(Kind::Internal, || name.to_owned())
}

fn begin(kind: Kind, name: impl FnOnce() -> String) -> Step {
    let underway = TRAIL.try_with(|trail| trail.step(kind, name()));
    Step(underway.ok().flatten())
}

impl Step {
    /// Says something of it: never anything that is a secret, or a person's.
    pub fn say<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> Option<V>) {
        if let Some(underway) = &mut self.0
            && let Some(value) = value()
        {
            underway.taken.attributes.push((key, value.into()));
        }
    }

    /// It ended, and as it should.
    pub fn well(mut self) {
        if let Some(underway) = &mut self.0 {
            underway.ends = true;
        }
    }

    /// It ended in an error of this kind, one of a few.
    pub fn ill(mut self, kind: &str) {
        if let Some(underway) = &mut self.0 {
            underway.fail(kind);
        }
    }

    /// Does `work` as a part of this step.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let inner = self
            .0
            .as_ref()
            .map(|underway| Trail { parent: underway.taken.span, ..underway.trail.clone() });
        in_trail(inner, work)
    }
}

impl Underway {
    fn fail(&mut self, kind: &str) {
        self.ends = true;
        self.taken.failed = true;
        self.taken.attributes.push(("error.type", kind.into()));
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if !self.ends {
            self.fail("cancelled"); // nobody waited for it any longer
        }
        self.taken.took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.taken.ended = clock::nanos();
        self.trail.traces.hand_over(Told::Step(std::mem::take(&mut self.taken)));
    }
}
