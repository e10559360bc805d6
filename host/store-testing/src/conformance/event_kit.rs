//! Helpers for the properties of triggers and deliveries.

use super::kit::{Tenant, collection, key};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Changes, Claim, DeadLetter, DeadLetterFilter, Delivery, Digest, FailOutcome,
    FailedAttempt, LeaseToken, NewTrigger, Op, PluginVersion, Policy, ProbeDelay, Queue, Target,
    Trigger, TriggerDeletion, TriggerName, Verdict, Watch,
};

/// A trigger's name.
pub fn trigger_name(name: &str) -> TriggerName {
    TriggerName::parse(name).expect("a trigger's name")
}

/// Watches all changes of a collection.
pub fn watch(c: &str) -> Watch {
    Watch::Changes(Changes {
        collection: collection(c),
        prefix: String::new(),
        set: true,
        delete: true,
    })
}

/// A trigger that calls the function of the same name.
pub fn trigger(name: &str, watch: Watch) -> NewTrigger {
    NewTrigger {
        name: trigger_name(name),
        watch,
        target: Target::function(name),
        policy: Policy::default(),
    }
}

/// An increment.
pub fn increment(c: &str, k: &str, delta: i64) -> Op {
    Op::Increment {
        collection: collection(c),
        key: key(k),
        delta,
    }
}

impl Tenant {
    /// Creates a trigger.
    pub async fn try_set_trigger(&self, trigger: NewTrigger) -> Result<Trigger, StoreError> {
        let row = self.audit_row("test");
        self.store.set_trigger(self.id, trigger, row).await
    }

    /// Creates a trigger, which must not fail.
    pub async fn set_trigger(&self, trigger: NewTrigger) -> Trigger {
        self.try_set_trigger(trigger).await.expect("a trigger")
    }

    /// Watches all changes of a collection.
    pub async fn watch(&self, name: &str, c: &str) -> Trigger {
        self.set_trigger(trigger(name, watch(c))).await
    }

    /// Deletes a trigger, but not its deliveries. Returns whether it existed.
    pub async fn delete_trigger(&self, name: &str) -> bool {
        let (name, row) = (trigger_name(name), self.audit_row("test"));
        let deleted = self.store.delete_trigger(self.id, name, false, row).await;
        deleted.expect("a deletion") == TriggerDeletion::Deleted
    }

    /// Pauses or resumes a trigger. Returns whether it exists.
    pub async fn try_pause(&self, name: &str, paused: bool) -> Result<bool, StoreError> {
        let (name, row) = (trigger_name(name), self.audit_row("test"));
        self.store.pause_trigger(self.id, name, paused, row).await
    }

    /// Pauses or resumes an existing trigger.
    pub async fn pause(&self, name: &str, paused: bool) {
        assert!(self.try_pause(name, paused).await.expect("a pause"));
    }

    /// The app's triggers.
    pub async fn triggers(&self) -> Vec<Trigger> {
        self.store.triggers(self.id).await.expect("triggers")
    }

    /// All outstanding deliveries.
    pub async fn outstanding(&self) -> Vec<Delivery> {
        let all = self.store.deliveries(self.id, None, 100_000).await;
        all.expect("deliveries")
    }

    /// Claims up to `limit` deliveries of a trigger for one second.
    pub async fn claim(&self, name: &str, limit: u32) -> Vec<(Delivery, LeaseToken)> {
        let claim = Claim {
            queue: Queue {
                app: self.id,
                trigger: trigger_name(name),
            },
            now: self.now,
            until: self.now.plus_ms(1_000),
            lease: AppId::generate().uuid(),
            limit,
        };
        let claimed = self.store.claim(&claim).await.expect("claim");
        let receipt = |delivery: &Delivery| LeaseToken {
            app: self.id,
            place: delivery.place.clone(),
            lease: claim.lease,
        };
        let claimed = claimed.into_iter();
        claimed.map(|d| (d.clone(), receipt(&d))).collect()
    }

    /// Acknowledges a delivery together with writes.
    pub async fn acknowledge(&self, receipt: &LeaseToken, ops: Vec<Op>) -> Result<(), StoreError> {
        let acknowledge = Some(Box::new(receipt.clone()));
        let mut commit = self.batch(vec![], ops);
        commit.batch.acknowledge = acknowledge;
        self.store.commit(commit).await.map(drop)
    }

    /// Records a failed attempt. Returns whether the lease was held.
    pub async fn fail(&self, receipt: &LeaseToken, verdict: Verdict, deterministic: bool) -> bool {
        let returned = self.nack(receipt, verdict, deterministic).await;
        returned.is_held()
    }

    /// Records a failed attempt. Returns what becomes of the trigger.
    pub async fn nack(
        &self,
        receipt: &LeaseToken,
        verdict: Verdict,
        deterministic: bool,
    ) -> FailOutcome {
        let failed = FailedAttempt {
            receipt: receipt.clone(),
            now: self.now,
            verdict,
            deterministic,
            probe: ProbeDelay::default(),
            error: "it failed".to_owned(),
            trace: Some("at here".to_owned()),
            plugin: Some((PluginVersion(7), Digest([9; 32]))),
        };
        self.store.fail(&failed).await.expect("fail")
    }

    /// The app's dead letters, newest first.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let all = DeadLetterFilter::default();
        let letters = self.store.dead_letters(self.id, &all, None, 10_000).await;
        letters.expect("dead letters")
    }

    /// The app's queues with claimable deliveries.
    pub async fn due(&self) -> Vec<String> {
        let due = self.store.due(None, self.now, 10_000).await.expect("due");
        let own = due.into_iter().filter(|queue| queue.app == self.id);
        own.map(|queue| queue.trigger.to_string()).collect()
    }
}
