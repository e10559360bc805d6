//! Many large bodies and answers at once: the memory that they may use in the server, and the
//! effect on a neighbour.

use super::kit;
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::program::raw_client::{RawConnection, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The server's memory limit. Without bounds it was 859 MiB and more.
const MEMORY_MAX: u64 = 400 * MIB;
/// The memory that it may keep afterwards.
const MEMORY_KEPT_MAX: u64 = 150 * MIB;
/// The share of 256 MiB that one app can hold, plus the answer or body of every other.
const HELD_MAX: u64 = 130 * MIB;

/// Calls of another app, one after another, until stopped.
struct Neighbour {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<u32>,
}

impl Neighbour {
    fn start(server: &Arc<Server>) -> Neighbour {
        let stop = Arc::new(AtomicBool::new(false));
        let (server, stopped) = (Arc::clone(server), Arc::clone(&stop));
        let calls = thread::spawn(move || {
            let mut calls = 0;
            while !stopped.load(Ordering::Relaxed) {
                let input = [b'n'; 30_000];
                let answer = server.call("neighbour", "echo", &input).ok();
                assert_eq!(answer.body, input);
                assert!(server.metric("kvasm_http_bytes_in_flight ") <= HELD_MAX);
                calls += 1;
            }
            calls
        });
        Neighbour { stop, calls }
    }

    /// Asserts that none of the calls failed.
    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.calls.join().unwrap() > 0);
    }
}

fn start(arguments: &[&str]) -> (Home, Arc<Server>) {
    let home = Home::new();
    let server = home.start(arguments);
    server.deploy_guest("demo");
    server.deploy_guest("neighbour");
    (home, Arc::new(server))
}

#[track_caller]
fn assert_memory(server: &Server) {
    let most = server.peak_memory();
    println!(
        "{} MiB at the most, now {}",
        most / MIB,
        server.memory() / MIB
    );
    assert!(most < MEMORY_MAX, "{} MiB", most / MIB);
    eventually("the memory is given back", || {
        (server.memory() < MEMORY_KEPT_MAX).then_some(())
    });
    assert_eq!(server.metric("kvasm_http_bytes_in_flight "), 0);
}

#[test]
fn one_hundred_stalled_uploads_use_limited_memory() {
    let _alone = kit::serial_blocking();
    let (_home, server) = start(&["--set", "server.body_timeout=1h"]);
    let neighbour = Neighbour::start(&server);
    let senders: Vec<_> = (0..100)
        .map(|_| {
            let mut line = server.open();
            thread::spawn(move || {
                let length = 8 * MIB;
                line.send(format!(
                    "POST /v1/apps/demo/call/hello HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
                ));
                let part = vec![b'x'; 64 * 1024];
                let parts = length / part.len() as u64;
                // All but the last byte, unless the server has no room for it.
                let sent = (1..parts).all(|_| line.try_send(&part));
                let _ = sent && line.try_send(&part[1..]);
                line
            })
        })
        .collect();
    let lines: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
    assert!(server.metric("kvasm_http_bytes_in_flight ") > 0);
    drop(lines);
    neighbour.end();
    eventually("the bodies are forgotten", || {
        (server.metric("kvasm_http_bytes_in_flight ") == 0).then_some(())
    });
    assert_memory(&server);
}

#[test]
fn many_slow_readers_use_limited_memory() {
    let _alone = kit::serial_blocking();
    // Connections that were rejected for lack of room are idle afterwards.
    let times = ["server.write_timeout=5s", "server.idle_timeout=5s"];
    let (_home, server) = start(&["--set", times[0], "--set", times[1]]);
    let neighbour = Neighbour::start(&server);
    let mut lines: Vec<_> = (0..150).map(|_| server.open()).collect();
    for line in &mut lines {
        line.send(request("POST", "/v1/apps/demo/call/big", "", b""));
    }
    // A few bytes now and then do not count as progress.
    eventually("the readers are cut off", || {
        for line in &mut lines {
            line.read_some(512);
        }
        thread::sleep(Duration::from_millis(500));
        (server.metric("kvasm_http_connections ") <= 3).then_some(())
    });
    neighbour.end();
    drop(lines);
    assert_memory(&server);
}

#[test]
fn failing_calls_with_8_mib_outputs_use_limited_memory() {
    let _alone = kit::serial_blocking();
    let (_home, server) = start(&[]);
    let neighbour = Neighbour::start(&server);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let server = Arc::clone(&server);
            thread::spawn(move || {
                for _ in 0..12 {
                    let answer = server.call("demo", "nothing", b"");
                    assert_eq!(answer.status, 500);
                    assert!(answer.body.len() < 16 * 1024, "{}", answer.body.len());
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    neighbour.end();
    assert_memory(&server);
}

#[test]
fn connections_per_client_address_are_limited() {
    let _alone = kit::serial_blocking();
    let home = Home::new();
    let server = home.start(&["--set", "server.connections_of_address=2"]);
    let mut lines: Vec<RawConnection> = (0..2).map(|_| server.open()).collect();
    for line in &mut lines {
        line.send(request("GET", "/healthz", "", b""));
        line.answer().unwrap().ok();
    }
    let mut third = server.open();
    assert_eq!(third.rest(), b"");
    lines.pop();
    eventually("a place for another", || {
        let mut line = server.open();
        line.try_send(request("GET", "/healthz", "", b""));
        line.answer()
    })
    .ok();
}
