//! `--token-file`.

use super::User;
use kvasm_tests::program::process::{Home, SERVE_ARGUMENTS, TOKEN_PREFIX};
use std::os::unix::fs::PermissionsExt;

/// Reads a token from a file that only its owner can read.
fn token(path: &str) -> String {
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(path).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn first_token_goes_to_a_file() {
    let home = Home::new();
    let path = home.path("token");
    let arguments = ["--token-file", &path];
    let server = home.start(&arguments);
    assert!(
        !server.stdout().contains(TOKEN_PREFIX),
        "{}",
        server.stdout()
    );
    let first = token(&path);
    let url = server.url();
    let list = home.run(&["--server", &url, "--token", &first, "app", "list"]);
    assert_eq!(list.code, 0, "{}", list.stderr);
    server.stop();
    // The same command starts it again.
    home.start(&arguments).stop();
    assert_eq!(token(&path), first);
    std::fs::remove_file(&path).unwrap();
    home.start(&arguments)
        .stop_and_inspect_log(|log| assert!(log.contains("--token-file is not written"), "{log}"));
    assert!(!std::fs::exists(&path).unwrap());
}

#[test]
fn file_is_not_overwritten_and_no_token_is_lost() {
    let home = Home::new();
    let path = home.file("token", b"precious");
    let refused = home.run(&[&SERVE_ARGUMENTS[..], &["--token-file", &path]].concat());
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("is not overwritten"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    // The first token is still to be had.
    let server = home.start(&[]);
    assert!(server.stdout().contains(TOKEN_PREFIX));
    server.stop();
}

#[test]
fn created_token_goes_to_a_file() {
    let user = User::with_app();
    let path = user.home.path().join("ci");
    let path = path.to_str().unwrap();
    let create = [
        "token",
        "create",
        "ci",
        "--scope",
        "app:read",
        "--token-file",
        path,
    ];
    let printed = user.ok(&create);
    assert!(
        printed.contains(path) && !printed.contains("kvasm_"),
        "{printed}"
    );
    assert!(token(path).starts_with("kvasm_"));
    user.fails(&create, 2, "is not overwritten");
    let tokens = user.json(&["token", "list"]);
    assert_eq!(tokens.as_array().unwrap().len(), 1);
    let other = format!("{path}2");
    let refused = [
        "token",
        "create",
        "",
        "--scope",
        "app:read",
        "--token-file",
        &other,
    ];
    assert_eq!(user.run(&refused).code, 2);
    assert!(!std::fs::exists(other).unwrap());
}
