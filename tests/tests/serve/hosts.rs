//! Heartbeats of servers: who lives, who has stopped, who is gone.

use kvasm_tests::postgres::{fresh_database, shared};
use kvasm_tests::program::process::{Home, Server, eventually};
use serde_json::Value;

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
