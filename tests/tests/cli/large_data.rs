//! Commands read and write complete data, whatever the server's limits are.

use kvasm_tests::program::process::{CommandOutput, Home, Server, eventually, run};
use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

/// Starts a server that accepts values of many MB, and logs `home` in to it.
fn server(home: &Home, arguments: &[&str]) -> Server {
    let server = home.start(arguments);
    let url = server.url();
    ok(home, &["login", "--server", &url, "--token", &server.token]);
    server
}

#[track_caller]
fn ok(home: &Home, arguments: &[&str]) -> CommandOutput {
    let ended = home.run(arguments);
    assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
    ended
}

#[track_caller]
fn fails(ended: &CommandOutput, code: i32, words: &str) {
    assert_eq!(ended.code, code, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
}

/// Bytes that every encoding changes.
fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

/// Runs a command whose output goes to a file.
fn to_file(home: &Home, arguments: &[&str], name: &str) -> Vec<u8> {
    let path = home.path(name);
    let mut command = home.command(arguments);
    command.stdout(fs::File::create(&path).unwrap());
    let output = command.stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    fs::read(path).unwrap()
}

const LARGE: [&str; 4] = ["--set", "limits.value=8MiB", "--set", "limits.input=9MiB"];

#[test]
fn large_value_round_trips_through_export_and_import() {
    let home = Home::new();
    let server = server(&home, &LARGE);
    ok(&home, &["app", "create", "big"]);
    ok(&home, &["app", "create", "copy"]);
    let bytes = noise(7_000_000);
    let at = format!("@{}", home.file("bytes", &bytes));
    ok(&home, &["kv", "set", "big", "c", "file", &at, "--bytes"]);
    let set = ["kv", "set", "big", "c", "stdin", "-", "--bytes"];
    fails(&run(home.command(&set), &bytes), 0, "");
    for key in ["file", "stdin"] {
        let got = to_file(&home, &["kv", "get", "big", "c", key], "got");
        assert!(got == bytes, "{key}: {} bytes", got.len());
    }
    // The server rejects a value over its limit.
    let over = format!("@{}", home.file("over", &noise(8 * 1024 * 1024 + 1)));
    let refused = home.run(&["kv", "set", "big", "c", "over", &over, "--bytes"]);
    fails(&refused, 2, "the limit is 8388608");
    assert_eq!(home.run(&["kv", "has", "big", "c", "over"]).code, 1);

    let exported = to_file(&home, &["kv", "export", "big"], "big.jsonl");
    ok(
        &home,
        &["kv", "import", "copy", "--file", &home.path("big.jsonl")],
    );
    let got = to_file(&home, &["kv", "get", "copy", "c", "file"], "copied");
    assert!(got == bytes, "{} bytes", got.len());
    server.stop();

    // With a store, the limits are those of the configuration file.
    let file = home.file(
        "kvasm.toml",
        b"[limits]\nvalue = \"8MiB\"\ninput = \"9MiB\"\n",
    );
    let store = format!("sqlite:{}", home.path("other.db"));
    let on_store = |rest: &[&'static str]| [&["--store", &store][..], rest].concat();
    ok(&home, &on_store(&["app", "create", "big"]));
    let import = on_store(&["kv", "import", "big"]);
    fails(
        &run(home.command(&import), &exported),
        2,
        "over the limit of 8388608",
    );
    let import = [&["--config", file.as_str()][..], &import].concat();
    fails(&run(home.command(&import), &exported), 0, "");
    let got = to_file(
        &home,
        &on_store(&["kv", "get", "big", "c", "stdin"]),
        "stored",
    );
    assert!(got == bytes, "{} bytes", got.len());
    let mut by_variable = home.command(&on_store(&["kv", "import", "big"]));
    by_variable.env("KVASM_CONFIG", &file);
    fails(&run(by_variable, &exported), 0, "");
}

/// An import with values over the target's limits names the limit and how to raise it, both for
/// a value and for a line that is too long for any value within a smaller limit.
#[test]
fn import_over_a_limit_names_the_limit() {
    let home = Home::new();
    let server = server(&home, &[]);
    ok(&home, &["app", "create", "small"]);
    let store = format!("sqlite:{}", home.path("other.db"));
    ok(&home, &["--store", &store, "app", "create", "small"]);
    for len in [2_000_000, 9_000_000] {
        let value = "x".repeat(len);
        let line = format!("{{\"collection\":\"c\",\"key\":\"k\",\"json\":\"{value}\"}}\n");
        let import = ["kv", "import", "small"];
        let to_server = run(home.command(&import), line.as_bytes());
        fails(&to_server, 2, "line 1: ");
        fails(
            &to_server,
            2,
            "an operator can raise limits.value of the server",
        );
        let to_store = [&["--store", store.as_str()][..], &import].concat();
        let to_store = run(home.command(&to_store), line.as_bytes());
        fails(&to_store, 2, "line 1: ");
        fails(
            &to_store,
            2,
            "raise limits.value in a configuration file and pass it with --config",
        );
    }
    server.stop();
}

#[test]
fn call_inputs_and_modules_are_sent_complete() {
    let home = Home::new();
    let server = server(&home, &["--set", "limits.module=1MiB"]);
    server.deploy_guest("shop");
    // The guest reads 32 KiB of its input; the server accepts 8 MiB.
    let over = home.file("over", &vec![b'x'; 8 * 1024 * 1024 + 1]);
    let input = format!("@{over}");
    let refused = home.run(&["call", "shop", "echo", "--input", &input]);
    fails(&refused, 2, "the limit is 8388608");
    let large = home.file("large.wasm", &vec![0; 20 * 1024 * 1024]);
    let refused = home.run(&["plugin", "deploy", "shop", &large]);
    // The plugin's fault, as for other limits of a module.
    fails(&refused, 3, "20971520 bytes; the limit is 1048576");
    server.stop();
}

#[test]
fn value_of_70_mb_is_read_complete() {
    let home = Home::new();
    let server = server(
        &home,
        &["--set", "limits.value=71MiB", "--set", "limits.input=72MiB"],
    );
    server.create_app("big");
    let bytes = noise(70_000_000);
    let at = format!("@{}", home.file("bytes", &bytes));
    ok(&home, &["kv", "set", "big", "c", "k", &at, "--bytes"]);
    let got = to_file(&home, &["kv", "get", "big", "c", "k"], "got");
    assert!(got == bytes, "{} bytes", got.len());
    server.stop();
}

#[test]
fn output_of_get_is_accepted_by_set() {
    let home = Home::new();
    ok(&home, &["app", "create", "demo"]);
    let get = |key: &str| to_file(&home, &["kv", "get", "demo", "c", key], "got");
    for json in [
        "1",
        " {\"a\" :\n1.50000000000000000001}\n",
        "\"\\n\"",
        "[]\n\n",
        "\t2\r\n\r\n",
    ] {
        let set = |input: &[u8]| {
            let ended = run(home.command(&["kv", "set", "demo", "c", "k", "-"]), input);
            assert_eq!(ended.code, 0, "{json:?}: {}", ended.stderr);
        };
        set(json.as_bytes());
        let first = get("k");
        for _ in 0..2 {
            set(&first);
            assert_eq!(get("k"), first, "{json:?}");
        }
        // A byte order mark is not part of the value.
        set(&[b"\xef\xbb\xbf", &first[..]].concat());
        assert_eq!(get("k"), first, "{json:?}");
    }
    for bytes in [
        &b""[..],
        b"\n",
        b"1\n",
        b"\xef\xbb\xbf{}\r\n",
        b"\xff\xfe\0",
    ] {
        let set = ["kv", "set", "demo", "c", "k", "-", "--bytes"];
        fails(&run(home.command(&set), bytes), 0, "");
        let first = get("k");
        assert_eq!(first, bytes);
        fails(&run(home.command(&set), &first), 0, "");
        assert_eq!(get("k"), first);
    }
}

/// Returns the server's number of open connections.
fn connections(server: &Server) -> u64 {
    server.metric("kvasm_http_connections ")
}

#[test]
fn stalled_export_names_the_timeout_setting() {
    let home = Home::new();
    let arguments = [
        "--set",
        "server.write_timeout=1s",
        "--set",
        "server.min_rate=1MiB",
    ];
    let server = server(&home, &arguments);
    server.create_app("big");
    let value = format!("@{}", home.file("value", &noise(1_000_000)));
    for key in 0..40 {
        ok(
            &home,
            &["kv", "set", "big", "c", &key.to_string(), &value, "--bytes"],
        );
    }
    let mut child = home.command(&["kv", "export", "big"]).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut first = [0; 10];
    output.read_exact(&mut first).unwrap();
    // Including the connection of this request.
    eventually("the end of the export", || {
        (connections(&server) <= 1).then_some(())
    });
    std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("server.write_timeout"), "{stderr}");
    server.stop();
}

#[test]
fn stalled_import_names_the_timeout_setting() {
    let home = Home::new();
    let server = server(&home, &["--set", "server.body_timeout=1s"]);
    server.create_app("big");
    let line = b"{\"collection\":\"c\",\"key\":\"k\",\"json\":1}\n";
    let import = |arguments: &[&str]| {
        let mut command = home.command(&[arguments, &["kv", "import", "big"]].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(line).unwrap();
        (child, input)
    };
    // The client's own timeout does not end it: the server owes no response meanwhile.
    let (child, input) = import(&["--timeout", "100ms"]);
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("server.body_timeout"), "{stderr}");
    drop(input);
    server.stop();
}
