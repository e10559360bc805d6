//! The variables of the environment that OpenTelemetry defines.

use super::sampler::SamplerKind;
use std::fmt;
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
}

/// How to export metrics.
#[derive(Debug, Clone)]
pub(super) struct MetricExport {
    pub(super) target: OtlpTarget,
    pub(super) interval: Duration,
}

/// Where to send one of the signals.
#[derive(Clone)]
pub(super) struct OtlpTarget {
    pub(super) url: reqwest::Url,
    /// Names and values, which are secrets.
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
}

impl fmt::Debug for OtlpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtlpTarget(..)")
    }
}

/// One of the kinds of data that OpenTelemetry exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// Its name in variables.
    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "TRACES",
            Signal::Metrics => "METRICS",
        }
    }
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
        let target = |signal| OtlpTarget::read(endpoint, signal, &variable);
        let traces = match target(Signal::Traces)? {
            None => None,
            Some(target) => {
                let queue = number(&variable, "OTEL_BSP_MAX_QUEUE_SIZE", 2_048)?.min(QUEUE_MAX);
                let batch = number(&variable, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?;
                Some(TraceExport {
                    target,
                    sampler: sampler(&variable)?,
                    delay: millis(&variable, "OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
                    queue: usize::try_from(queue).unwrap_or(usize::MAX),
                    batch: usize::try_from(batch.min(queue)).unwrap_or(usize::MAX),
                })
            }
        };
        let metrics = match target(Signal::Metrics)? {
            None => None,
            Some(target) => {
                const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
                let is_cumulative = |text: String| text.eq_ignore_ascii_case("cumulative");
                if !variable(TEMPORALITY).is_none_or(is_cumulative) {
                    return Err(unsupported(TEMPORALITY, "cumulative"));
                }
                Some(MetricExport {
                    target,
                    interval: millis(&variable, "OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
                })
            }
        };
        Ok(OtelVariables {
            resource: resource(&variable)?,
            traces,
            metrics,
        })
    }
}

/// The maximum number of spans that wait for their export. A span takes about 1 KiB.
const QUEUE_MAX: u64 = 65_536;

fn unsupported(name: &str, expected: &str) -> String {
    format!("{name} is not supported; expected {expected}")
}

fn number(
    variable: impl Fn(&str) -> Option<String>,
    name: &str,
    default: u64,
) -> Result<u64, String> {
    match variable(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} must be a number of at least 1")),
        },
    }
}

/// Reads a time of at most a day.
fn millis(
    variable: impl Fn(&str) -> Option<String>,
    name: &str,
    default: u64,
) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 60 * 60);
    Ok(Duration::from_millis(number(variable, name, default)?).min(day))
}

impl OtlpTarget {
    /// Reads where a signal goes; `None` if it is not exported.
    fn read(
        endpoint: Option<&str>,
        signal: Signal,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<OtlpTarget>, String> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.name());
        match variable(&exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(_) => return Err(unsupported(&exporter, "otlp or none")),
        }
        let is_disabled =
            variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let Some(url) = url(endpoint, signal, &variable)?.filter(|_| !is_disabled) else {
            return Ok(None);
        };
        // The variable of the signal comes before that of all signals. With the one that was found.
        let first = |suffix: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.name());
            let common = format!("OTEL_EXPORTER_OTLP_{suffix}");
            let found = [own, common].into_iter();
            found
                .filter_map(|name| Some((variable(&name)?, name)))
                .next()
        };
        let only = |suffix: &str, expected: &str| match first(suffix) {
            Some((text, name)) if text != expected => Err(unsupported(&name, expected)),
            _ => Ok(()),
        };
        only("PROTOCOL", "http/protobuf")?;
        only("COMPRESSION", "none")?;
        for suffix in ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"] {
            if let Some((_, name)) = first(suffix) {
                return Err(format!(
                    "{name} is not supported: use a collector on this machine, or one with a certificate of a public authority"
                ));
            }
        }
        let headers = match first("HEADERS") {
            None => Vec::new(),
            Some((text, name)) => pairs(&text)
                .ok_or_else(|| format!("{name} must be NAME=VALUE, separated by commas"))?,
        };
        let timeout = match first("TIMEOUT") {
            None => Duration::from_secs(10),
            Some((_, name)) => millis(&variable, &name, 10_000)?,
        };
        Ok(Some(OtlpTarget {
            url,
            headers,
            timeout,
        }))
    }
}

/// Returns where to send a signal, if that is known.
fn url(
    endpoint: Option<&str>,
    signal: Signal,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<reqwest::Url>, String> {
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name());
    let path = signal.name().to_ascii_lowercase();
    let below = |base: &str| format!("{}/v1/{path}", base.trim_end_matches('/'));
    let (name, text) = match (endpoint, variable(&own), variable(BASE)) {
        (Some(base), ..) => ("otel.endpoint", below(base)),
        (None, Some(url), _) => (own.as_str(), url),
        (None, None, Some(base)) => (BASE, below(&base)),
        (None, None, None) => return Ok(None),
    };
    let invalid = |why| format!("{name} {why}");
    let url = reqwest::Url::parse(&text).map_err(|_| invalid("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "has a password in it; set OTEL_EXPORTER_OTLP_HEADERS instead",
        ));
    }
    Ok(Some(url))
}

/// Parses a list of pairs, whose values may be percent-encoded.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| Some((name.to_owned(), decoded(value.trim())?)))?
    };
    parts.map(pair).collect()
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = more;
    }
    String::from_utf8(bytes).ok()
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
    let ratio = || match variable("OTEL_TRACES_SAMPLER_ARG") {
        None => Ok(1.0),
        Some(text) => match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1".to_owned()),
        },
    };
    let name = variable("OTEL_TRACES_SAMPLER");
    let (ratio, parent_based) = match name.as_deref() {
        None | Some("parentbased_always_on") => (1.0, true),
        Some("parentbased_always_off") => (0.0, true),
        Some("parentbased_traceidratio") => (ratio()?, true),
        Some("always_on") => (1.0, false),
        Some("always_off") => (0.0, false),
        Some("traceidratio") => (ratio()?, false),
        Some(_) => {
            let expected = "always_on, always_off or traceidratio, each also with parentbased_";
            return Err(unsupported("OTEL_TRACES_SAMPLER", expected));
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
