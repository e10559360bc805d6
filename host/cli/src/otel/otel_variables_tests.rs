//! Which variables are heeded, and which are refused.

use super::*;

fn read(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Result<OtelVariables, String> {
    let find = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    OtelVariables::read(endpoint, find)
}

/// The URLs of traces and metrics.
fn urls(endpoint: Option<&str>, variables: &[(&str, &str)]) -> [Option<String>; 2] {
    let found = read(endpoint, variables).unwrap();
    let traces = found.traces.map(|traces| traces.target);
    let metrics = found.metrics.map(|metrics| metrics.target);
    [traces, metrics].map(|target| Some(target?.url.to_string()))
}

#[test]
fn setting_comes_before_the_variables() {
    assert_eq!(urls(None, &[]), [None, None]);
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318/");
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own/x");
    let some = |url: &str| Some(url.to_owned());
    let metrics = some("http://base:4318/v1/metrics");
    let both = [some("http://base:4318/v1/traces"), metrics.clone()];
    assert_eq!(urls(None, &[base]), both);
    assert_eq!(urls(None, &[base, own]), [some("http://own/x"), metrics]);
    assert_eq!(urls(None, &[own]), [some("http://own/x"), None]);
    let set = Some("https://set/p");
    let [traces, metrics] =
        ["traces", "metrics"].map(|path| some(&format!("https://set/p/v1/{path}")));
    assert_eq!(urls(set, &[base, own]), [traces.clone(), metrics.clone()]);
    assert_eq!(urls(set, &[("OTEL_SDK_DISABLED", "True")]), [None, None]);
    assert_eq!(
        urls(set, &[("OTEL_TRACES_EXPORTER", "none")]),
        [None, metrics]
    );
    assert_eq!(
        urls(set, &[("OTEL_METRICS_EXPORTER", "none")]),
        [traces, None]
    );
}

#[test]
fn headers_and_resource_are_decoded() {
    let found = read(
        Some("http://x"),
        &[
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=Bearer%20s, b=2=3"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "c=4"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,zone=1"),
            ("OTEL_SERVICE_NAME", "shop"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ],
    );
    let found = found.unwrap();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert!(found.resource.contains(&pair("service.name", "shop")));
    assert!(found.resource.contains(&pair("zone", "1")));
    let (traces, metrics) = (found.traces.unwrap(), found.metrics.unwrap());
    let headers = traces.target.headers;
    assert_eq!(headers, [pair("a", "Bearer s"), pair("b", "2=3")]);
    assert_eq!(traces.target.timeout, Duration::from_millis(250));
    assert_eq!((traces.queue, traces.batch), (100, 100));
    assert_eq!(traces.sampler.ratio, 0.25);
    assert_eq!(metrics.target.headers, [pair("c", "4")]);
    assert_eq!(metrics.target.timeout, Duration::from_secs(10));
    assert_eq!(metrics.interval, Duration::from_millis(500));
}

#[test]
fn unsupported_values_are_refused_without_secrets() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/x"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=%secret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
    ] {
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let error = read(Some("http://x"), &[(name, value), ratio]).unwrap_err();
        assert!(error.contains(name) && !error.contains("secret"), "{error}");
    }
    for endpoint in ["x", "ftp://x", "http://user:secret@x"] {
        let error = read(Some(endpoint), &[]).unwrap_err();
        assert!(error.starts_with("otel.endpoint "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn debug_output_has_no_headers() {
    let headers = [("OTEL_EXPORTER_OTLP_HEADERS", "a=secret")];
    let found = read(Some("http://x"), &headers).unwrap();
    assert!(!format!("{found:?}").contains("secret"));
}
