//! How exports reach a collector: compression, certificates, and variables without effect.

use super::otlp_certificates::Authority;
use super::otlp_collector::{Collector, Mood};
use kvasm_tests::program::process::{Home, Server, eventually, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

const AUTHORITIES: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

/// Exports metrics soon.
const SOON: (&str, &str) = ("OTEL_METRIC_EXPORT_INTERVAL", "100");

/// Calls a function in a sampled trace.
#[track_caller]
fn call(server: &Server) {
    let header = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    let answer = server.try_request("POST", "/v1/apps/demo/call/hello", &header, b"");
    answer.expect("an answer").ok();
}

#[test]
fn requests_are_compressed_if_a_variable_says_so() {
    let (home, collector) = (Home::new(), Collector::start());
    let variables = [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        SOON,
    ];
    let server = collector.server(&home, &[], &variables);
    server.deploy_guest("demo");
    call(&server);
    // The collector decompresses them.
    collector.wait_for(TRACE, "call hello");
    let metrics = eventually("metrics", || collector.accepted("/v1/metrics").pop());
    let (traces, _) = collector.accepted("/v1/traces").pop().unwrap();
    assert_eq!(traces["content-encoding"], "gzip");
    assert_eq!(traces["content-type"], "application/x-protobuf");
    assert!(metrics.0.get("content-encoding").is_none());
    server.stop();
}

#[test]
fn collector_and_server_have_certificates_of_their_own_authority() {
    let (home, authority) = (Home::new(), Authority::new());
    let collector = Collector::with_tls(authority.server());
    let client = authority.certify("kvasm.example");
    // A bundle, as operators have: one of them has signed the collector's.
    let bundle = Authority::new().pem() + &authority.pem();
    let files = [
        (AUTHORITIES, home.file("ca.pem", bundle.as_bytes())),
        (
            CERTIFICATE,
            home.file("client.pem", client.pem().as_bytes()),
        ),
        (KEY, home.file("key.pem", client.key_pem().as_bytes())),
    ];
    let variables = files.each_ref().map(|(name, path)| (*name, path.as_str()));
    let variables = [&variables[..], &[SOON]].concat();
    let server = collector.server(&home, &[], &variables);
    server.deploy_guest("demo");
    call(&server);
    collector.wait_for(TRACE, "call hello");
    eventually("metrics", || collector.accepted("/v1/metrics").pop());
    server.stop();
}

#[test]
fn collector_of_another_authority_or_that_misses_a_certificate_gets_nothing() {
    let (home, authority) = (Home::new(), Authority::new());
    let trusted = home.file("ca.pem", authority.pem().as_bytes());
    let other = home.file("other.pem", Authority::new().pem().as_bytes());
    let client = authority.certify("kvasm.example");
    let certificate = home.file("client.pem", client.pem().as_bytes());
    let key = home.file("key.pem", client.key_pem().as_bytes());
    for variables in [
        // The collector asks for a certificate.
        vec![(AUTHORITIES, &*trusted)],
        // No public authority has signed the collector's.
        vec![(CERTIFICATE, &*certificate), (KEY, &*key)],
        vec![
            (AUTHORITIES, &*other),
            (CERTIFICATE, &*certificate),
            (KEY, &*key),
        ],
    ] {
        let (home, collector) = (Home::new(), Collector::with_tls(authority.server()));
        let server = collector.server(&home, &[], &variables);
        server.deploy_guest("demo");
        call(&server);
        eventually("a line about the collector", || {
            let log = server.stderr();
            log.contains("the OpenTelemetry collector takes no spans")
                .then_some(())
        });
        server.stop();
        assert!(collector.accepted("/v1/traces").is_empty());
        assert!(collector.accepted("/v1/metrics").is_empty());
    }
}

#[test]
fn file_that_cannot_be_used_is_refused_with_its_variable() {
    let (home, authority) = (Home::new(), Authority::new());
    let (one, another) = (authority.certify("one"), authority.certify("another"));
    let certificate = home.file("client.pem", one.pem().as_bytes());
    let key = home.file("key.pem", one.key_pem().as_bytes());
    let other_key = home.file("other.pem", another.key_pem().as_bytes());
    let nonsense = home.file("nonsense", b"sesame");
    let damaged = "-----BEGIN CERTIFICATE-----\nc2VzYW1l\n-----END CERTIFICATE-----\n";
    let damaged = home.file("damaged.pem", damaged.as_bytes());
    let long = home.file("long.pem", &vec![b'\n'; (1 << 20) + 1]);
    let missing = home.path("missing");
    for (variables, expected) in [
        (vec![(AUTHORITIES, &missing)], "No such file"),
        (vec![(AUTHORITIES, &nonsense)], "no valid certificate"),
        (vec![(AUTHORITIES, &damaged)], AUTHORITIES),
        (vec![(AUTHORITIES, &long)], "longer than 1 MiB"),
        (vec![(CERTIFICATE, &certificate)], KEY),
        (vec![(KEY, &key)], CERTIFICATE),
        (vec![(CERTIFICATE, &key), (KEY, &key)], CERTIFICATE),
        (vec![(CERTIFICATE, &certificate), (KEY, &nonsense)], KEY),
        (
            vec![(CERTIFICATE, &certificate), (KEY, &other_key)],
            CERTIFICATE,
        ),
    ] {
        let mut command = home.command(&["serve", "--store", "memory"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1");
        command.args(["--listen", "127.0.0.1:0"]).envs(variables);
        let output = run(command, b"");
        assert_eq!(output.code, 2, "{expected}: {}", output.stderr);
        assert!(output.stderr.contains(expected), "{}", output.stderr);
        assert!(!output.stderr.contains("sesame"), "{}", output.stderr);
    }
}

#[test]
fn variables_without_effect_are_in_the_log_once() {
    let (home, collector) = (Home::new(), Collector::start());
    let variables = [
        ("OTEL_EXPORTER_OTLP_INSECURE", "sesame"),
        ("OTEL_NODE_IP", "sesame"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ("OTEL_SERVICE_NAME", "shop"),
    ];
    let server = collector.server(&home, &[], &variables);
    server.stop_and_inspect_log(|log| {
        let list = "that have no effect: OTEL_EXPORTER_OTLP_INSECURE, OTEL_NODE_IP";
        for part in [list, "OTEL_PROPAGATORS is not supported"] {
            assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
        }
        assert!(!log.contains("sesame"), "{log}");
        assert!(!log.contains("OTEL_SERVICE_NAME"), "{log}");
    });
}

#[test]
fn batch_is_given_up_after_its_timeout() {
    let (home, collector) = (Home::new(), Collector::start());
    // Five requests would take 65 seconds, for which the test does not wait.
    let server = collector.server(&home, &[], &[("OTEL_BSP_EXPORT_TIMEOUT", "200")]);
    server.deploy_guest("demo");
    collector.set(Mood::Silent);
    call(&server);
    eventually("a batch that has failed", || {
        let metrics = server.admin("GET", "/metrics", "text/plain", b"").ok();
        let failed = "kvasm_spans_total{name=\"failed\"}";
        metrics.text().contains(failed).then_some(())
    });
    server.stop();
}
