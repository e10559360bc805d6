//! ARCHITECTURE.md and SECURITY.md name files and tests that exist.

use super::assert_none;
use super::files;
use super::markdown;

/// What a cell such as `` `a.rs` `f` `g`, `b.rs` `h` `` names and is not there:
/// each file, and each function in the file before it.
fn missing(cell: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut file: Option<(&str, String)> = None;
    let cell = cell.split(';').next().unwrap_or_default();
    for name in cell.split('`').skip(1).step_by(2) {
        if name.ends_with(".rs") {
            file = read(name).map(|text| (name, text));
            if file.is_none() {
                found.push(format!("{name} does not exist"));
            }
            continue;
        }
        match &file {
            Some((_, text)) if text.contains(&format!("fn {name}(")) => {}
            Some((path, _)) => found.push(format!("{path} has no function {name}")),
            None => found.push(format!("{name} stands behind no file")),
        }
    }
    found
}

fn from_disk(path: &str) -> Option<String> {
    std::fs::read_to_string(files::root().join(path)).ok()
}

#[test]
fn every_invariant_is_held_by_a_test_that_exists() {
    let text = files::one("ARCHITECTURE.md").text;
    let rows = markdown::table(&text, &["invariant", "held by"]);
    assert!(rows.len() >= 10, "only {} invariants", rows.len());
    for row in &rows {
        // What comes after is about how, in prose.
        let cell = row[1].split(": one suite").next().unwrap_or_default();
        assert!(cell.contains(".rs` `"), "no test holds: {}", row[0]);
        assert_none(&missing(cell, from_disk));
    }
}

#[test]
fn every_defence_of_the_threat_model_has_code_and_a_test() {
    let text = files::one("SECURITY.md").text;
    let tables = markdown::tables(&text).into_iter();
    let tables = tables.filter(|table| table.head == ["attempt", "defence", "code", "test"]);
    let rows: Vec<_> = tables.flat_map(|table| table.rows).collect();
    assert!(rows.len() >= 30, "only {} attempts", rows.len());
    for row in &rows {
        let [attempt, _, code, test] = row.as_slice() else {
            panic!("a row of {} cells: {row:?}", row.len());
        };
        assert!(code.contains(".rs`"), "no code stops: {attempt}");
        assert!(test.contains(".rs` `"), "no test shows: {attempt}");
        assert_none(&missing(code, from_disk));
        assert_none(&missing(test, from_disk));
    }
}

#[test]
fn a_test_that_is_gone_is_found() {
    let read = |path: &str| (path == "a.rs").then(|| "fn there() {}".to_owned());
    assert!(missing("`a.rs` `there`; and `cargo`", read).is_empty());
    for bad in ["`b.rs`", "`a.rs` `gone`", "`a.rs` `the`", "`there`"] {
        assert_eq!(missing(bad, read).len(), 1, "{bad}");
    }
}
