//! Logs that outlive the process that wrote them.

use kvasm_tests::program::process::{Home, Server, eventually};

fn log(server: &Server) -> String {
    let path = "/v1/apps/demo/logs?limit=1000";
    server.admin("GET", path, "text/plain", b"").ok().text()
}

fn lines(server: &Server) -> usize {
    log(server).matches("\"message\":\"hello\"").count()
}

#[test]
fn stored_log_survives_sigkill_and_a_stop_loses_no_line() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    let options = ["--store", &store];
    let server = home.start(&options);
    server.deploy_guest("demo");
    for _ in 0..3 {
        server.call("demo", "say", b"").ok();
    }
    assert_eq!(lines(&server), 3);
    // Only what was written survives, so this waits until another process can read it.
    let stored = || {
        let out = home.run(&["--store", &store, "logs", "demo"]);
        (out.stdout.matches("say hello").count() == 3).then_some(())
    };
    eventually("the lines are stored", stored);
    server.kill();
    let server = home.start(&options);
    assert_eq!(lines(&server), 3);
    // A graceful stop writes the lines of the last moment.
    server.call("demo", "say", b"").ok();
    server.stop();
    let found = home.run(&["--store", &store, "logs", "demo", "--function", "say"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert_eq!(found.stdout.lines().count(), 4, "{}", found.stdout);
    let found = home.run(&["--store", &store, "logs", "demo", "--grep", "nothing"]);
    assert_eq!((found.code, found.stdout.as_str()), (0, ""));
    let found = home.run(&["--store", &store, "logs", "demo", "-n", "2", "--json"]);
    assert_eq!(found.stdout.lines().count(), 2, "{}", found.stdout);
}
