//! Tests that the benchmarks run and leave nothing behind, not how fast they are.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// The rows of a quick run, as JSON.
fn quick(only: &str) -> Vec<Value> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let report = tempfile::NamedTempFile::new().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_kvasm-benches"))
        .args(["--quick", "--only", only, "--json"])
        .arg(report.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{only}: {}", output.status);
    for entry in std::fs::read_dir(target).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let owner = name.strip_prefix("kvasm-bench-");
        if let Some((process, _)) = owner.and_then(|name| name.split_once('-')) {
            let is_alive = Path::new("/proc").join(process).exists();
            assert!(is_alive, "{only} left {name} behind");
        }
    }
    let text = std::fs::read_to_string(report.path()).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    report["rows"].as_array().unwrap().clone()
}

fn row<'r>(rows: &'r [Value], name: &str) -> &'r Value {
    let row = rows.iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no row {name:?} in {rows:#?}"))
}

#[test]
fn server_benchmarks_run_and_remove_their_folders() {
    let rows = quick("http");
    for plugin in ["SDK plugin", "bare plugin"] {
        let name = format!("HTTP call with one kv_get, {plugin}, vs. a bare axum handler");
        let row = row(&rows, &name);
        assert!(row["kvasm"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["baseline"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["durable"], Value::Null);
    }
}

#[test]
fn settings_benchmark_runs() {
    let rows = quick("config");
    for name in ["now_ms, in one call", "config_get of 3 bytes, in one call"] {
        assert!(
            row(&rows, name)["kvasm"].as_f64().unwrap() > 0.0,
            "{rows:?}"
        );
    }
    row(&rows, "config_get, more than now_ms");
}

#[test]
fn missing_peer_is_reported_with_install_instructions() {
    let run = Command::new(env!("CARGO_BIN_EXE_kvasm-benches"))
        .args(["--quick", "--only", "peers"])
        .env("KVASM_WORKERD", "/nowhere/workerd")
        .env("KVASM_SPACETIMEDB", "/nowhere/spacetimedb-standalone")
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8(run.stderr).unwrap();
    let skipped: Vec<_> = said.lines().filter(|l| l.starts_with("SKIPPED")).collect();
    assert_eq!(skipped.len(), 2, "{said}");
    let version = "spacetimedb-standalone@1.2.0 --locked";
    for (line, install) in skipped.iter().zip(["npm install workerd", version]) {
        assert!(line.contains(install), "{line}");
    }
}

#[test]
fn peer_components_are_valid() {
    for component in [
        include_str!("../src/http/keyvalue.wat"),
        include_str!("../src/http/keyvalue-p3.wat"),
    ] {
        wat::parse_str(component).unwrap();
    }
}

#[test]
fn baseline_statements_match_the_schema() {
    let rows = quick("baseline");
    let sqlite = "transfer, 64 callers, vs. inline rusqlite, 1 thread, no HTTP";
    assert_eq!(row(&rows, sqlite)["durable"], true);
    for peer in ["bare sqlx, no HTTP", "a stored procedure, no HTTP"] {
        let row = row(&rows, &format!("Postgres transfer, 16 callers, vs. {peer}"));
        assert!(row["baseline"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["durable"], true);
    }
}

#[test]
fn cold_plugin_is_loaded_once() {
    let rows = quick("cold-start");
    assert_eq!(row(&rows, "the same: loads of the plugin")["kvasm"], 1.0);
}
