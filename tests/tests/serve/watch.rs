//! `kvasm kv watch` on a server that is killed and comes back.

use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, request};
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};

/// Starts a server at an address that stays the same.
fn start(home: &Home, listen: &str) -> Server {
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let set = "engine.instances=16";
    home.spawn(home.command(&["serve", "--store", &store, "--listen", listen, "--set", set]))
}

#[test]
fn watching_command_continues_after_the_server_was_killed() {
    let home = Home::new();
    let server = start(&home, "127.0.0.1:0");
    server.create_app("demo");
    let (url, token) = (server.url(), server.token.clone());
    let listen = url.trim_start_matches("http://").to_owned();
    let arguments = [
        "--server", &url, "--token", &token, "--json", "kv", "watch", "demo", "c",
    ];
    let mut command = home.command(&arguments).spawn().unwrap();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let (output, read) = (command.stdout.take().unwrap(), Arc::clone(&lines));
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            read.lock().unwrap().push(line.unwrap());
        }
    });
    let seen = |key: &str| {
        let subject = format!("\"subject\":\"{key}\"");
        let lines = lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(&subject)).count()
    };
    eventually("it watches", || {
        (server.metric("kvasm_watchers") == 1).then_some(())
    });
    // It may not be ready yet, so this is repeated.
    eventually("the first change", || {
        server.put("demo", "first", b"1").ok();
        (seen("first") > 0).then_some(())
    });
    server.put("demo", "second", b"2").ok();
    eventually("the second change", || (seen("second") == 1).then_some(()));
    server.kill();
    let mut server = start(&home, &listen);
    // A new process has another token only for a new store.
    server.token.clone_from(&token);
    server.put("demo", "third", b"3").ok();
    eventually("the third change", || (seen("third") == 1).then_some(()));
    assert_eq!(seen("second"), 1, "no change is printed twice");
    let gaps = lines
        .lock()
        .unwrap()
        .iter()
        .any(|line| line.contains("\"gap\""));
    assert!(!gaps, "{lines:?}");
    // With its app the command ends.
    let path = "/v1/apps/demo";
    server.admin("DELETE", path, "text/plain", b"").ok();
    let code = command.wait().unwrap().code();
    assert_eq!(code, Some(2), "the user's fault");
    reader.join().unwrap();
    server.stop();
}

/// Sends a request whose response does not end.
fn begin(server: &Server, path: &str) -> RawConnection {
    let mut line = server.open();
    line.send(request("GET", path, &server.authorization(), b""));
    line.wait_for(b"200 OK");
    line
}

fn refused(server: &Server, path: &str, part: &str) {
    let answer = server.try_request("GET", path, &server.authorization(), b"");
    let answer = answer.expect("an answer").expect(429, "rate-limited");
    assert!(answer.text().contains(part), "{}", answer.text());
}

#[test]
fn number_of_watchers_is_configured() {
    let home = Home::new();
    let server = home.start(&["--set", "watch.watchers_of_app=2"]);
    server.create_app("demo");
    let path = "/v1/apps/demo/kv/watch";
    let _open = [(); 2].map(|()| begin(&server, path));
    refused(&server, path, "2 ");
    server.stop();
}

/// A reader of one app must not occupy all connections of the address of operators.
#[test]
fn endless_responses_leave_connections_to_operators() {
    let home = Home::new();
    let server = home.start(&["--set", "server.connections=16"]);
    let apps = ["evil", "other", "quiet"];
    for app in apps {
        server.create_app(app);
    }
    let watch = |app: &str| format!("/v1/apps/{app}/kv/watch");
    let mut open: Vec<_> = (0..4).map(|_| begin(&server, &watch("evil"))).collect();
    refused(&server, &watch("evil"), "4 ");
    open.push(begin(&server, &watch("quiet")));
    open.extend((0..3).map(|_| begin(&server, "/v1/apps/other/logs?follow=true")));
    for path in [&watch("quiet"), "/v1/apps/quiet/logs?follow=true"] {
        refused(&server, path, "half of its connections");
    }
    assert_eq!(server.get("/healthz").status, 200);
    let listed = server.admin("GET", "/v1/apps", "text/plain", b"").ok();
    assert!(listed.text().contains("quiet"));
    // A place that is free can be taken.
    open.clear();
    eventually("a place for another", || {
        let answer = server.try_request(
            "GET",
            &format!("{}?follow=false", watch("quiet")),
            &server.authorization(),
            b"",
        );
        (answer?.status == 200).then_some(())
    });
    server.stop();
}
