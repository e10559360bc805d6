//! Calls with idempotency keys: races, lost answers of the store, quotas, expiry.

use super::event_host::{EventHost, until};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{
    AnswerScope, AppLimits, IdempotencyKey, Limits, Principal, Quota, Scope, Timestamp,
};
use kvasm::service::ServiceError;
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store};
use kvasm::{Call, CallError, Host, InvokeError, Response};
use kvasm_store_testing::faulty::{Faults, FaultyStore, Operation, unavailable};
use kvasm_tests::guests;
use kvasm_tests::till::{FUNCTIONS, gated_till, sum, till};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

fn call(function: &str, key: &str) -> Call {
    Call::function(function).idempotency_key(IdempotencyKey::parse(key).unwrap())
}

async fn invoke(host: &EventHost, call: Call) -> Result<Response, InvokeError> {
    let app = host.app().await;
    host.host.invoke(&app, call).await
}

async fn effects(host: &EventHost) -> u64 {
    let entry = host.get("c", "n").await;
    entry.map_or(0, |n| n.parse().unwrap())
}

fn with_long_calls() -> kvasm::HostBuilder {
    Host::builder().limits(Limits {
        wall_time: Duration::from_secs(120),
        ..Limits::default()
    })
}

/// A host on a store that fails on command, with the plugin.
async fn faulty() -> (EventHost, Faults) {
    let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
    let host = EventHost::with_builder(with_long_calls(), store, Box::new(())).await;
    host.deploy(till(200)).await;
    (host, faults)
}

/// Makes 1,000 calls with the same key at once.
async fn repeat_at_once(store: Arc<dyn Store>) {
    let host = EventHost::with_builder(with_long_calls(), store, Box::new(())).await;
    host.deploy(till(200)).await;
    let host = Arc::new(host);
    for (n, function) in FUNCTIONS.into_iter().enumerate() {
        let mut calls = JoinSet::new();
        for _ in 0..1_000 {
            let host = Arc::clone(&host);
            calls.spawn(async move { invoke(&host, call(function, function)).await.unwrap() });
        }
        let answers = calls.join_all().await;
        let ran = answers.iter().filter(|answer| !answer.replayed).count();
        assert_eq!(ran, 1, "{function}");
        let n = n as u64 + 1;
        assert!(answers.iter().all(|answer| sum(&answer.output) == n));
        assert_eq!(effects(&host).await, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_repeats_at_once_run_once() {
    repeat_at_once(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_repeats_at_once_run_once_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    repeat_at_once(Arc::new(SqliteStore::open(options).await.unwrap())).await;
}

/// Two hosts run the same transaction at the same moment: the writes of one are kept, and both
/// give its answer. The answers also differ by host, as each counts.
async fn race(hosts: [EventHost; 2]) {
    const ROUNDS: u64 = 40;
    hosts[0].deploy(till(200)).await;
    let hosts = hosts.map(Arc::new);
    let mut preceded = 0;
    for round in 1..=ROUNDS {
        let mut calls = JoinSet::new();
        for n in 0..6 {
            let host = Arc::clone(&hosts[n % 2]);
            let call = call("run", &round.to_string());
            calls.spawn(async move { invoke(&host, call).await.unwrap() });
        }
        let answers = calls.join_all().await;
        let ran = answers.iter().filter(|answer| !answer.replayed).count();
        assert_eq!(ran, 1);
        let sums: BTreeSet<_> = answers.iter().map(|answer| sum(&answer.output)).collect();
        assert_eq!(sums, BTreeSet::from([round]));
        preceded += answers
            .iter()
            .filter(|answer| answer.replayed && answer.cost.runs > 0)
            .count();
    }
    assert_eq!(effects(&hosts[1]).await, ROUNDS);
    println!("{preceded} runs were preceded by that of the other host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_answers_a_call() {
    let store = Arc::new(MemoryStore::new());
    let one = EventHost::over(store.clone(), Box::new(())).await;
    race([one, EventHost::over(store, Box::new(())).await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_hosts_on_postgres_answers_a_call() {
    race(EventHost::two_on_postgres().await).await;
}

/// The other host's commit comes between the lookup and the commit of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preceded_run_is_rolled_back_and_answers_with_the_kept_answer() {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (store, faults) = FaultyStore::over(Arc::clone(&inner));
    let one = EventHost::with_builder(with_long_calls(), store, Box::new(())).await;
    one.deploy(till(200)).await;
    let two = EventHost::with_builder(with_long_calls(), inner, Box::new(())).await;
    let one = Arc::new(one);
    for (n, function) in FUNCTIONS.into_iter().enumerate() {
        faults.reset_counts();
        faults.on(Operation::Commit).hang();
        let first = tokio::spawn({
            let one = Arc::clone(&one);
            async move { invoke(&one, call(function, "k").input("x")).await }
        });
        faults
            .until("it commits", |faults| faults.calls(Operation::Commit) == 1)
            .await;
        let second = invoke(&two, call(function, "k").input("x")).await.unwrap();
        assert!(!second.replayed);
        faults.clear();
        let first = first.await.unwrap().unwrap();
        assert!(first.replayed && first.cost.runs == 1, "{function}");
        assert_eq!(first.output, second.output, "{function}");
        assert_ne!(first.request_id, second.request_id);
        // The function that is not a transaction has run twice, as the docs say.
        assert_eq!(effects(&two).await, [1, 3][n], "{function}");
        let (app, end) = (two.app().await.id, Timestamp(i64::MAX));
        assert_eq!(two.host.store().sweep(app, end, 10).await.unwrap(), 1);
    }
}

/// The host does not know whether the commit has taken effect; the repeat does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_after_an_unknown_outcome_has_one_effect() {
    let (host, faults) = faulty().await;
    let unknown = |result: Result<Response, InvokeError>| match result {
        Err(InvokeError::Call(failure)) => match failure.error {
            CallError::Commit(ServiceError::Unavailable(_)) => {}
            error => panic!("{error}"),
        },
        other => panic!("{other:?}"),
    };
    // It has.
    faults.on(Operation::Commit).times(1).lose_the_answer();
    unknown(invoke(&host, call("run", "a")).await);
    let repeat = invoke(&host, call("run", "a")).await.unwrap();
    assert!(repeat.replayed);
    assert_eq!((sum(&repeat.output), effects(&host).await), (1, 1));
    // It has not.
    faults.on(Operation::Commit).times(1).fail(unavailable);
    unknown(invoke(&host, call("run", "b")).await);
    let repeat = invoke(&host, call("run", "b")).await.unwrap();
    assert!(!repeat.replayed);
    assert_eq!((sum(&repeat.output), effects(&host).await), (2, 2));
}

/// Nothing runs if it is not known whether it has run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_does_not_run_if_the_answers_cannot_be_read() {
    let (host, faults) = faulty().await;
    faults.on(Operation::Answer).times(2).fail(unavailable);
    for function in FUNCTIONS {
        let failed = invoke(&host, call(function, "k")).await;
        let failed = matches!(
            failed,
            Err(InvokeError::Service(ServiceError::Unavailable(_)))
        );
        assert!(failed);
    }
    assert_eq!(effects(&host).await, 0);
}

/// The effects of a function that is not a transaction exist when its answer is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_that_cannot_be_kept_after_the_run_is_given_and_logged() {
    let (host, _) = faulty().await;
    let app = host.app().await;
    let quota = Quota {
        entries: None,
        bytes: Some(300),
    };
    let limits = AppLimits {
        quota,
        ..AppLimits::default()
    };
    let actor = host.host.operator("a test");
    let set = host
        .host
        .admin()
        .set_limits(&actor, &app, limits.into(), None);
    set.await.unwrap();
    for n in 1..=2 {
        let answer = invoke(&host, call("plain", "k").input("some"))
            .await
            .unwrap();
        assert!(!answer.replayed);
        assert_eq!(sum(&answer.output), n);
    }
    let lines = host.host.logs().read(app.id, 0, 10);
    let text = format!("{lines:?}");
    assert!(text.contains("was not kept"), "{text}");
    assert!(text.contains("quota of 300"), "{text}");
    // A transaction has no effect without its answer.
    for _ in 0..2 {
        let refused = invoke(&host, call("run", "t")).await;
        let Err(InvokeError::Call(failure)) = refused else {
            panic!("{refused:?}");
        };
        let is_quota = matches!(failure.error, CallError::Commit(ServiceError::Quota { .. }));
        assert!(is_quota, "{}", failure.error);
    }
    assert_eq!(effects(&host).await, 2);
    // Without a key it needs no space.
    assert_eq!(
        sum(&invoke(&host, Call::function("run")).await.unwrap().output),
        3
    );
}

/// Reads of the store: access costs the same in both cases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_reads_the_store_once_and_a_call_without_a_key_never() {
    let (host, faults) = faulty().await;
    let app = host.app().await;
    let run = async |call: Call| {
        faults.reset_counts();
        let entered = host.host.admit(app.clone(), call).await.unwrap();
        let answer = entered.call("").await.unwrap();
        let called = faults.called();
        let calls: u64 = called
            .iter()
            .map(|operation| faults.calls(*operation))
            .sum();
        (answer.replayed, called, calls)
    };
    let first = run(call("run", "k")).await;
    assert_eq!((first.0, first.2), (false, 3), "{:?}", first.1);
    assert_eq!(
        run(call("run", "k")).await,
        (true, vec![Operation::Answer], 1)
    );
    let (_, called, _) = run(Call::function("run")).await;
    assert!(!called.contains(&Operation::Answer), "{called:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_answer_is_swept_and_its_call_runs_again() {
    let builder = Host::builder().limits(Limits {
        idempotency: Duration::from_millis(1),
        ..Limits::default()
    });
    let store = Arc::new(MemoryStore::new());
    let mut host = EventHost::with_builder(builder, store, Box::new(())).await;
    host.deploy(till(200)).await;
    until("it has expired", async || {
        let answer = invoke(&host, call("run", "k")).await.unwrap();
        !answer.replayed && sum(&answer.output) == 2
    })
    .await;
    let app = host.app().await.id;
    host.start_with(DispatchOptions {
        upkeep: Duration::from_millis(5),
        ..DispatchOptions::default()
    });
    // What is left is the entry.
    let store = Arc::clone(host.host.store());
    until("the answers are swept", async || {
        let usage = store.usage(app).await.unwrap();
        (usage.entries, usage.bytes) == (1, kvasm::model::ENTRY_BYTES + 3)
    })
    .await;
    host.stop().await;
}

/// The embedding API, without a token: whose call it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedder_names_the_caller_of_a_key() {
    let host = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    host.deploy(till(200)).await;
    let app = host.app().await;
    let all = Principal::for_app(app.id, [Scope::ScriptWrite, Scope::ScriptRead]);
    let same = Principal::for_app(app.id, [Scope::ScriptRead, Scope::ScriptWrite]);
    let fewer = Principal::for_app(app.id, [Scope::ScriptWrite]);
    let named = |name: &str| call("run", "k").answer_scope(AnswerScope::Named(name.into()));
    for (made, n) in [
        (call("run", "k"), 1),
        (call("run", "k").principal(all), 2),
        (call("run", "k").principal(fewer), 3),
        (call("run", "k").principal(same), 2),
        (named("one"), 4),
        (named("two"), 5),
        (named("one"), 4),
        (call("run", "k"), 1),
    ] {
        assert_eq!(sum(&invoke(&host, made).await.unwrap().output), n);
    }
    // Also without admission.
    let plugin = host.host.load(&app, till(200)).await.unwrap();
    let answer = host.host.call(&plugin, call("run", "k")).await.unwrap();
    assert!(answer.replayed && sum(&answer.output) == 1);
    let other = host.host.call(&plugin, call("run", "k").input("x")).await;
    let error = other.unwrap_err().error;
    assert!(matches!(error, CallError::Commit(ServiceError::KeyReused)));
}

/// A principal that may read and write nothing can still repeat its call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_of_a_caller_without_scopes_is_kept() {
    let host = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
    host.deploy(till(200)).await;
    let app = host.app().await;
    let nobody = || call("run", "k").principal(Principal::for_app(app.id, []));
    let first = invoke(&host, nobody()).await.unwrap();
    let second = invoke(&host, nobody()).await.unwrap();
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.output, second.output);
    assert_eq!(effects(&host).await, 0);
}

/// A client that gives up and repeats is why there are keys: its HTTP/2 stream is reset, and the
/// future of its request dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_call_whose_caller_leaves_ends_and_keeps_its_answer() {
    let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::<AtomicU64>::default());
    let (in_guest, counted) = (Arc::clone(&gate), Arc::clone(&runs));
    let builder = guests::meanwhile(with_long_calls(), move |_| {
        let (gate, runs) = (Arc::clone(&in_guest), Arc::clone(&counted));
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
        }
    });
    let store = Arc::new(MemoryStore::new());
    let host = Arc::new(EventHost::with_builder(builder, store, Box::new(())).await);
    host.deploy(gated_till()).await;
    for (n, function) in FUNCTIONS.into_iter().enumerate() {
        let n = n as u64 + 1;
        let leaver = Arc::clone(&host);
        let left = tokio::spawn(async move { invoke(&leaver, call(function, function)).await });
        until("it runs", async || runs.load(Ordering::SeqCst) == n).await;
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        gate.add_permits(1);
        let repeat = invoke(&host, call(function, function)).await.unwrap();
        assert!(repeat.replayed, "{function}");
        assert_eq!((sum(&repeat.output), runs.load(Ordering::SeqCst)), (n, n));
    }
}
