//! ARCHITECTURE.md and SECURITY.md name existing files and tests, and docs/embedding.md shows
//! the programs unchanged.

use super::assert_none;
use super::files;
use super::markdown;

/// The missing items of a cell such as `` `a.rs` `f` `g`, `b.rs` `h` ``: each file, and each
/// function in the file before it.
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
fn every_invariant_names_an_existing_test() {
    let text = files::one("ARCHITECTURE.md").text;
    let rows = markdown::table(&text, &["invariant", "held by"]);
    assert!(rows.len() >= 10, "only {} invariants", rows.len());
    for row in &rows {
        // The rest of the cell is prose.
        let cell = row[1].split(": one suite").next().unwrap_or_default();
        assert!(cell.contains(".rs` `"), "no test named: {}", row[0]);
        assert_none(&missing(cell, from_disk));
    }
}

#[test]
fn every_threat_names_existing_code_and_tests() {
    let text = files::one("SECURITY.md").text;
    let tables = markdown::tables(&text).into_iter();
    let tables = tables.filter(|table| table.head == ["attempt", "defence", "code", "test"]);
    let rows: Vec<_> = tables.flat_map(|table| table.rows).collect();
    assert!(rows.len() >= 30, "only {} attempts", rows.len());
    for row in &rows {
        let [attempt, _, code, test] = row.as_slice() else {
            panic!("a row of {} cells: {row:?}", row.len());
        };
        assert!(code.contains(".rs`"), "no code against: {attempt}");
        assert!(test.contains(".rs` `"), "no test against: {attempt}");
        assert_none(&missing(code, from_disk));
        assert_none(&missing(test, from_disk));
    }
}

/// The Rust code blocks of a document.
fn rust_blocks(text: &str) -> impl Iterator<Item = &str> {
    let after = text.split("```rust\n").skip(1);
    after.map(|rest| rest.split("```").next().unwrap_or_default())
}

/// Removes indentation.
fn flat(code: &str) -> String {
    let lines = code.lines().map(str::trim);
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

#[test]
fn embedding_guide_snippets_match_the_examples() {
    let programs = files::all("examples", "main.rs").into_iter();
    let programs: Vec<_> = programs.map(|file| flat(&file.text)).collect();
    let text = files::one("docs/embedding.md").text;
    let is_of_a_program = |block: &&str| !block.contains("wasm_import_module");
    let blocks: Vec<_> = rust_blocks(&text).filter(is_of_a_program).collect();
    assert!(blocks.len() >= 4, "only {} blocks", blocks.len());
    for block in blocks {
        let is_there = programs.iter().any(|code| code.contains(&flat(block)));
        assert!(is_there, "no example contains this:\n{block}");
    }
}

#[test]
fn missing_test_reference_is_detected() {
    let read = |path: &str| (path == "a.rs").then(|| "fn there() {}".to_owned());
    assert!(missing("`a.rs` `there`; and `cargo`", read).is_empty());
    for bad in ["`b.rs`", "`a.rs` `gone`", "`a.rs` `the`", "`there`"] {
        assert_eq!(missing(bad, read).len(), 1, "{bad}");
    }
}
