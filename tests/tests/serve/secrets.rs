//! A secret does not appear in what a server prints.

use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::program::process::{Home, Server, eventually};

const SECRET: &str = "correct-horse-battery-staple";

/// Sets a secret on a server that logs everything, in ways that succeed and that fail.
fn log_of(key_file: bool) {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let file = format!("secrets.key_file={}", home.path("missing"));
    let mut arguments = vec!["--store", &store, "--set", "log.filter=trace"];
    if !key_file {
        arguments.extend(["--set", &file]);
    }
    let server = home.start(&arguments);
    server.create_app("shop");
    let put = |path: &str, kind: &str, body: &str| {
        let path = format!("/v1/apps/shop/{path}");
        server.admin("PUT", &path, kind, body.as_bytes()).status
    };
    let set = put("secrets/a", "text/plain", SECRET);
    assert_eq!(set, if key_file { 204 } else { 503 });
    assert_eq!(put("secrets/a%20", "text/plain", SECRET), 400);
    assert_eq!(put("secrets/a", "application/json", SECRET), 415);
    assert_eq!(put("secrets/a", "text/plain", &SECRET.repeat(1000)), 413);
    assert_eq!(put("config/a", "text/plain", &format!("{SECRET}\0")), 400);
    let metrics = server.admin("GET", "/metrics", "text/plain", b"").ok();
    assert!(!metrics.text().contains(SECRET));
    assert!(!server.stdout().contains(SECRET));
    server.stop_and_inspect_log(|log| {
        assert!(log.contains("secrets"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
    });
}

#[test]
fn server_log_never_contains_a_secret() {
    log_of(true);
    log_of(false);
}

/// A plugin whose function `run` and whose handler `fail` read the secret "a", and then fail.
/// The output of `run` is the error message that the host gives it.
fn reader() -> Vec<u8> {
    let names = manifest(&[
        r#"{"kind":"function","name":"run"}"#,
        r#"{"kind":"on_change","name":"fail","collection":"c"}"#,
        r#"{"kind":"secret","name":"a"}"#,
    ]);
    let get =
        "(drop (call $secret_get (i32.const 0) (i32.const 1) (i32.const 1024) (i32.const 4096)))";
    let fail = format!("{names} (func (export \"fail\") (result i32) {get} (i32.const 2))");
    let message = "(i32.wrap_i64 (call $error_message (i32.const 8192) (i32.const 4096)))";
    let run = format!("{get} (drop (call $output_write (i32.const 8192) {message})) (i32.const 1)");
    module_with("a", &fail, &run)
}

/// Creates an app whose plugin may read its secret.
fn deploy_reader(server: &Server) {
    server.create_app("shop");
    let secret = "/v1/apps/shop/secrets/a";
    let put = server.admin("PUT", secret, "text/plain", SECRET.as_bytes());
    assert_eq!(put.status, 204);
    let grants = br#"{"grants":[{"kind":"secret","name":"a"}]}"#;
    let grant = "/v1/apps/shop/grants";
    server.admin("POST", grant, "application/json", grants).ok();
    let plugins = "/v1/apps/shop/plugins";
    let deployed = server.admin("POST", plugins, "application/wasm", &reader());
    deployed.ok();
}

/// Runs the function and the handler. Returns all that the server answers to an administrator.
fn answers_about_failures(server: &Server) -> String {
    let get = |path: &str| {
        let answer = server.admin("GET", path, "text/plain", b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    };
    let failed = server.call("shop", "run", b"");
    assert_eq!(failed.status, 500, "{}", failed.text());
    let letters = "/v1/apps/shop/dead-letters";
    let before = get(letters).matches("deterministic").count();
    server.put("shop", "k", b"1").ok();
    eventually("a dead letter", || {
        let letters = get(letters).matches("deterministic").count();
        (letters > before).then_some(())
    });
    let rest = [
        "/v1/apps/shop/dead-letters",
        "/v1/apps/shop/deliveries",
        "/v1/apps/shop/triggers",
        "/v1/apps/shop/logs",
        "/v1/apps/shop/audit",
        "/v1/apps/shop/secrets",
        "/v1/apps/shop/config",
        "/v1/apps/shop/grants",
        "/v1/apps/shop/plugins",
        "/v1/apps/shop/kv/collections",
        "/v1/apps/shop",
        "/v1/openapi.json",
        "/metrics",
    ];
    let rest: String = rest.map(get).concat();
    failed.text() + &rest
}

#[test]
fn failed_runs_that_have_read_a_secret_do_not_reveal_it() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let server = home.start(&["--store", &store, "--set", "log.filter=trace"]);
    deploy_reader(&server);
    let answers = answers_about_failures(&server);
    for failure in ["internal error", "not permitted"] {
        assert!(!answers.contains(failure), "not read: {answers}");
    }
    assert!(!answers.contains(SECRET), "{answers}");
    server.stop_and_inspect_log(|log| {
        assert!(log.contains("secret"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
    });
    let export = home.run(&["--store", &store, "kv", "export", "shop"]);
    assert!(!export.stdout.contains(SECRET), "{}", export.stdout);
    assert!(!export.stderr.contains(SECRET), "{}", export.stderr);
}

/// The plugin gets an error without details; the operator, a line with the file and what to do.
#[test]
fn lost_key_file_is_reported_to_the_operator_only() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let server = home.start(&["--store", &store]);
    deploy_reader(&server);
    server.stop();
    let lost = home.path("lost.key");
    let file = format!("secrets.key_file={lost}");
    let server = home.start(&["--store", &store, "--set", &file]);
    let answers = answers_about_failures(&server);
    assert!(answers.contains("internal error"), "{answers}");
    assert!(!answers.contains("lost.key"), "{answers}");
    server.stop_and_inspect_log(|log| {
        assert!(log.contains(&lost), "{log}");
        assert!(log.contains("restore the file"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
    });
}
