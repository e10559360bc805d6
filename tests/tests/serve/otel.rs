//! Traces and metrics for a collector of OpenTelemetry: what it gets, and that it cannot harm.

use super::otel_kit::{CLIENT, call, deploy, trace};
use super::otlp_collector::{Collector, Mood};
use kvasm_tests::program::process::{Home, eventually};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

#[test]
fn host_functions_of_a_call_are_bounded_and_unsampled_traces_are_not_recorded() {
    let (home, collector) = (Home::new(), Collector::start());
    let server = collector.server(&home, &[], &[]);
    deploy(&server);
    let (sampled, unsampled) = (trace(2), trace(3));
    call(&server, "demo", "run", &unsampled, "00");
    call(&server, "demo", "many", &sampled, "01");
    let many = collector.wait_for(&sampled, "call many");
    assert_eq!(many.attributes["kvasm.host_calls"], "100");
    assert_eq!(many.attributes["kvasm.host_functions_left_out"], "36");
    let below = collector.spans();
    let below = below.iter().filter(|span| span.parent == many.id);
    assert_eq!(below.count(), 64);
    // An unknown function, an unknown app and a long path: whatever a client writes is no attribute.
    let odd = format!("/v1/apps/demo/call/{}", "x".repeat(2_000));
    for path in [
        odd.as_str(),
        "/v1/apps/s%65cret/call/x",
        "/nowhere/secret?secret=1",
    ] {
        let header = format!("traceparent: 00-{sampled}-{CLIENT}-01\r\n");
        let answer = server.try_request("POST", path, &header, b"");
        assert!(answer.unwrap().status >= 400);
    }
    // The server exports what is left when it stops.
    server.stop();
    let spans = collector.spans();
    assert!(!spans.iter().any(|span| span.trace_id == unsampled));
    let requests = spans.iter().filter(|span| span.parent == CLIENT);
    assert_eq!(requests.count(), 4);
    for span in spans {
        let texts = span.attributes.values().chain([&span.name]);
        for text in texts {
            assert!(text.len() <= 256 && !text.contains("secret"), "{span:#?}");
        }
    }
}

#[test]
fn collector_that_is_away_slow_or_answers_nonsense_affects_no_call() {
    let home = Home::new();
    // Nobody listens at its address at first.
    let address = Collector::start().stop();
    let variables = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=sesame"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "256"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let mut command = home.command(&kvasm_tests::program::process::SERVE_ARGUMENTS);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").envs(variables);
    let (server, start) = (home.spawn(command), Instant::now());
    deploy(&server);
    let number = Cell::new(0);
    let calls = |count: u64| {
        for _ in 0..count {
            number.set(number.get() + 1);
            call(&server, "demo", "run", &trace(number.get()), "01");
        }
    };
    let dropped = || {
        let text = server
            .admin("GET", "/metrics", "text/plain", b"")
            .ok()
            .text();
        text.contains("kvasm_spans_total{name=\"dropped\"}")
    };
    calls(20);
    eventually("more spans than the queue holds", || {
        calls(20);
        dropped().then_some(())
    });
    let before = server.memory();

    let collector = Collector::at(address);
    let moods = [
        Mood::Silent,
        Mood::Fails(500, 0),
        Mood::Fails(503, 64 << 20),
        Mood::Fails(400, 10),
        Mood::Redirects,
        Mood::Hangs,
    ];
    // The queue may be full of earlier spans at first, so calls go on until one of them arrives.
    let wait_until_exported = || {
        let earlier = trace(number.get());
        eventually("spans of later calls", || {
            calls(1);
            let spans = collector.spans();
            let later = spans
                .iter()
                .any(|span| span.parent == CLIENT && span.trace_id > earlier);
            later.then_some(())
        });
    };
    for mood in moods {
        wait_until_exported();
        let refused = collector.refused();
        collector.set(mood);
        calls(60);
        eventually("a request that is not answered well", || {
            calls(1);
            (collector.refused() > refused + 1).then_some(())
        });
        collector.set(Mood::Healthy);
    }
    // Nobody reads this answer, so it is none to complain about.
    collector.set(Mood::Garbage);
    wait_until_exported();
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
    assert!(collector.accepted("/elsewhere").is_empty());
    server.stop_and_inspect_log(|log| {
        for signal in ["spans", "metrics"] {
            let count = |text: String| log.matches(&text).count() as u64;
            let failed = count(format!("the OpenTelemetry collector takes no {signal}"));
            // At most one in a minute.
            let minutes = start.elapsed().as_secs() / 60;
            assert!((1..=minutes + 1).contains(&failed), "{log}");
            let works = count(format!("the OpenTelemetry collector takes {signal} again"));
            assert!((1..=failed).contains(&works), "{log}");
        }
        assert!(!log.contains("sesame"), "{log}");
    });
}

#[test]
fn silent_collector_does_not_hold_up_the_stop() {
    let (home, collector) = (Home::new(), Collector::start());
    let server = collector.server(&home, &[], &[]);
    server.deploy_guest("demo");
    collector.set(Mood::Silent);
    call(&server, "demo", "hello", &trace(4), "01");
    let start = Instant::now();
    server.stop();
    // The timeout of the collector is 10 s, with 5 tries.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn client_that_samples_everything_leaves_room_for_a_neighbour() {
    let (home, collector) = (Home::new(), Collector::start());
    let server = collector.server(&home, &["--set", "otel.spans_per_second=200"], &[]);
    server.deploy_guest("noisy");
    server.deploy_guest("quiet");
    let (ended, number) = (AtomicBool::new(false), AtomicU64::new(100));
    let next = || trace(number.fetch_add(1, Ordering::Relaxed));
    let start = Instant::now();
    let of_app = |app: &str| {
        let spans = collector.spans();
        let roots = spans.iter().filter(|span| span.parent == CLIENT);
        roots
            .filter(|span| span.attributes.get("kvasm.app").is_some_and(|of| of == app))
            .count()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    call(&server, "noisy", "hello", &next(), "01");
                    // Names of apps that do not exist have no share each.
                    let invented = format!("/v1/apps/none-{}/call/x", next());
                    let header = format!("traceparent: 00-{}-{CLIENT}-01\r\n", next());
                    server.try_request("POST", &invented, &header, b"").unwrap();
                }
            });
        }
        let _end = EndsAtDrop(&ended);
        eventually("traces of the neighbour", || {
            call(&server, "quiet", "hello", &next(), "01");
            (of_app("quiet") >= 3 && number.load(Ordering::Relaxed) > 3_000).then_some(())
        });
    });
    let seconds = start.elapsed().as_secs() + 2;
    server.stop();
    let count = collector.spans().len() as u64;
    // What has begun is completed: a call of each thread has a few spans.
    assert!(count <= seconds * 300, "{count} spans in {seconds} s");
}

/// Ends the other threads, also if the test fails.
struct EndsAtDrop<'f>(&'f AtomicBool);

impl Drop for EndsAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn metrics_agree_with_those_for_prometheus() {
    let (home, collector) = (Home::new(), Collector::start());
    let interval = ("OTEL_METRIC_EXPORT_INTERVAL", "100");
    // Spans would change the counters of exported spans.
    let no_traces = ("OTEL_TRACES_EXPORTER", "none");
    let server = collector.server(
        &home,
        &["--set", "dispatch.sample=20ms"],
        &[interval, no_traces],
    );
    deploy(&server);
    for number in 0..5 {
        call(&server, "demo", "run", &trace(number), "01");
    }
    server.put("demo", "k", b"1").ok();
    let [before, exported, after] = collector.metrics_between_scrapes(&server);
    let (mut compared, mut histograms) = (0, 0);
    for (key, value) in &before {
        let (name, labels) = key;
        let ends = ["_total", "_sum", "_count", "_bucket"];
        if !ends.iter().any(|end| name.ends_with(end)) {
            // A gauge of an app ends with what it measures, such as the app's deliveries.
            let is_there = exported.contains_key(key) || !after.contains_key(key);
            assert!(is_there, "{key:?} is not exported");
            continue;
        }
        let found = exported.get(key);
        let found = *found.unwrap_or_else(|| panic!("{key:?} is not exported"));
        // What has not grown meanwhile must be equal.
        if after.get(key) == Some(value) {
            assert_eq!(found, *value, "{key:?}");
            compared += 1;
            histograms += usize::from(labels.contains_key("le") && *value > 0.0);
        }
    }
    assert!(
        compared > 100 && histograms > 10,
        "{compared}, {histograms}"
    );
    let calls = |series: &BTreeMap<super::otlp_reader::SeriesKey, f64>| {
        let of_calls = series.iter().filter(|((name, labels), _)| {
            name == "kvasm_invocations_total" && labels.get("app").is_some_and(|app| app == "demo")
        });
        of_calls.map(|(_, value)| *value).sum::<f64>()
    };
    assert!(calls(&exported) >= 5.0, "{exported:?}");
    assert!(collector.accepted("/v1/traces").is_empty());
    server.stop();
}

#[test]
fn unsupported_settings_are_refused_and_headers_are_never_printed() {
    let home = Home::new();
    let run = |arguments: &[&str], variable: (&str, &str)| {
        let mut command = home.command(&["serve", "--set", "otel.endpoint=http://127.0.0.1:1"]);
        command.args(arguments).env(variable.0, variable.1);
        kvasm_tests::program::process::run(command, b"")
    };
    let output = run(&[], ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    let message = "OTEL_EXPORTER_OTLP_PROTOCOL is not supported; expected http/protobuf";
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains(message), "{}", output.stderr);
    let output = run(&["--set", "otel.endpoint=http://me:sesame@x"], ("A", "b"));
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("it must have no password"),
        "{}",
        output.stderr
    );
    assert!(!output.stderr.contains("sesame"), "{}", output.stderr);
    let output = run(
        &["--print-config"],
        ("OTEL_EXPORTER_OTLP_HEADERS", "key=sesame"),
    );
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("endpoint = \"http://127.0.0.1:1\""),
        "{}",
        output.stdout
    );
    assert!(!output.stdout.contains("sesame"), "{}", output.stdout);
}
