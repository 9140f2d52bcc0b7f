//! Spans of requests on their way to a collector: OTLP over HTTP, where one is configured.
//!
//! A thread that serves hands a span over and goes on; a task of the control runtime gathers them
//! and sends a batch each second. What the collector does not take in time is dropped and counted.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::{runtime::Handle, sync::mpsc};

use crate::{metrics::Metrics, wire::trace::Trace};

#[cfg(feature = "otlp")]
mod otlp;

/// Spans that may wait for the collector.
const WAITING: usize = 4_096;

/// One request, as a trace tells it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place in the trace.
    pub trace: Trace,
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

/// Where spans go.
#[derive(Clone, Default)]
pub struct Traces {
    queue: Option<mpsc::Sender<Span>>,
    metrics: Option<Arc<Metrics>>,
}

impl Traces {
    /// To the collector at `url`, if there is one. Its connections belong to `runtime`.
    #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "of OTLP alone"))]
    pub fn start(
        url: Option<&str>,
        (tls, runtime): (&Arc<ClientConfig>, &Handle),
        metrics: &Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        #[cfg(feature = "otlp")]
        if let Some(url) = url {
            let (queue, spans) = mpsc::channel(WAITING);
            let exporter = otlp::Exporter::new(url, tls, Arc::clone(metrics))?;
            runtime.spawn(exporter.run(spans));
            return Ok(Self { queue: Some(queue), metrics: Some(Arc::clone(metrics)) });
        }
        Ok(Self::default())
    }

    /// Hands a span over, where anybody wants it.
    pub fn send(&self, trace: Trace, span: impl FnOnce() -> Span) {
        let Some(queue) = self.queue.as_ref().filter(|_| trace.sampled) else { return };
        if queue.try_send(span()).is_err()
            && let Some(metrics) = &self.metrics
        {
            metrics.spans("dropped", 1);
        }
    }
}
