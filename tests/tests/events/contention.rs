//! Transactions under constant contention: none fails because of it.

use super::bank::bank;
use super::event_host::{EventHost, manifest, until};
use kvasm::model::{AppName, Key, Limits, Op};
use kvasm::store::{MemoryStore, PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm::{CallError, Host, InvokeError};
use kvasm_store_testing::conformance::rng::{Rng, seed};
use kvasm_tests::guests::{self, module_with};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Long enough for a slow machine.
pub const LONG: Duration = Duration::from_secs(120);
pub const CALLERS: u64 = 64;
const EACH: i64 = 1_000;

async fn patient(store: Arc<dyn Store>, keep: Box<dyn Any + Send + Sync>) -> EventHost {
    let builder = Host::builder().limits(Limits {
        cpu_time: LONG,
        wall_time: LONG,
        ..Limits::default()
    });
    EventHost::with_builder(builder, store, keep).await
}

pub async fn on_sqlite() -> EventHost {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = SqliteStore::open(options).await.unwrap();
    patient(Arc::new(store), Box::new(folder)).await
}

pub async fn on_memory(hosts: usize) -> Vec<EventHost> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut stages = Vec::new();
    for _ in 0..hosts {
        stages.push(patient(Arc::clone(&store), Box::new(())).await);
    }
    stages
}

pub async fn on_postgres() -> Vec<EventHost> {
    let url = tokio::task::spawn_blocking(kvasm_tests::postgres::fresh_database);
    let mut options = kvasm_tests::postgres::store_options(url.await.unwrap());
    options.acquire_timeout = LONG;
    options.statement_timeout = LONG;
    let mut stages = Vec::new();
    for _ in 0..2 {
        let store = PostgresStore::connect(options.clone()).await.unwrap();
        stages.push(patient(Arc::new(store), Box::new(())).await);
    }
    stages
}

/// The number of locked keys of transactions on a host.
fn locks(stage: &EventHost) -> i64 {
    let text = stage.host.metrics().encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("kvasm_transaction_locks "));
    line.unwrap().parse().unwrap()
}

async fn open_accounts(stage: &EventHost, accounts: usize) {
    stage.deploy(bank()).await;
    for account in 0..accounts {
        stage
            .set("b", &format!("{account:02}"), &EACH.to_string())
            .await;
    }
}

async fn check_accounts(stages: &[EventHost], accounts: usize) {
    let all = stages[0].all("b").await;
    let sum: i64 = all.iter().map(|(_, v)| v.parse::<i64>().unwrap()).sum();
    assert_eq!((all.len(), sum), (accounts, accounts as i64 * EACH));
    assert_no_locks(stages);
}

pub fn assert_no_locks(stages: &[EventHost]) {
    for stage in stages {
        assert_eq!(locks(stage), 0, "a lock was leaked");
    }
}

/// Calls "run" by 64 callers, spread over the hosts, `each` times. The input depends on the caller's
/// random numbers, its number, and that of the call.
pub async fn call_all(
    stages: Vec<EventHost>,
    each: u64,
    input: impl Fn(&mut Rng, u64, u64) -> String + Copy + Send + 'static,
) -> Arc<[EventHost]> {
    let seed = seed();
    let stages: Arc<[EventHost]> = stages.into();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let stages = Arc::clone(&stages);
        let mut rng = Rng::new(seed ^ (caller << 32));
        callers.spawn(async move {
            let stage = &stages[caller as usize % stages.len()];
            for at in 0..each {
                stage.call("run", input(&mut rng, caller, at)).await;
            }
        });
    }
    callers.join_all().await;
    stages
}

/// Runs transfers by 64 callers, spread over the hosts.
async fn transfer(stages: Vec<EventHost>, accounts: usize, transfers: u64) {
    open_accounts(&stages[0], accounts).await;
    let start = Instant::now();
    let stages = call_all(stages, transfers, move |rng, _, _| {
        let (from, to) = (rng.below(accounts), rng.below(accounts));
        format!("{from:02}{to:02}0")
    })
    .await;
    let rate = (CALLERS * transfers) as f64 / start.elapsed().as_secs_f64();
    println!("{accounts} accounts: {rate:.0} transfers a second");
    check_accounts(&stages, accounts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_do_not_fail_on_sqlite() {
    transfer(vec![on_sqlite().await], 2, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_do_not_fail_in_memory() {
    transfer(on_memory(1).await, 2, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_do_not_fail_on_two_hosts_in_memory() {
    transfer(on_memory(2).await, 2, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contended_transfers_do_not_fail_on_two_hosts_on_postgres() {
    transfer(on_postgres().await, 2, 5).await;
}

/// Like the bank, but each transfer also writes an entry into the ledger "l", whose key is the
/// rest of the input and whose value is the two accounts.
fn bank_with_ledger() -> Vec<u8> {
    let transfer = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let add = |account: u32, amount: i32| {
        format!(
            "(if (i64.lt_s (call $kv_increment (i32.const 0) (i32.const 1) (i32.const {account})
                (i32.const 2) (i64.const {amount}) (i32.const 200)) (i64.const 0))
                (then unreachable))"
        )
    };
    let body = format!(
        "(drop (call $input_read (i32.const 0) (i32.const 100) (i32.const 13)))
         {}
         (if (i32.ne (i32.load8_u (i32.const 104)) (i32.const 48)) (then unreachable))
         {}
         (if (i64.lt_s (call $kv_set (i32.const 1) (i32.const 1) (i32.const 105) (i32.const 8)
            (i32.const 100) (i32.const 4) (i32.const 1) (i32.const 0)) (i64.const 0))
            (then unreachable))
         (i32.const 0)",
        add(100, -1),
        add(102, 1)
    );
    module_with("bl", &transfer, &body)
}

/// The balances match the ledger: no transfer is lost or half done. All acknowledged transfers
/// are in the ledger.
async fn check_ledger(stage: &EventHost, accounts: usize, acknowledged: &[String]) {
    // A cancelled transfer may be committed between the two reads.
    until("the balances match the ledger", async || {
        agrees_with_ledger(stage, accounts, acknowledged).await
    })
    .await;
}

async fn agrees_with_ledger(stage: &EventHost, accounts: usize, acknowledged: &[String]) -> bool {
    let mut balances = vec![EACH; accounts];
    let ledger = stage.all("l").await;
    assert!(ledger.len() < 1_000, "the ledger fits in one page");
    for (_, transfer) in &ledger {
        let account = |at: &str| at.parse::<usize>().unwrap();
        balances[account(&transfer[..2])] -= 1;
        balances[account(&transfer[2..])] += 1;
    }
    let found = stage.all("b").await;
    let found: Vec<i64> = found.iter().map(|(_, v)| v.parse().unwrap()).collect();
    for id in acknowledged {
        let known = ledger.binary_search_by(|(key, _)| key.cmp(id));
        assert!(known.is_ok(), "{id} was acknowledged and is lost");
    }
    found == balances
}

/// Transfers on several hosts whose callers are cancelled midway: each transfer is done
/// completely or not at all, all other callers succeed, and no lock is leaked.
async fn cancelled_callers(stages: Vec<EventHost>, transfers: u64) {
    const ACCOUNTS: usize = 4;
    let seed = seed();
    open_accounts(&stages[0], ACCOUNTS).await;
    stages[0].deploy(bank_with_ledger()).await;
    let stages: Arc<[EventHost]> = stages.into();
    let left = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..24_u64 {
        let (stages, left) = (Arc::clone(&stages), Arc::clone(&left));
        let mut rng = Rng::new(seed ^ (caller << 32));
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for transfer in 0..transfers {
                let stage = &stages[rng.below(stages.len())];
                let id = format!("{:08}", caller * transfers + transfer);
                let (from, to) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS));
                let trap = u8::from(rng.chance(1, 8));
                let call = stage.try_call("run", format!("{from:02}{to:02}{trap}{id}"));
                let leaves = match rng.chance(1, 3) {
                    true => Duration::from_micros(rng.below(20_000) as u64),
                    false => LONG,
                };
                match tokio::time::timeout(leaves, call).await {
                    Err(_) => drop(left.fetch_add(1, Ordering::Relaxed)),
                    Ok(Ok(_)) if trap == 0 => acknowledged.push(id),
                    Ok(Ok(_)) => panic!("it should have trapped"),
                    Ok(Err(InvokeError::Call(failure))) => {
                        let error = failure.error;
                        assert!(
                            trap == 1 && matches!(error, CallError::Trap { .. }),
                            "{error}"
                        );
                    }
                    Ok(Err(error)) => panic!("{error}"),
                }
                // Plain writes of the same entries run concurrently; they add nothing.
                if rng.chance(1, 8) {
                    let app = stage.app().await;
                    let caller = kvasm::service::Caller::new(&app, None);
                    let key = kvasm::model::Key::parse(format!("{from:02}")).unwrap();
                    let kv = stage.host.kv();
                    let c = super::event_host::collection("b");
                    kv.increment(&caller, (c, key), 0).await.unwrap();
                }
            }
            acknowledged
        });
    }
    let acknowledged = callers.join_all().await.concat();
    println!("{} callers were cancelled", left.load(Ordering::Relaxed));
    assert!(left.load(Ordering::Relaxed) > 0, "no caller was cancelled");
    // A commit of a cancelled caller may still be in progress.
    until("no lock is left", async || {
        stages.iter().all(|stage| locks(stage) == 0)
    })
    .await;
    check_accounts(&stages, ACCOUNTS).await;
    check_ledger(&stages[0], ACCOUNTS, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_no_locks_or_partial_writes_in_memory() {
    cancelled_callers(on_memory(3).await, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_no_locks_or_partial_writes_on_sqlite() {
    cancelled_callers(vec![on_sqlite().await], 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_no_locks_or_partial_writes_on_postgres() {
    cancelled_callers(on_postgres().await, 12).await;
}

/// Two runs that repeatedly take two keys in opposite order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_lock_orders_do_not_deadlock() {
    let stage = Arc::new(on_memory(1).await.remove(0));
    open_accounts(&stage, 2).await;
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let stage = Arc::clone(&stage);
        callers.spawn(async move {
            let input = if caller % 2 == 0 { "00010" } else { "01000" };
            for _ in 0..25 {
                stage.call("run", input).await;
            }
        });
    }
    callers.join_all().await;
    let balances = [("00", "1000"), ("01", "1000")];
    let balances = balances.map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(stage.all("b").await, balances);
    assert_eq!(locks(&stage), 0);
}

/// Adds 1 to the entry named by the first two bytes of the input. If the third byte is not "0",
/// computes in between: briefly for "1", indefinitely for "2".
fn adder() -> Vec<u8> {
    let run = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let body = "
        (local $n i32)
        (drop (call $input_read (i32.const 0) (i32.const 100) (i32.const 3)))
        (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 2)))
        (if (i32.eq (i32.load8_u (i32.const 102)) (i32.const 49)) (then
            (loop $more
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 20000000))))))
        (if (i32.eq (i32.load8_u (i32.const 102)) (i32.const 50)) (then
            (loop $more (br $more))))
        (if (i64.lt_s (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 2)
                (i64.const 1) (i32.const 200)) (i64.const 0)) (then unreachable))
        (i32.const 0)";
    module_with("b", &run, body)
}

/// A long run concurrent with a stream of short ones over the same entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_transaction_is_not_starved_by_short_ones() {
    let stage = Arc::new(on_memory(1).await.remove(0));
    stage.deploy(adder()).await;
    let ended = Arc::new(AtomicBool::new(false));
    let mut stream = JoinSet::new();
    for _ in 0..8 {
        let (stage, ended) = (Arc::clone(&stage), Arc::clone(&ended));
        stream.spawn(async move {
            let mut count = 0;
            while !ended.load(Ordering::Relaxed) {
                stage.call("run", "000").await;
                count += 1;
            }
            count
        });
    }
    until("the stream flows", async || {
        stage.get("b", "00").await.is_some()
    })
    .await;
    for _ in 0..3 {
        stage.call("run", "001").await;
    }
    ended.store(true, Ordering::Relaxed);
    let short: u64 = stream.join_all().await.into_iter().sum();
    assert_eq!(stage.get("b", "00").await, Some((short + 3).to_string()));
}

/// Reads the entry "k", and loops indefinitely once another call has changed it.
fn hostile() -> Vec<u8> {
    let run = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_has\" (func $kv_has (param i32 i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"kv_increment\"
                (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
            (import \"test_v1\" \"meanwhile\" (func $meanwhile (result i32)))
            (memory (export \"memory\") 1) (data (i32.const 0) \"bk\") {run}
            (func (export \"run\") (result i32)
                (drop (call $kv_has (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)))
                (if (call $meanwhile) (then (loop (br 0))))
                (drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
                    (i64.const 1) (i32.const 200)))
                (i32.const 0)))"
    );
    wat::parse_str(text).unwrap()
}

/// A run that locks an entry and loops blocks only the writes of that entry, and only until its
/// deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looping_lock_holder_blocks_only_its_entry_until_its_deadline() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (of_guest, runs) = (Arc::clone(&store), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&runs);
    let limits = Limits {
        cpu_time: LONG,
        wall_time: Duration::from_secs(10),
        ..Limits::default()
    };
    let builder = guests::meanwhile(Host::builder().limits(limits), move |app| {
        let (store, runs) = (Arc::clone(&of_guest), Arc::clone(&counted));
        async move {
            let before = runs.fetch_add(1, Ordering::Relaxed);
            if before == 0 {
                let op = Op::Increment {
                    collection: super::event_host::collection("b"),
                    key: Key::parse("k").unwrap(),
                    delta: 10,
                };
                guests::write_directly(&store, app, vec![op]).await;
            }
            i32::from(before > 0)
        }
    });
    let stage = Arc::new(EventHost::with_builder(builder, store, Box::new(())).await);
    stage.deploy(hostile()).await;
    let call = tokio::spawn({
        let stage = Arc::clone(&stage);
        async move { stage.try_call("run", "").await }
    });
    until("it holds the entry and loops", async || {
        runs.load(Ordering::Relaxed) == 2
    })
    .await;
    assert_eq!(locks(&stage), 1);
    let set = tokio::spawn({
        let stage = Arc::clone(&stage);
        async move { stage.set("b", "k", "1").await }
    });
    // Everything else continues: other entries, reads of this one, and other apps.
    for n in 0..100 {
        stage.set("b", &format!("other-{n}"), "1").await;
    }
    assert_eq!(stage.get("b", "k").await.as_deref(), Some("10"));
    let quiet = AppName::parse("quiet").unwrap();
    let quiet = stage.host.create_app(quiet).await.unwrap();
    let caller = kvasm::service::Caller::new(&quiet, None);
    let (c, k) = (super::event_host::collection("b"), Key::parse("k").unwrap());
    let kv = stage.host.kv();
    kv.increment(&caller, (c, k), 1).await.unwrap();
    assert!(!call.is_finished() && !set.is_finished());
    let Err(InvokeError::Call(failure)) = call.await.unwrap() else {
        panic!("it ended");
    };
    let error = failure.error;
    assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    set.await.unwrap();
    assert_eq!(stage.get("b", "k").await.as_deref(), Some("1"));
    assert_eq!(locks(&stage), 0);
}
