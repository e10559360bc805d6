//! Logs in the store: the same on all hosts, each line once, and no app harms another.

use kvasm::model::{App, AppName, Level, Timestamp};
use kvasm::service::{LogRecord, LogRetention, LogSource};
use kvasm::store::{MemoryStore, PostgresStore, SegmentKind, SegmentQuery, Store};
use kvasm_store_testing::faulty::{FaultyStore, Operation, unavailable};
use kvasm_tests::guests::module;
use kvasm_tests::postgres::{fresh_database, store_options};
use kvasm_tests::server::Server;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub const RETENTION: LogRetention = LogRetention {
    age: Duration::from_secs(3_600),
    bytes_of_app: 1024 * 1024,
};

const LINES: SegmentKind = SegmentKind::Lines;

/// Logs "hello".
const SAY: &str = "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0)";

fn line(function: &str, message: impl Into<String>) -> LogRecord {
    LogRecord {
        seq: 0,
        at: Timestamp::now(),
        level: Level::Info,
        source: LogSource::Plugin,
        function: function.into(),
        request_id: Uuid::now_v7(),
        trace_id: None,
        message: message.into(),
        discarded: false,
        cost: None,
    }
}

/// Pushes a line as a call of its own.
fn log(server: &Server, app: &App, message: impl Into<String>) {
    server.host.logs().push(app.id, [line("f", message)]);
}

async fn flush(server: &Server) {
    server.host.log_keeper().flush(&RETENTION).await.unwrap();
}

/// The newest lines, oldest first, and the cursor of older ones.
async fn page(server: &Server, app: &str, query: &str) -> (Vec<String>, Option<String>) {
    let path = format!("/v1/apps/{app}/logs?{query}");
    let answer = server.root.request("GET", &path).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{query}");
    let next = answer.headers().get("kvasm-next");
    let next = next.map(|next| next.to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    let message = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["message"].as_str().unwrap().to_owned()
    };
    (text.lines().map(message).collect(), next)
}

/// All lines, read by pages.
async fn all(server: &Server, app: &str, query: &str) -> Vec<String> {
    let (mut lines, mut cursor) = (Vec::new(), String::new());
    loop {
        let (page, next) = page(server, app, &format!("{query}{cursor}")).await;
        lines.splice(0..0, page);
        match next {
            Some(next) => cursor = format!("&before={next}"),
            None => return lines,
        }
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_and_new_lines_are_paged_without_gap_or_repetition() {
    let server = Server::start().await;
    let app = server.app("shop", true).await;
    server.host.log_keeper().attach();
    // More than memory keeps; some are written, some are not.
    for n in 0..5_000 {
        log(&server, &app, n.to_string());
        if n % 700 == 0 {
            flush(&server).await;
        }
    }
    assert_eq!(all(&server, "shop", "limit=1000").await, numbers(0..5_000));
    assert_eq!(all(&server, "shop", "limit=333").await, numbers(0..5_000));
    assert_eq!(
        page(&server, "shop", "limit=3").await.0,
        numbers(4_997..5_000)
    );
    flush(&server).await;
    assert_eq!(all(&server, "shop", "limit=1000").await, numbers(0..5_000));
    // A filter that few lines meet.
    assert_eq!(all(&server, "shop", "limit=1000&grep=4321").await, ["4321"]);
    assert_eq!(
        all(&server, "shop", "limit=2&function=f").await.len(),
        5_000
    );
    assert!(all(&server, "shop", "limit=2&function=g").await.is_empty());
    for bad in ["before=x", "before=1-2", "follow=true&before=1-2"] {
        let refused = server.root.get(&format!("/v1/apps/shop/logs?{bad}")).await;
        refused.expect_problem(400, "invalid-argument");
    }
}

/// While lines are being written, each read sees a contiguous part up to the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_stay_visible_while_they_are_written() {
    let server = Server::start().await;
    let app = server.app("shop", true).await;
    server.host.log_keeper().attach();
    let written = async {
        for n in 0..3_000 {
            log(&server, &app, n.to_string());
            if n % 50 == 0 {
                flush(&server).await;
                tokio::task::yield_now().await;
            }
        }
    };
    let read = async {
        let mut newest = 0;
        while newest < 2_999 {
            let (lines, _) = page(&server, "shop", "limit=200").await;
            let lines: Vec<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
            assert!(
                lines.windows(2).all(|two| two[0] + 1 == two[1]),
                "{lines:?}"
            );
            let last = lines.last().copied().unwrap_or(0);
            assert!(last >= newest);
            newest = last;
        }
    };
    tokio::join!(written, read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_postgres_show_the_same_log() {
    let url = tokio::task::spawn_blocking(fresh_database).await.unwrap();
    let open = async || {
        let options = store_options(url.clone());
        Arc::new(PostgresStore::connect(options).await.unwrap()) as Arc<dyn Store>
    };
    let one = Server::over(open().await, None).await;
    let two = Server::over(open().await, Some(one.root.secret().to_owned())).await;
    let app = one.app("shop", true).await;
    for server in [&one, &two] {
        server.host.log_keeper().attach();
    }
    // Followed on one host from now on.
    let following = one.root.request("GET", "/v1/apps/shop/logs?follow=true");
    let mut following = following.send().await.unwrap();
    for n in 0..400 {
        let server = [&one, &two][n % 2];
        log(server, &app, n.to_string());
        if n % 60 == 0 {
            flush(server).await;
        }
    }
    flush(&one).await;
    flush(&two).await;
    for server in [&one, &two] {
        assert_eq!(all(server, "shop", "limit=1000").await, numbers(0..400));
        assert_eq!(all(server, "shop", "limit=7").await, numbers(0..400));
    }
    let mut followed = Vec::new();
    let read = async {
        let mut text = String::new();
        while followed.len() < 400 {
            let part = following.chunk().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&part).unwrap());
            let messages = text.lines().filter(|line| line.ends_with('}'));
            followed = messages
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
                .map(|line| line["message"].as_str().unwrap().to_owned())
                .collect();
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), read);
    read.await.expect("all lines");
    let unique: HashSet<_> = followed.iter().collect();
    assert_eq!((followed.len(), unique.len()), (400, 400));
}

/// The size of the segments of a kind of an app.
pub async fn stored_bytes(store: &Arc<dyn Store>, app: &App, kind: SegmentKind) -> usize {
    let query = SegmentQuery {
        kind,
        from: 0,
        to: u64::MAX,
        before: None,
        not_of: None,
        limit: 10_000,
    };
    let segments = store.log_segments(app.id, &query).await.unwrap();
    segments.iter().map(|segment| segment.body.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flooding_app_is_sampled_and_leaves_its_neighbour_alone() {
    const COUNT: u32 = 500_000;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let server = Server::over(Arc::clone(&store), None).await;
    let loud = server.app("loud", true).await;
    let quiet = server.app("quiet", true).await;
    let keeper = server.host.log_keeper();
    keeper.attach();
    let start = Instant::now();
    for n in 0..COUNT {
        log(&server, &loud, "x".repeat(100));
        if n % 1_000 == 0 {
            log(&server, &quiet, (n / 1_000).to_string());
        }
        if n % 10_000 == 0 {
            keeper.round(&RETENTION).await.unwrap();
        }
    }
    let seconds = start.elapsed().as_secs() + 1;
    flush(&server).await;
    assert_eq!(all(&server, "quiet", "limit=1000").await, numbers(0..500));
    let kept = all(&server, "loud", "limit=10000").await;
    assert!(kept.iter().any(|line| line.contains("lines were left out")));
    // The burst, the rate and the sample.
    let most = 10_000 + 1_000 * seconds + u64::from(COUNT) / 100 + 100;
    assert!((kept.len() as u64) < most, "{} of {most}", kept.len());
    let bytes = stored_bytes(&store, &loud, LINES).await;
    assert!(bytes <= 1024 * 1024 * 17 / 16 + 128 * 1024, "{bytes}");
    let metrics = server.host.metrics().encode();
    assert!(metrics.contains("kvasm_app_log_lines_lost_total{name=\"flood\"}"));
    assert!(metrics.contains("kvasm_upkeep_total{name=\"log_segments\"}"));
}

/// The notes that a full queue drops are not lost: their numbers are in later ones.
#[tokio::test]
async fn stored_lines_and_those_counted_as_lost_are_all_lines() {
    let retention = LogRetention {
        bytes_of_app: 64 * 1024 * 1024,
        ..RETENTION
    };
    let server = Server::start().await;
    let app = server.app("shop", true).await;
    let keeper = server.host.log_keeper();
    keeper.attach();
    for call in 0..15 {
        let lines = (0..1_000).map(|_| line("f", "x".repeat(1_000)));
        server.host.logs().push(app.id, lines);
        // A round writes a part of the queue.
        if call % 5 == 4 {
            keeper.round(&retention).await.unwrap();
        }
    }
    keeper.flush(&retention).await.unwrap();
    let found = all(&server, "shop", "limit=10000").await;
    let (stored, notes): (Vec<_>, Vec<_>) = found.iter().partition(|line| line.starts_with('x'));
    let counts = notes.iter().map(|note| note.split(' ').next().unwrap());
    let lost: u64 = counts.map(|count| count.parse::<u64>().unwrap()).sum();
    assert_eq!(stored.len() as u64 + lost, 15_000, "{notes:?}");
    let full = "more than 4 MiB of this app's lines";
    assert!(notes.iter().any(|note| note.contains(full)), "{notes:?}");
    let metrics = server.host.metrics().encode();
    assert!(metrics.contains("kvasm_app_log_lines_lost_total{name=\"queue\"}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_takes_no_logs_delays_no_call() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (faulty, faults) = FaultyStore::over(Arc::clone(&store));
    let server = Server::over(faulty, None).await;
    server.deployed("shop", module("hello", SAY)).await;
    let app = server
        .host
        .app(&AppName::parse("shop").unwrap())
        .await
        .unwrap()
        .unwrap();
    let keeper = server.host.log_keeper();
    keeper.attach();
    faults.on(Operation::AppendLog).fail(unavailable);
    for _ in 0..20 {
        server.anonymous().call("shop", "run", "").await.expect(200);
    }
    // The lines are visible meanwhile, and are not lost if the store recovers soon.
    for _ in 0..3 {
        assert!(keeper.flush(&RETENTION).await.is_err());
    }
    assert_eq!(all(&server, "shop", "limit=100").await.len(), 20);
    faults.clear();
    flush(&server).await;
    assert_eq!(all(&server, "shop", "limit=100").await.len(), 20);
    assert!(stored_bytes(&store, &app, LINES).await > 0);
    // An append whose answer is lost is repeated, and stored once.
    faults.on(Operation::AppendLog).times(1).lose_the_answer();
    server.anonymous().call("shop", "run", "").await.expect(200);
    assert!(keeper.flush(&RETENTION).await.is_err());
    flush(&server).await;
    assert_eq!(all(&server, "shop", "limit=100").await.len(), 21);
    // After a few attempts the lines are dropped, and the log says so.
    faults.on(Operation::AppendLog).fail(unavailable);
    server.anonymous().call("shop", "run", "").await.expect(200);
    for _ in 0..8 {
        assert!(keeper.flush(&RETENTION).await.is_err());
    }
    faults.clear();
    flush(&server).await;
    let lines = all(&server, "shop", "limit=100").await;
    assert!(
        lines
            .iter()
            .any(|line| line.contains("1 lines were dropped")),
        "{lines:?}"
    );
    let metrics = server.host.metrics().encode();
    assert!(metrics.contains("kvasm_app_log_lines_lost_total{name=\"store\"} 1"));
    // A hanging append does not delay calls either.
    faults.on(Operation::AppendLog).hang();
    server.anonymous().call("shop", "run", "").await.expect(200);
    let hanging = keeper.flush(&RETENTION);
    let call = async {
        faults
            .until("the append hangs", |f| f.met(Operation::AppendLog) > 11)
            .await;
        server.anonymous().call("shop", "run", "").await.expect(200);
        faults.clear();
    };
    let (flushed, ()) = tokio::join!(hanging, call);
    flushed.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_a_deleted_app_is_removed() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let server = Server::over(Arc::clone(&store), None).await;
    let keeper = server.host.log_keeper();
    keeper.attach();
    let app = server.app("shop", true).await;
    log(&server, &app, "secret");
    flush(&server).await;
    server
        .root
        .send("DELETE", "/v1/apps/shop")
        .await
        .expect(204);
    assert_eq!(store.apps_with_log(LINES, None, 9).await.unwrap(), []);
    // A handler that ends later.
    log(&server, &app, "secret");
    flush(&server).await;
    let again = server.app("shop", true).await;
    log(&server, &again, "new");
    flush(&server).await;
    assert_eq!(all(&server, "shop", "limit=9").await, ["new"]);
    keeper.remove_deleted().await.unwrap();
    assert_eq!(
        store.apps_with_log(LINES, None, 9).await.unwrap(),
        [again.id]
    );
}
