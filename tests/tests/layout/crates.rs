//! The crates: which one depends on which, and what an embedder builds.

use super::assert_none;
use super::files;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Dependencies that only these crates of `host/` may have.
const RESERVED: &[(&[&str], &[&str])] = &[
    (
        // The last two pass wasmtime on to embedders, for host functions of their own.
        &["wasmtime", "wasmtime-wasi"],
        &["kvasm-runtime", "kvasm-host", "kvasm"],
    ),
    (&["rusqlite"], &["kvasm-store-sqlite"]),
    (&["sqlx"], &["kvasm-store-sqlite", "kvasm-store-postgres"]),
    (
        &["rustls"],
        &["kvasm-store-postgres", "kvasm-cli", "kvasm-egress"],
    ),
    (&["axum"], &["kvasm-server", "kvasm-cli"]),
    (&["hyper", "hyper-util"], &["kvasm-server", "kvasm-egress"]),
    (&["utoipa"], &["kvasm-server", "kvasm-api"]),
    (&["prometheus-client"], &["kvasm-metrics"]),
    (
        &["clap", "prost", "reqwest", "tracing-subscriber"],
        &["kvasm-cli"],
    ),
    (&["chrono", "croner"], &["kvasm-core"]),
    (&["anyhow"], &["kvasm-cli"]),
];

/// What an embedder with a SQLite store must not have to build.
const NOT_EMBEDDED: &[&str] = &[
    "axum",
    "clap",
    "hyper",
    "kvasm-egress",
    "kvasm-server",
    "kvasm-store-postgres",
    "reqwest",
    "rustls",
    "sqlx-postgres",
    "tokio-rustls",
    "utoipa",
];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(files::root()).arg("--offline");
    let output = command.args(arguments).output().expect("cargo starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// The crates of `host/` that a program has, each with the crates that it depends on
/// outside of its tests.
fn host_crates() -> BTreeMap<String, BTreeSet<String>> {
    let text = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let host = files::root().join("host");
    let is_in_host = |package: &&Value| {
        let manifest = package["manifest_path"].as_str().expect("a path");
        std::path::Path::new(manifest).starts_with(&host)
    };
    let names = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let normal = dependencies.iter().filter(|d| d["kind"].is_null());
        let names = normal.filter_map(|dependency| dependency["name"].as_str());
        let names = names.map(str::to_owned).collect();
        (package["name"].as_str().expect("a name").to_owned(), names)
    };
    let crates = packages.iter().filter(is_in_host).map(names);
    crates
        .filter(|(name, _)| name != "kvasm-store-testing")
        .collect()
}

/// The arrows of the graph, without those that a longer way implies.
fn arrows(crates: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<(&str, &str)> {
    fn reaches(crates: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
        let mut next = crates.get(from).into_iter().flatten();
        next.any(|next| next == to || reaches(crates, next, to))
    }
    let mut arrows = BTreeSet::new();
    for (from, all) in crates {
        for to in all.iter().filter(|to| crates.contains_key(*to)) {
            let mut others = all.iter().filter(|other| *other != to);
            if !others.any(|other| reaches(crates, other, to)) {
                arrows.insert((from.as_str(), to.as_str()));
            }
        }
    }
    arrows
}

#[test]
fn the_crate_graph_of_the_guide_is_that_of_cargo() {
    let crates = host_crates();
    let arrow = |(from, to): &(&str, &str)| format!("    {from} --> {to}");
    let drawn: Vec<String> = arrows(&crates).iter().map(arrow).collect();
    let guide = files::one("ARCHITECTURE.md").text;
    let is_arrow = |line: &&str| line.contains(" --> ") && line.contains("kvasm-core");
    let block = guide
        .split("```mermaid")
        .find(|block| block.lines().any(|line| is_arrow(&line)));
    let block = block.expect("a graph with kvasm-core in it");
    let block = block.split("```").next().unwrap_or_default();
    let found: BTreeSet<&str> = block
        .lines()
        .filter(|line| line.contains(" --> "))
        .collect();
    let expected: BTreeSet<&str> = drawn.iter().map(String::as_str).collect();
    assert_eq!(
        found,
        expected,
        "ARCHITECTURE.md must have:\n{}",
        drawn.join("\n")
    );
}

#[test]
fn only_the_crates_of_its_purpose_have_a_dependency() {
    let mut findings = Vec::new();
    for (name, dependencies) in host_crates() {
        for (reserved, owners) in RESERVED {
            let mut had = reserved.iter().filter(|name| dependencies.contains(**name));
            if let Some(had) = had.next()
                && !owners.contains(&name.as_str())
            {
                findings.push(format!("{name} depends on {had}; only {owners:?} may"));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn an_embedder_with_sqlite_builds_no_server_and_no_postgres() {
    let tree = |features: &str| {
        let tree = cargo(&[
            "tree",
            "--package=kvasm",
            "--no-default-features",
            "--features",
            features,
            "--edges=normal",
            "--prefix=none",
            "--format={p}",
        ]);
        let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        tree.lines().map(name).collect::<BTreeSet<String>>()
    };
    let embedded = tree("sqlite");
    assert!(embedded.contains("kvasm-store-sqlite") && embedded.contains("wasmtime"));
    let is_there = |name: &&&str| embedded.contains(**name);
    let found: Vec<_> = NOT_EMBEDDED.iter().filter(is_there).collect();
    assert!(found.is_empty(), "{found:?}");
    // The names are those that cargo has: with all features each one is there.
    let whole = tree("sqlite,postgres,server,egress");
    let whole_has = |name: &&&str| whole.contains(**name) || ["clap", "reqwest"].contains(*name);
    assert_eq!(
        NOT_EMBEDDED.iter().filter(whole_has).count(),
        NOT_EMBEDDED.len()
    );
}

#[test]
fn a_plugin_gets_the_abi_without_dependencies() {
    let tree = |target: &str| {
        cargo(&[
            "tree",
            "--locked",
            "--manifest-path=examples/Cargo.toml",
            "--package=kvasm-abi",
            "--target",
            target,
            "--edges=normal",
            "--prefix=none",
        ])
    };
    let of_plugin = tree("wasm32-unknown-unknown");
    let mut lines = of_plugin.lines().filter(|line| !line.is_empty());
    assert!(
        lines.all(|line| line.starts_with("kvasm-abi ")),
        "{of_plugin}"
    );
    // Its tests check JSON as a host does.
    assert!(tree("x86_64-unknown-linux-gnu").contains("serde_json "));
}

#[test]
fn arrows_that_others_imply_are_left_out() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let crates = BTreeMap::from([
        ("a".to_owned(), set(&["b", "c", "serde"])),
        ("b".to_owned(), set(&["c"])),
        ("c".to_owned(), set(&[])),
    ]);
    assert_eq!(arrows(&crates), BTreeSet::from([("a", "b"), ("b", "c")]));
}
