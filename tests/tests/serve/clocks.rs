//! A server whose clock was wrong for a while. libfaketime, where it is installed, sets the
//! time of the process.

use kvasm_tests::program::process::{Home, SERVE_ARGUMENTS, Server, eventually};
use std::path::PathBuf;

const DAY: i64 = 86_400_000;

/// The path of the library in Debian's package `faketime`, on any architecture.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let folders = folders.filter_map(Result::ok);
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|library| library.exists())
}

fn now() -> i64 {
    kvasm::model::Timestamp::now().0
}

/// Reads a number from the store, bypassing the server.
fn number(store: &str, sql: &str) -> Option<i64> {
    let connection = rusqlite::Connection::open(store).unwrap();
    let found = connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    found.ok().flatten()
}

fn watch(server: &Server, name: &str, trigger: &str) {
    let path = format!("/v1/apps/demo/triggers/{name}");
    let set = server.admin("PUT", &path, "application/json", trigger.as_bytes());
    assert!(set.status < 300, "{}", set.text());
}

#[test]
fn restart_recovers_from_a_clock_400_days_ahead() {
    let Some(library) = library() else {
        eprintln!("SKIPPED: libfaketime is not installed (Debian's package `faketime`)");
        return;
    };
    let home = Home::new();
    let store = home.path("kvasm.db");
    let store_option = format!("sqlite:{store}");
    let options = ["--store", &store_option, "--set", "dispatch.upkeep=1s"];
    let server = home.start(&options);
    server.deploy_guest("demo");
    watch(
        &server,
        "tick",
        r#"{"schedule":"* * * * *","function":"say"}"#,
    );
    watch(&server, "again", r#"{"collection":"c","function":"fail"}"#);
    let path = "/v1/apps/demo/kv/entry?collection=kept&key=k&ttl_ms=8640000000";
    server
        .admin("PUT", path, "application/octet-stream", b"1")
        .ok();
    eventually("the time is noted", || {
        number(&store, "SELECT at FROM health").filter(|at| *at > 0)
    });
    server.stop();

    let mut command = home.command(&SERVE_ARGUMENTS);
    command.args(options);
    command.env("LD_PRELOAD", &library);
    command.env("FAKETIME", "+400d");
    // The name depends on the version.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command.env("DONT_FAKE_MONOTONIC", "1");
    let server = home.spawn(command);
    eventually("it says so", || {
        let log = server.stderr();
        log.contains("ahead of the last time recorded in the store")
            .then_some(())
    });
    server.put("demo", "k", b"1").ok();
    let ahead = now() + 399 * DAY;
    let put_off =
        "SELECT min(due_at) FROM deliveries WHERE trigger_name = 'again' AND attempts > 0";
    let next = "SELECT next_at FROM triggers WHERE name = 'tick'";
    for (what, sql) in [("a retry", put_off), ("a schedule", next)] {
        eventually(what, || number(&store, sql).filter(|at| *at > ahead));
    }
    server.stop();

    let server = home.start(&options);
    eventually("the schedule is planned again", || {
        number(&store, next).filter(|at| *at <= now() + 61_000)
    });
    eventually("the retry is made", || {
        number(&store, put_off).filter(|at| *at < ahead)
    });
    let kept = "SELECT count(*) FROM kv_entries WHERE collection = 'kept'";
    assert_eq!(number(&store, kept), Some(1), "it had not expired");
    server.get("/readyz").ok();
    server.stop();
}
