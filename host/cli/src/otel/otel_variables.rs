//! The variables of the environment that OpenTelemetry defines.

use super::otlp_target::{OtlpTarget, Signal};
use super::sampler::SamplerKind;
use super::variable_values::{millis, number, only, pairs, unsupported};
use std::time::Duration;

/// What the variables and the setting `otel.endpoint` say.
#[derive(Debug, Clone)]
pub(super) struct OtelVariables {
    /// Attributes of the resource, that is of this server.
    pub(super) resource: Vec<(String, String)>,
    /// How to export traces; `None` if they are not exported.
    pub(super) traces: Option<TraceExport>,
    /// How to export metrics; `None` if they are not exported.
    pub(super) metrics: Option<MetricExport>,
    /// What has no effect although it is set. The texts have no values.
    pub(super) warnings: Vec<String>,
}

/// How to export traces.
#[derive(Debug, Clone)]
pub(super) struct TraceExport {
    pub(super) target: OtlpTarget,
    pub(super) sampler: SamplerKind,
    /// The longest time that a finished span waits for others.
    pub(super) delay: Duration,
    /// The maximum number of spans that wait.
    pub(super) queue: usize,
    /// The maximum number of spans in a request.
    pub(super) batch: usize,
    /// The longest time that a batch is tried to be exported, with all its requests.
    pub(super) limit: Option<Duration>,
}

/// How to export metrics.
#[derive(Debug, Clone)]
pub(super) struct MetricExport {
    pub(super) target: OtlpTarget,
    pub(super) interval: Duration,
}

/// The maximum number of spans that wait for their export. A span takes about 1 KiB.
const QUEUE_MAX: u64 = 65_536;

/// Variables that are heeded, besides [`EXPORTER_OPTIONS`].
const HEEDED: [&str; 17] = [
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_LOGS_EXPORTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_METRICS_EXPORTER",
    "OTEL_PROPAGATORS",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
    SAMPLER,
    SAMPLER_ARG,
    HISTOGRAMS,
    TEMPORALITY,
];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
/// How variables of the exporter begin; that of one of the signals has its name next.
const EXPORTER: &str = "OTEL_EXPORTER_OTLP_";
/// How they end.
const EXPORTER_OPTIONS: [&str; 8] = [
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "COMPRESSION",
    "ENDPOINT",
    "HEADERS",
    "PROTOCOL",
    "TIMEOUT",
];
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const HISTOGRAMS: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";

/// Returns whether the exporter heeds a variable.
pub(super) fn is_heeded(name: &str) -> bool {
    let Some(option) = name
        .strip_prefix(EXPORTER)
        .filter(|_| !HEEDED.contains(&name))
    else {
        return HEEDED.contains(&name);
    };
    let of_signal = ["TRACES_", "METRICS_"]
        .into_iter()
        .find_map(|signal| option.strip_prefix(signal));
    EXPORTER_OPTIONS.contains(&of_signal.unwrap_or(option))
}

impl OtelVariables {
    /// Reads the variables. A signal is exported if its collector is named, by `endpoint` or a
    /// variable, and the export is not disabled. `endpoint` is the setting, which comes before the
    /// variables.
    ///
    /// # Errors
    /// What is invalid or not supported, without values that may be secret.
    pub(super) fn read(
        endpoint: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<OtelVariables, String> {
        let mut found = OtelVariables {
            resource: resource(&variable)?,
            traces: None,
            metrics: None,
            warnings: Vec::new(),
        };
        let disabled = variable("OTEL_SDK_DISABLED").map(|text| text.to_ascii_lowercase());
        if disabled.as_deref() == Some("true") {
            return Ok(found);
        }
        let mut target =
            |signal| OtlpTarget::read(endpoint, signal, &variable, &mut found.warnings);
        let (traces, metrics) = (target(Signal::Traces)?, target(Signal::Metrics)?);
        if traces.is_none() && metrics.is_none() {
            return Ok(found);
        }
        let traces = traces.map(|target| TraceExport::read(target, &variable));
        found.traces = traces.transpose()?;
        let metrics = metrics.map(|target| MetricExport::read(target, &variable));
        found.metrics = metrics.transpose()?;
        found.warnings.extend(warnings(&variable));
        if !matches!(disabled.as_deref(), None | Some("false")) {
            let warning = "OTEL_SDK_DISABLED has no effect: it is neither true nor false";
            found.warnings.push(warning.to_owned());
        }
        Ok(found)
    }
}

impl TraceExport {
    fn read(
        target: OtlpTarget,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<TraceExport, String> {
        const LIMIT: &str = "OTEL_BSP_EXPORT_TIMEOUT";
        let queue = number(&variable, "OTEL_BSP_MAX_QUEUE_SIZE", 2_048, QUEUE_MAX)?;
        // A batch is never larger than the queue, so a larger number is a mistake.
        let batch = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
        let batch = number(&variable, batch, queue.min(512), queue)?;
        let limit = variable(LIMIT).map(|_| millis(&variable, LIMIT, 1));
        Ok(TraceExport {
            target,
            sampler: sampler(&variable)?,
            delay: millis(&variable, "OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
            queue: usize::try_from(queue).unwrap_or(usize::MAX),
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            limit: limit.transpose()?,
        })
    }
}

impl MetricExport {
    fn read(
        mut target: OtlpTarget,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<MetricExport, String> {
        only(&variable, TEMPORALITY, "cumulative")?;
        only(&variable, HISTOGRAMS, "explicit_bucket_histogram")?;
        // An export of metrics is one request.
        let limit = millis(&variable, "OTEL_METRIC_EXPORT_TIMEOUT", 30_000)?;
        target.timeout = target.timeout.min(limit);
        Ok(MetricExport {
            target,
            interval: millis(&variable, "OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
        })
    }
}

/// What the exporter does not do, though a variable asks for it.
fn warnings(variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let has_other = |name: &str, expected: &str| {
        let text = variable(name).unwrap_or_default().to_ascii_lowercase();
        let mut parts = text.split(',').map(str::trim);
        parts.any(|part| !part.is_empty() && part != expected)
    };
    if has_other("OTEL_PROPAGATORS", "tracecontext") {
        warn("OTEL_PROPAGATORS is not supported except for tracecontext, which is always on");
    }
    if has_other("OTEL_LOGS_EXPORTER", "none") {
        warn("OTEL_LOGS_EXPORTER has no effect: logs are not exported");
    }
    let has_ratio =
        variable(SAMPLER).is_some_and(|name| name.to_ascii_lowercase().ends_with("traceidratio"));
    if !has_ratio && variable(SAMPLER_ARG).is_some() {
        warn(
            "OTEL_TRACES_SAMPLER_ARG has no effect without OTEL_TRACES_SAMPLER=parentbased_traceidratio or traceidratio",
        );
    }
    warnings
}

fn resource(variable: impl Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, String> {
    let text = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut resource =
        pairs(&text).ok_or("OTEL_RESOURCE_ATTRIBUTES must be NAME=VALUE, separated by commas")?;
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    for (key, value) in [
        ("service.name", "kvasm"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ] {
        if !resource.iter().any(|(name, _)| name == key) {
            resource.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(resource)
}

fn sampler(variable: impl Fn(&str) -> Option<String>) -> Result<SamplerKind, String> {
    let ratio = || match variable(SAMPLER_ARG) {
        None => Ok(1.0),
        Some(text) => match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1".to_owned()),
        },
    };
    let name = variable(SAMPLER).map(|name| name.to_ascii_lowercase());
    let (ratio, parent_based) = match name.as_deref() {
        None | Some("parentbased_always_on") => (1.0, true),
        Some("parentbased_always_off") => (0.0, true),
        Some("parentbased_traceidratio") => (ratio()?, true),
        Some("always_on") => (1.0, false),
        Some("always_off") => (0.0, false),
        Some("traceidratio") => (ratio()?, false),
        Some(_) => {
            let expected = "always_on, always_off or traceidratio, each also with parentbased_";
            return Err(unsupported(SAMPLER, expected));
        }
    };
    Ok(SamplerKind {
        ratio,
        parent_based,
    })
}

#[cfg(test)]
#[path = "otel_variables_tests.rs"]
mod tests;
