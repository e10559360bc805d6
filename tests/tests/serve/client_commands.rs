//! The command line against a server.

use kvasm_tests::program::process::{CommandOutput, Home, Server, run};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

/// Runs a command that must succeed. Returns its output.
#[track_caller]
fn ok(home: &Home, arguments: &[&str]) -> String {
    let ended = home.run(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
    ended.stdout
}

#[track_caller]
fn fails(ended: &CommandOutput, code: i32, words: &str) {
    assert_eq!(ended.code, code, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

fn login(home: &Home, server: &Server) {
    let url = server.url();
    ok(home, &["login", "--server", &url, "--token", &server.token]);
}

#[test]
fn repeated_call_with_a_key_prints_the_kept_answer() {
    let home = Home::new();
    let server = home.start(&[]);
    login(&home, &server);
    ok(&home, &["app", "create", "shop"]);
    let module = home.file("till.wasm", &kvasm_tests::till::till(200));
    ok(&home, &["plugin", "deploy", "shop", &module]);
    let pay = |key: &str, more: &[&str]| {
        let call = ["call", "shop", "run", "--idempotency-key", key];
        home.run(&[&call[..], more].concat())
    };
    let first = pay("a\"1", &[]);
    assert_eq!((first.code, &*first.stderr), (0, ""), "{}", first.stdout);
    // The key as a string of RFC 9651.
    let repeat = pay(r#""a\"1""#, &[]);
    assert_eq!((repeat.code, &*repeat.stdout), (0, &*first.stdout));
    assert!(repeat.stderr.contains("kept answer"), "{}", repeat.stderr);
    let json: Value = serde_json::from_str(&pay("a\"1", &["--json"]).stdout).unwrap();
    assert_eq!(json["replayed"], true, "{json}");
    let json: Value = serde_json::from_str(&pay("b", &["--json"]).stdout).unwrap();
    assert_eq!(json["replayed"], false, "{json}");
    assert_eq!(ok(&home, &["kv", "get", "shop", "c", "n"]).trim(), "2");
    fails(&pay("b", &["--input", "other"]), 2, "another request");
    fails(&pay("a key", &[]), 2, "idempotency key");
}

#[test]
fn verbose_call_prints_its_cost_on_stderr() {
    let home = Home::new();
    let server = home.start(&[]);
    login(&home, &server);
    ok(&home, &["app", "create", "shop"]);
    let module = home.file("guest.wasm", &kvasm_tests::program::guest::wasm());
    ok(&home, &["plugin", "deploy", "shop", &module]);

    let quiet = home.run(&["call", "shop", "hello"]);
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("hello", ""));
    let shown = home.run(&["call", "shop", "hello", "-v"]);
    assert_eq!((shown.code, &*shown.stdout), (0, "hello"));
    for row in [
        "peak memory      128 KiB",
        "host calls       1\n",
        "runs             1\n",
    ] {
        assert!(shown.stderr.contains(row), "{row}: {}", shown.stderr);
    }
    let failed = home.run(&["call", "shop", "trap", "-v"]);
    fails(&failed, 3, "runs             1\n");

    let json = |arguments: &[&str]| -> Value {
        let ended = home.run(arguments);
        let text = if ended.code == 0 {
            ended.stdout
        } else {
            ended.stderr
        };
        serde_json::from_str(&text).unwrap()
    };
    let plain = json(&["call", "shop", "hello", "--json"]);
    assert_eq!(plain.as_object().unwrap().len(), 2, "{plain}");
    for function in ["hello", "trap"] {
        let verbose = json(&["call", "shop", function, "--json", "-v"]);
        assert_eq!(verbose["cost"]["runs"], 1, "{verbose}");
        assert_eq!(verbose["cost"]["memory_bytes"], 131_072, "{verbose}");
    }

    let scopes = ["--scope", "script:read", "--app", "shop"];
    let secret = ok(&home, &[&["token", "create", "ci"][..], &scopes].concat());
    let url = server.url();
    let as_ci = ["--server", &url, "--token", secret.trim()];
    let refused = home.run(&[&as_ci[..], &["call", "shop", "hello", "-v"]].concat());
    assert_eq!((refused.code, &*refused.stdout), (0, "hello"));
    assert!(refused.stderr.contains("log:read"), "{}", refused.stderr);
}

#[test]
fn cli_commands_work_against_a_server() {
    let home = Home::new();
    let server = home.start(&[]);
    login(&home, &server);
    let profiles = home.path(".config/kvasm/profiles.toml");
    let mode = std::fs::metadata(profiles).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    ok(&home, &["app", "create", "shop", "--public"]);
    let module = home.file("guest.wasm", &kvasm_tests::program::guest::wasm());
    ok(&home, &["plugin", "deploy", "shop", &module]);
    ok(&home, &["plugin", "deploy", "shop", &module]);
    assert!(ok(&home, &["plugin", "rollback", "shop"]).contains("Version 1"));
    assert!(ok(&home, &["plugin", "versions", "shop"]).contains("active"));
    ok(&home, &["plugin", "delete", "shop", "2"]);
    assert_eq!(ok(&home, &["call", "shop", "echo", "--input", "hi"]), "hi");
    ok(&home, &["call", "shop", "say"]);
    assert!(ok(&home, &["logs", "shop"]).contains("say hello"));
    ok(&home, &["app", "limits", "shop", "--entries", "2"]);
    for key in ["a", ".."] {
        ok(&home, &["kv", "set", "shop", "c", key, "1"]);
    }
    fails(
        &home.run(&["kv", "set", "shop", "c", "b", "1"]),
        2,
        "quota of 2 entries",
    );
    assert!(ok(&home, &["usage", "shop"]).contains('2'));
    assert_eq!(ok(&home, &["kv", "get", "shop", "c", ".."]), "1\n");
    ok(&home, &["app", "create", "copy"]);
    let exported = ok(&home, &["kv", "export", "shop"]);
    let imported = run(home.command(&["kv", "import", "copy"]), exported.as_bytes());
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(home.run(&["kv", "get", "copy", "c", "absent"]).code, 1);
    assert!(ok(&home, &["audit"]).contains("kv.import"));

    let scopes = ["--scope", "app:read", "--app", "copy"];
    let secret = ok(&home, &[&["token", "create", "ci"][..], &scopes].concat());
    let url = server.url();
    let as_ci = ["--server", &url, "--token", secret.trim()];
    ok(&home, &[&as_ci[..], &["app", "show", "copy"]].concat());
    let refused = home.run(&[&as_ci[..], &["app", "show", "shop"]].concat());
    fails(&refused, 2, "app:read");
    let refused = home.run(&[&as_ci[..], &["kv", "get", "copy", "c", "a"]].concat());
    fails(&refused, 2, "script:read");
    fails(&home.run(&["call", "shop", "fail"]), 3, "hello");
    fails(&home.run(&["call", "shop", ".."]), 2, "must not be empty");
    fails(
        &home.run(&["app", "show", "nope"]),
        2,
        "kvasm app create nope",
    );
    ok(&home, &["app", "delete", "copy", "--yes"]);
    server.stop();
    // The same profile, and an unreachable server.
    fails(&home.run(&["app", "list"]), 4, "cannot reach the server");
}

#[test]
fn store_and_server_give_the_same_results() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("other.db"));
    let offline = ["--store", store.as_str()];
    let with = |rest: &[&'static str]| [&offline[..], rest].concat();
    ok(&home, &with(&["app", "create", "shop", "--public"]));
    let module = home.file("guest.wasm", &kvasm_tests::program::guest::wasm());
    ok(
        &home,
        &[&offline[..], &["plugin", "deploy", "shop", &module]].concat(),
    );
    assert_eq!(ok(&home, &with(&["call", "shop", "hello"])), "hello");
    fails(&home.run(&with(&["logs", "shop", "-f"])), 2, "--server");
    assert_eq!(ok(&home, &with(&["logs", "shop"])), "");
    let server = home.start(&["--store", &store]);
    assert_eq!(server.call("shop", "hello", b"").ok().text(), "hello");
    let url = server.url();
    let both = ["--server", &url, "--store", &store, "app", "list"];
    fails(&home.run(&both), 2, "cannot be combined");
    let wrong = home.run(&["--server", &url, "--token", "kvasm_x", "app", "list"]);
    fails(&wrong, 2, "not valid");
    let none = home.run(&["--server", &url, "app", "list"]);
    fails(&none, 2, "Authorization");
    fails(
        &home.run(&["--server", "ftp://x", "app", "list"]),
        2,
        "http://127.0.0.1:7181",
    );
    fails(
        &home.run(&["--profile", "nope", "app", "list"]),
        2,
        "kvasm login",
    );
    server.stop();
}

#[test]
fn token_that_only_deploys_cannot_grant_what_its_plugin_needs() {
    use kvasm_tests::guests::{manifest, module_with};
    let home = Home::new();
    let server = home.start(&[]);
    login(&home, &server);
    ok(&home, &["app", "create", "shop"]);
    let lines = [
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"timers"}"#,
    ];
    let wasm = module_with("", &manifest(&lines), "(i32.const 0)");
    let module = home.file("plugin.wasm", &wasm);
    let create = [
        "token",
        "create",
        "ci",
        "--app",
        "shop",
        "--scope",
        "plugin:deploy",
    ];
    let made = ok(&home, &[&create[..], &["--json"]].concat());
    let made: Value = serde_json::from_str(&made).unwrap();
    let secret = made["secret"].as_str().unwrap();
    let as_ci = |words: &[&str]| home.run(&[words, &["--token", secret]].concat());
    let deploy = ["plugin", "deploy", "shop", &module];
    fails(
        &as_ci(&deploy),
        2,
        "version 1 of shop is uploaded, but not active",
    );
    let all = as_ci(&[&deploy[..], &["--grant-all"]].concat());
    fails(&all, 2, "version 2 of shop is uploaded, but not active");
    fails(&all, 2, "app:admin");
    fails(&as_ci(&["grant", "shop", "timers"]), 2, "app:admin");
    ok(&home, &["grant", "shop", "timers"]);
    let deployed = as_ci(&deploy);
    assert_eq!(deployed.code, 0, "{}", deployed.stderr);
    let expected = "Version 3 of shop is active: run. New permissions: timers.\n";
    assert_eq!(deployed.stdout, expected);
    server.stop();
}
