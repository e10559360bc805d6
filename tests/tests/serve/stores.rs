//! Full, failing and shared stores.

use kvasm_tests::postgres::{Cluster, Options, Stop, fresh_database};
use kvasm_tests::program::guest;
use kvasm_tests::program::process::{Home, Server, eventually, program};
use std::time::Instant;

/// Waits until the server is unready because of its store. The last result of a probe is used for a
/// second.
fn becomes_unready(server: &Server) {
    let unready = eventually("the host to be unready", || {
        let answer = server.get("/readyz");
        (answer.status != 200).then_some(answer)
    });
    unready.expect(503, "store-unavailable");
}

#[test]
fn full_disk_rejects_writes_without_data_loss() {
    let home = Home::new();
    let server = home.start(&[]);
    server.deploy_guest("demo");
    server.stop();
    // No file of the server may exceed 4 MiB.
    let mut command = home.prepare("sh");
    let serve = "ulimit -f 8192; trap '' XFSZ; exec \"$0\" serve --listen 127.0.0.1:0 --admin-listen none --set engine.instances=16";
    command.args(["-c", serve]).arg(program());
    let start = Instant::now();
    let server = home.spawn(command);
    let value = vec![b'x'; 256 * 1024];
    let mut written = Vec::new();
    let refused = (0..64).find_map(|n| {
        let answer = server.put("demo", &format!("k{n}"), &value);
        match answer.status {
            200 => {
                written.push(n);
                None
            }
            _ => Some(answer),
        }
    });
    let refused = refused.expect("a write that does not fit");
    let known = matches!(
        (refused.status, refused.problem().as_str()),
        (507, "store-full") | (503, "store-unavailable") | (500, "internal")
    );
    assert!(known, "{} {}", refused.status, refused.text());
    assert!(!refused.text().contains("kvasm.db"), "{}", refused.text());
    assert!(!written.is_empty());
    // The limit is of each file: once a checkpoint has emptied the log, as a heartbeat may cause,
    // further writes fit until the database file is full too. Then the probe, which writes as much
    // as the rejected write, fails.
    let mut next = 64;
    let unready = eventually("the host to be unready", || {
        let answer = server.put("demo", &format!("k{next}"), &value);
        if answer.status == 200 {
            written.push(next);
        }
        next += 1;
        let answer = server.get("/readyz");
        (answer.status != 200).then_some(answer)
    });
    unready.expect(503, "store-unavailable");
    // Reads and calls continue.
    for n in &written {
        server.entry("demo", &format!("k{n}")).ok();
    }
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    // Failing requests are logged at a limited rate: a burst, and one line a second. A checkpoint may
    // make room again even now.
    let refused = (0..10_000).filter(|_| server.put("demo", "again", &value).status >= 500);
    assert_eq!(refused.take(100).count(), 100);
    let log = server.stderr();
    let lines = log.lines();
    let lines = lines.filter(|line| line.contains("ERROR") && line.contains("request_id="));
    let count = lines.count() as u64;
    let allowed = 11 + start.elapsed().as_secs();
    assert!((1..=allowed).contains(&count), "{count} lines: {log}");
    server.kill();

    let server = home.start(&[]);
    for n in &written {
        assert_eq!(server.entry("demo", &format!("k{n}")).ok().body, value);
    }
    server.put("demo", "new", b"1").ok();
    server.stop();
}

#[test]
fn acknowledged_writes_survive_a_server_kill() {
    let home = Home::new();
    for round in 0..3 {
        let server = home.start(&[]);
        if round == 0 {
            server.create_app("demo");
        }
        let written: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let server = &server;
                    scope.spawn(move || {
                        let keys = (0..20).map(|n| format!("{round}-{writer}-{n}"));
                        keys.filter(|key| server.put("demo", key, b"1").status == 200)
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            writers
                .into_iter()
                .flat_map(|writer| writer.join().unwrap())
                .collect()
        });
        server.kill();
        let server = home.start(&[]);
        assert_eq!(written.len(), 80);
        for key in &written {
            server.entry("demo", key).ok();
        }
        server.stop();
    }
}

/// Two servers on one store: a change on one is visible on the other immediately.
fn share(first: &Server, second: &Server) {
    first.deploy_guest("demo");
    assert_eq!(second.call("demo", "hello", b"").ok().text(), "hello");
    first.put("demo", "k", b"1").ok();
    assert_eq!(second.entry("demo", "k").ok().body, b"1");
    let new = b"{\"name\":\"t\",\"scopes\":[\"app:read\"]}";
    let made = first
        .admin("POST", "/v1/tokens", "application/json", new)
        .ok()
        .json();
    let secret = made["secret"].as_str().unwrap();
    let authorization = format!("Authorization: Bearer {secret}\r\n");
    let ask = || {
        second
            .try_request("GET", "/v1/apps", &authorization, b"")
            .unwrap()
    };
    ask().ok();
    let path = format!("/v1/tokens/{}", made["token"]["id"].as_str().unwrap());
    first.admin("DELETE", &path, "text/plain", b"").ok();
    ask().expect(401, "token-invalid");
    second
        .admin("DELETE", "/v1/apps/demo", "text/plain", b"")
        .ok();
    first
        .try_request("POST", "/v1/apps/demo/call/hello", "", b"")
        .unwrap()
        .expect(401, "token-required");
}

#[test]
fn two_servers_can_share_a_sqlite_file() {
    let home = Home::new();
    let (first, second) = (home.start(&[]), home.start(&[]));
    share(&first, &second);
    first.stop();
    second.stop();
}

#[test]
fn two_servers_can_share_a_postgres_database() {
    let home = Home::new();
    let url = fresh_database();
    let first = home.start(&["--store", &url]);
    let second = home.start(&["--store", &url]);
    share(&first, &second);
    first.stop();
    second.stop();
}

#[test]
fn server_survives_a_database_outage() {
    let mut cluster = Cluster::start(Options {
        durable: true,
        ..Options::default()
    })
    .unwrap();
    let home = Home::new();
    let server = home.start(&["--store", &cluster.url("postgres")]);
    server.deploy_guest("demo");
    server.put("demo", "k", b"1").ok();
    cluster.stop(Stop::Immediate).unwrap();
    server
        .put("demo", "k", b"2")
        .expect(503, "store-unavailable");
    becomes_unready(&server);
    server.assert_healthy();
    cluster.restart().unwrap();
    let back = || (server.get("/readyz").status == 200).then_some(());
    eventually("the database is back", back);
    assert_eq!(server.entry("demo", "k").ok().body, b"1");
    let path = "/v1/apps/demo/plugins";
    server
        .admin("POST", path, "application/wasm", &guest::wasm())
        .ok();
    assert_eq!(server.call("demo", "hello", b"").ok().text(), "hello");
    server.stop();
}
