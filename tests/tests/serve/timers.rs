//! A server that is killed between the commit of a timer and its run.

use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::program::process::{Home, Server, eventually};

const KILLS: u64 = 8;
/// Timers set before each kill.
const TIMERS: u64 = 5;

/// The transactional function `run` counts under "n", and sets a timer whose name is the input; the
/// handler counts under "k".
fn plugin() -> Vec<u8> {
    let count = |key: u32| {
        format!(
            "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const {key}) (i32.const 1)
              (i64.const 1) (i32.const 64)))"
        )
    };
    let section = manifest(&[
        r#"{"kind":"function","name":"run","transaction":true}"#,
        r#"{"kind":"on_timer","name":"on_timer"}"#,
    ]);
    let handler = format!(
        "(func (export \"on_timer\") (result i32) {} (i32.const 0))",
        count(1)
    );
    let run = format!(
        "{} (drop (call $timer_set (i32.const 128)
            (i32.wrap_i64 (call $input_read (i32.const 0) (i32.const 128) (i32.const 64)))
            (i32.const 1) (i64.const 300) (i32.const 0) (i32.const 0))) (i32.const 0)",
        count(2)
    );
    module_with("ckn", &format!("{section} {handler}"), &run)
}

fn number(server: &Server, key: &str) -> u64 {
    let found = server.entry("demo", key);
    match found.status {
        404 => 0,
        _ => found.ok().text().parse().unwrap(),
    }
}

fn read(server: &Server, list: &str) -> String {
    let path = format!("/v1/apps/demo/{list}");
    server.admin("GET", &path, "text/plain", b"").ok().text()
}

#[test]
fn timers_survive_sigkill_and_fire_once() {
    let home = Home::new();
    let store = format!("sqlite:{}", home.path("kvasm.db"));
    // Deliveries that a killed server was running are soon claimed again.
    let options = ["--store", &store, "--set", "limits.wall_time=1s"];
    let server = home.start(&options);
    server.create_app("demo");
    let grant = br#"{"grants":[{"kind":"timers"}]}"#;
    let granted = server.admin("POST", "/v1/apps/demo/grants", "application/json", grant);
    granted.ok();
    let path = "/v1/apps/demo/plugins";
    let deployed = server.admin("POST", path, "application/wasm", &plugin());
    deployed.ok();
    let mut running = server;
    for kill in 0..KILLS {
        for timer in 0..TIMERS {
            let name = format!("{kill}/{timer}");
            running.call("demo", "run", name.as_bytes()).ok();
        }
        running.kill();
        running = home.start(&options);
        assert_eq!(number(&running, "n"), (kill + 1) * TIMERS);
    }
    eventually("each timer has fired", || {
        (number(&running, "k") >= KILLS * TIMERS).then_some(())
    });
    eventually("none is left", || {
        let left = read(&running, "timers");
        left.contains("\"timers\":[]").then_some(())
    });
    assert_eq!(number(&running, "k"), KILLS * TIMERS);
    let letters = read(&running, "dead-letters");
    assert!(letters.contains("\"dead_letters\":[]"), "{letters}");
    running.stop();
}
