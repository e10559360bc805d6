//! Dependencies between the layers of `host/src`.

use super::files::{self, File};
use super::{assert_none, rust};

/// Crates that only some layers may name. A layer is a path from `host/src`.
const CRATES: &[(&[&str], &[&str])] = &[
    (
        &["wasmtime", "wasmtime_wasi"],
        // The last two re-export wasmtime for embedders' host functions.
        &["runtime/", "abi/", "lib.rs", "host/"],
    ),
    (&["sqlx", "rusqlite", "libsqlite3_sys"], &["store/"]),
    (&["axum", "hyper", "hyper_util", "utoipa"], &["http/"]),
    (&["prometheus_client"], &["metrics/"]),
    (&["reqwest"], &["cli/"]),
    (&["clap"], &["cli/", "main.rs"]),
    (&["croner", "chrono"], &["model/"]),
];

/// The modules of the crate that a layer may not name.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "model/",
        &[
            "metrics", "store", "service", "abi", "runtime", "host", "dispatch", "http", "cli",
        ],
    ),
    (
        "metrics/",
        &[
            "model", "store", "service", "abi", "runtime", "host", "dispatch", "http", "cli",
        ],
    ),
    (
        "store/",
        &[
            "service", "abi", "runtime", "host", "dispatch", "http", "cli",
        ],
    ),
    (
        "service/",
        &["abi", "runtime", "host", "dispatch", "http", "cli"],
    ),
    ("abi/", &["runtime", "host", "dispatch", "http", "cli"]),
    ("runtime/", &["host", "dispatch", "http", "cli"]),
    ("host/", &["dispatch", "http", "cli"]),
    ("dispatch/", &["abi", "runtime", "http", "cli"]),
    ("http/", &["store", "abi", "dispatch", "cli"]),
];

/// Whether a file, by its path from `host/src`, is in a layer.
fn is_in(path: &str, room: &str) -> bool {
    path == room || (room.ends_with('/') && path.starts_with(room))
}

fn foreign_crates(path: &str, text: &str) -> Vec<String> {
    let code = rust::read(text).code;
    let mut found = Vec::new();
    for (at, word) in rust::words(&code) {
        for (names, rooms) in CRATES {
            if names.contains(&word) && !rooms.iter().any(|room| is_in(path, room)) {
                let line = rust::line(&code, at);
                found.push(format!("{path}:{line} names {word}"));
            }
        }
    }
    found
}

fn foreign_rooms(path: &str, text: &str) -> Vec<String> {
    let code = rust::read(text).code;
    let mut found = Vec::new();
    for (room, banned) in ROOMS {
        if is_in(path, room) {
            let named = crate_paths(&code);
            let named = named.iter().filter(|name| banned.contains(&name.as_str()));
            found.extend(named.map(|name| format!("{path} names crate::{name}")));
        }
    }
    found
}

/// The first name of every path that begins with `crate::`, `kvasm::` or `super::`; groups in
/// braces are expanded.
fn crate_paths(code: &str) -> Vec<String> {
    let squeezed: String = code.split_whitespace().collect();
    let mut names = Vec::new();
    let starts = ["crate::", "kvasm::", "super::"];
    for start in starts {
        for (at, _) in squeezed.match_indices(start) {
            let rest = &squeezed[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(group) => names.extend(first_names(group)),
                None => names.extend(first_name(rest)),
            }
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let (at, word) = *rust::words(path).first()?;
    (at == 0).then(|| word.to_owned())
}

/// The first name of each member of a group, up to its closing brace.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut member, mut names) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(first_name(&member));
                member.clear();
                continue;
            }
            _ => {}
        }
        member.push(c);
    }
    names.extend(first_name(&member));
    names
}

fn check(find: fn(&str, &str) -> Vec<String>) {
    let files = files::all("host/src", ".rs");
    let find = |file: &File| find(file.path.trim_start_matches("host/src/"), &file.text);
    assert_none(&files.iter().flat_map(find).collect::<Vec<_>>());
}

#[test]
fn each_crate_is_named_in_its_rooms_alone() {
    check(foreign_crates);
}

#[test]
fn arrows_run_downward_only() {
    check(foreign_rooms);
}

#[test]
fn every_room_is_there() {
    let folders = ROOMS.iter().filter(|(room, _)| room.ends_with('/'));
    for (room, _) in folders {
        files::all(&format!("host/src/{room}"), ".rs");
    }
}

#[test]
fn a_crate_out_of_its_room_is_found() {
    let bad = "// sqlx\nuse sqlx::query;\n";
    assert_eq!(
        foreign_crates("service/kv.rs", bad),
        ["service/kv.rs:2 names sqlx"]
    );
    assert!(foreign_crates("store/sqlite/read.rs", bad).is_empty());
    assert!(!foreign_crates("store/mod.rs", "wasmtime_wasi::p1();").is_empty());
    assert!(!foreign_crates("run.rs", "use clap::Args;").is_empty());
    assert!(foreign_crates("cli/run.rs", "use clap::Args;").is_empty());
    assert!(foreign_crates("model/key.rs", "let s = \"sqlx\"; sqlx_like();").is_empty());
}

#[test]
fn an_arrow_upward_is_found() {
    for bad in [
        "use crate::service::Kv;",
        "use crate::{model::{Key, Value}, service};",
        "fn f(x: &crate :: service::Kv) {}",
        "use super::super::service::Kv;",
    ] {
        let found = foreign_rooms("store/sqlite/read.rs", bad);
        assert_eq!(
            found,
            ["store/sqlite/read.rs names crate::service"],
            "{bad}"
        );
    }
    let fine = "use crate::{model::{self, service}, store};\n// crate::service\n";
    assert!(foreign_rooms("store/sqlite/read.rs", fine).is_empty());
    assert!(!foreign_rooms("model/key.rs", "use crate::store::Store;").is_empty());
    assert!(!foreign_rooms("abi/kv.rs", "use crate::runtime::Runtime;").is_empty());
    assert!(foreign_rooms("runtime/trap.rs", "use crate::abi::printable;").is_empty());
}
