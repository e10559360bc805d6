//! `kvasm kv watch` on a server that is killed and comes back.

use kvasm_tests::program::process::{Home, Server, eventually};
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
