//! Heartbeats of servers: who lives, who has stopped, who is gone.

use kvasm_tests::postgres::{fresh_database, shared};
use kvasm_tests::program::process::{Home, Server, eventually};
use serde_json::Value;
use std::time::Duration;

fn overview(server: &Server) -> Value {
    let answer = server.admin("GET", "/v1/overview", "text/plain", b"");
    serde_json::from_str(&answer.ok().text()).unwrap()
}

/// The state of each host by its name.
fn states(server: &Server) -> Vec<(String, String)> {
    let found = overview(server);
    let hosts = found["hosts"]["list"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut hosts: Vec<_> = hosts
        .map(|host| (text(&host["name"]), text(&host["state"])))
        .collect();
    hosts.sort();
    hosts
}

#[track_caller]
fn become_states(server: &Server, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect();
    eventually("the hosts are as expected", || {
        (states(server) == expected).then_some(())
    });
}

#[test]
fn killed_host_is_gone_and_a_stopped_one_is_not() {
    let url = fresh_database();
    let name = url.rsplit('/').next().unwrap();
    let store = format!("postgres:{url}");
    let home = Home::new();
    let start = |name: &str| {
        let name = format!("host_name={name}");
        home.start(&["--store", &store, "--set", &name])
    };
    let lives = start("lives");
    let (stops, dies) = (start("stops"), start("dies"));
    let alive = [("dies", "alive"), ("lives", "alive"), ("stops", "alive")];
    become_states(&lives, &alive);
    stops.stop();
    dies.kill();
    let stopped = [("dies", "alive"), ("lives", "alive"), ("stops", "stopped")];
    become_states(&lives, &stopped);
    // A minute passes.
    let later = "UPDATE hosts SET seen_at = seen_at - 61000 WHERE name <> 'lives'";
    shared().psql(name, later).unwrap();
    let gone = [("dies", "gone"), ("lives", "alive"), ("stops", "stopped")];
    become_states(&lives, &gone);
    let shown = home.run(&["--store", &store, "overview"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let (first, _) = shown.stdout.split_once('\n').unwrap();
    assert_eq!(first, "Hosts gone without a goodbye: 1", "{}", shown.stdout);
    // The clock of the database decides, not that of a host.
    let ahead = "SELECT seen_at - (extract(epoch FROM clock_timestamp()) * 1000)::bigint <= 0
        FROM hosts WHERE name = 'lives'";
    assert_eq!(shared().psql(name, ahead).unwrap().trim(), "t");
    lives.stop();
}

/// The only handler sleeps, so that a second delivery waits, and the schedule is one that this version
/// cannot read.
#[test]
fn program_lists_late_schedules_and_overdue_deliveries() {
    let home = Home::new();
    let store = home.path("kvasm.db");
    let of_store = format!("sqlite:{store}");
    let settings = [
        "dispatch.handlers=1",
        "limits.wall_time=1h",
        "dispatch.sample=20ms",
    ];
    let set = settings.iter().flat_map(|setting| ["--set", setting]);
    let arguments: Vec<_> = ["--store", &of_store].into_iter().chain(set).collect();
    let server = home.start(&arguments);
    server.deploy_guest("demo");
    let put = |trigger: &str, body: &[u8]| {
        let path = format!("/v1/apps/demo/triggers/{trigger}");
        server.admin("PUT", &path, "application/json", body).ok();
    };
    put("changed", br#"{"function":"sleep","collection":"c"}"#);
    put("yearly", br#"{"function":"sleep","schedule":"0 0 1 1 *"}"#);
    for key in ["a", "b"] {
        server.put("demo", key, b"1").ok();
    }
    eventually("one of them runs", || {
        (server.metric("kvasm_deliveries_running ") == 1).then_some(())
    });
    let database = rusqlite::Connection::open(&store).unwrap();
    database.busy_timeout(Duration::from_secs(60)).unwrap();
    // The lease of the other one ends in the future.
    let hours_ago = "UPDATE deliveries SET due_at = due_at - 7200000
            WHERE due_at < (SELECT max(due_at) FROM deliveries);
        UPDATE triggers SET schedule = 'at dawn', next_at = 1 WHERE name = 'yearly'";
    database.execute_batch(hours_ago).unwrap();
    let (url, token) = (server.url(), server.token.clone());
    let shown = || {
        let shown = home.run(&["--server", &url, "--token", &token, "overview"]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        shown.stdout
    };
    let expected = [
        "Schedules that are late: 1\n  demo  yearly  late by ",
        "Apps with overdue deliveries: 1\n  demo  for 2h",
    ];
    let text = eventually("both are listed", || {
        let text = shown();
        expected
            .iter()
            .all(|line| text.contains(line))
            .then_some(text)
    });
    assert!(!text.contains("Nothing needs a person"), "{text}");
    server.kill();
}

#[test]
fn history_of_a_killed_server_is_there_after_the_next_start() {
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    for _ in 0..3 {
        server.call("demo", "say", b"").ok();
    }
    let calls = |server: &Server| overview(server)["total"]["calls"].as_u64().unwrap();
    eventually("the calls are written", || {
        (calls(&server) == 3).then_some(())
    });
    server.kill();
    let server = home.start(&[]);
    assert_eq!(calls(&server), 3);
    server.call("demo", "say", b"").ok();
    // A stop writes what no heartbeat has written yet.
    server.stop();
    let server = home.start(&[]);
    assert_eq!(calls(&server), 4);
    server.stop();
}
