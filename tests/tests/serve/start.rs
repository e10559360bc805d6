//! Startup, and the errors that prevent it.

use kvasm_tests::program::process::{Home, SERVE_ARGUMENTS, TOKEN_PREFIX, eventually, run};
use std::net::TcpListener;

/// Asserts that the start fails with this code and message, without revealing `secret`.
#[track_caller]
fn assert_start_fails(
    home: &Home,
    arguments: &[&str],
    variables: &[(&str, &str)],
    code: i32,
    words: &[&str],
) -> String {
    let mut command = home.command(&["serve"]);
    command.args(arguments).envs(variables.iter().copied());
    let ended = run(command, b"");
    assert_eq!(ended.code, code, "{arguments:?}: {}", ended.stderr);
    for words in words {
        assert!(
            ended.stderr.contains(words),
            "{arguments:?}: no {words:?} in: {}",
            ended.stderr
        );
    }
    assert!(!ended.stdout.contains("Listening"), "{}", ended.stdout);
    ended.stdout + &ended.stderr
}

#[test]
fn root_token_is_shown_only_at_first_start() {
    let home = Home::new();
    let server = home.start(&[]);
    assert_eq!(
        server.stdout(),
        format!(
            "{TOKEN_PREFIX}{}\nListening on http://{}\n",
            server.token, server.address
        )
    );
    assert!(server.token.starts_with("kvasm_"), "{}", server.token);
    server.assert_healthy();
    assert_eq!(server.get("/readyz").ok().text(), "ready\n");
    server.admin("GET", "/v1/apps", "text/plain", b"").ok();
    server.get("/v1/apps").expect(401, "token-required");
    server.stop();

    let server = home.start(&[]);
    let listening = format!("Listening on http://{}\n", server.address);
    assert_eq!(server.stdout(), listening);
    server.admin("GET", "/v1/apps", "text/plain", b"").ok();
    server.stop();
}

#[test]
fn config_errors_name_source_and_key() {
    let home = Home::new();
    let file = home.file("bad.toml", b"[server]\nconnections = 0\n");
    let at = ["bad.toml", "server.connections", "at least 1"];
    assert_start_fails(&home, &["--config", &file], &[], 2, &at);
    let unknown = home.file("unknown.toml", b"[server]\nconections = 7\n");
    let at = ["unknown.toml", "server.conections", "--print-config"];
    assert_start_fails(&home, &["--config", &unknown], &[], 2, &at);
    let broken = home.file("broken.toml", b"listen = [");
    assert_start_fails(&home, &["--config", &broken], &[], 2, &["broken.toml"]);
    assert_start_fails(&home, &["--config", "/none.toml"], &[], 2, &["/none.toml"]);
    let variable = [("KVASM_CONFIG", file.as_str())];
    assert_start_fails(&home, &[], &variable, 2, &["bad.toml"]);

    let variable = [("KVASM_LIMITS_WALL_TIME", "soon")];
    let at = ["KVASM_LIMITS_WALL_TIME", "limits.wall_time", "\"soon\""];
    assert_start_fails(&home, &[], &variable, 2, &at);
    let at = ["arguments", "limits.value", "\"1 pound\""];
    assert_start_fails(&home, &["--set", "limits.value=1 pound"], &[], 2, &at);
    assert_start_fails(&home, &["--set", "limits.value"], &[], 2, &["KEY=VALUE"]);
    assert_start_fails(&home, &["--set", "a=1"], &[], 2, &["unknown key \"a\""]);
    assert_start_fails(&home, &["--log-format", "xml"], &[], 2, &["log.format"]);
    for places in ["server.connections", "dispatch.handlers"] {
        let too_many = format!("{places}=18446744073709551615");
        assert_start_fails(&home, &["--set", &too_many], &[], 2, &[places, "at most"]);
    }
    let filter = ["--set", "log.filter=kvasm=loud"];
    assert_start_fails(&home, &filter, &[], 2, &["log.filter"]);
    let at = ["the arguments", "listen is \"here\""];
    assert_start_fails(&home, &["--listen", "here"], &[], 2, &at);
}

#[test]
fn configuration_takes_effect() {
    let home = Home::new();
    let file = home.file(
        "good.toml",
        b"listen = \"127.0.0.1:1\"\n[log]\nformat = \"json\"\nfilter = \"debug\"\n",
    );
    let mut command = home.command(&SERVE_ARGUMENTS);
    command.args(["--config", &file]);
    // The smallest allowed input limit for values of that size.
    let limit = 64 * 1024 + 16;
    command.env("KVASM_LIMITS_VALUE", "16");
    command.env("KVASM_LIMITS_INPUT", limit.to_string());
    let server = home.spawn(command);
    server.deploy_guest("demo");
    let mut input = vec![b'a'; limit];
    server.call("demo", "hello", &input).ok();
    input.push(b'a');
    server
        .call("demo", "hello", &input)
        .expect(413, "body-too-large");
    let line = eventually("a line about the call", || {
        let log = server.stderr();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("/v1/apps/{app}/call/{function}"))?;
        // Ignores a line that is still being written.
        serde_json::from_str::<serde_json::Value>(line).ok()
    });
    assert!(line["request_id"].is_string(), "{line}");
    server.stop();
}

#[test]
fn port_in_use_is_reported() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_start_fails(
        &home,
        &["--listen", &address],
        &[],
        2,
        &[&address, "in use"],
    );
}

/// A token that was created but not shown would be lost.
#[test]
fn failed_start_does_not_consume_the_root_token() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let printed = assert_start_fails(&home, &["--listen", &address], &[], 2, &["in use"]);
    assert!(!printed.contains(TOKEN_PREFIX), "{printed}");
    let server = home.start(&[]);
    assert!(
        server.stdout().contains(TOKEN_PREFIX),
        "{}",
        server.stdout()
    );
    server.stop();
}

#[test]
fn unreachable_store_is_a_host_error() {
    let home = Home::new();
    let url = "postgres://somebody:hunter2@127.0.0.1:1/kvasm";
    let words = ["unavailable", "refused"];
    let printed = assert_start_fails(&home, &["--store", url], &[], 4, &words);
    assert!(!printed.contains("hunter2"), "{printed}");
    let printed = assert_start_fails(&home, &[], &[("KVASM_STORE", url)], 4, &words);
    assert!(!printed.contains("hunter2"), "{printed}");
    let file = home.file("store.toml", format!("store = \"{url}\"\n").as_bytes());
    let printed = assert_start_fails(&home, &["--config", &file], &[], 4, &words);
    assert!(!printed.contains("hunter2"), "{printed}");
    let at = ["/nonexistent/x.db"];
    assert_start_fails(&home, &["--store", "sqlite:/nonexistent/x.db"], &[], 4, &at);
}

/// Neither when the URL is not a store's, nor when it is shown.
#[test]
fn store_password_is_never_shown() {
    let home = Home::new();
    let bad = [
        "postgre://somebody:hunter2@127.0.0.1:1/kvasm",
        "somebody:hunter2@127.0.0.1:1/kvasm",
        "postgres://somebody:hunter2@127.0.0.1:port/kvasm",
        "postgres://somebody:hunter2@127.0.0.1:1/kvasm?sslmode=hunter2",
        "postgres:somebody:hunter2@127.0.0.1/kvasm",
    ];
    let mut told = Vec::new();
    for url in bad {
        let file = home.file("store.toml", format!("store = \"{url}\"\n").as_bytes());
        let mut by_variable = home.command(&["serve"]);
        by_variable.env("KVASM_STORE", url);
        for command in [home.command(&["serve", "--config", &file]), by_variable] {
            let ended = run(command, b"");
            assert!(matches!(ended.code, 2 | 4), "{url}: {}", ended.stderr);
            told.push(ended.stdout + &ended.stderr);
        }
    }
    let shown = [
        "postgres://somebody:hunter2@127.0.0.1:1/kvasm",
        "postgres://127.0.0.1:1/kvasm?user=somebody&password=hunter2",
    ];
    for url in shown {
        let ended = home.run(&["serve", "--print-config", "--store", url]);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        told.push(ended.stdout + &ended.stderr);
    }
    told.retain(|text| text.contains("hunter2"));
    assert!(told.is_empty(), "{}", told.join("\n"));
}
