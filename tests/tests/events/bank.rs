//! Transfers between accounts in transactions, some of which trap.

use super::event_host::{EventHost, manifest};
use kvasm::InvokeError;
use kvasm_store_testing::conformance::rng::{Rng, seed};
use kvasm_tests::guests::module_with;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

const ACCOUNTS: usize = 100;
const EACH: usize = 1_000;
const CALLERS: u64 = 16;

/// Takes 1 from the account named by the first two bytes of the input, traps if the fifth byte
/// is not "0", and adds it to the account named by the third and fourth.
pub fn bank() -> Vec<u8> {
    let transfer = manifest(&[r#"{"kind":"function","name":"run","transaction":true}"#]);
    let body = "
        (drop (call $input_read (i32.const 0) (i32.const 100) (i32.const 5)))
        (if (i64.lt_s (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 2)
                (i64.const -1) (i32.const 200)) (i64.const 0)) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.const 104)) (i32.const 48)) (then unreachable))
        (if (i64.lt_s (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 102) (i32.const 2)
                (i64.const 1) (i32.const 200)) (i64.const 0)) (then unreachable))
        (i32.const 0)";
    module_with("b", &transfer, body)
}

async fn sum(stage: &EventHost) -> (usize, i64) {
    let accounts = stage.all("b").await;
    let sum = accounts
        .iter()
        .map(|(_, value)| value.parse::<i64>().unwrap())
        .sum();
    (accounts.len(), sum)
}

pub async fn transfers_preserve_the_total(stage: Arc<EventHost>, transfers: u64) {
    let seed = seed();
    stage.deploy(bank()).await;
    for account in 0..ACCOUNTS {
        stage
            .set("b", &format!("{account:02}"), &EACH.to_string())
            .await;
    }
    let total = (ACCOUNTS, (ACCOUNTS * EACH) as i64);
    let (done, lost, trapped) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new((done, lost, trapped));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (stage, counts) = (Arc::clone(&stage), Arc::clone(&counts));
        let mut rng = Rng::new(seed ^ (caller << 32));
        callers.spawn(async move {
            for _ in 0..transfers {
                // Often with few accounts, so that transfers conflict.
                let accounts = if rng.chance(1, 2) { 5 } else { ACCOUNTS };
                let (from, to) = (rng.below(accounts), rng.below(accounts));
                let trap = if rng.chance(1, 5) { 1 } else { 0 };
                let input = format!("{from:02}{to:02}{trap}");
                match stage.try_call("run", input).await {
                    Ok(_) => counts.0.fetch_add(1, Ordering::Relaxed),
                    Err(InvokeError::Call(failure)) => match failure.error {
                        kvasm::CallError::Conflict { .. } => {
                            counts.1.fetch_add(1, Ordering::Relaxed)
                        }
                        kvasm::CallError::Trap { .. } => counts.2.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    },
                    Err(other) => panic!("{other}"),
                };
            }
        });
    }
    let ended = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (stage, ended) = (Arc::clone(&stage), Arc::clone(&ended));
        async move {
            let mut reads = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(sum(&stage).await, total, "the total changed");
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        }
    });
    callers.join_all().await;
    ended.store(true, Ordering::Relaxed);
    let reads: u64 = reader.await.unwrap();
    assert_eq!(sum(&stage).await, total);
    let (done, lost, trapped) = &*counts;
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{} done, {} lost, {} trapped, {reads} reads",
        load(done),
        load(lost),
        load(trapped)
    );
    assert!(load(done) > 0 && load(trapped) > 0 && reads > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_preserve_the_total_on_sqlite() {
    transfers_preserve_the_total(Arc::new(EventHost::sqlite().await), 1_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_preserve_the_total_on_postgres() {
    let [stage, _] = EventHost::two_on_postgres().await;
    transfers_preserve_the_total(Arc::new(stage), 60).await;
}
