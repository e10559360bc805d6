//! `kvasm run`.

use super::User;
use kvasm_tests::guests::{manifest, module, module_with, wasm};
use kvasm_tests::program::process::Home;
use serde_json::json;

impl User {
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn run_executes_a_plugin_and_persists_its_data() {
    let user = User::with_app();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let add = [
        "run",
        &counter,
        "--app",
        "demo",
        "add",
        "--input",
        "{\"name\":\"n\",\"by\":2}",
    ];
    assert_eq!(user.ok(&add), "{\"value\":2}");
    assert_eq!(user.ok(&add), "{\"value\":4}");
    let input = user.file("input.json", b"{\"name\":\"n\",\"by\":1}");
    let at = format!("@{input}");
    let answer = user.run(&[
        "run", &counter, "--app", "demo", "add", "--input", &at, "--json",
    ]);
    assert_eq!(answer.json()["output"], json!({"value": 5}));
    let stdin = [
        "run",
        &counter,
        "--app",
        "demo",
        "read",
        "--input",
        "-",
        "--no-cache",
    ];
    assert_eq!(
        user.run_with(&stdin, b"{\"name\":\"n\"}").stdout,
        "{\"value\":5}"
    );
}

#[test]
fn run_on_a_server_is_refused() {
    let user = User::new();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let run = ["run", &counter, "add", "--server", "http://127.0.0.1:9"];
    user.fails(&run, 2, "runs a plugin in its own process, not on a server");
}

/// An app that is not there is made in memory, unless a store is named.
#[test]
fn missing_app_is_made_for_the_call_only() {
    let user = User::new();
    let counter = user.file("counter.wasm", &wasm("counter"));
    let input = "{\"name\":\"n\",\"by\":2}";
    let add = |more: &[&str]| {
        let answer = user.run(&[&["run", &counter, "add", "--input", input], more].concat());
        assert_eq!(answer.code, 0, "{more:?}: {}", answer.stderr);
        (answer.stdout, answer.stderr)
    };
    for more in [&[][..], &["--app", "nope"], &["--store", "memory"]] {
        for _ in 0..2 {
            let (stdout, stderr) = add(more);
            assert_eq!(stdout, "{\"value\":2}");
            assert!(stderr.contains("exists for this call only"), "{stderr}");
        }
    }
    // Nothing is left of it.
    assert!(!user.home.path().join(".local").exists());
    let answer = user.json(&["run", &counter, "add", "--input", input]);
    assert_eq!(answer["kept"], false);

    let store = format!("sqlite:{}", user.home.path().join("my store.db").display());
    let config = format!("store = \"{store}\"\n");
    let config = user.file("kvasm.toml", config.as_bytes());
    let advice = format!("`kvasm --store '{store}' app create nope`");
    for named in [["--store", &store], ["--config", &config]] {
        let run = [&["run", &counter, "--app", "nope", "add"], &named[..]].concat();
        user.fails(&run, 2, &advice);
        user.fails(
            &[&["run", &counter, "add"], &named[..]].concat(),
            2,
            "--app is missing",
        );
    }
    // The advice leads to where the call goes.
    user.ok(&["--store", &store, "app", "create", "nope"]);
    let named = ["--app", "nope", "--config", &config];
    let (stdout, stderr) = add(&named);
    assert_eq!(stdout, "{\"value\":2}");
    assert!(!stderr.contains("this call only"), "{stderr}");
    assert_eq!(add(&named).0, "{\"value\":4}");
}

/// Who tries out a plugin permits what it declares.
#[test]
fn app_of_one_call_grants_what_the_plugin_needs() {
    let user = User::with_app();
    let needs = user.file("needs.wasm", &wasm("needs"));
    let read = ["run", &needs, "read", "--app"];
    // In an app of others it is refused as when it is deployed.
    let refused = "what the app lacks";
    user.fails(&[&read[..], &["demo"]].concat(), 2, refused);
    user.fails(&["deploy", "demo", &needs], 2, refused);
    let output = user.ok(&[&read[..], &["other"]].concat());
    assert!(output.contains("Some(3) None 0"), "{output}");
}

#[test]
fn exit_codes_classify_failures() {
    let user = User::with_app();
    let counter = user.file("counter.wasm", &wasm("counter"));
    user.fails(&["run", &counter, "--app", "demo", "nope"], 2, "it has add");
    user.fails(
        &["run", "/nonexistent.wasm", "--app", "demo", "add"],
        2,
        "/nonexistent.wasm",
    );
    user.fails(
        &["run", &counter, "--app", "demo", "add", "--as", "root"],
        2,
        "script:read",
    );
    user.fails(
        &["run", &counter, "--app", "demo", "add", "--input", "{"],
        2,
        "not the JSON",
    );
    let as_reader = [
        "run",
        &counter,
        "--app",
        "demo",
        "add",
        "--as",
        "script:read",
        "--input",
        "{\"name\":\"n\",\"by\":1}",
    ];
    user.fails(&as_reader, 3, "script:write");
    let text = user.file("text.wasm", b"(module)");
    user.fails(
        &["run", &text, "--app", "demo", "run"],
        3,
        "not a wasm module",
    );
    let trap = user.file("trap.wasm", &module("", "unreachable"));
    user.fails(&["run", &trap, "--app", "demo", "run"], 3, "trapped");
    let json = user.run(&["run", &trap, "--app", "demo", "run", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(error["error"]["blame"], "plugin");
}

/// Neither an error message from the plugin nor its log lines can control the terminal.
#[test]
fn plugin_output_is_escaped() {
    let user = User::with_app();
    let body = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 4)))
        (drop (call $output_write (i32.const 0) (i32.const 4))) (i32.const 1)";
    let evil = user.file("evil.wasm", &module("\\1b[2J", body));
    let answer = user.run(&["run", &evil, "--app", "demo", "run"]);
    assert_eq!(answer.code, 3);
    assert!(!answer.stderr.contains('\u{1b}'), "{:?}", answer.stderr);
    assert!(
        answer.stderr.contains("info  \\u{1b}[2J"),
        "{:?}",
        answer.stderr
    );
}

/// A caller who may read the log sees the trap, and the suggested command shows the log of the call.
#[test]
fn failed_call_suggests_the_command_that_shows_its_log() {
    let user = User::with_app();
    let traps = user.file("traps.wasm", &module("", "unreachable"));
    let home = Home::new();
    let server = home.start(&[]);
    let url = server.url();
    let to = ["--server", &url, "--token", &server.token];
    let user_run = |arguments: &[&str]| user.run(&[arguments, &to].concat());
    assert_eq!(user_run(&["app", "create", "shop"]).code, 0);
    assert_eq!(user_run(&["plugin", "deploy", "shop", &traps]).code, 0);
    let failed = user_run(&["call", "shop", "run"]);
    assert_eq!(failed.code, 3);
    assert!(failed.stderr.contains("unreachable"), "{}", failed.stderr);
    let advice = failed
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("log: kvasm "));
    let advice: Vec<_> = advice.unwrap().split(' ').collect();
    let log = user.ok(&[&advice[..], &to[2..]].concat());
    assert!(log.contains("unreachable"), "{log}");
    // Without the scope there is only the id.
    let token = user_run(&[
        "token",
        "create",
        "--app",
        "shop",
        "--scope",
        "script:read",
        "ci",
    ]);
    let token = token
        .stdout
        .split_whitespace()
        .find(|word| word.starts_with("kvasm_"));
    let failed = user.run(&[
        "call",
        "shop",
        "run",
        "--server",
        &url,
        "--token",
        token.unwrap(),
    ]);
    assert_eq!(failed.code, 3);
    assert!(!failed.stderr.contains("unreachable"), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("log: kvasm --server"),
        "{}",
        failed.stderr
    );
    server.stop();
}

/// The same mistake has the same exit code, whichever command finds it.
#[test]
fn run_and_deploy_agree_on_whose_fault_it_is() {
    let user = User::with_app();
    let config = user.file("kvasm.toml", b"[limits]\nmodule = \"512KiB\"\n");
    let mut large = module("", "i32.const 0");
    // A custom section of 1 MiB.
    large.extend(b"\0\x85\x80\x40\x04huge");
    large.extend(vec![0; 1024 * 1024]);
    let large = user.file("large.wasm", &large);
    let text = user.file("text.wasm", b"(module)");
    let refuses = user.file("refuses.wasm", &module("no", "i32.const 3"));
    let fails = user.file("fails.wasm", &module("", "i32.const 1"));
    let counter = user.file("counter.wasm", &wasm("counter"));
    for (file, function, expected) in [
        (&large, "run", 3),
        (&text, "run", 3),
        (&refuses, "run", 2),
        (&fails, "run", 3),
        (&counter, "nope", 2),
    ] {
        let ran = user.run(&["run", file, "--app", "demo", function, "--config", &config]);
        let mut deployed = user.run(&["deploy", "demo", file, "--config", &config]);
        if deployed.code == 0 {
            deployed = user.run(&["call", "demo", function]);
        }
        assert_eq!(ran.code, expected, "{file}: {}", ran.stderr);
        assert_eq!(deployed.code, expected, "{file}: {}", deployed.stderr);
    }
}

/// The HTTP handler gets the request, and its response is printed, as JSON too.
#[test]
fn request_is_sent_to_a_plugin_that_is_not_deployed() {
    let user = User::with_app();
    let file = user.file("shortener.wasm", &wasm("shortener"));
    let put = [
        "--http",
        "PUT /rust",
        "--input",
        "https://www.rust-lang.org/",
    ];
    let run = ["run", &file, "--app", "demo"];
    let put = user.ok(&[&run[..], &put].concat());
    assert!(put.starts_with("201 Created\n"), "{put}");
    let answer = user.run(&[&run[..], &["--http", "/rust", "-H", "Accept: */*"]].concat());
    assert_eq!(answer.code, 0);
    let (head, body) = answer.stdout.split_once("\n\n").unwrap();
    assert!(head.starts_with("30"), "{head}");
    assert!(
        head.contains("location: https://www.rust-lang.org/"),
        "{head}"
    );
    assert!(!body.contains("location"), "{body}");
    let listed = user.json(&[&run[..], &["--http", "GET /?x=1"]].concat());
    assert_eq!(listed["status"], 200);
    assert_eq!(listed["body"]["links"][0]["slug"], "rust");
    assert_eq!(listed["kept"], true);
    let has_type = |header: &serde_json::Value| header[0] == "content-type";
    assert!(listed["headers"].as_array().unwrap().iter().any(has_type));
    // A status of the plugin is no failure of the command.
    let absent = user.ok(&[&run[..], &["--http", "/nothing"]].concat());
    assert!(absent.starts_with("404 Not Found\n"), "{absent}");
    let head = user.ok(&[&run[..], &["--http", "HEAD /"]].concat());
    assert!(head.ends_with("\n\n"), "{head}");

    for (bad, words) in [
        (&["--http", "GET"][..], "a method and a path"),
        (&["--http", "GET /a b"], "percent-encoded"),
        (&["--http", "/", "-H", "no colon"], "Name: value"),
        (&["-H", "a: b", "x"], "cannot be used with"),
        (&["-H", "a: b"], "--http"),
        (&["--http", "/", "stats"], "cannot be used with"),
        (&[], "FUNCTION"),
    ] {
        user.fails(&[&run[..], bad].concat(), 2, words);
    }
    let counter = user.file("counter.wasm", &wasm("counter"));
    user.fails(&["run", &counter, "--http", "/"], 2, "HTTP handler");
}

/// What a hostile plugin answers cannot control the terminal, and what is no response is refused.
#[test]
fn response_of_a_hostile_plugin_is_checked() {
    let user = User::new();
    let handler = manifest(&[r#"{"kind":"http","name":"run"}"#]);
    let answers = |head: &str| {
        let text = head.replace('\\', "\\5c").replace('"', "\\22");
        let frame = format!("\\{:02x}\\00\\00\\00{text}body", head.len());
        let write = format!(
            "(drop (call $output_write (i32.const 0) (i32.const {}))) (i32.const 0)",
            head.len() + 8
        );
        module_with(&frame, &handler, &write)
    };
    let run = |head: &str| {
        let file = user.file("evil.wasm", &answers(head));
        user.run(&["run", &file, "--http", "/"])
    };
    let evil = run(r#"{"status":200,"headers":[["x-a","\u202e\u009b2J"]]}"#);
    assert_eq!(evil.code, 0, "{}", evil.stderr);
    assert!(
        evil.stdout.contains("x-a: \\u{202e}\\u{9b}2J\n"),
        "{:?}",
        evil.stdout
    );
    for bad in [
        r#"{"status":99}"#,
        "{",
        r#"{"status":200,"headers":[["a b","1"]]}"#,
    ] {
        let refused = run(bad);
        assert_eq!(refused.code, 3, "{bad}: {}", refused.stdout);
        assert!(
            refused.stderr.contains("invalid HTTP response"),
            "{}",
            refused.stderr
        );
    }
}
