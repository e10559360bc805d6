//! What a server and commands require of the machine: only a store.

use kvasm_tests::program::process::{Home, SERVE_ARGUMENTS, eventually, run};
use std::path::Path;

/// Files and folders below a folder, without those of the store.
fn below(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("kvasm.db"))
        .collect();
    names.sort();
    names
}

#[test]
fn server_without_a_home_warns_once_and_runs_uncached() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let mut command = home.command(&SERVE_ARGUMENTS);
    command.args(["--store", &store]).env("HOME", "/dev/null");
    let server = home.spawn(command);
    server.deploy_guest("one");
    server.deploy_guest("two");
    assert_eq!(server.call("one", "hello", b"").ok().text(), "hello");
    let warnings = || {
        server
            .stderr()
            .matches("the cache folder cannot be used")
            .count()
    };
    assert_eq!(warnings(), 1, "{}", server.stderr());
    server.stop();
}

#[test]
fn disabled_cache_writes_no_files() {
    let by_argument: &[&str] = &["--cache-dir", "none"];
    for arguments in [by_argument, &["--set", "cache_dir=none"]] {
        let home = Home::new();
        let store = format!("sqlite:{}", home.path("kvasm.db"));
        let server = home.start(&[arguments, &["--store", &store]].concat());
        server.deploy_guest("one");
        assert_eq!(server.call("one", "hello", b"").ok().text(), "hello");
        assert!(!server.stderr().contains("cache"), "{}", server.stderr());
        server.stop();
        assert_eq!(below(Path::new(&home.path(""))), Vec::<String>::new());
    }
}

/// An operator's command needs no compiled plugins, and no address space for instances that it
/// does not create.
#[test]
fn store_commands_create_no_cache_or_pool() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let commands: &[&[&str]] = &[
        &["app", "create", "demo"],
        &["kv", "set", "demo", "c", "k", "1"],
        &["kv", "get", "demo", "c", "k"],
        &["usage", "demo"],
        &["token", "create", "t", "--scope", "app:read"],
        &["audit", "demo"],
        &["app", "delete", "demo", "--yes"],
    ];
    for arguments in commands {
        // The address space of less than one instance.
        let limited = "ulimit -v 3000000; exec \"$0\" \"$@\"";
        let mut command = home.prepare("/bin/sh");
        command
            .args(["-c", limited])
            .arg(kvasm_tests::program::process::program())
            .args(*arguments)
            .args(["--store", &store])
            .env("HOME", "/dev/null");
        let ended = run(command, b"");
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.matches("cache").count(), 0, "{}", ended.stderr);
    }
    assert_eq!(below(Path::new(&home.path(""))), Vec::<String>::new());
}

/// A compiler whose host was killed stops.
#[test]
fn compiler_process_exits_with_its_host() {
    let home = Home::new();
    let server = home.start(&["--set", "engine.compile_time=1h"]);
    server.create_app("a");
    let of_server = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut children = all.filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            (parent == server.id().to_string()).then(|| entry.path())
        });
        children.next()
    };
    let wasm = kvasm_tests::slow_modules::blocks();
    let compiler = std::thread::scope(|scope| {
        let deploy = || {
            let path = "/v1/apps/a/plugins";
            let kind = "Content-Type: application/wasm\r\n";
            let headers = format!("{kind}{}", server.authorization());
            server.try_request("POST", path, &headers, &wasm)
        };
        scope.spawn(deploy);
        let compiler = eventually("it compiles", of_server);
        server.signal("KILL");
        compiler
    });
    // Only the system reaps it now, which may take a while.
    eventually("it has ended", || {
        let stat = std::fs::read_to_string(compiler.join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest.trim_start());
        (state.is_empty() || state.starts_with('Z')).then_some(())
    });
}
