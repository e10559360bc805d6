//! `kvasm inspect`.

use super::User;
use kvasm_tests::guests::{manifest, module, module_importing, module_with, wasm};
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
        "place   function, each call a transaction ",
        " (Json<Place>) -> Result<(), String> ",
        "count   handler: set, delete of orders",
        "tidy    handler: 0 3 * * *",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let inspected = user.json(&["inspect", &orders]);
    assert_eq!(inspected["bytes"], json!(wasm("orders").len()));
    assert_eq!(inspected["refusals"], json!([]));
    let functions = inspected["functions"].as_array().unwrap();
    let place = json!({"name": "place", "kind": "transaction", "callable": true,
        "input": "Json<Place>", "output": "Result<(), String>"});
    assert!(functions.contains(&place), "{functions:?}");
    // The order of declarations is the linker's.
    let mut triggers = inspected["triggers"].as_array().unwrap().iter();
    assert!(triggers.any(|trigger| trigger["collection"] == "orders"));
    let flags = user.file("flags.wasm", &wasm("flags"));
    let shown = user.ok(&["inspect", &flags]);
    assert!(shown.contains("PUT     /flags/{name}"), "{shown}");
    let inspected = user.json(&["inspect", &flags]);
    let mut functions = inspected["functions"].as_array().unwrap().iter();
    let handler = functions.find(|function| function["kind"] == "http");
    assert_eq!(handler.unwrap()["routes"][0], "GET /flags");
    let needs = user.file("needs.wasm", &wasm("needs"));
    let inspected = user.json(&["inspect", &needs]);
    assert!(!inspected["needs"]["http"].as_array().unwrap().is_empty());
    let tables = inspected["tables"].as_array().unwrap();
    assert!(
        tables[0]["initial_elements"].as_u64().is_some(),
        "{tables:?}"
    );
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
    let file = user.file("component.wasm", &component);
    let words = "it is a component; a plugin is a core module: build for wasm32-wasip1";
    User::with_app().fails(&["deploy", "demo", &file], 3, words);
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

/// What a handler declares of its retries, when a schedule is next due, and typed collections.
#[test]
fn retries_next_times_and_collections_are_shown() {
    let user = User::new();
    let lines = [
        r#"{"kind":"on_change","name":"run","collection":"c","attempts_max":4,"age_max_ms":5400000}"#,
        r#"{"kind":"cron","name":"tick","schedule":"0 3 1 1 *"}"#,
    ];
    let fields = format!(
        "{} (table 3 7 funcref) (func (export \"tick\") (result i32) i32.const 0)",
        manifest(&lines)
    );
    let file = user.file("m.wasm", &module_with("", &fields, "i32.const 0"));
    let shown = user.ok(&["inspect", &file]);
    for words in [
        "run   handler: set, delete of c; at most 4 attempts; at most 1h 30m old",
        "-01-01T03:00:00.000Z",
        "3 elements, at most 7",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let inspected = user.json(&["inspect", &file]);
    let triggers = inspected["triggers"].as_array().unwrap();
    assert_eq!(triggers[0]["attempts_max"], 4);
    assert_eq!(triggers[0]["age_max_ms"], 5_400_000);
    assert!(triggers[1]["next_at"].as_u64().is_some());
    assert_eq!(
        inspected["tables"],
        json!([{"initial_elements": 3, "max_elements": 7}])
    );
    // What `collections!` of the SDK declares.
    let leaderboard = user.file("leaderboard.wasm", &wasm("leaderboard"));
    let inspected = user.json(&["inspect", &leaderboard]);
    assert_eq!(
        inspected["collections"],
        json!(["best", "numbers", "ranked"])
    );
    let shown = user.ok(&["inspect", &leaderboard]);
    assert!(
        shown.contains("collections  best, numbers, ranked\n"),
        "{shown}"
    );
    // The administrators of the app see the retries too.
    user.ok(&["app", "create", "demo"]);
    user.ok(&["deploy", "demo", &file]);
    let offered = user.ok(&["plugin", "functions", "demo"]);
    assert!(offered.contains("at most 4 attempts"), "{offered}");
}

/// What is printed of a hostile module is bounded, and says that there is more.
#[test]
fn description_of_a_hostile_module_is_bounded() {
    let user = User::new();
    // A character that reverses the direction of text.
    let long = "\\e2\\80\\ae".repeat(10_000);
    let imports = (0..100).map(|n| format!("(import \"m\" \"{n} {long}\" (func))"));
    let short = (0..20_000).map(|n| format!("(import \"{n}\" \"f\" (func))"));
    let exports = (0..20_000).map(|n| format!("(export \"{n:0100}\" (func $f))"));
    let text = format!(
        "(module {} {} (func $f (result i32) i32.const 0) {})",
        imports.collect::<String>(),
        short.collect::<String>(),
        exports.collect::<String>(),
    );
    let mut wasm = wat::parse_str(text).unwrap();
    for _ in 0..10_000 {
        wasm.extend(b"\0\x03\x02\xc2\x9b");
    }
    let file = user.file("hostile.wasm", &wasm);
    for json in [&[][..], &["--json"]] {
        let answer = user.run(&[&["inspect", &file], json].concat());
        assert_eq!(answer.code, 3, "{}", answer.stderr);
        let printed = answer.stdout.len() + answer.stderr.len();
        assert!(printed < 1024 * 1024, "{printed} bytes");
        let drives = |c: char| c == '\u{202e}' || c == '\u{9b}';
        assert!(!answer.stderr.contains(drives));
        if json.is_empty() {
            assert!(!answer.stdout.contains(drives));
            // One is the names that the text format adds.
            let rest = "not listed  9901 custom sections, 19345 functions, 19100 imports";
            assert!(answer.stdout.contains(rest), "{}", answer.stdout);
        } else {
            assert_eq!(answer.json()["omitted"]["imports"], 19_100);
        }
    }
    // The server refuses it before it is compiled.
    user.ok(&["app", "create", "demo"]);
    user.fails(&["deploy", "demo", &file], 3, "2000000 bytes in total");
}

/// A custom section with types, as bytes.
fn types_section(data: &[u8]) -> Vec<u8> {
    let name = kvasm_abi::TYPES_SECTION.as_bytes();
    let content = [&[u8::try_from(name.len()).unwrap()], name, data].concat();
    // The length as LEB128 of three bytes.
    let length = |shift: u32| u8::try_from(content.len() >> shift & 0x7f).unwrap();
    let head = [0, length(0) | 0x80, length(7) | 0x80, length(14)];
    [&head[..], &content].concat()
}

/// What a module says of its types is not trusted: it is bounded, and cannot control the terminal.
#[test]
fn types_of_a_hostile_module_are_harmless() {
    let user = User::new();
    let inspect = |sections: &[&[u8]]| {
        let export = "(func (export \"b\") (result i32) i32.const 0)";
        let mut wasm = module_with("", export, "i32.const 0");
        for data in sections {
            wasm.extend(types_section(data));
        }
        let file = user.file("m.wasm", &wasm);
        let shown = user.ok(&["inspect", &file]);
        (shown, user.json(&["inspect", &file])["functions"].clone())
    };
    let line = |name: &str, input: &str| format!("{}\n", json!({"name": name, "input": input}));
    // Characters that reverse the direction of text, clear the screen, and begin a line.
    let drives = "A\u{202e}B\u{1b}[2J\u{9b}\nsize  0 bytes";
    let (shown, functions) = inspect(&[line("run", drives).as_bytes()]);
    let escaped = r"(A\u{202e}B\u{1b}[2J\u{9b}\nsize  0 bytes)";
    assert!(shown.contains(escaped), "{shown}");
    assert_eq!(functions[1]["input"], drives);
    // Lines that are not JSON, not UTF-8, too long, or of no export hide no others, and the first one
    // of an export counts.
    let lines = [
        b"no\n\n{\"name\":\"b\",\"input\":\"\xff\"}\n".to_vec(),
        line("c", "C").into_bytes(),
        line("b", &"x".repeat(1025)).into_bytes(),
        line("b", "B").into_bytes(),
        line("b", "D").into_bytes(),
    ];
    let (shown, functions) = inspect(&[&lines.concat(), line("b", "E").as_bytes()]);
    assert!(shown.contains("function  (B)"), "{shown}");
    assert_eq!(functions[0]["input"], "B");
    assert!(functions[1].get("input").is_none(), "{functions}");
    // Too many bytes, in one section and in several.
    let many = |name: &str, count| line(name, &"x".repeat(1000)).repeat(count).into_bytes();
    let part = many("c", 100);
    let last = line("b", "B").into_bytes();
    for sections in [
        &[&*many("b", 263)][..],
        &[&part, &part, &part, &last],
        &[b"", b"\xff"],
    ] {
        let (shown, functions) = inspect(sections);
        let kind = |name: &str| json!({"name": name, "kind": "function", "callable": true});
        assert_eq!(functions, json!([kind("b"), kind("run")]));
        assert!(!shown.contains("TYPES"), "{shown}");
        assert!(shown.len() < 4096, "{shown}");
    }
}

/// The options of every command are in the help of those that read them.
#[test]
fn help_hides_options_that_mean_nothing() {
    let user = User::new();
    for (command, shown, hidden) in [
        (
            "build",
            &["--json", "--config", "--strip-names"][..],
            &["--server", "--token", "--store"][..],
        ),
        (
            "new",
            &["--json", "--template"],
            &["--server", "--timeout", "--profile", "--config"],
        ),
        ("dev", &["--store", "--port"], &["--server", "--token"]),
        ("test", &["--config", "--wasm"], &["--server", "--store"]),
        ("deploy", &["--server", "--store", "--grant-all"], &[]),
    ] {
        for flag in ["-h", "--help"] {
            let help = user.ok(&[command, flag]);
            for option in shown {
                assert!(help.contains(option), "{command} {option}: {help}");
            }
            for option in hidden {
                assert!(
                    !help.contains(&format!("{option} <")),
                    "{command} {option}: {help}"
                );
            }
        }
    }
    // They are still accepted, as they were, and come before the command too.
    user.fails(
        &["--server", "http://127.0.0.1:9", "build", "/nonexistent"],
        2,
        "is not a folder",
    );
}
