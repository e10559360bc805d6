//! A secret does not appear in what a server prints.

use kvasm_tests::program::process::Home;

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
