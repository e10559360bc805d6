//! `kill -9` during a stream of writes: after a restart all acknowledged writes are there, no
//! batch is half written, and every change reaches its handler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "crash/calls.rs"]
mod calls;
#[path = "crash/events.rs"]
mod events;

use kvasm::model::{AppName, Collection, KeyRange, ListQuery, Timestamp, Version};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const KILLS: u64 = 20;

/// Runs the writer until it has acknowledged `acknowledgements` batches, kills it, and returns
/// every number that it printed.
fn write_until_killed(path: &Path, first: u64, acknowledgements: u64) -> BTreeSet<u64> {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_writer"))
        .arg(path)
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..acknowledgements {
        acknowledged.insert(lines.next().unwrap().unwrap().parse().unwrap());
    }
    // On Unix this is SIGKILL.
    writer.kill().unwrap();
    writer.wait().unwrap();
    // What it printed before it was killed; the last line may be truncated.
    acknowledged.extend(
        lines
            .map_while(Result::ok)
            .filter_map(|line| line.parse::<u64>().ok()),
    );
    acknowledged
}

/// Every number in a collection, with its version. Asserts that values are whole.
async fn numbers(store: &SqliteStore, collection: &str) -> BTreeMap<u64, Version> {
    let app = store
        .app(&AppName::parse("crash").unwrap())
        .await
        .unwrap()
        .unwrap();
    let query = ListQuery {
        collection: Collection::parse(collection).unwrap(),
        range: KeyRange::ALL,
        reverse: false,
        with_values: true,
        limit: u32::MAX,
        bytes_max: usize::MAX,
    };
    let page = store.list(app.id, &query, Timestamp::now()).await.unwrap();
    page.entries
        .into_iter()
        .map(|(key, entry)| {
            let (number, entry) = (key.as_str().parse().unwrap(), entry.unwrap());
            assert_eq!(entry.value.as_bytes(), format!("[{number}]").as_bytes());
            (number, entry.version)
        })
        .collect()
}

#[tokio::test]
async fn acknowledged_writes_survive_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crash.db");
    let seed = std::env::var("KVASM_TEST_SEED").map_or_else(
        |_| u64::from(std::process::id()) ^ Timestamp::now().0.unsigned_abs(),
        |seed| seed.parse().unwrap(),
    );
    println!("KVASM_TEST_SEED={seed}");
    let mut random = seed;
    let mut acknowledged = BTreeSet::new();
    for kill in 0..KILLS {
        // A step of Knuth's linear congruential generator is random enough here.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(kill | 1);
        let wanted = 1 + (random >> 33) % 400;
        let first = kill * 1_000_000;
        acknowledged.extend(write_until_killed(&path, first, wanted));

        let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let left = numbers(&store, "left").await;
        let right = numbers(&store, "right").await;
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|n| !left.contains_key(n))
            .collect();
        assert!(
            missing.is_empty(),
            "kill {kill}: acknowledged and lost: {missing:?}"
        );
        let (left_keys, right_keys): (Vec<_>, Vec<_>) =
            (left.keys().collect(), right.keys().collect());
        assert_eq!(left_keys, right_keys, "kill {kill}: half a batch");
        let versions: BTreeSet<_> = left.values().chain(right.values()).collect();
        assert_eq!(
            versions.len(),
            left.len() * 2,
            "kill {kill}: a version was reused"
        );
    }
    assert!(acknowledged.len() as u64 >= KILLS);
}
