//! Transactions of concurrent callers are serializable.

use super::event_host::{EventHost, collection};
use kvasm::model::{Batch, Check, Collection, Entry, Expect, Key, Limits, Op, Timestamp, Value};
use kvasm::service::{Caller, Kv, ServiceError, Transaction};
use kvasm_store_testing::conformance::rng::{Rng, seed};
use kvasm_store_testing::linearizability::{self, LogicalClock, Step};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, yield_now};

const KEYS: usize = 3;

/// Times to live are multiples of this. It is far more than a test takes, so that the expiry of
/// an entry shows the multiple.
const TTL_UNIT_MS: i64 = 10 * 3_600_000;

/// The value of an entry, and its time to live.
type Held = (i64, Option<i64>);

/// An operation of a run on keys, which are numbered, and its result.
#[derive(Debug, Clone)]
enum TransactionOp {
    Read(usize, Option<Held>),
    ReadAll(Vec<Option<Held>>),
    Has(usize, bool),
    Set(usize, Held),
    /// Set if absent; whether it was.
    Claim(usize, Held, bool),
    Delete(usize, bool),
    Add(usize, i64, i64),
}

/// The operations of a run and their results; empty if the run failed with a conflict.
#[derive(Debug, Clone)]
struct Run(Vec<TransactionOp>);

impl Step for Run {
    type State = Vec<Option<Held>>;

    fn apply(&self, state: &Vec<Option<Held>>) -> Option<Vec<Option<Held>>> {
        let mut state = state.clone();
        for act in &self.0 {
            let fits = match act {
                TransactionOp::Read(k, found) => state[*k] == *found,
                TransactionOp::ReadAll(found) => state == *found,
                TransactionOp::Has(k, found) => state[*k].is_some() == *found,
                TransactionOp::Set(k, to) => {
                    state[*k] = Some(*to);
                    true
                }
                TransactionOp::Claim(k, to, won) => {
                    let fits = state[*k].is_none() == *won;
                    state[*k] = if *won { Some(*to) } else { state[*k] };
                    fits
                }
                TransactionOp::Delete(k, existed) => state[*k].take().is_some() == *existed,
                TransactionOp::Add(k, delta, sum) => {
                    let (before, life) = state[*k].unwrap_or((0, None));
                    state[*k] = Some((before + delta, life));
                    before + delta == *sum
                }
            };
            if !fits {
                return None;
            }
        }
        Some(state)
    }
}

fn key(k: usize) -> (Collection, Key) {
    (collection("c"), Key::parse(format!("k{k}")).unwrap())
}

fn number(entry: Option<Entry>) -> Option<i64> {
    let text = |entry: Entry| String::from_utf8(entry.value.as_bytes().to_vec()).unwrap();
    entry.map(|entry| text(entry).parse().unwrap())
}

fn json(number: i64) -> Value {
    Value::json(number.to_string(), 100).unwrap()
}

/// A concurrent caller, and the next number that it sets.
struct Client {
    kv: Arc<dyn Kv>,
    caller: Caller,
    rng: Rng,
    next: i64,
    began: Timestamp,
}

impl Client {
    fn held(&self, entry: Option<Entry>) -> Option<Held> {
        let life = |at: Timestamp| (at.0 - self.began.0 + TTL_UNIT_MS / 2) / TTL_UNIT_MS;
        let life = entry.as_ref()?.expires_at.map(life);
        Some((number(entry)?, life))
    }

    async fn act(&mut self, kv: &dyn Kv) -> TransactionOp {
        self.next += 1;
        let (to, k) = (self.next, self.rng.below(KEYS));
        let life = self.rng.chance(1, 2).then(|| 1 + self.rng.below(99) as i64);
        let ttl_ms = life.map(|life| (life * TTL_UNIT_MS) as u64);
        let (c, name) = key(k);
        let caller = &self.caller;
        match self.rng.below(10) {
            0..=2 => TransactionOp::Read(k, self.held(kv.get(caller, &c, &name).await.unwrap())),
            3 => {
                let keys: Vec<_> = (0..KEYS).map(key).collect();
                let found = kv.get_many(caller, &keys).await.unwrap();
                TransactionOp::ReadAll(found.into_iter().map(|entry| self.held(entry)).collect())
            }
            4 => TransactionOp::Has(k, kv.has(caller, &c, &name).await.unwrap()),
            5 => {
                let write = Op::Set {
                    collection: c,
                    key: name,
                    value: json(to),
                    expires_at: Timestamp::now().expiry(ttl_ms).unwrap(),
                };
                kv.apply(caller, write, None).await.unwrap();
                TransactionOp::Set(k, (to, life))
            }
            6 => {
                let check = Check {
                    collection: c.clone(),
                    key: name.clone(),
                    expect: Expect::Absent,
                };
                let set = Op::Set {
                    collection: c,
                    key: name,
                    value: json(to),
                    expires_at: Timestamp::now().expiry(ttl_ms).unwrap(),
                };
                let batch = Batch {
                    checks: vec![check],
                    ops: vec![set],
                    ..Batch::default()
                };
                match kv.commit(caller, batch).await {
                    Ok(_) => TransactionOp::Claim(k, (to, life), true),
                    Err(ServiceError::Conflict { .. }) => {
                        TransactionOp::Claim(k, (to, life), false)
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            7 | 8 => TransactionOp::Delete(k, kv.delete(caller, (c, name), None).await.unwrap()),
            _ => {
                let delta = self.rng.below(9) as i64 - 4;
                let sum = kv.increment(caller, (c, name), delta).await.unwrap().1;
                TransactionOp::Add(k, delta, sum)
            }
        }
    }

    /// Runs a transaction, or sometimes a single call.
    async fn run(&mut self) -> Run {
        let kv = Arc::clone(&self.kv);
        if self.rng.chance(1, 5) {
            return Run(vec![self.act(kv.as_ref()).await]);
        }
        let transaction = Transaction::new(Arc::clone(&kv), &Limits::default());
        let mut acts = Vec::new();
        for _ in 0..1 + self.rng.below(5) {
            acts.push(self.act(&transaction).await);
            yield_now().await;
        }
        let committed = match transaction.batch(None) {
            Ok(None) => return Run(acts),
            Ok(Some(batch)) => kv.commit(&self.caller, batch).await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => Run(acts),
            Err(ServiceError::Conflict { .. }) => Run(vec![]),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn transactions_are_serializable(stages: &[EventHost]) {
    const CLIENTS: usize = 5;
    const RUNS: usize = 60;
    let seed = seed();
    let mut rng = Rng::new(seed);
    let moments = Arc::new(LogicalClock::default());
    let together = Arc::new(Barrier::new(CLIENTS));
    let began = Timestamp::now();
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        let (moments, together) = (Arc::clone(&moments), Arc::clone(&together));
        let stage = &stages[number % stages.len()];
        let mut client = Client {
            kv: Arc::clone(stage.host.kv()),
            caller: Caller::new(&stage.app().await, None),
            rng: rng.split(),
            next: number as i64 * 1_000_000,
            began,
        };
        clients.spawn(async move {
            together.wait().await;
            let mut runs = Vec::new();
            for _ in 0..RUNS {
                runs.push(moments.call(number, client.run()).await);
            }
            runs
        });
    }
    let runs: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let lost = runs.iter().filter(|run| run.step.0.is_empty()).count();
    println!("{lost} of {} conflicted", runs.len());
    assert!(lost > 0, "no runs conflicted");
    assert!(lost < runs.len());
    linearizability::check(vec![None; KEYS], runs).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_serializable_in_memory() {
    transactions_are_serializable(&[EventHost::new().await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_serializable_on_sqlite() {
    transactions_are_serializable(&[EventHost::sqlite().await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_serializable_on_two_hosts() {
    transactions_are_serializable(&EventHost::two_on_postgres().await).await;
}

/// Reads a key twice in one transaction, with writes by other callers in between. Returns
/// whether the commit succeeded.
async fn read_twice(before: Option<i64>, between: &[Option<i64>]) -> bool {
    let stage = EventHost::new().await;
    let app = stage.app().await;
    let (kv, caller) = (stage.host.kv(), Caller::new(&app, None));
    let (c, k) = key(0);
    let write = async |to: Option<i64>| match to {
        Some(to) => stage.set(c.as_str(), k.as_str(), &to.to_string()).await,
        None => drop(
            kv.delete(&caller, (c.clone(), k.clone()), None)
                .await
                .unwrap(),
        ),
    };
    write(before).await;
    let transaction = Transaction::new(Arc::clone(kv), &Limits::default());
    let read = async || number(transaction.get(&caller, &c, &k).await.unwrap());
    assert_eq!(read().await, before);
    let (last, first) = between.split_last().unwrap();
    for to in first {
        write(*to).await;
    }
    let found = read().await;
    write(*last).await;
    println!("found {before:?}, then {found:?}");
    match transaction.batch(None) {
        Ok(None) => true,
        Ok(Some(batch)) => kv.commit(&caller, batch).await.is_ok(),
        Err(error) => !matches!(error, ServiceError::Conflict { .. }),
    }
}

#[tokio::test]
async fn inconsistent_rereads_of_a_key_conflict() {
    // The same value again has another version.
    assert!(!read_twice(Some(1), &[Some(2), Some(1)]).await);
    assert!(!read_twice(Some(1), &[None, Some(1)]).await);
}

/// Absence has no version, so the end of the run looks like its beginning.
#[tokio::test]
async fn entry_seen_appearing_then_deleted_still_conflicts() {
    assert!(!read_twice(None, &[Some(1), None]).await);
}

/// Reads of a failed batch are recorded, even if they were not the first ones.
#[tokio::test]
async fn entry_seen_appearing_by_a_failed_batch_conflicts() {
    let stage = EventHost::new().await;
    let (kv, caller) = (stage.host.kv(), Caller::new(&stage.app().await, None));
    let (c, k) = key(0);
    let transaction = Transaction::new(Arc::clone(kv), &Limits::default());
    let absent = || Batch {
        checks: vec![Check {
            collection: c.clone(),
            key: k.clone(),
            expect: Expect::Absent,
        }],
        ..Batch::default()
    };
    transaction.commit(&caller, absent()).await.unwrap();
    stage.set(c.as_str(), k.as_str(), "1").await;
    let failed = transaction.commit(&caller, absent()).await;
    assert!(
        matches!(failed, Err(ServiceError::Conflict { .. })),
        "{failed:?}"
    );
    let delete = kv.delete(&caller, (c.clone(), k.clone()), None);
    assert!(delete.await.unwrap());
    let lost = transaction.batch(None);
    assert!(
        matches!(lost, Err(ServiceError::Conflict { .. })),
        "{lost:?}"
    );
}

/// So are reads that such a batch was the first to make.
#[tokio::test]
async fn reads_of_a_failed_batch_are_validated() {
    let stage = EventHost::new().await;
    let (kv, caller) = (stage.host.kv(), Caller::new(&stage.app().await, None));
    let ((c, k), (_, own)) = (key(0), key(1));
    stage.set(c.as_str(), k.as_str(), "1").await;
    let transaction = Transaction::new(Arc::clone(kv), &Limits::default());
    let write = |key: &Key| Op::Set {
        collection: c.clone(),
        key: key.clone(),
        value: json(2),
        expires_at: None,
    };
    let check = Check {
        collection: c.clone(),
        key: k.clone(),
        expect: Expect::Absent,
    };
    let refused = Batch {
        checks: vec![check],
        ops: vec![write(&k)],
        ..Batch::default()
    };
    transaction.commit(&caller, refused).await.unwrap_err();
    let other = Batch {
        ops: vec![write(&own)],
        ..Batch::default()
    };
    transaction.commit(&caller, other).await.unwrap();
    stage.set(c.as_str(), k.as_str(), "3").await;
    let batch = transaction.batch(None).unwrap().unwrap();
    assert_eq!(batch.ops.len(), 1, "the failed batch added no operations");
    let lost = kv.commit(&caller, batch).await;
    assert!(
        matches!(lost, Err(ServiceError::Conflict { .. })),
        "{lost:?}"
    );
}
