//! `/metrics`, and whether it matches the documentation.

use kvasm_tests::program::process::{Home, Server, eventually};
use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../../../docs/operating.md");

/// Options for continuous sampling.
const OFTEN: [&str; 2] = ["--set", "dispatch.sample=20ms"];

fn scrape(server: &Server) -> String {
    let answer = server.admin("GET", "/metrics", "text/plain", b"");
    answer.ok().text()
}

/// Waits for a line of the metrics that begins with this.
#[track_caller]
fn wait_for(server: &Server, line: &str) {
    let mut last = String::new();
    eventually(line, || {
        last = scrape(server);
        last.lines().any(|found| found == line).then_some(())
    });
}

fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.strip_prefix(' ')?.parse().ok()
}

/// A trigger on the collection `c`, whose handler fails permanently.
fn failing_trigger(server: &Server, app: &str) {
    let trigger = br#"{"function":"rant","collection":"c","attempts_max":1}"#;
    let path = format!("/v1/apps/{app}/triggers/t");
    server.admin("PUT", &path, "application/json", trigger).ok();
}

fn pause(server: &Server, app: &str, verb: &str) {
    let path = format!("/v1/apps/{app}/triggers/t/{verb}");
    server.admin("POST", &path, "application/json", b"").ok();
}

/// The documented metrics: type, labels and meaning by name.
fn documented() -> BTreeMap<String, [String; 3]> {
    let rows = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| `kvasm_") || line.starts_with("| `process_"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells.try_into().unwrap();
        let texts = [kind, labels, help].map(str::to_owned);
        (name.trim_matches('`').to_owned(), texts)
    };
    rows.map(row).collect()
}

/// The name of a metric's samples, from its name in a TYPE line.
fn name_of(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

#[test]
fn metrics_match_the_documentation() {
    let home = Home::new();
    let server = home.start(&OFTEN);
    server.deploy_guest("demo");
    failing_trigger(&server, "demo");
    let path = "/v1/apps/demo/limits";
    let limits = br#"{"entries":10}"#;
    server.admin("PUT", path, "application/json", limits).ok();
    server.put("demo", "k", b"1").ok();
    server.call("demo", "hello", b"").ok();
    server.get("/nowhere").expect(404, "route-not-found");
    wait_for(&server, "kvasm_dead_letters 1.0");
    wait_for(&server, "kvasm_deliveries_pending 0.0");
    let (text, documented) = (scrape(&server), documented());
    let mut seen = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let name = name_of(name, kind);
        let row = documented.get(&name);
        let [row_kind, ..] = row.unwrap_or_else(|| panic!("{name} is not documented"));
        assert_eq!(row_kind, kind, "{name}");
        seen.insert(name);
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (_, help) = line.split_once(' ').unwrap();
        // The library adds a full stop to some.
        let is_of = |row: &[String; 3]| row[2] == help.trim_end_matches('.');
        assert!(documented.values().any(is_of), "{help}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        let (labels, _) = rest.rsplit_once('}').unwrap();
        let found: Vec<_> = labels
            .split("\",")
            .map(|label| label.split('=').next().unwrap())
            .filter(|label| *label != "le")
            .collect();
        let allowed = &documented[name][1];
        assert_eq!(&found.join(", "), allowed, "{line}");
    }
    // Metrics of events that need not have happened.
    let rare = [
        "kvasm_fetch_bytes_total",
        "kvasm_fetches_total",
        "kvasm_host_calls_total",
        "kvasm_spans_total",
        "kvasm_task_restarts_total",
        "kvasm_task_skips_total",
        "kvasm_triggers_total",
        "kvasm_upkeep_total",
        "kvasm_watch_ends_total",
        "kvasm_store_seconds",
    ];
    let missing = documented.keys().filter(|name| !seen.contains(*name));
    let missing: Vec<_> = missing
        .filter(|name| !rare.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in {text}");
    server.stop();
}

#[test]
fn gauges_reflect_the_store() {
    let home = Home::new();
    let server = home.start(&OFTEN);
    server.deploy_guest("demo");
    server.deploy_guest("other");
    failing_trigger(&server, "demo");
    let limits = br#"{"entries":10}"#;
    let path = "/v1/apps/demo/limits";
    server.admin("PUT", path, "application/json", limits).ok();
    pause(&server, "demo", "pause");
    for key in ["a", "b", "c"] {
        server.put("demo", key, b"1").ok();
    }
    wait_for(&server, "kvasm_deliveries_pending 3.0");
    wait_for(&server, "kvasm_triggers_paused 1.0");
    wait_for(&server, "kvasm_apps 2.0");
    wait_for(
        &server,
        "kvasm_quota_used_ratio{app=\"demo\",resource=\"entries\"} 0.3",
    );
    let text = scrape(&server);
    assert_eq!(value(&text, "kvasm_deliveries_overdue_seconds"), Some(0.0));
    assert!(
        !text.contains("kvasm_quota_used_ratio{app=\"other\""),
        "{text}"
    );
    for part in ["database", "wal"] {
        let size = value(&text, &format!("kvasm_store_size_bytes{{part=\"{part}\"}}"));
        assert!(size.is_some_and(|bytes| bytes > 0.0), "{part}: {text}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        value(&text, &format!("kvasm_build_info{{version=\"{version}\"}}")),
        Some(1.0)
    );
    let memory = value(&text, "process_resident_memory_bytes").unwrap();
    assert!(memory > (8 << 20) as f64, "{memory}");

    pause(&server, "demo", "resume");
    wait_for(&server, "kvasm_deliveries_pending 0.0");
    wait_for(&server, "kvasm_dead_letters 3.0");
    wait_for(&server, "kvasm_triggers_paused 0.0");
    server
        .admin("DELETE", "/v1/apps/demo", "text/plain", b"")
        .ok();
    wait_for(&server, "kvasm_apps 1.0");
    wait_for(&server, "kvasm_dead_letters 0.0");
    assert!(!scrape(&server).contains("kvasm_quota_used_ratio{app=\"demo\""));
    server.stop();
}

/// Deliveries that the dispatchers do not claim are overdue.
#[test]
fn unclaimed_deliveries_are_reported_as_overdue() {
    let home = Home::new();
    let one = [
        "--set",
        "dispatch.handlers=1",
        "--set",
        "limits.wall_time=1h",
    ];
    let mut server = home.start(&[&OFTEN[..], &one].concat());
    server.deploy_guest("demo");
    let trigger = br#"{"function":"sleep","collection":"c","attempts_max":1}"#;
    let path = "/v1/apps/demo/triggers/t";
    server.admin("PUT", path, "application/json", trigger).ok();
    for key in ["a", "b"] {
        server.put("demo", key, b"1").ok();
    }
    wait_for(&server, "kvasm_deliveries_running 1");
    eventually("a delivery that is late", || {
        let late = value(&scrape(&server), "kvasm_deliveries_overdue_seconds");
        late.is_some_and(|seconds| seconds > 0.5).then_some(())
    });
    server.signal("KILL");
    server.code();
}

#[test]
fn reader_that_blocks_the_wal_is_reported() {
    let home = Home::new();
    let store = home.path("kvasm.db");
    let of_store = format!("sqlite:{store}");
    let server = home.start(&[&OFTEN[..], &["--store", &of_store]].concat());
    server.create_app("demo");
    let foreign = rusqlite::Connection::open(&store).unwrap();
    foreign.execute_batch("BEGIN").unwrap();
    let count = |_: &rusqlite::Row<'_>| Ok(());
    foreign
        .query_row("SELECT count(*) FROM apps", [], count)
        .unwrap();
    let value_of = vec![b'x'; 1 << 20];
    for n in 0..20 {
        server.put("demo", &format!("k{n}"), &value_of).ok();
    }
    let held = || value(&scrape(&server), "kvasm_store_wal_held_seconds");
    eventually("the WAL is held", || {
        held().filter(|seconds| *seconds > 0.0)
    });
    eventually("a warning", || {
        server
            .stderr()
            .contains("a reader holds an old snapshot")
            .then_some(())
    });
    let wal = value(&scrape(&server), "kvasm_store_size_bytes{part=\"wal\"}");
    assert!(
        wal.is_some_and(|bytes| bytes > (16 << 20) as f64),
        "{wal:?}"
    );
    foreign.execute_batch("COMMIT").unwrap();
    eventually("the WAL is folded", || {
        held().filter(|seconds| *seconds == 0.0)
    });
    assert_eq!(server.stderr().matches("a reader holds").count(), 1);
    server.stop();
}
