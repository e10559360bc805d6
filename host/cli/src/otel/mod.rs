//! Export of traces and metrics to an OpenTelemetry collector, by OTLP over HTTP. It runs beside the server:
//! whatever the collector does, no call waits for it.

mod metric_messages;
mod metric_text;
mod otel_variables;
mod otlp_client;
mod otlp_messages;
mod otlp_target;
mod otlp_tls;
mod sampler;
mod span_queue;
mod variable_values;

use super::environment::Environment;
use super::failure::Failure;
use super::output;
use kvasm::metrics::Metrics;
use kvasm::service::{SpanSink, Spans};
use metric_messages::{ExportMetrics, ResourceMetrics, ScopeMetrics};
use metric_text::{SampleTimes, metrics_of};
use otel_variables::{MetricExport, OtelVariables, is_heeded};
use otlp_client::OtlpClient;
use otlp_messages::{InstrumentationScope, OtlpResource, export_spans, otlp_resource};
use sampler::Sampler;
use span_queue::SpanQueue;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

/// The longest time that a stopping server waits for the collector.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Maximum number of variables without effect that the log shows.
const NAMES_SHOWN: usize = 20;

/// The settings of the configuration.
#[derive(Debug, Clone)]
pub(super) struct OtelSettings {
    /// The base URL of the collector.
    pub(super) endpoint: Option<String>,
    /// The maximum rate of spans.
    pub(super) spans_per_second: u64,
}

impl Default for OtelSettings {
    fn default() -> OtelSettings {
        OtelSettings {
            endpoint: None,
            spans_per_second: 2_000,
        }
    }
}

/// The running exports.
pub(super) struct OtelExport {
    /// Where the host records spans: nowhere, if they are not exported.
    pub(super) spans: Spans,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl OtelExport {
    /// Starts the exports for which a collector is configured. `database` is the store's name by the
    /// semantic conventions.
    ///
    /// # Errors
    /// A user error: a variable, setting or file that is invalid or not supported.
    pub(super) fn start(
        settings: &OtelSettings,
        environment: &Environment,
        metrics: &Metrics,
        database: &'static str,
    ) -> Result<OtelExport, Failure> {
        let variable = |name: &str| environment.get(name).map(str::to_owned);
        let found = OtelVariables::read(settings.endpoint.as_deref(), variable);
        let OtelVariables {
            resource,
            traces,
            metrics: of_metrics,
            warnings,
        } = found.map_err(Failure::user)?;
        if traces.is_some() || of_metrics.is_some() {
            warn_of_unheeded(environment);
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let stop = CancellationToken::new();
        let mut export = OtelExport {
            spans: Spans::default(),
            stop: stop.clone(),
            tasks: Vec::new(),
        };
        if let Some(traces) = traces {
            let client = OtlpClient::new("spans", &traces.target)?;
            let sampler = Sampler::new(traces.sampler, settings.spans_per_second);
            let queue = SpanQueue::new(sampler, metrics.clone(), traces.queue, traces.batch);
            export.spans = Spans::into_sink(Arc::clone(&queue) as Arc<dyn SpanSink>, database);
            let spans = SpanExport {
                queue,
                client,
                resource: resource.clone(),
                delay: traces.delay,
                limit: traces.limit,
                metrics: metrics.clone(),
            };
            export.tasks.push(tokio::spawn(spans.run(stop.clone())));
        }
        if let Some(MetricExport { target, interval }) = of_metrics {
            let client = OtlpClient::new("metrics", &target)?;
            let run = export_metrics(metrics.clone(), client, resource, interval, stop);
            export.tasks.push(tokio::spawn(run));
        }
        Ok(export)
    }

    /// Exports what is left, for a bounded time.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let aborts: Vec<_> = self.tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(FLUSH_MAX, all).await.is_err() {
            aborts.iter().for_each(AbortHandle::abort);
            tracing::warn!(
                "the last spans or metrics were not exported: the OpenTelemetry collector is too slow"
            );
        }
    }
}

/// Warns of variables of OpenTelemetry that have no effect.
fn warn_of_unheeded(environment: &Environment) {
    let unheeded = environment.otel_names().filter(|name| !is_heeded(name));
    let names: Vec<_> = unheeded
        .take(NAMES_SHOWN)
        .map(output::escape_line)
        .collect();
    if !names.is_empty() {
        let names = names.join(", ");
        tracing::warn!("variables of OpenTelemetry that have no effect: {names}");
    }
}

/// Exports spans.
struct SpanExport {
    queue: Arc<SpanQueue>,
    client: OtlpClient,
    resource: Vec<(String, String)>,
    delay: Duration,
    limit: Option<Duration>,
    metrics: Metrics,
}

impl SpanExport {
    /// Exports a batch when it is full or its oldest span has waited, and at the end all that is left.
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = self.queue.wait(self.delay) => false,
            };
            let spans = self.queue.take();
            if spans.is_empty() {
                match is_last {
                    true => return,
                    false => continue,
                }
            }
            let count = spans.len() as u64;
            let resource = self.resource.clone();
            let body = self.client.encode(move || export_spans(&resource, spans));
            let is_exported = match body.await {
                Some(body) => self.client.send(body, self.limit, &stop).await,
                None => false,
            };
            let name = match is_exported {
                true => "exported",
                false => "failed",
            };
            self.metrics.spans(name, count);
        }
    }
}

/// Exports metrics at each interval, and once more at the end. One that fails is not repeated: the
/// next one has the same sums.
async fn export_metrics(
    metrics: Metrics,
    mut client: OtlpClient,
    resource: Vec<(String, String)>,
    interval: Duration,
    stop: CancellationToken,
) {
    let start = nanos_now();
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(interval) => false,
        };
        let times = SampleTimes {
            start,
            now: nanos_now(),
        };
        let (metrics, resource) = (metrics.clone(), otlp_resource(&resource));
        let body = client.encode(move || metric_export(&metrics, resource, times));
        if let Some(body) = body.await {
            // What went wrong is in the log.
            client.send_without_retry(body).await;
        }
        if is_last {
            return;
        }
    }
}

fn metric_export(metrics: &Metrics, resource: OtlpResource, times: SampleTimes) -> ExportMetrics {
    let scope_metrics = ScopeMetrics {
        scope: Some(InstrumentationScope::of_host()),
        metrics: metrics_of(&metrics.encode(), times),
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![scope_metrics],
    };
    let resource_metrics = vec![resource_metrics];
    ExportMetrics { resource_metrics }
}

fn nanos_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
