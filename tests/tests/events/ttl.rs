//! Times to live in transactions.

use super::event_host::{EventHost, collection};
use kvasm::model::{Batch, Collection, Entry, Expect, Key, Limits, Op, Timestamp, Value};
use kvasm::service::{Caller, Kv, List, Listing, ServiceError, Transaction};
use std::sync::Arc;

const HOUR: u64 = 3_600_000;

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

fn one() -> Value {
    Value::json("1", 10).unwrap()
}

fn write(name: &str, ttl_ms: Option<u64>) -> Op {
    Op::Set {
        collection: collection("c"),
        key: key(name),
        value: one(),
        expires_at: Timestamp::now().expiry(ttl_ms).unwrap(),
    }
}

/// A transaction on a store that the test can also access directly.
struct Run {
    kv: Arc<dyn Kv>,
    caller: Caller,
    c: Collection,
    transaction: Transaction,
    _stage: EventHost,
}

impl Run {
    async fn new() -> Run {
        let stage = EventHost::new().await;
        let app = stage.app().await;
        let kv = Arc::clone(stage.host.kv());
        Run {
            caller: Caller::new(&app, None),
            c: collection("c"),
            transaction: Transaction::new(Arc::clone(&kv), &Limits::default()),
            kv,
            _stage: stage,
        }
    }

    async fn set(&self, name: &str, ttl_ms: Option<u64>) -> Result<(), ServiceError> {
        let set = self
            .transaction
            .apply(&self.caller, write(name, ttl_ms), None);
        set.await.map(drop)
    }

    /// The entry as the run sees it.
    async fn get(&self, name: &str) -> Option<Entry> {
        let key = key(name);
        let get = self.transaction.get(&self.caller, &self.c, &key);
        get.await.unwrap()
    }

    async fn list(&self) -> Listing {
        let list = List {
            with_values: true,
            ..List::all(self.c.clone())
        };
        self.transaction.list(&self.caller, list).await.unwrap()
    }

    /// The entry in the store.
    async fn stored(&self, name: &str) -> Option<Entry> {
        let key = key(name);
        let get = self.kv.get(&self.caller, &self.c, &key);
        get.await.unwrap()
    }

    async fn increment(&self, name: &str) -> i64 {
        let (c, name) = (self.c.clone(), key(name));
        let add = self.transaction.increment(&self.caller, (c, name), 1);
        add.await.unwrap().1
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), ServiceError> {
        let batch = Batch::of(ops);
        self.transaction.commit(&self.caller, batch).await.map(drop)
    }

    /// Ends the run and commits its batch.
    async fn end(&self) {
        let batch = self.transaction.batch(None).unwrap().unwrap();
        self.kv.commit(&self.caller, batch).await.unwrap();
    }
}

fn expires_at(entry: Option<Entry>) -> Option<Timestamp> {
    entry.unwrap().expires_at
}

/// Waits until a time has passed.
fn pass(at: Timestamp) {
    while Timestamp::now() <= at {
        std::thread::yield_now();
    }
}

/// For every way to write an entry in a run.
#[tokio::test]
async fn ttl_starts_at_the_write_within_a_transaction() {
    let run = Run::new().await;
    let before = Timestamp::now();
    run.set("set", Some(HOUR)).await.unwrap();
    run.commit(vec![write("commit", Some(HOUR))]).await.unwrap();
    let many = vec![write("many", Some(HOUR))];
    run.commit(many).await.unwrap();
    run.set("none", None).await.unwrap();
    let after = Timestamp::now();
    for name in ["set", "commit", "many"] {
        let own = expires_at(run.get(name).await).unwrap();
        assert!(own >= before.plus_ms(HOUR) && own <= after.plus_ms(HOUR));
    }
    assert_eq!(expires_at(run.get("none").await), None);
    run.end().await;
    let committed = Timestamp::now();
    for name in ["set", "commit", "many"] {
        let at = expires_at(run.stored(name).await).expect(name);
        assert!(at >= before.plus_ms(HOUR), "{name}: {at:?}");
        assert!(at <= committed.plus_ms(HOUR), "{name}: {at:?}");
    }
    assert_eq!(expires_at(run.stored("none").await), None);
}

#[tokio::test]
async fn increment_keeps_the_ttl_and_set_clears_it() {
    let run = Run::new().await;
    for name in ["stored", "cleared"] {
        let set = run.kv.apply(&run.caller, write(name, Some(HOUR)), None);
        set.await.unwrap();
    }
    let stored = expires_at(run.stored("stored").await).unwrap();
    run.set("own", Some(HOUR)).await.unwrap();
    let own = expires_at(run.get("own").await).unwrap();
    for (name, at) in [("stored", stored), ("own", own)] {
        assert_eq!(run.increment(name).await, 2);
        assert_eq!(expires_at(run.get(name).await), Some(at), "{name}");
    }
    run.set("cleared", None).await.unwrap();
    run.end().await;
    for (name, at) in [("stored", stored), ("own", own)] {
        assert_eq!(expires_at(run.stored(name).await), Some(at), "{name}");
    }
    assert_eq!(expires_at(run.stored("cleared").await), None);
}

/// The entry is absent to every kind of read, to preconditions, and to increments.
#[tokio::test]
async fn expired_write_is_absent_within_its_transaction() {
    let run = Run::new().await;
    for name in ["a", "b", "d", "e", "l"] {
        // The entry in the store must not be seen instead.
        let set = run.kv.apply(&run.caller, write(name, Some(HOUR)), None);
        set.await.unwrap();
        run.set(name, Some(1)).await.unwrap();
    }
    run.set("k", Some(HOUR)).await.unwrap();
    pass(Timestamp::now().plus_ms(1));
    assert!(run.get("a").await.is_none());
    let (c, a) = (run.c.clone(), key("a"));
    assert!(!run.transaction.has(&run.caller, &c, &a).await.unwrap());
    let keys = [(c.clone(), a), (c.clone(), key("k"))];
    let many = run.transaction.get_many(&run.caller, &keys).await.unwrap();
    assert!(many[0].is_none() && many[1].is_some());
    let page = run.list().await.entries;
    let names: Vec<_> = page.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["k"]);
    let remove = |name| (run.c.clone(), key(name));
    let (c, b) = remove("b");
    let delete = run.transaction.delete(&run.caller, (c, b), None);
    assert!(!delete.await.unwrap());
    assert_eq!(run.increment("d").await, 1);
    assert_eq!(expires_at(run.get("d").await), None);
    let expect = Some(Expect::Absent);
    run.transaction
        .apply(&run.caller, write("e", None), expect)
        .await
        .unwrap();
    run.end().await;
    assert!(run.stored("b").await.is_none());
    assert_eq!(expires_at(run.stored("d").await), None);
    assert_eq!(expires_at(run.stored("e").await), None);
}

/// The old entry must not stay in its place.
#[tokio::test]
async fn write_expired_before_the_commit_replaces_the_entry() {
    let run = Run::new().await;
    run.kv
        .apply(&run.caller, write("k", None), None)
        .await
        .unwrap();
    run.set("k", Some(1)).await.unwrap();
    pass(Timestamp::now().plus_ms(1));
    run.end().await;
    assert!(run.stored("k").await.is_none());
}
