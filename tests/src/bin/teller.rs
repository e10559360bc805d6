//! For the crash suite: writes changes to a store and dispatches them until it is killed.
//! Prints each change after the store has acknowledged it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use kvasm::dispatch::Dispatcher;
use kvasm::model::{Applied, Batch, Check, Collection, Expect, Op, Value};
use kvasm::service::{Caller, ServiceError};
use kvasm_tests::crash_app::{CrashApp, key, open, options};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The number of keys of each process.
const KEYS: u32 = 6;
/// The number of changes of a key that may wait for their handlers before the next is written.
const AHEAD_MAX: u64 = 5;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (store, letter) = (&arguments[1], &arguments[2]);
    let tally = Arc::new(CrashApp::over(open(store).await).await);
    let dispatcher = Dispatcher::new(tally.host.clone(), options());
    let mut tasks = JoinSet::new();
    tasks.spawn(dispatcher.run(std::future::pending()));
    for k in 0..KEYS {
        tasks.spawn(write(Arc::clone(&tally), format!("{letter}{k:02}")));
    }
    // Each task runs until the process is killed.
    panic!("a task ended: {:?}", tasks.join_next().await);
}

/// Writes 1, 2, 3 and so on under a key of two collections. No number is written twice,
/// although a commit of a killed process may still be in progress.
async fn write(tally: Arc<CrashApp>, name: String) {
    loop {
        let [(last, left), (_, right)] = tally.last(&name).await;
        let mut expected = [left, right].map(|v| v.map_or(Expect::Absent, Expect::Version));
        for number in last + 1.. {
            while tally.delivered(&name).await + AHEAD_MAX < number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            match commit(&tally, &name, number, expected).await {
                Ok(versions) => expected = versions,
                Err(ServiceError::Conflict { .. } | ServiceError::Unavailable(_)) => break,
                Err(error) => panic!("{error:?}"),
            }
            let mut out = std::io::stdout().lock();
            writeln!(out, "{name} {number}").unwrap();
            out.flush().unwrap();
        }
    }
}

async fn commit(
    tally: &CrashApp,
    name: &str,
    number: u64,
    expected: [Expect; 2],
) -> Result<[Expect; 2], ServiceError> {
    let halves = ["left", "right"].map(|half| Collection::parse(half).unwrap());
    let value = Value::bytes(format!("{name}{number:09}").into_bytes(), 100).unwrap();
    let check = |(collection, expect): (&Collection, Expect)| Check {
        collection: collection.clone(),
        key: key(name),
        expect,
    };
    let set = |collection: &Collection| Op::Set {
        collection: collection.clone(),
        key: key(name),
        value: value.clone(),
        expires_at: None,
    };
    let batch = Batch {
        checks: halves.iter().zip(expected).map(check).collect(),
        ops: halves.iter().map(set).collect(),
        ..Batch::default()
    };
    let caller = Caller::new(&tally.app, None);
    let applied = tally.host.kv().commit(&caller, batch).await?;
    let version = |at: usize| match applied[at] {
        Applied::Set(version) => Expect::Version(version),
        _ => panic!("a set returned {applied:?}"),
    };
    Ok([version(0), version(1)])
}
