//! Trace contexts: stored with deliveries, and kept until these are gone.

use super::Kit;
use super::event_kit::increment;
use super::kit::{Tenant, absent, at_version, bytes, cost, delete, json, set};
use kvasm_core::store::StoreError;
use kvasm_core::{
    Batch, Check, Commit, Committed, DeadLetterFilter, DeadReason, DeliveryFilter, Op, Timestamp,
    TraceContext, Verdict,
};

const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn plain() -> TraceContext {
    TraceContext::parse(PARENT, []).expect("a trace")
}

/// Almost the longest that there is.
fn with_state() -> TraceContext {
    let members: Vec<_> = (0..4)
        .map(|at| format!("{at}@a={}", "v".repeat(123)))
        .collect();
    let state = members.join(",");
    let context = TraceContext::parse(PARENT, [state.as_bytes()]).expect("a trace");
    assert_eq!(context.encoded_len(), 25 + 512 - 1);
    context
}

async fn try_commit(
    app: &Tenant,
    trace: Option<TraceContext>,
    checks: Vec<Check>,
    ops: Vec<Op>,
) -> Result<Committed, StoreError> {
    let commit = Commit {
        trace,
        ..app.batch(checks, ops)
    };
    app.store.commit(commit).await
}

/// Commits a batch in a trace, with the expected number of deliveries.
async fn commit(app: &Tenant, trace: &TraceContext, checks: Vec<Check>, ops: Vec<Op>, made: u64) {
    let committed = try_commit(app, Some(trace.clone()), checks, ops).await;
    assert_eq!(committed.expect("a commit").deliveries, made);
}

async fn watched(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app
}

/// Each way to write an entry, since stores have a statement for several of them.
pub async fn every_write_stores_its_trace_with_its_deliveries(kit: Kit) {
    let app = watched(&kit).await;
    let (first, second) = (plain(), with_state());
    let version = app.set("c", "v", json("1")).await;
    let gone = app.set("c", "g", json("1")).await;
    app.set("c", "d", json("1")).await;
    let untraced = app.outstanding().await;
    assert_eq!(untraced.len(), 3);
    assert!(
        untraced
            .iter()
            .all(|delivery| delivery.event.trace.is_none())
    );

    let one = |op| vec![op];
    commit(&app, &first, vec![], one(set("c", "a", json("1"))), 1).await;
    commit(&app, &second, vec![], one(set("c", "b", bytes("1"))), 1).await;
    let checks = vec![absent("c", "n")];
    commit(&app, &first, checks, one(set("c", "n", json("1"))), 1).await;
    let checks = vec![at_version("c", "v", version)];
    commit(&app, &second, checks, one(set("c", "v", json("2"))), 1).await;
    commit(&app, &first, vec![], one(increment("c", "i", 1)), 1).await;
    commit(&app, &second, vec![], one(delete("c", "d")), 1).await;
    let checks = vec![at_version("c", "g", gone)];
    commit(&app, &first, checks, one(delete("c", "g")), 1).await;
    // Of several entries; one of them is not watched.
    let ops = vec![
        set("c", "m", json("1")),
        set("x", "m", json("1")),
        delete("c", "a"),
    ];
    commit(&app, &second, vec![], ops, 2).await;
    let ops = vec![set("c", "o", json("1")), set("c", "p", json("1"))];
    commit(&app, &first, vec![absent("c", "q")], ops, 2).await;

    let traces = |trace: &TraceContext, keys: &[&str]| {
        let keys = keys
            .iter()
            .map(|key| ((*key).to_owned(), Some(trace.clone())));
        keys.collect::<Vec<_>>()
    };
    let mut expected = traces(&first, &["a", "n", "i", "g", "o", "p"]);
    expected.extend(traces(&second, &["b", "v", "d", "m", "a"]));
    let all = app.outstanding().await;
    let traced = all.iter().filter(|delivery| delivery.event.trace.is_some());
    let mut found: Vec<_> = traced
        .map(|delivery| {
            let (_, key) = delivery.event.kind.entry().expect("a change");
            (key.as_str().to_owned(), delivery.event.trace.clone())
        })
        .collect();
    let sorted = |all: &mut Vec<(String, Option<TraceContext>)>| {
        all.sort_by_key(|(key, trace)| (key.clone(), trace.as_ref().map(TraceContext::encode)));
    };
    sorted(&mut found);
    sorted(&mut expected);
    assert_eq!(found, expected);
}

/// A trace context counts against the quota with each delivery that has it, and only there.
pub async fn stored_traces_count_against_the_quota(kit: Kit) {
    let app = watched(&kit).await;
    app.watch("u", "c").await;
    let trace = with_state();
    let len = trace.encoded_len() as u64;
    commit(&app, &trace, vec![], vec![set("x", "k", json("1"))], 0).await;
    assert_eq!(app.quota_usage().await.bytes, cost(1, 0, 3), "not watched");
    commit(&app, &trace, vec![], vec![set("c", "k", json("1"))], 2).await;
    let used = cost(2, 2, 4 * 3) + 2 * len;
    assert_eq!(app.quota_usage().await.bytes, used);

    // One byte less than the next write needs.
    let next = used + cost(0, 2, 2 * 3) + 2 * len;
    app.set_quota(None, Some(next - 1)).await;
    let ops = || vec![set("c", "k", json("2"))];
    let refused = try_commit(&app, Some(trace.clone()), vec![], ops()).await;
    assert!(
        matches!(refused, Err(StoreError::Quota { .. })),
        "{refused:?}"
    );
    app.set_quota(None, Some(next)).await;
    commit(&app, &trace, vec![], ops(), 2).await;
    assert_eq!(app.quota_usage().await.bytes, next);

    let row = app.audit_row("test");
    let all = DeliveryFilter::default();
    let discarded = app.store.discard_deliveries(app.id, all, 10, row).await;
    assert_eq!(discarded.expect("a discard"), 4);
    assert_eq!(app.quota_usage().await.bytes, cost(2, 0, 2 * 3));
}

pub async fn trace_is_kept_through_retries_dead_letters_and_replays(kit: Kit) {
    let app = watched(&kit).await;
    let trace = with_state();
    commit(&app, &trace, vec![], vec![set("c", "k", json("1"))], 1).await;
    let used = app.quota_usage().await;
    let claim = async |at: &Tenant| {
        let [(delivery, lease)] = at.claim("t", 10).await.try_into().expect("one delivery");
        assert_eq!(delivery.event.trace.as_ref(), Some(&trace));
        lease
    };
    let lease = claim(&app).await;
    let soon = app.now.plus_ms(5);
    assert!(app.fail(&lease, Verdict::RetryAt(soon), false).await);
    let app = app.later(5);
    let lease = claim(&app).await;
    assert!(app.store.release(&lease, soon).await.expect("a release"));
    let lease = claim(&app).await;
    let give_up = Verdict::DeadLetter(DeadReason::Attempts);
    assert!(app.fail(&lease, give_up, false).await);

    let [letter] = app
        .dead_letters()
        .await
        .try_into()
        .expect("one dead letter");
    assert_eq!(letter.event.trace.as_ref(), Some(&trace));
    let texts = letter.error.len() + letter.trace.as_ref().map_or(0, String::len);
    assert_eq!(app.quota_usage().await.bytes, used.bytes + texts as u64);
    let (all, row) = (DeadLetterFilter::default(), app.audit_row("test"));
    let replayed = app.store.replay(app.id, all, 10, row).await;
    assert_eq!(replayed.expect("a replay"), 1);
    assert_eq!(app.quota_usage().await, used);
    // A replay makes it due now.
    let app = Tenant {
        now: Timestamp(app.now.0.max(Timestamp::now().0) + 1_000),
        ..app.later(0)
    };
    let lease = claim(&app).await;

    // What the handler changes has the handler's span.
    let span = trace.child();
    let commit = Commit {
        depth: 1,
        trace: Some(span.clone()),
        ..app.acknowledging(&lease, vec![], vec![set("c", "next", json("1"))])
    };
    let committed = app.store.commit(commit).await.expect("a commit");
    assert_eq!(committed.deliveries, 1);
    let [next] = app.outstanding().await.try_into().expect("one delivery");
    assert_eq!(next.event.trace, Some(span));
    let (kind, bytes) = (next.event.kind.bytes(), trace.encoded_len() as u64);
    assert_eq!(next.event.bytes(), kind + bytes);
    assert_eq!(
        app.quota_usage().await.bytes,
        cost(2, 0, 3 + 6) + kind + bytes
    );
}

/// A commit that creates no delivery stores nothing of its trace.
pub async fn trace_without_a_delivery_is_not_stored(kit: Kit) {
    let app = kit.app().await;
    for trace in [None, Some(plain()), Some(with_state())] {
        let before = app.quota_usage().await;
        let ops = vec![set("c", "k", json("1")), set("c", "l", json("1"))];
        let committed = try_commit(&app, trace.clone(), vec![], ops).await;
        assert_eq!(committed.expect("a commit").deliveries, 0);
        let batch = Batch::of(vec![delete("c", "k"), delete("c", "l")]);
        let commit = Commit {
            trace,
            ..Commit::new(app.id, app.now, batch)
        };
        app.store.commit(commit).await.expect("a commit");
        assert_eq!(app.quota_usage().await, before);
    }
}
