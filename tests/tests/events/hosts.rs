//! Several hosts and several apps.

use super::event_host::{EventHost, manifest, until};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{
    AppName, Batch, Claim, Commit, Key, Op, PluginVersion, Queue, Timestamp, Value,
};
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use kvasm_tests::guests::module_with;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Increments the entry "k" of "d" for each change in "c".
pub fn counter() -> Vec<u8> {
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let add = "(drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i64.const 1) (i32.const 16))) (i32.const 0)";
    module_with("dk", &watch, add)
}

/// Two hosts on one store, whose handlers count each change once.
async fn share([mut one, mut two]: [EventHost; 2]) {
    one.deploy(counter()).await;
    let options = DispatchOptions {
        poll: Duration::from_millis(5),
        ..DispatchOptions::default()
    };
    one.start_with(options.clone());
    two.start_with(options);
    for n in 0..200 {
        one.set("c", &(n % 20).to_string(), "1").await;
    }
    one.wait_until_idle().await;
    assert_eq!(one.get("d", "k").await.as_deref(), Some("200"));
    two.stop().await;
    one.set("c", "x", "1").await;
    one.wait_until_idle().await;
    assert_eq!(one.get("d", "k").await.as_deref(), Some("201"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_handle_each_change_once() {
    let store = Arc::new(MemoryStore::new());
    let one = EventHost::over(store.clone(), Box::new(())).await;
    share([one, EventHost::over(store, Box::new(())).await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_postgres_handle_each_change_once() {
    share(EventHost::two_on_postgres().await).await;
}

/// Writes one letter as the entry "k" of "d" for each change in "c".
fn letter(letter: char) -> Vec<u8> {
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let set = "(drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
        (i32.const 2) (i32.const 1) (i32.const 1) (i32.const 0))) (i32.const 0)";
    module_with(&format!("dk{letter}"), &watch, set)
}

/// The delivering host has the app in memory from the previous delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activation_on_one_host_applies_to_deliveries_on_another() {
    let [one, mut two] = EventHost::two_on_postgres().await;
    two.start_with(DispatchOptions {
        poll: Duration::from_millis(5),
        ..DispatchOptions::default()
    });
    for letters in ['1', '2'] {
        one.deploy(letter(letters)).await;
    }
    let actor = one.host.operator("a test");
    for round in 0..40 {
        let version = PluginVersion(1 + round % 2);
        let app = one.app().await;
        let activated = one.host.admin().activate_plugin(&actor, &app, version);
        activated.await.unwrap();
        one.set("c", "x", "1").await;
        two.wait_until_idle().await;
        let found = two.get("d", "k").await;
        assert_eq!(found, Some(version.0.to_string()), "{round}");
    }
    two.stop().await;
}

/// The backlog of one app does not delay the event of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_one_app_does_not_delay_another() {
    const BACKLOG: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(options).await.unwrap());
    let mut stage = EventHost::over(Arc::clone(&store), Box::new(folder)).await;
    stage.deploy(counter()).await;
    let mut quiet = EventHost::over(Arc::clone(&store), Box::new(())).await;
    quiet.name = AppName::parse("quiet").unwrap();
    stage.host.create_app(quiet.name.clone()).await.unwrap();
    quiet.deploy(counter()).await;
    let app = stage.app().await.id;
    let keys: Vec<_> = (0..BACKLOG).collect();
    for keys in keys.chunks(1_000) {
        let set = |key: &usize| Op::Set {
            collection: super::event_host::collection("c"),
            key: Key::parse(key.to_string()).unwrap(),
            value: Value::json("1", 10).unwrap(),
            expires_at: None,
        };
        let batch = Commit::new(
            app,
            Timestamp::now(),
            Batch::of(keys.iter().map(set).collect()),
        );
        store.commit(batch).await.unwrap();
    }
    stage.start();
    until("the backlog is worked on", async || {
        stage.get("d", "k").await.is_some()
    })
    .await;
    // Written on another host, so that the busy one gets no notification.
    quiet.set("c", "one", "1").await;
    quiet.wait_until_idle().await;
    let done = stage.get("d", "k").await.unwrap();
    let done: usize = done.parse().unwrap();
    assert!(
        done < BACKLOG,
        "the backlog was finished before the other app's event"
    );
    assert_eq!(quiet.get("d", "k").await.as_deref(), Some("1"));
    stage.stop().await;
}

/// An app that is at its handler limit is not claimed for repeatedly: the dispatcher idles, and
/// notices that it must stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatcher_idles_while_an_app_is_at_its_handler_limit() {
    let mut stage = EventHost::with_long_timeouts().await;
    let watch = manifest(&[r#"{"kind":"on_change","name":"run","collection":"c"}"#]);
    let endless = module_with("", &watch, "(loop (br 0)) unreachable");
    stage.deploy(endless).await;
    for key in ["k", "l"] {
        stage.set("c", key, "1").await;
    }
    stage.start_with(DispatchOptions {
        handlers_of_app: 1,
        drain: Duration::ZERO,
        ..DispatchOptions::default()
    });
    // Until one runs and the other waits for its slot.
    let leased = async || {
        let all = stage.outstanding().await;
        all.iter().filter(|delivery| delivery.leased).count()
    };
    until("a handler runs", async || leased().await > 0).await;
    // One claim could have taken both.
    assert_eq!(leased().await, 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    // A dispatcher that claims in a busy loop never notices the stop.
    let stopped = tokio::time::timeout(Duration::from_secs(30), stage.stop());
    stopped.await.expect("it stops");
}

/// Polling only finds the work of other hosts. A host is notified of its own.
fn without_polls() -> DispatchOptions {
    DispatchOptions {
        poll: Duration::from_secs(3_600),
        ..DispatchOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_notifies_the_dispatcher_of_its_host() {
    let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    stage.deploy(counter()).await;
    stage.start_with(without_polls());
    for n in 1..=10 {
        stage.set("c", "k", "1").await;
        stage.wait_until_idle().await;
        assert_eq!(stage.get("d", "k").await, Some(n.to_string()));
        // So that it does not find the next one in a poll that it started for another reason.
        // Without the sleep the test is weaker, but still valid.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.stop().await;
}

/// A claim that finds only deliveries blocked by their key parks them, and leaves those behind
/// them to the next claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_claim_is_followed_by_another() {
    const BEHIND: usize = 200;
    let [mut stage, other] = EventHost::two_on_postgres().await;
    stage.deploy(counter()).await;
    stage.set("c", "k", "1").await;
    // As a slow host would.
    let claim = Claim {
        queue: Queue {
            app: stage.app().await.id,
            trigger: stage.triggers().await[0].name.clone(),
        },
        now: Timestamp::now(),
        until: Timestamp::now().plus_ms(3_600_000),
        lease: Uuid::new_v4(),
        limit: 1,
    };
    let held = other.host.store().claim(&claim).await.unwrap();
    assert_eq!(held.len(), 1);
    // More than a claim examines.
    let set = |key: &str| Op::Set {
        collection: super::event_host::collection("c"),
        key: Key::parse(key).unwrap(),
        value: Value::json("1", 10).unwrap(),
        expires_at: None,
    };
    let batch = Commit::new(
        claim.queue.app,
        Timestamp::now(),
        Batch::of([vec![set("k"); BEHIND], vec![set("l")]].concat()),
    );
    other.host.store().commit(batch).await.unwrap();
    // Consumes the notification of the first write.
    stage.host.notifier().wait().await;
    stage.start_with(without_polls());
    until("the delivery behind them is handled", async || {
        stage.get("d", "k").await.is_some()
    })
    .await;
    let left = stage.outstanding().await;
    assert_eq!(left.len(), 1 + BEHIND);
    assert_eq!(left.iter().filter(|delivery| delivery.leased).count(), 1);
    stage.stop().await;
}
