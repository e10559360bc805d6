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
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/secret"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/secret"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1s"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "1s"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=%secret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        ),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
    ] {
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        let error = read(Some("http://x"), &[(name, value), ratio]).unwrap_err();
        assert!(error.contains(name) && !error.contains("secret"), "{error}");
    }
    for endpoint in ["x", "ftp://x", "http://user:secret@x", "http://x?secret"] {
        let error = read(Some(endpoint), &[]).unwrap_err();
        assert!(error.starts_with("otel.endpoint "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn numbers_beyond_their_bounds_are_refused_with_value_and_bound() {
    for (name, value, max) in [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65537", "65536"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "99999", "2048"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049", "2048"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "86400000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "86400001", "86400000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "86400000"),
    ] {
        let error = read(Some("http://x"), &[(name, value)]).unwrap_err();
        let expected = format!("{name} must be a number from 1 to {max}, not {value}");
        assert_eq!(error, expected);
    }
    let most = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "65536"),
    ];
    let traces = read(Some("http://x"), &most).unwrap().traces.unwrap();
    assert_eq!((traces.queue, traces.batch), (65_536, 65_536));
}

#[test]
fn options_are_those_of_the_signal_before_those_of_all_and_case_does_not_matter() {
    let found = read(
        Some("https://x"),
        &[
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "None"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/Protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all"),
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/metrics"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/certificate"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
            ("OTEL_TRACES_EXPORTER", "OTLP"),
            ("OTEL_TRACES_SAMPLER", "Always_Off"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "7000"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "20000"),
            ("OTEL_PROPAGATORS", "TraceContext"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_SDK_DISABLED", "False"),
        ],
    );
    let found = found.unwrap();
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    let (traces, metrics) = (found.traces.unwrap(), found.metrics.unwrap());
    assert_eq!(traces.limit, Some(Duration::from_secs(7)));
    assert_eq!(traces.sampler.ratio, 0.0);
    let (traces, metrics) = (traces.target, metrics.target);
    assert_eq!((traces.gzip, metrics.gzip), (true, false));
    assert_eq!(traces.timeout, Duration::from_secs(60));
    assert_eq!(metrics.timeout, Duration::from_secs(20));
    let authorities = [&traces, &metrics].map(|target| {
        let file = target.tls.authorities.as_ref();
        file.unwrap().path.to_str().unwrap()
    });
    assert_eq!(authorities, ["/all", "/metrics"]);
    let (certificate, key) = traces.tls.identity.unwrap();
    assert_eq!(certificate.path.to_str(), Some("/certificate"));
    assert_eq!(key.path.to_str(), Some("/key"));
}

#[test]
fn what_has_no_effect_is_a_warning_without_values() {
    for (name, value) in [
        ("OTEL_PROPAGATORS", "tracecontext,secret"),
        ("OTEL_LOGS_EXPORTER", "secret"),
        ("OTEL_SDK_DISABLED", "secret"),
        ("OTEL_TRACES_SAMPLER_ARG", "secret"),
    ] {
        let warnings = read(Some("http://x"), &[(name, value)]).unwrap().warnings;
        let [warning] = &warnings[..] else {
            panic!("{name}: {warnings:?}");
        };
        assert!(warning.starts_with(name) && !warning.contains("secret"));
        assert!(read(None, &[(name, value)]).unwrap().warnings.is_empty());
    }
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ] {
        let found = read(Some("http://x"), &[(name, "/secret")]).unwrap();
        let why = "has no effect: the URL of the collector does not begin with https://";
        assert_eq!(found.warnings, [format!("{name} {why}")]);
        assert!(found.traces.unwrap().target.tls.first().is_none());
    }
    let found = read(None, &[("OTEL_METRICS_EXPORTER", "otlp")]).unwrap();
    assert_eq!(
        found.warnings,
        [
            "OTEL_METRICS_EXPORTER has no effect: set otel.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT too"
        ]
    );
    assert!(found.metrics.is_none());
}

#[test]
fn heeded_variables_are_those_of_the_documentation() {
    let documented = include_str!("../../../../docs/operating.md");
    for name in HEEDED {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
        assert!(is_heeded(name), "{name}");
    }
    for option in EXPORTER_OPTIONS {
        let name = format!("OTEL_EXPORTER_OTLP_{option}");
        assert!(documented.contains(&format!("`{name}`")), "{name}");
        assert!(is_heeded(&name), "{name}");
        assert!(is_heeded(&format!("OTEL_EXPORTER_OTLP_TRACES_{option}")));
        assert!(is_heeded(&format!("OTEL_EXPORTER_OTLP_METRICS_{option}")));
    }
    for name in [
        "OTEL_EXPORTER_OTLP_INSECURE",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
    ] {
        assert!(!is_heeded(name), "{name}");
    }
}

#[test]
fn debug_output_has_no_headers() {
    let headers = [("OTEL_EXPORTER_OTLP_HEADERS", "a=secret")];
    let found = read(Some("http://x"), &headers).unwrap();
    assert!(!format!("{found:?}").contains("secret"));
}
