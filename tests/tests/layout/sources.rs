//! Rules for every source file: its length, its `unsafe`, unfinished work.

use super::files::{self, File};
use super::{assert_none, rust};

const LINES_MAX: usize = 500;
/// How many lines above an `unsafe` its `SAFETY` comment may begin.
const SAFETY_LINES: usize = 6;

fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let finding = format!("{path} has {lines} lines; the limit is {LINES_MAX}");
    if lines > LINES_MAX {
        vec![finding]
    } else {
        Vec::new()
    }
}

/// Each `unsafe` of the code without a `SAFETY` comment above it. `#[unsafe(...)]` is an
/// attribute that accesses no memory, and is left out.
fn without_reason(path: &str, text: &str) -> Vec<String> {
    let code = rust::read(text).code;
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, word) in rust::words(&code) {
        let is_attribute = code[..at].trim_end().ends_with("#[");
        if word != "unsafe" || is_attribute {
            continue;
        }
        let line = rust::line(&code, at);
        let above = &lines[(line - 1).saturating_sub(SAFETY_LINES)..line - 1];
        let has_reason = |line: &&str| line.trim_start().starts_with("// SAFETY: ");
        if !above.iter().any(has_reason) {
            found.push(format!(
                "{path}:{line} is unsafe without `// SAFETY:` above it"
            ));
        }
    }
    found
}

fn unfinished_work(path: &str, text: &str) -> Vec<String> {
    let code = rust::read(text).code;
    let mut found = Vec::new();
    for (at, word) in rust::words(&code) {
        let rest = code[at + word.len()..].trim_start();
        let is_macro = rest.starts_with('!') && !rest.starts_with("!=");
        let before = code[..at].trim_end();
        let is_left = match word {
            "todo" | "unimplemented" => is_macro,
            "ignore" => before.ends_with("#[") || in_cfg_attr(before),
            _ => false,
        };
        if is_left {
            let line = rust::line(&code, at);
            found.push(format!("{path}:{line} has {word}"));
        }
    }
    found
}

/// Whether the code ends inside an open `#[cfg_attr(`.
fn in_cfg_attr(before: &str) -> bool {
    let open = before.rfind("#[").map(|at| &before[at + 2..]);
    open.is_some_and(|open| open.trim_start().starts_with("cfg_attr") && !open.contains(']'))
}

fn check(folders: &[&str], find: fn(&str, &str) -> Vec<String>) {
    let files = folders.iter().flat_map(|folder| files::all(folder, ".rs"));
    let findings = files.flat_map(|File { path, text }| find(&path, &text));
    assert_none(&findings.collect::<Vec<_>>());
}

#[test]
fn no_source_file_exceeds_500_lines() {
    check(&[""], too_long);
}

#[test]
fn every_unsafe_has_a_safety_comment() {
    check(&["guest-sdk", "host"], without_reason);
}

#[test]
fn no_ignored_tests_or_todos() {
    check(&[""], unfinished_work);
}

#[test]
fn file_of_501_lines_is_detected() {
    assert!(too_long("a.rs", &"x\n".repeat(LINES_MAX)).is_empty());
    assert_eq!(too_long("a.rs", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
}

#[test]
fn unsafe_without_a_safety_comment_is_detected() {
    let reason = "// SAFETY: it is.\n";
    let far = "let x;\n".repeat(SAFETY_LINES - 1);
    let bad = [
        "unsafe { f() }".to_owned(),
        "// safe\nunsafe { f() }".to_owned(),
        "let s = \"// SAFETY: no\";\nunsafe fn f() {}".to_owned(),
        format!("{reason}{far}let y;\nunsafe {{ f() }}"),
    ];
    for text in bad {
        assert_eq!(without_reason("a.rs", &text).len(), 1, "{text}");
    }
    let good = [
        format!("{reason}unsafe {{ f() }}"),
        format!("{reason}{far}unsafe {{ f() }}"),
        "#[unsafe(no_mangle)]\n#![allow(unsafe_code)]\n// unsafe\n\"unsafe\"".to_owned(),
    ];
    for text in good {
        assert!(without_reason("a.rs", &text).is_empty(), "{text}");
    }
}

#[test]
fn ignored_test_or_todo_is_detected() {
    for bad in [
        "fn f() { todo!() }",
        "fn f() { unimplemented ! (\"later\") }",
        "#[test]\n#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]",
        "#[cfg_attr(unix, ignore)]",
    ] {
        assert_eq!(unfinished_work("a.rs", bad).len(), 1, "{bad}");
    }
    let good = "// todo!\nlet s = \"#[ignore]\"; if todo != 1 {} ignore(); #[cfg_attr(a, b)] fn ignore() {}";
    assert!(unfinished_work("a.rs", good).is_empty());
}
