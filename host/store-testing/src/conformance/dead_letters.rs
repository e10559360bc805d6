//! Dead letters: kept whole, listed, replayed, discarded, pruned.

use super::Kit;
use super::event_kit::trigger_name;
use super::kit::{NOW, Tenant, absent, bytes, cost, json, set};
use super::loop_guard::LoopGuard;
use kvasm_core::store::StoreError;
use kvasm_core::{
    Applied, Batch, Commit, DeadLetter, DeadLetterFilter, DeadReason, Delivery, DeliveryTarget,
    Digest, LeaseToken, PluginVersion, Replay, Verdict,
};
use uuid::Uuid;

/// Creates a dead letter for each key, in this order.
async fn dead_letter(app: &Tenant, keys: &[&str], reason: DeadReason) -> Vec<DeadLetter> {
    for key in keys {
        app.set("c", key, json("1")).await;
        give_up(app, reason).await;
    }
    let mut letters = app.dead_letters().await;
    letters.reverse();
    letters
}

async fn give_up(app: &Tenant, reason: DeadReason) -> Delivery {
    let [(delivery, receipt)] = app.claim("t", 1).await.try_into().expect("one delivery");
    assert!(app.fail(&receipt, Verdict::DeadLetter(reason), false).await);
    delivery
}

async fn watched(kit: &Kit) -> Tenant {
    let app = kit.app().await;
    app.watch("t", "c").await;
    app
}

fn these(ids: &[Uuid]) -> DeadLetterFilter {
    DeadLetterFilter {
        ids: ids.to_vec(),
        ..DeadLetterFilter::default()
    }
}

async fn replay(app: &Tenant, letters: DeadLetterFilter, limit: u32) -> u64 {
    let row = app.audit_row("test");
    let done = app.store.replay(app.id, letters, limit, row).await;
    done.expect("replay")
}

async fn discard(app: &Tenant, letters: DeadLetterFilter, limit: u32) -> u64 {
    let row = app.audit_row("test");
    let done = app.store.discard(app.id, letters, limit, row).await;
    done.expect("discard")
}

pub async fn dead_letter_keeps_all_delivery_fields(kit: Kit) {
    let app = watched(&kit).await;
    app.set("c", "k", bytes("\0\u{1}x")).await;
    let later = app.later(5);
    let delivery = give_up(&later, DeadReason::Deterministic).await;
    let [letter] = later.dead_letters().await.try_into().expect("one");
    assert_eq!(letter.event, delivery.event);
    let expected = DeadLetter {
        id: letter.id,
        event: delivery.event,
        trigger: trigger_name("t"),
        target: DeliveryTarget::Function("t".to_owned()),
        reason: DeadReason::Deterministic,
        error: "it failed".to_owned(),
        trace: Some("at here".to_owned()),
        plugin: Some((PluginVersion(7), Digest([9; 32]))),
        attempts: 1,
        replays: 0,
        dead_at: NOW.plus_ms(5),
    };
    assert_eq!(letter, expected);
    assert_eq!(later.outstanding().await, []);
}

pub async fn dead_letters_are_paged_newest_first(kit: Kit) {
    let app = watched(&kit).await;
    let letters = dead_letter(&app, &["a", "b", "c", "d", "e"], DeadReason::Attempts).await;
    assert_eq!(letters.len(), 5);
    let mut found = Vec::new();
    let mut before = None;
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let all = DeadLetterFilter::default();
        let page = app
            .store
            .dead_letters(app.id, &all, before, 2)
            .await
            .expect("a page");
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        found.extend(page);
    }
    found.reverse();
    assert_eq!(found, letters);
    let other = kit.app().await;
    assert_eq!(other.dead_letters().await, []);
}

pub async fn dead_letters_can_be_filtered_by_each_field(kit: Kit) {
    let app = watched(&kit).await;
    dead_letter(&app, &["a"], DeadReason::Attempts).await;
    dead_letter(&app.later(10), &["b"], DeadReason::Depth).await;
    let letters = dead_letter(&app.later(20), &["c"], DeadReason::Depth).await;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    let all = DeadLetterFilter::default;
    for (choice, count) in [
        (all(), 3),
        (these(&ids[..1]), 1),
        (these(&[Uuid::nil(), ids[2], ids[0]]), 2),
        (
            DeadLetterFilter {
                reason: Some(DeadReason::Depth),
                ..all()
            },
            2,
        ),
        (
            DeadLetterFilter {
                reason: Some(DeadReason::Age),
                ..all()
            },
            0,
        ),
        (
            DeadLetterFilter {
                trigger: Some(trigger_name("t")),
                ..all()
            },
            3,
        ),
        (
            DeadLetterFilter {
                trigger: Some(trigger_name("u")),
                ..all()
            },
            0,
        ),
        (
            DeadLetterFilter {
                from: Some(NOW.plus_ms(10)),
                ..all()
            },
            2,
        ),
        (
            DeadLetterFilter {
                until: Some(NOW.plus_ms(10)),
                ..all()
            },
            1,
        ),
        (
            DeadLetterFilter {
                from: Some(NOW.plus_ms(1)),
                until: Some(NOW.plus_ms(20)),
                ..all()
            },
            1,
        ),
        (
            DeadLetterFilter {
                from: Some(NOW.plus_ms(1)),
                ..these(&ids[..2])
            },
            1,
        ),
    ] {
        let counted = app
            .store
            .count_dead_letters(app.id, &choice, 100)
            .await
            .expect("count");
        assert_eq!(counted, count, "{choice:?}");
        let found = app
            .store
            .dead_letters(app.id, &choice, None, 100)
            .await
            .expect("list");
        assert_eq!(found.len() as u64, count, "{choice:?}");
    }
    assert_eq!(
        app.store
            .count_dead_letters(app.id, &all(), 2)
            .await
            .expect("count"),
        2
    );
}

pub async fn replay_redelivers_the_same_event(kit: Kit) {
    let app = watched(&kit).await;
    let [letter] = dead_letter(&app, &["k"], DeadReason::Attempts)
        .await
        .try_into()
        .expect("one");
    let later = app.later(50);
    assert_eq!(replay(&later, these(&[letter.id]), 10).await, 1);
    assert_eq!(later.dead_letters().await, []);
    let [(delivery, receipt)] = later.claim("t", 1).await.try_into().expect("one");
    assert_eq!(delivery.event, letter.event);
    assert_eq!((delivery.attempts, delivery.replays), (1, 1));
    assert_eq!(delivery.queued_at, NOW.plus_ms(50));
    // A replay of a replay.
    assert!(
        later
            .fail(&receipt, Verdict::DeadLetter(DeadReason::Age), false)
            .await
    );
    let [again] = later.dead_letters().await.try_into().expect("one");
    assert_ne!(again.id, letter.id);
    assert_eq!((again.replays, &again.event), (1, &letter.event));
    assert_eq!(replay(&later, these(&[letter.id]), 10).await, 0);
    assert_eq!(replay(&later, DeadLetterFilter::default(), 10).await, 1);
    assert_eq!(later.claim("t", 1).await[0].0.replays, 2);
}

pub async fn replays_keep_their_order_per_key(kit: Kit) {
    let app = watched(&kit).await;
    for n in 0..3 {
        app.set("c", "k", json(&n.to_string())).await;
    }
    for _ in 0..2 {
        give_up_next(&app).await;
    }
    app.set("c", "k", json("3")).await;
    assert_eq!(replay(&app, DeadLetterFilter::default(), 10).await, 2);
    let mut told = Vec::new();
    let mut rounds = LoopGuard::new();
    while !app.due().await.is_empty() {
        rounds.next();
        for (delivery, receipt) in app.claim("t", 10).await {
            let kvasm_core::EventKind::Set { value, .. } = &delivery.event.kind else {
                panic!()
            };
            told.push(String::from_utf8_lossy(value.as_bytes()).into_owned());
            app.acknowledge(&receipt, vec![]).await.expect("done");
        }
    }
    // Replayed deliveries come after those that were already waiting, in their own order.
    assert_eq!(told, ["2", "3", "0", "1"]);
}

async fn give_up_next(app: &Tenant) {
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        if let Some((_, receipt)) = app.claim("t", 1).await.first() {
            assert!(
                app.fail(receipt, Verdict::DeadLetter(DeadReason::Attempts), false)
                    .await
            );
            return;
        }
    }
}

pub async fn replay_and_discard_take_the_oldest_up_to_the_limit(kit: Kit) {
    let app = watched(&kit).await;
    let letters = dead_letter(&app, &["a", "b", "c", "d"], DeadReason::Attempts).await;
    assert_eq!(replay(&app, DeadLetterFilter::default(), 1).await, 1);
    assert_eq!(app.claim("t", 9).await[0].0.event, letters[0].event);
    assert_eq!(discard(&app, DeadLetterFilter::default(), 2).await, 2);
    assert_eq!(app.dead_letters().await, letters[3..]);
    assert_eq!(
        discard(&app, these(&[letters[3].id, letters[0].id]), 9).await,
        1
    );
    assert_eq!(discard(&app, DeadLetterFilter::default(), 9).await, 0);
}

/// A batch with a write to `d` that replays dead letters.
fn replaying(app: &Tenant, letters: &[Uuid], is_required: bool) -> Commit {
    let mut commit = app.batch(vec![], vec![set("d", "k", json("1"))]);
    let replay = |letter: &Uuid| Replay {
        letter: *letter,
        is_required,
    };
    commit.batch.replays = letters.iter().map(replay).collect();
    commit
}

fn existed(applied: &[Applied]) -> Vec<bool> {
    let replayed = applied.iter().filter_map(|applied| match applied {
        Applied::Replayed { existed } => Some(*existed),
        _ => None,
    });
    replayed.collect()
}

pub async fn replays_of_a_batch_are_part_of_it(kit: Kit) {
    let (app, other) = (watched(&kit).await, watched(&kit).await);
    let letters = dead_letter(&app, &["a", "a", "b"], DeadReason::Attempts).await;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    let [theirs] = dead_letter(&other, &["a"], DeadReason::Age)
        .await
        .try_into()
        .expect("one");
    let used = app.quota_usage().await;

    // All or nothing, also for letters that are gone, repeated, or another app's.
    let mut failing = replaying(&app, &ids, false);
    failing.batch.checks = vec![absent("c", "a")];
    for refused in [
        failing,
        replaying(&app, &[ids[0], Uuid::nil()], true),
        replaying(&app, &[ids[0], ids[0]], true),
        replaying(&app, &[ids[0], theirs.id], true),
    ] {
        let done = app.store.commit(refused).await;
        assert!(matches!(done, Err(StoreError::Conflict { .. })), "{done:?}");
    }
    assert_eq!(app.dead_letters().await.len(), 3);
    assert_eq!(
        (app.outstanding().await, app.has("d", "k").await),
        (vec![], false)
    );
    assert_eq!(app.quota_usage().await, used);

    // In any order: they are delivered oldest first.
    let later = app.later(50);
    let some = [ids[1], theirs.id, Uuid::nil(), ids[0], ids[1]];
    let done = app.store.commit(replaying(&later, &some, false)).await;
    let done = done.expect("committed");
    assert_eq!(existed(&done.applied), [true, false, false, true, false]);
    assert_eq!((done.applied.len(), done.deliveries), (6, 2));
    assert_eq!(app.dead_letters().await, letters[2..]);
    assert_eq!(other.dead_letters().await, [theirs]);
    for (letter, more) in letters.iter().zip([&ids[..0], &ids[2..]]) {
        let [(delivery, receipt)] = later.claim("t", 9).await.try_into().expect("one");
        assert_eq!((&delivery.event, delivery.replays), (&letter.event, 1));
        assert_eq!(
            (delivery.attempts, delivery.queued_at),
            (1, NOW.plus_ms(50))
        );
        // With the acknowledgement of a delivery.
        let mut commit = replaying(&later, more, true);
        commit.batch.acknowledge = Some(Box::new(receipt));
        app.store.commit(commit).await.expect("committed");
    }
    let [(last, receipt)]: [(Delivery, LeaseToken); 1] =
        later.claim("t", 9).await.try_into().expect("one");
    assert_eq!(last.event, letters[2].event);
    later.acknowledge(&receipt, vec![]).await.expect("done");
    let entries = cost(3, 0, 9);
    assert_eq!(app.quota_usage().await.deliveries, 0);
    assert_eq!(app.quota_usage().await.bytes, entries, "nothing is left");
}

pub async fn replays_of_a_handler_use_up_its_budget(kit: Kit) {
    let app = watched(&kit).await;
    let letters = dead_letter(&app, &["a", "b", "e"], DeadReason::Attempts).await;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    let handled = |budget, letters: &[Uuid], sets: usize| {
        let keys = (0..sets).map(|n| set("c", &format!("new{n}"), json("1")));
        let commit = Commit {
            depth: 1,
            delivery_budget: budget,
            ..replaying(&app, letters, true)
        };
        let batch = Batch {
            ops: keys.collect(),
            ..commit.batch.clone()
        };
        app.store.commit(Commit { batch, ..commit })
    };
    for (budget, letters, sets) in [(2, &ids[..], 0), (3, &ids[..], 1), (0, &ids[..1], 0)] {
        match handled(budget, letters, sets).await {
            Err(StoreError::Deliveries { .. }) => {}
            other => panic!("{budget}: {other:?}"),
        }
    }
    assert_eq!(app.outstanding().await, []);
    handled(8, &ids[..2], 2).await.expect("committed");
    let all = app.outstanding().await;
    let budgets: Vec<_> = all
        .iter()
        .map(|delivery| (delivery.replays, delivery.event.followers))
        .filter(|(replays, _)| *replays == 0)
        .collect();
    assert_eq!(
        (all.len(), budgets),
        (4, vec![(0, 2); 2]),
        "of the six that are left"
    );
    // Replayed deliveries keep theirs.
    for delivery in all.iter().filter(|delivery| delivery.replays > 0) {
        assert!(letters.iter().any(|letter| letter.event == delivery.event));
    }
}

pub async fn dead_letters_count_toward_usage_until_removed(kit: Kit) {
    let app = watched(&kit).await;
    let letters = dead_letter(&app, &["k"], DeadReason::Attempts).await;
    let used = app.quota_usage().await.bytes;
    assert_eq!(used, cost(1, 0, 3) + letters[0].bytes());
    replay(&app, DeadLetterFilter::default(), 1).await;
    assert_eq!(app.usage().await, (1, 6), "the entry and the delivery");
    give_up(&app, DeadReason::Attempts).await;
    discard(&app, DeadLetterFilter::default(), 1).await;
    assert_eq!(app.usage().await, (1, 3));
}

pub async fn old_and_excess_dead_letters_are_pruned(kit: Kit) {
    let app = watched(&kit).await;
    dead_letter(&app, &["a", "b"], DeadReason::Attempts).await;
    let letters = dead_letter(&app.later(100), &["c", "d", "e"], DeadReason::Attempts).await;
    let prune = |before, keep, limit| app.store.prune(app.id, before, keep, limit);
    assert_eq!(prune(NOW, 10, 10).await.expect("none"), 0);
    assert_eq!(prune(NOW.plus_ms(1), 10, 1).await.expect("one"), 1);
    assert_eq!(prune(NOW.plus_ms(1), 10, 10).await.expect("one"), 1);
    assert_eq!(prune(NOW, 3, 10).await.expect("none"), 0);
    assert_eq!(prune(NOW, 1, 10).await.expect("two"), 2);
    assert_eq!(app.dead_letters().await, letters[4..]);
    let used = app.quota_usage().await.bytes;
    assert_eq!(used, cost(5, 0, 15) + letters[4].bytes());
    assert_eq!(prune(NOW, 0, 10).await.expect("the last"), 1);
}

pub async fn dead_letter_operations_on_a_deleted_app(kit: Kit) {
    let app = watched(&kit).await;
    dead_letter(&app, &["a"], DeadReason::Attempts).await;
    assert!(kit.delete_app(app.id).await.expect("deleted"));
    assert_eq!(app.dead_letters().await, []);
    let (all, row) = (DeadLetterFilter::default, || app.audit_row("test"));
    for refused in [
        app.store.replay(app.id, all(), 10, row()).await,
        app.store.discard(app.id, all(), 10, row()).await,
    ] {
        assert!(
            matches!(refused, Err(StoreError::AppNotFound)),
            "{refused:?}"
        );
    }
    assert_eq!(
        app.store
            .prune(app.id, NOW.plus_ms(9), 0, 9)
            .await
            .expect("none"),
        0
    );
}

pub async fn largest_payload_survives_dead_lettering_and_replay(kit: Kit) {
    let app = watched(&kit).await;
    let value = bytes(kit.rng().bytes(super::kit::VALUE_BYTES_MAX));
    app.set("c", "k", value.clone()).await;
    give_up(&app, DeadReason::Attempts).await;
    replay(&app, DeadLetterFilter::default(), 1).await;
    let [(delivery, _)] = app.claim("t", 1).await.try_into().expect("one");
    let kvasm_core::EventKind::Set { value: told, .. } = delivery.event.kind else {
        panic!()
    };
    assert_eq!(told, value);
}
