//! `kvasm inspect`.

use super::User;
use kvasm_tests::guests::{module, module_importing, wasm};
use serde_json::json;

fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn plugin_is_described_without_a_store() {
    let user = User::new();
    let orders = user.file("orders.wasm", &wasm("orders"));
    let shown = user.ok(&["inspect", &orders]);
    for words in [
        "bytes: code ",
        "memory ",
        "from kvasm_v1: kv_set",
        "place   function, each call a transaction",
        "count   handler: set, delete of orders",
        "tidy    handler: 0 3 * * *",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let inspected = user.json(&["inspect", &orders]);
    assert_eq!(inspected["bytes"], json!(wasm("orders").len()));
    assert_eq!(inspected["refusals"], json!([]));
    let functions = inspected["functions"].as_array().unwrap();
    let place = json!({"name": "place", "kind": "transaction", "callable": true});
    assert!(functions.contains(&place), "{functions:?}");
    // The order of declarations is the linker's.
    let mut triggers = inspected["triggers"].as_array().unwrap().iter();
    assert!(triggers.any(|trigger| trigger["collection"] == "orders"));
    let needs = user.file("needs.wasm", &wasm("needs"));
    let inspected = user.json(&["inspect", &needs]);
    assert!(!inspected["needs"]["http"].as_array().unwrap().is_empty());
    // It has opened no store.
    assert!(!user.home.path().join(".local").exists());
}

/// All reasons are named, not the first one.
#[test]
fn every_reason_for_a_refusal_is_named() {
    let user = User::new();
    let more = r#"(import "env" "first" (func (param i32)))
        (import "kvasm_v1" "no_such" (func))
        (import "kvasm_v1" "now_ms" (func (param i32)))
        (import "env" "memory" (memory 1))"#;
    let lacking = user.file(
        "lacking.wasm",
        &module_importing(more, "", "", "i32.const 0"),
    );
    let answer = user.run(&["inspect", &lacking, "--json"]);
    assert_eq!(answer.code, 3, "{}", answer.stderr);
    let inspected = answer.json();
    let imports = inspected["imports"].as_array().unwrap();
    let names = imports.iter().filter(|import| import["provided"] == false);
    let names: Vec<&str> = names
        .map(|import| import["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["first", "no_such", "now_ms", "memory"]);
    assert_eq!(inspected["refusals"].as_array().unwrap().len(), 4);
    user.fails(&["inspect", &lacking], 3, "for 4 reasons");

    let declared = text(
        r#"(module (@custom "kvasm.plugin.v1"
            "{\"kind\":\"function\",\"name\":\"a\"}{\"kind\":\"http\",\"name\":\"b\"}")
            (func (export "b") (param i64) (result i32) i32.const 0))"#,
    );
    let declared = user.file("declared.wasm", &declared);
    let answer = user.run(&["inspect", &declared]);
    assert_eq!(answer.code, 3);
    for words in ["function; not exported", "exported as (i64) -> i32"] {
        assert!(answer.stdout.contains(words), "{}", answer.stdout);
    }
    for words in [
        "declares \"a\"",
        "declares \"b\" and exports it as (i64) -> i32;",
        "does not export a memory",
    ] {
        assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
    }
}

/// What cannot be deployed cannot be inspected without a complaint, and the other way round.
#[test]
fn inspection_agrees_with_deployment() {
    let user = User::with_app();
    let section = |lines: &str| {
        let lines = lines.replace('"', "\\\"");
        text(&format!(
            r#"(module (@custom "kvasm.plugin.v1" "{lines}") (memory (export "memory") 1)
                (func (export "f") (result i32) i32.const 0))"#
        ))
    };
    let modules = [
        (module("", "i32.const 0"), true),
        (wasm("hello-c"), true),
        (wasm("wasi-c"), true),
        (section(r#"{"kind":"function","name":"f"}"#), true),
        (section(r#"{"kind":"function","name":"g"}"#), false),
        (section(r#"{"kind":"nothing"}"#), false),
        (text("(module)"), false),
        (text("(module (memory (export \"memory\") 2000))"), false),
        (
            text("(module (import \"__wbindgen_placeholder__\" \"x\" (func)))"),
            false,
        ),
        (
            text("(module (memory (export \"memory\") 1 1 shared))"),
            false,
        ),
        // Type-checked only by the compiler.
        (
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x05\x01\x03\0\x6a\x0b".to_vec(),
            false,
        ),
    ];
    for (at, (wasm, is_good)) in modules.into_iter().enumerate() {
        let file = user.file("m.wasm", &wasm);
        let inspected = user.run(&["inspect", &file]);
        let deployed = user.run(&["plugin", "deploy", "demo", &file]);
        let expected = if is_good { 0 } else { 3 };
        assert_eq!(inspected.code, expected, "{at}: {}", inspected.stderr);
        assert_eq!(deployed.code, expected, "{at}: {}", deployed.stderr);
    }
}

#[test]
fn file_that_is_no_module_is_one_clear_error() {
    let user = User::new();
    let orders = wasm("orders");
    let truncated = &orders[..orders.len() / 2];
    let component = text("(component)");
    let garbage: Vec<u8> = b"\0asm\x01\0\0\0".iter().copied().chain(1..=255).collect();
    for (bytes, words) in [
        (&b""[..], "the wasm header is missing"),
        (b"(module)", "the wasm header is missing"),
        (truncated, "unexpected end"),
        (&component, "it is a component"),
        (&garbage, "not a wasm module"),
    ] {
        let file = user.file("no.wasm", bytes);
        let answer = user.run(&["inspect", &file]);
        assert_eq!(answer.code, 3, "{words}: {}", answer.stderr);
        assert!(answer.stdout.is_empty());
        assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
    }
    user.fails(&["inspect", "/nonexistent.wasm"], 2, "/nonexistent.wasm");
    // Larger than a module may be, and still read.
    let mut huge = module("", "i32.const 0");
    huge.extend(b"\0\x85\x80\x80\x08\x04huge");
    huge.extend(vec![0; 16 * 1024 * 1024]);
    let huge = user.file("huge.wasm", &huge);
    let answer = user.run(&["inspect", &huge]);
    assert_eq!(answer.code, 3);
    assert!(
        answer.stdout.contains("section \"huge\" 16777"),
        "{}",
        answer.stdout
    );
    assert!(answer.stderr.contains("16777216"), "{}", answer.stderr);
}

/// The limits are those of the configuration.
#[test]
fn limits_of_the_configuration_apply() {
    let user = User::new();
    let file = user.file("m.wasm", &module("", "i32.const 0"));
    user.ok(&["inspect", &file]);
    let config = user.file("kvasm.toml", b"[limits]\nmemory = \"32KiB\"\n");
    user.fails(&["inspect", &file, "--config", &config], 3, "limits.memory");
}
