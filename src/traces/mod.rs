//! Spans of requests on their way to a collector: OTLP over HTTP, where one is configured.
//!
//! A thread that serves hands a span over and goes on; a task of the control runtime gathers them
//! and sends a batch each second. What the collector does not take in time is dropped and counted.
//! What a login does on the way are spans under that of its request ([`client_span`], [`step`]).

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{httputil::trace_context::TraceContext, metrics::Metrics};

#[cfg(feature = "otlp")]
mod otlp;
mod span;

pub use span::{ActiveSpan, client_span, step, with_current_span};

use span::FinishedSpan;

/// One request, as a trace tells it.
#[derive(Clone, Debug)]
pub struct RequestSpan {
    /// Its place in the trace.
    pub trace: TraceContext,
    /// The method.
    pub method: String,
    /// What the route asks, which is the part of the path that there are only so many of.
    pub route: &'static str,
    /// The name of the site.
    pub site: String,
    /// The path, without the query.
    pub path: String,
    /// What the visitor was told.
    pub status: u16,
    /// When it ended, in nanoseconds of the Unix epoch.
    pub ended: u64,
    /// How long it took to the last byte, in nanoseconds.
    pub took: u64,
    /// Of that, until the answer began.
    pub head: u64,
    /// And of that, what the site took, if it was asked.
    pub site_took: Option<u64>,
}

/// What waits for the collector.
#[derive(Debug)]
#[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "of OTLP alone"))]
enum QueuedSpan {
    Request(RequestSpan),
    Step(FinishedSpan),
}

/// The span of a request whose call to the site is `trace.span`: that is what the site hears of, and
/// the request around it needs an id of its own.
fn around(trace: TraceContext) -> u64 {
    (trace.span ^ u64::MAX).max(1)
}

/// Where spans go.
#[derive(Clone, Default)]
pub struct Tracer {
    queue: Option<mpsc::Sender<QueuedSpan>>,
    metrics: Option<Arc<Metrics>>,
}

impl Tracer {
    /// To the collector at `url`, if there is one. Its connections belong to `runtime`.
    #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "of OTLP alone"))]
    pub fn start(
        url: Option<&str>,
        (tls, runtime): (&Arc<ClientConfig>, &Handle),
        metrics: &Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        #[cfg(feature = "otlp")]
        if let Some(url) = url {
            let (queue, spans) = mpsc::channel(otlp::QUEUE_LEN);
            let exporter = otlp::Exporter::new(url, tls, Arc::clone(metrics))?;
            runtime.spawn(exporter.run(spans));
            return Ok(Self { queue: Some(queue), metrics: Some(Arc::clone(metrics)) });
        }
        Ok(Self::default())
    }

    /// Hands a span over, where anybody wants it.
    pub fn send(&self, trace: TraceContext, span: impl FnOnce() -> RequestSpan) {
        if self.queue.is_some() && trace.sampled {
            self.enqueue(QueuedSpan::Request(span()));
        }
    }

    fn enqueue(&self, told: QueuedSpan) {
        if let Some(queue) = &self.queue
            && queue.try_send(told).is_err()
            && let Some(metrics) = &self.metrics
        {
            metrics.spans("dropped", 1);
        }
    }
}
