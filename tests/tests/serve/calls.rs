//! Records of calls that outlive the process that made them.

use kvasm_tests::program::process::{Home, Server, eventually};
use serde_json::Value;

fn calls(server: &Server) -> Vec<Value> {
    let path = "/v1/apps/demo/calls?limit=1000";
    let text = server.admin("GET", path, "text/plain", b"").ok().text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn stored_calls_survive_sigkill_and_a_stop_loses_none() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let options = ["--store", &store];
    let server = home.start(&options);
    server.deploy_guest("demo");
    for _ in 0..3 {
        server.call("demo", "say", b"").ok();
    }
    assert_eq!(calls(&server).len(), 3);
    // Only what was written survives, so this waits until another process can read it.
    let stored = || {
        let out = home.run(&["--store", &store, "calls", "demo", "--json"]);
        (out.stdout.lines().count() == 3).then_some(())
    };
    eventually("the records are stored", stored);
    server.kill();
    let server = home.start(&options);
    assert_eq!(calls(&server).len(), 3);
    // A graceful stop writes the records of the last moment.
    server.call("demo", "say", b"").ok();
    server.stop();
    let found = home.run(&["--store", &store, "calls", "demo", "--function", "say"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert_eq!(found.stdout.lines().count(), 5, "{}", found.stdout);
    assert!(found.stdout.contains("say@1"), "{}", found.stdout);
    // What to do next.
    let next = "kvasm logs demo --request ";
    assert!(found.stderr.contains(next), "{}", found.stderr);
    for (filter, count) in [
        (vec!["--failed"], 0),
        (vec!["--slower", "10h"], 0),
        (vec!["--since", "1h", "-n", "2"], 2),
        (vec!["--until", "1h"], 0),
        (vec!["--outcome", "ok"], 4),
        (vec!["--trigger", "t"], 0),
    ] {
        let words = [&["--store", &store, "calls", "demo", "--json"], &*filter].concat();
        let found = home.run(&words);
        assert_eq!(found.code, 0, "{filter:?}: {}", found.stderr);
        assert_eq!(found.stdout.lines().count(), count, "{filter:?}");
    }
}

#[test]
fn without_space_for_them_no_calls_are_recorded() {
    let home = Home::new();
    let server = home.start(&["--set", "calls.bytes_of_app=0"]);
    server.deploy_guest("demo");
    server.call("demo", "say", b"").ok();
    assert_eq!(calls(&server).len(), 0);
    server.stop();
}

/// A file of the previous release, which has no records of calls.
#[test]
fn earlier_file_of_logs_is_extended() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let options = ["--store", &store];
    let server = home.start(&options);
    server.deploy_guest("demo");
    server.call("demo", "say", b"").ok();
    server.stop();
    let path = home.path("kvasm.db.logs");
    let file = rusqlite::Connection::open(&path).unwrap();
    let earlier = "DROP TABLE call_segments; PRAGMA user_version = 1;";
    file.execute_batch(earlier).unwrap();
    drop(file);
    // Reading first.
    let found = home.run(&["--store", &store, "logs", "demo", "--function", "say"]);
    assert_eq!((found.code, found.stdout.lines().count()), (0, 1));
    let found = home.run(&["--store", &store, "calls", "demo"]);
    assert_eq!((found.code, &*found.stdout), (0, ""), "{}", found.stderr);
    let server = home.start(&options);
    server.call("demo", "say", b"").ok();
    server.stop();
    let found = home.run(&["--store", &store, "calls", "demo", "--json"]);
    assert_eq!((found.code, found.stdout.lines().count()), (0, 1));
}
