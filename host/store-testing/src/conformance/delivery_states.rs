//! The states of a delivery: the store's transitions match the diagram in docs/events.md.

use super::Kit;
use super::deliveries::watched;
use super::kit::{NOW, Tenant, json};
use kvasm_core::{DeadLetterFilter, DeadReason, Delivery, DeliveryFilter, LeaseToken, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// From, to, and the step between them.
type Transition = (String, String, String);

/// The arrows of the diagram. It begins and ends at `[*]`.
fn documented_transitions() -> BTreeSet<Transition> {
    let docs = include_str!("../../../../docs/events.md");
    let (_, rest) = docs.split_once("stateDiagram-v2\n").expect("a diagram");
    let (diagram, _) = rest.split_once("```").expect("the end of the diagram");
    let arrow = |line: &str| {
        let (from, rest) = line.trim().split_once(" --> ")?;
        let (to, step) = rest.split_once(": ").unwrap_or((rest, ""));
        Some((from.to_owned(), to.to_owned(), step.to_owned()))
    };
    diagram.lines().filter_map(arrow).collect()
}

/// The deliveries of an app, and how each reached its state.
struct StateTracker {
    app: Tenant,
    states: BTreeMap<Uuid, String>,
    seen: BTreeSet<Transition>,
}

impl StateTracker {
    /// The state of each delivery, dead letters included.
    async fn now(&self) -> BTreeMap<Uuid, String> {
        let outstanding = self.app.outstanding().await;
        let state = |delivery: &Delivery| (delivery.event.id, delivery.state().as_str().to_owned());
        let letters = self.app.dead_letters().await;
        let dead = letters
            .iter()
            .map(|letter| (letter.event.id, "dead".to_owned()));
        outstanding.iter().map(state).chain(dead).collect()
    }

    /// Records the transitions of a step: of `event` by the step itself, and of others that it
    /// unblocked or parked. The state of deleted deliveries is `end` from then on.
    async fn step(&mut self, event: Uuid, step: &str, end: &str) {
        let now = self.now().await;
        let all: BTreeSet<_> = self.states.keys().chain(now.keys()).copied().collect();
        for id in all {
            let from = self
                .states
                .get(&id)
                .map_or("[*]", String::as_str)
                .to_owned();
            let to = now.get(&id).map_or(end, String::as_str).to_owned();
            let by = match (id == event, from.as_str(), to.as_str()) {
                (_, "[*]", _) => "",
                (true, ..) => step,
                (false, from, to) if from == to => continue,
                (false, "waiting", _) => "wake",
                (false, "pending", "waiting") => "park",
                (false, from, to) => panic!("{step} moved another delivery from {from} to {to}"),
            };
            self.seen.insert((from, to.clone(), by.to_owned()));
        }
        self.states = now;
    }

    /// Writes the key, which creates a delivery.
    async fn write(&mut self) -> Uuid {
        let before = self.now().await;
        self.app.set("c", "k", json("1")).await;
        let now = self.now().await;
        let new = now.keys().find(|id| !before.contains_key(id));
        let new = *new.expect("a delivery");
        self.step(new, "", "").await;
        new
    }

    async fn claim(&mut self, event: Uuid) -> LeaseToken {
        let claimed = self.app.claim("t", 10).await;
        let [(delivery, receipt)] = claimed.try_into().expect("one of the key");
        assert_eq!(delivery.event.id, event);
        self.step(event, "claim", "").await;
        receipt
    }

    async fn fail(&mut self, event: Uuid, receipt: &LeaseToken, verdict: Verdict, step: &str) {
        assert!(self.app.fail(receipt, verdict, false).await);
        self.step(event, step, "").await;
    }

    async fn discard(&mut self, event: Uuid) {
        let (app, row) = (&self.app, self.app.audit_row("test"));
        let which = DeliveryFilter {
            events: vec![event],
            ..DeliveryFilter::default()
        };
        let gone = app.store.discard_deliveries(app.id, which, 10, row).await;
        assert_eq!(gone.expect("a discard"), 1);
        self.step(event, "discard", "discarded").await;
    }

    async fn replay(&mut self, event: Uuid) {
        let (app, row) = (&self.app, self.app.audit_row("test"));
        let replayed = app
            .store
            .replay(app.id, DeadLetterFilter::default(), 10, row)
            .await;
        assert_eq!(replayed.expect("a replay"), 1);
        self.step(event, "replay", "").await;
    }
}

pub async fn documented_delivery_states_match_the_store(kit: Kit) {
    let mut life = StateTracker {
        app: watched(&kit).await,
        states: BTreeMap::new(),
        seen: BTreeSet::new(),
    };
    let first = life.write().await;
    let second = life.write().await;
    // A claim examines both, and leases the first.
    life.claim(first).await;
    // The lease expires.
    life.app = life.app.later(2_000);
    let claimed = life.app.claim("t", 10).await;
    let [(_, receipt)] = claimed.try_into().expect("the first again");
    let expired = ("leased", "pending", "expire");
    life.seen
        .insert((expired.0.into(), expired.1.into(), expired.2.into()));

    let now = life.app.now;
    life.fail(first, &receipt, Verdict::RetryAt(now), "retry")
        .await;
    let receipt = life.claim(first).await;
    assert!(
        life.app
            .store
            .release(&receipt, now)
            .await
            .expect("released")
    );
    life.step(first, "release", "").await;
    let receipt = life.claim(first).await;
    let give_up = Verdict::DeadLetter(DeadReason::Attempts);
    life.fail(first, &receipt, give_up, "give up").await;
    life.replay(first).await;
    // It was written first, but is replayed behind the second.
    let receipt = life.claim(second).await;
    life.app.acknowledge(&receipt, vec![]).await.expect("done");
    life.step(second, "acknowledge", "delivered").await;

    let receipt = life.claim(first).await;
    life.fail(first, &receipt, give_up, "give up").await;
    life.replay(first).await;
    let third = life.write().await;
    life.claim(first).await;
    // One delivery in each state is deleted.
    life.discard(third).await;
    life.discard(first).await;
    let fourth = life.write().await;
    life.discard(fourth).await;
    let fifth = life.write().await;
    let receipt = life.claim(fifth).await;
    life.fail(fifth, &receipt, give_up, "give up").await;
    let row = life.app.audit_row("test");
    let discarded = life
        .app
        .store
        .discard(life.app.id, DeadLetterFilter::default(), 10, row)
        .await;
    assert_eq!(discarded.expect("a discard"), 1);
    life.step(fifth, "discard", "discarded").await;
    assert_eq!(life.now().await, BTreeMap::new());

    for end in ["delivered", "discarded"] {
        life.seen
            .insert((end.to_owned(), "[*]".to_owned(), String::new()));
    }
    let drawn = documented_transitions();
    let not_drawn: Vec<_> = life.seen.difference(&drawn).collect();
    assert!(not_drawn.is_empty(), "not in the diagram: {not_drawn:?}");
    // A store notices that one delivery is behind another at the write, or only at a claim.
    let either = |(from, to, step): &&Transition| match step.as_str() {
        "park" => true,
        "replay" => to == "waiting" || to == "pending",
        _ => from == "[*]",
    };
    let missing = drawn.difference(&life.seen).filter(|arrow| !either(arrow));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "not observed in the store: {missing:?}");
    assert!(life.app.now > NOW);
}
