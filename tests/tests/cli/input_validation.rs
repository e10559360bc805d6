//! Command line input: arguments, variables and files are parsed strictly, or rejected with a
//! helpful message.

use kvasm_tests::program::process::{CommandOutput, Home, run};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

#[track_caller]
fn fails(ended: &CommandOutput, code: i32, words: &str) {
    assert_eq!(ended.code, code, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains(words), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("cannot reach the server"),
        "{}",
        ended.stderr
    );
}

#[test]
fn server_errors_are_explained() {
    let home = Home::new();
    let server = home.start(&[]);
    let ended = home.run(&["--server", &server.url(), "app", "list"]);
    fails(&ended, 2, "a token is required");
}

#[test]
fn local_errors_are_not_reported_as_connection_errors() {
    let home = Home::new();
    let server = home.start(&[]);
    server.create_app("demo");
    let url = server.url();
    let place = ["--server", &url, "--token", &server.token];
    let on_server = |rest: &[&str]| home.run(&[&place[..], rest].concat());
    let folder = home.path("");
    fails(
        &on_server(&["kv", "import", "demo", "--file", &folder]),
        2,
        "Is a directory",
    );
    fails(
        &on_server(&["kv", "import", "demo", "--file", "/nonexistent"]),
        2,
        "/nonexistent",
    );
    fails(
        &on_server(&["kv", "commit", "demo", "--file", &folder]),
        2,
        "Is a directory",
    );
    fails(
        &on_server(&["plugin", "deploy", "demo", &folder]),
        2,
        "it is not the folder of a plugin",
    );
    let at = format!("@{folder}");
    fails(
        &on_server(&["kv", "set", "demo", "c", "k", &at]),
        2,
        "Is a directory",
    );
    fails(
        &on_server(&["call", "demo", "f", "--input", &at]),
        2,
        "Is a directory",
    );
    let utf16 = home.file("utf16", b"\xff\xfe{\0}\0");
    fails(
        &on_server(&["kv", "import", "demo", "--file", &utf16]),
        2,
        "UTF-16",
    );
    fails(
        &on_server(&["kv", "commit", "demo", "--file", &utf16]),
        2,
        "UTF-16",
    );
    let marked = b"\xef\xbb\xbf{\"collection\":\"c\",\"key\":\"k\",\"json\":1}\r\n";
    let marked = home.file("marked", marked);
    let imported = on_server(&["kv", "import", "demo", "--file", &marked]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);

    let with_token = |token: &str| home.run(&["--server", &url, "--token", token, "app", "list"]);
    fails(&with_token("kvasm_0\n_1"), 2, "invalid token");
    fails(&with_token("kvasm_\u{e9}"), 2, "invalid token");
    fails(&with_token(" \n"), 2, "--token is empty");
    let clean = with_token(&format!("\u{feff} {}\r\n", server.token));
    assert_eq!(clean.code, 0, "{}", clean.stderr);
    for bad in [
        "x",
        "http://",
        "ftp://x",
        "http://x:port",
        "http://a\nb",
        "http://x?a=b",
    ] {
        fails(
            &home.run(&["--server", bad, "app", "list"]),
            2,
            "http://127.0.0.1:7181",
        );
    }
    let secret = home.run(&["--server", "http://user:secret@x", "app", "list"]);
    fails(&secret, 2, "--token");
    assert!(!secret.stderr.contains("secret"), "{}", secret.stderr);
    fails(&on_server(&["token", "revoke", ""]), 2, "empty");
    fails(&on_server(&["call", "demo", ""]), 2, "empty");
    server.stop();
}

#[test]
fn login_verifies_the_token_with_the_server() {
    let home = Home::new();
    let server = home.start(&[]);
    server.create_app("demo");
    let url = server.url();
    let login = |token: &str| home.run(&["login", "--server", &url, "--token", token]);
    let wrong = format!("kvasm_{}_{}", "0".repeat(32), "0".repeat(64));
    fails(&login(&wrong), 2, "not valid");
    fails(&login("nonsense"), 2, "not valid");
    assert!(!std::fs::exists(home.path(".config/kvasm/profiles.toml")).unwrap());
    let good = format!(" {}\n", server.token);
    assert_eq!(login(&good).code, 0);
    assert_eq!(home.run(&["app", "list"]).code, 0);
    // A valid token with few scopes is recognised too.
    let make = [
        "token", "create", "ci", "--scope", "log:read", "--app", "demo",
    ];
    let made = home.run(&make);
    assert_eq!(login(&made.stdout).code, 0);
    let unchecked = ["login", "--server", &url, "--token", &wrong, "--no-check"];
    assert_eq!(home.run(&unchecked).code, 0);
    fails(&home.run(&["app", "list"]), 2, "not valid");
    // Surrounding blanks and a leading byte order mark in the file are removed too.
    let profile = format!(
        "\u{feff}[default]\nserver = \" {url} \"\ntoken = \"{}\\n\"\n",
        server.token
    );
    home.file(".config/kvasm/profiles.toml", profile.as_bytes());
    assert_eq!(home.run(&["app", "list"]).code, 0);
    home.file(
        ".config/kvasm/profiles.toml",
        b"[default]\nserver = \"\xff\"\n",
    );
    fails(&home.run(&["app", "list"]), 2, "invalid UTF-8");
    fails(
        &home.run(&["--profile", "defualt", "app", "list"]),
        2,
        "invalid UTF-8",
    );
    home.file(".config/kvasm/profiles.toml", profile.as_bytes());
    let misspelt = home.run(&["--profile", "defualt", "app", "list"]);
    fails(&misspelt, 2, "did you mean default?");
    server.stop();
}

#[test]
fn environment_variables_are_parsed_strictly() {
    let home = Home::new();
    let with = |name: &str, value: OsString, arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.env(name, value);
        run(command, b"")
    };
    let list = ["app", "list"];
    let latin = || OsString::from_vec(vec![b'k', 0xe9]);
    for name in [
        "KVASM_TOKEN",
        "KVASM_STORE",
        "KVASM_LIMITS_VALUE",
        "KVASM_LOG",
        "KVASM_CACHE_DIR",
    ] {
        fails(&with(name, latin(), &list), 2, name);
        for empty in ["", " \t\r\n"] {
            let ended = with(name, empty.into(), &list);
            assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{name}");
        }
    }
    let unknown = with("KVASM_STOER", "x".into(), &list);
    assert_eq!(unknown.code, 0, "{}", unknown.stderr);
    let lines = unknown.stderr.matches("did you mean KVASM_STORE?");
    assert_eq!(lines.count(), 1, "{}", unknown.stderr);
    fails(&with("KVASM_LOG", "a=b=c".into(), &list), 2, "KVASM_LOG");
    fails(&with("KVASM_TIMEOUT", "soon".into(), &list), 0, "");
    let url = "http://127.0.0.1:1";
    let remote = ["--server", url, "app", "list"];
    fails(
        &with("KVASM_TIMEOUT", "soon".into(), &remote),
        2,
        "KVASM_TIMEOUT",
    );
    fails(
        &home.run(&["--timeout", "0s", "--server", url, "app", "list"]),
        2,
        "--timeout",
    );
    fails(
        &with("KVASM_LIMITS_VALUE", "none".into(), &list),
        2,
        "KVASM_LIMITS_VALUE",
    );

    // Arguments that are not UTF-8.
    let mut command = home.command(&["app", "create"]);
    command.arg(latin());
    fails(&run(command, b""), 2, "UTF-8");
}

/// The precedence in docs/cli.md, with a server that does not exist.
#[test]
fn server_overrides_store_and_arguments_override_variables() {
    let home = Home::new();
    let run_with = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = home.command(arguments);
        command.envs(variables.iter().copied());
        run(command, b"")
    };
    let (server, store) = (
        "http://127.0.0.1:1",
        format!("sqlite:{}", home.path("a.db")),
    );
    let both = [("KVASM_SERVER", server), ("KVASM_STORE", store.as_str())];
    assert_eq!(run_with(&both, &["app", "list"]).code, 4);
    assert_eq!(run_with(&both, &["--store", &store, "app", "list"]).code, 0);
    let arguments = ["--server", server, "app", "list"];
    assert_eq!(run_with(&both[1..], &arguments).code, 4);
    let arguments = ["--store", &store, "--server", server, "app", "list"];
    fails(&run_with(&[], &arguments), 2, "cannot be combined");
}

#[test]
fn store_urls_are_parsed_strictly() {
    let home = Home::new();
    let on = |store: &str| home.run(&["--store", store, "migrate"]);
    for password in [
        "pa/ss", "pa#ss", "pa?ss", "12/34", "12#34", "12?34", "a@b/c",
    ] {
        let ended = on(&format!("postgres://user:{password}@127.0.0.1:1/db"));
        fails(&ended, 2, "%2F");
        assert!(!ended.stderr.contains(password), "{}", ended.stderr);
    }
    fails(&on("sqlite://x.db"), 2, "sqlite:PATH");
    fails(&on("sqlite: x.db"), 2, "blanks");
    fails(&on("sqlite::memory:"), 2, "use memory");
    fails(&on("sqlite:"), 2, "empty");
    fails(&on(""), 2, "--store is empty");
    fails(&on("memoyr"), 2, "sqlite:PATH, postgres:URL");
    assert_eq!(on(" memory\n").code, 0);
}

#[test]
fn config_files_are_parsed_strictly() {
    let home = Home::new();
    let print = |file: &[u8]| {
        let file = home.file("kvasm.toml", file);
        home.run(&["serve", "--config", &file, "--print-config"])
    };
    let marked = print(b"\xef\xbb\xbflisten = \" localhost:7180 \"\n");
    assert_eq!(marked.code, 0, "{}", marked.stderr);
    assert!(marked.stdout.contains("listen = \"localhost:7180\""));
    fails(&print(b"listen = \"\xff\"\n"), 2, "invalid UTF-8");
    fails(&print(b"\xff\xfea\0"), 2, "UTF-16");
    fails(&print(b"listne = \"x\"\n"), 2, "did you mean listen?");
    fails(&print(b"cache_dir = \"\"\n"), 2, "empty");
    fails(&print(b"cache_dir = \"None\"\n"), 2, "none");
    fails(&print(b"listen = \"7180\"\n"), 2, "a port");
    fails(&print(b"[log]\nfilter = \"\"\n"), 2, "empty");
    let set = ["serve", "--set", " limits.value = 2MiB ", "--print-config"];
    assert!(home.run(&set).stdout.contains("value = \"2MiB\""));
}

#[test]
fn server_listens_on_a_host_name() {
    let home = Home::new();
    let server = home.spawn(home.command(&["serve", "--listen", "localhost:0"]));
    assert!(server.address.ip().is_loopback());
    server.assert_healthy();
    server.stop();
    let unknown = home.run(&["serve", "--listen", "nowhere.invalid:0"]);
    fails(&unknown, 2, "nowhere.invalid:0");
}

/// B12: store commands need no folder except the store's.
#[test]
fn store_commands_need_no_home_or_cache_folder() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("a.db"));
    let run_without = |rest: &[&str]| {
        let mut command = home.command(&[&["--store", store.as_str()], rest].concat());
        command
            .env_remove("HOME")
            .env("KVASM_CACHE_DIR", "/proc/nonexistent");
        run(command, b"")
    };
    for arguments in [
        &["app", "create", "demo"][..],
        &["kv", "set", "demo", "c", "k", "1"],
        &["kv", "get", "demo", "c", "k"],
        &["trigger", "list", "demo"],
        &["token", "list"],
        &["migrate"],
    ] {
        let ended = run_without(arguments);
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (0, ""),
            "{arguments:?}"
        );
    }
}
