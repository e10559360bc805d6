//! `kvasm kv`.

use super::User;
use kvasm_tests::guests::wasm;
use serde_json::json;
use std::io::Read;

#[test]
fn kv_set_get_and_delete_work() {
    let user = User::with_app();
    user.ok(&["kv", "set", "demo", "notes", "k", "{\"a\": 1}"]);
    assert_eq!(
        user.ok(&["kv", "get", "demo", "notes", "k"]),
        "{\"a\": 1}\n"
    );
    let entry = user
        .run(&["kv", "get", "demo", "notes", "k", "--json"])
        .json();
    assert_eq!(entry["json"], json!({"a": 1}));
    assert_eq!(user.ok(&["kv", "has", "demo", "notes", "k"]), "true\n");

    user.ok(&["kv", "set", "demo", "notes", "raw", "x\ty", "--bytes"]);
    assert_eq!(user.ok(&["kv", "get", "demo", "notes", "raw"]), "x\ty");
    let answer = user.run_with(&["kv", "set", "demo", "notes", "stdin", "-"], b"[1]");
    assert_eq!(answer.code, 0, "{}", answer.stderr);

    user.ok(&["kv", "delete", "demo", "notes", "k"]);
    assert_eq!(user.run(&["kv", "delete", "demo", "notes", "k"]).code, 1);
    assert_eq!(user.run(&["kv", "has", "demo", "notes", "k"]).code, 1);
    assert_eq!(user.run(&["kv", "get", "demo", "notes", "k"]).code, 1);
}

#[test]
fn rejected_kv_commands_exit_with_a_usage_error() {
    let user = User::with_app();
    user.fails(
        &["kv", "set", "demo", "notes", "k", "{"],
        2,
        "not valid JSON",
    );
    user.fails(&["kv", "set", "demo", "", "k", "1"], 2, "empty");
    let long = "k".repeat(1025);
    user.fails(
        &["kv", "set", "demo", "notes", &long, "1"],
        2,
        "1025 bytes; the limit is 1024",
    );
    user.ok(&["kv", "set", "demo", "notes", "k", "1", "--if-version", "0"]);
    user.fails(
        &["kv", "set", "demo", "notes", "k", "2", "--if-version", "0"],
        2,
        "version",
    );
    user.fails(
        &["kv", "list", "demo", "notes", "--limit", "1001"],
        2,
        "from 1 to 1000",
    );
    user.fails(
        &["kv", "list", "demo", "notes", "--cursor", "AQID"],
        2,
        "cursor",
    );
    user.fails(
        &["kv", "set", "demo", "notes", "k", "@/nonexistent"],
        2,
        "/nonexistent",
    );
}

/// What a plugin gives its clients, the command line prints and the HTTP API returns is one text, which
/// each accepts from the others, for the same list.
#[test]
fn cursor_of_a_plugin_is_that_of_the_command_line_and_the_api() {
    let user = User::with_app();
    for key in ["a-1st", "a-2nd", "a-3rd", "b"] {
        user.ok(&["kv", "set", "demo", "notes", key, "1"]);
    }
    let web = user.file("web.wasm", &wasm("web"));
    let of_plugin = |prefix: &str, cursor: &serde_json::Value| {
        let input = json!([prefix, cursor]).to_string();
        let run = ["run", &web, "--app", "demo", "keys", "--input", &input];
        user.run(&run)
    };
    let of_api = |prefix: &str, cursor: Option<&str>| {
        let mut list = vec!["kv", "list", "demo", "notes", "--limit", "1", "--json"];
        list.extend(["--prefix", prefix]);
        list.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
        user.run(&list)
    };
    let first = of_plugin("a", &json!(null)).json();
    assert_eq!(first[0], json!(["a-1st"]));
    let second = of_api("a", first[1].as_str()).json();
    assert_eq!(second["entries"][0]["key"], "a-2nd");
    let third = of_plugin("a", &second["cursor"]).json();
    assert_eq!(third, json!([["a-3rd"], null]));
    // What is printed for people too.
    let list = [
        "kv", "list", "demo", "notes", "--limit", "1", "--prefix", "a",
    ];
    let printed = user.run(&list).stderr;
    let cursor = first[1].as_str().unwrap();
    assert!(printed.contains(&format!("--cursor {cursor}")), "{printed}");

    // Of another list, or not quite it: refused, and nothing is shown of the key in it.
    let mut modified = cursor.to_owned();
    let last = if modified.pop() == Some('A') {
        'Q'
    } else {
        'A'
    };
    modified.push(last);
    for (prefix, cursor) in [("b", cursor), ("", cursor), ("a", &modified), ("a", "AQID")] {
        let (api, plugin) = (
            of_api(prefix, Some(cursor)),
            of_plugin(prefix, &json!(cursor)),
        );
        assert_ne!((api.code, plugin.code), (0, 0), "{prefix} {cursor}");
        for shown in [api.stderr, plugin.stderr] {
            assert!(
                shown.contains("cursor") && !shown.contains("a-1st"),
                "{shown}"
            );
        }
    }
}

#[test]
fn lists_are_paginated() {
    let user = User::with_app();
    for key in ["a", "b1", "b2", "c"] {
        user.ok(&["kv", "set", "demo", "notes", key, "\"\\u001b[2J\""]);
    }
    let first = ["kv", "list", "demo", "notes", "--limit", "3", "--json"];
    let page = user.run(&first).json();
    assert_eq!(page["entries"].as_array().unwrap().len(), 3);
    let cursor = page["cursor"].as_str().unwrap();
    let second = [
        "kv", "list", "demo", "notes", "--limit", "3", "--json", "--cursor", cursor,
    ];
    let page = user.run(&second).json();
    assert_eq!(page["entries"], json!([{"key": "c"}]));
    assert!(page["cursor"].is_null());
    let prefixed = user.run(&[
        "kv",
        "list",
        "demo",
        "notes",
        "--prefix",
        "b",
        "--reverse",
        "--json",
    ]);
    assert_eq!(
        prefixed.json()["entries"],
        json!([{"key": "b2"}, {"key": "b1"}])
    );
    let table = user.ok(&["kv", "list", "demo", "notes", "--values"]);
    assert!(table.contains("b2") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn exported_entries_can_be_imported() {
    let user = User::with_app();
    user.ok(&["app", "create", "copy"]);
    user.ok(&["kv", "set", "demo", "a", "null", "null"]);
    user.ok(&[
        "kv",
        "set",
        "demo",
        "a",
        "broken\nline",
        "{\"x\":\n[1,\n2]}",
    ]);
    user.ok(&["kv", "set", "demo", "b", "bytes", "\u{1}\u{ff}", "--bytes"]);
    user.ok(&["kv", "set", "demo", "b", "ttl", "1", "--ttl", "1h"]);
    assert!(user.ok(&["kv", "collections", "demo"]).contains('b'));
    let exported = user.ok(&["kv", "export", "demo"]);
    assert_eq!(exported.lines().count(), 4);
    let imported = user.run_with(&["kv", "import", "copy", "--json"], exported.as_bytes());
    assert_eq!(imported.json(), json!({"imported": 4, "expired": 0}));

    let values = |app: &str| -> Vec<serde_json::Value> {
        let lines = user.ok(&["kv", "export", app]);
        let lines = lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines
            .map(|l| json!([l["collection"], l["key"], l["json"], l["bytes"]]))
            .collect()
    };
    assert_eq!(values("demo"), values("copy"));
    assert_eq!(user.ok(&["kv", "export", "demo", "a"]).lines().count(), 2);
}

#[test]
fn import_reports_the_invalid_line_and_prior_count() {
    let user = User::with_app();
    let good = "{\"collection\":\"c\",\"key\":\"k\",\"json\":1}\n";
    for (bad, words) in [
        ("{\"collection\":\"c\"\n", "line 3"),
        (
            "{\"collection\":\"c\",\"key\":\"k\"}\n",
            "either \"json\" or \"bytes\"",
        ),
        (
            "{\"collection\":\"c\",\"key\":\"k\",\"bytes\":\"?\"}\n",
            "base64",
        ),
        (
            "{\"collection\":\"\",\"key\":\"k\",\"json\":1}\n",
            "collection is empty",
        ),
    ] {
        let input = format!("{good}\n{bad}{good}");
        let answer = user.run_with(&["kv", "import", "demo"], input.as_bytes());
        assert_eq!(answer.code, 2, "{}", answer.stderr);
        assert!(
            answer.stderr.contains("1 entries were imported"),
            "{}",
            answer.stderr
        );
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
    let old = "{\"collection\":\"c\",\"key\":\"old\",\"json\":1,\"expires_at\":5}\n";
    let answer = user.run_with(&["kv", "import", "demo", "--json"], old.as_bytes());
    assert_eq!(answer.json(), json!({"imported": 0, "expired": 1}));
}

/// A reader that stops early, such as `head`, is not an error.
#[test]
fn closed_pipe_exits_silently() {
    let user = User::with_app();
    let lines: String = (0..3000)
        .map(|n| {
            format!(
                "{{\"collection\":\"c\",\"key\":\"{n}\",\"json\":\"{}\"}}\n",
                "x".repeat(100)
            )
        })
        .collect();
    assert_eq!(
        user.run_with(&["kv", "import", "demo"], lines.as_bytes())
            .code,
        0
    );
    let mut child = user.command(&["kv", "export", "demo"]).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
