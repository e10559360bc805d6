//! A server that is killed while it answers calls with idempotency keys: each repeated call has
//! one effect, and its answer is that of this effect.

use kvasm_store_testing::conformance::rng::{Rng, seed};
use kvasm_tests::program::process::{Home, Server, eventually};
use kvasm_tests::till::till;
use rusqlite::{Connection, OpenFlags};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn start(home: &Home, store: &str) -> Server {
    home.start(&["--store", &format!("sqlite:{store}")])
}

fn deployed(home: &Home, store: &str) -> Server {
    let server = start(home, store);
    server.create_app("shop");
    let path = "/v1/apps/shop/plugins";
    server
        .admin("POST", path, "application/wasm", &till(200))
        .ok();
    server
}

/// Calls the transaction with a key. Returns the sum and whether the answer was kept, or none if
/// there was no answer.
fn pay(server: &Server, key: &str) -> Option<(u64, bool)> {
    let headers = format!("Idempotency-Key: {key}\r\n");
    let answer = server.try_request("POST", "/v1/apps/shop/call/run", &headers, b"")?;
    let answer = answer.ok();
    let sum = kvasm_tests::till::sum(&answer.body);
    Some((sum, answer.header("idempotency-replayed").is_some()))
}

/// The number of effects.
fn effects(server: &Server) -> u64 {
    server.entry("shop", "n").ok().text().parse().unwrap()
}

/// The commit is seen by another process, and then the server is killed: whether or not it has sent
/// the answer, nobody has received it.
#[test]
fn kept_answer_survives_sigkill_between_the_commit_and_the_answer() {
    let home = Home::new();
    let store = home.path("kvasm.db");
    let mut server = deployed(&home, &store);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    for n in 1..=5u32 {
        let other = Connection::open_with_flags(&store, flags).unwrap();
        let answers = || -> i64 {
            let count = "SELECT count(*) FROM kept_answers";
            other.query_row(count, [], |row| row.get(0)).unwrap()
        };
        let mut line = server.open();
        let request = format!(
            "POST /v1/apps/shop/call/run HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\
             Idempotency-Key: {n}\r\n\r\n"
        );
        line.try_send(request.into_bytes());
        let start_of_wait = Instant::now();
        // Without a pause, to be there before the answer.
        while answers() < i64::from(n) {
            assert!(start_of_wait.elapsed() < PATIENCE, "no commit");
        }
        server.kill();
        drop(other);
        server = start(&home, &store);
        assert_eq!(pay(&server, &n.to_string()), Some((n.into(), true)));
        assert_eq!(effects(&server), u64::from(n));
    }
    server.stop();
}

/// At random moments, by clients that repeat each call until they have an answer.
#[test]
fn each_repeated_call_has_one_effect_across_kills() {
    let home = Home::new();
    let store = home.path("kvasm.db");
    let mut rng = Rng::new(seed());
    let mut server = deployed(&home, &store);
    let (mut sums, mut unanswered, mut replayed) = (Vec::new(), 0, 0);
    for kill in 0..KILLS {
        let (ends, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let pending = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let (server, ends, answered) = (&server, &ends, &answered);
                    scope.spawn(move || {
                        let mut sums = Vec::new();
                        for n in 0.. {
                            let key = format!("{kill}-{client}-{n}");
                            match pay(server, &key) {
                                Some((sum, _)) => {
                                    answered.fetch_add(1, Ordering::SeqCst);
                                    sums.push(sum);
                                }
                                None if ends.load(Ordering::SeqCst) => return (sums, key),
                                None => panic!("no answer from a server that runs"),
                            }
                        }
                        unreachable!()
                    })
                })
                .collect();
            // Some calls, and a part of others.
            let wanted = 1 + rng.below(40) as u64;
            eventually("answers", || {
                (answered.load(Ordering::SeqCst) >= wanted).then_some(())
            });
            std::thread::sleep(Duration::from_micros(rng.below(5_000) as u64));
            ends.store(true, Ordering::SeqCst);
            server.signal("KILL");
            let ended = clients.into_iter().map(|client| client.join().unwrap());
            ended.collect::<Vec<_>>()
        });
        server.kill();
        server = start(&home, &store);
        for (answered, key) in pending {
            sums.extend(answered);
            unanswered += 1;
            let (sum, was_kept) = pay(&server, &key).expect("an answer");
            replayed += u64::from(was_kept);
            sums.push(sum);
        }
        // Each effect has been answered to one key, and each key has one effect.
        sums.sort_unstable();
        let all: Vec<_> = (1..=sums.len() as u64).collect();
        assert_eq!(sums, all, "kill {kill}");
        assert_eq!(effects(&server), sums.len() as u64, "kill {kill}");
    }
    println!(
        "{} calls; of {unanswered} without an answer {replayed} were kept",
        sums.len()
    );
    server.stop();
}
