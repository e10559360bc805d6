//! Runs with a single commit: transactional functions, and handlers of deliveries.

use super::idempotency::AnswerClaim;
use super::request_hash::is_final;
use super::{Host, Plugin};
use kvasm_core::{Batch, Cost, LeaseToken, Pieces};
use kvasm_runtime::{CallError, CallFailure, InvocationRequest, InvocationTarget, Response};
use kvasm_runtime::{DeliveryContext, GuestLog};
use kvasm_service::{
    Address, CallContext, FairPermit, KeyLocks, LockPolicy, LockSet, LockSetGuard, ServiceError,
    Services, SettingsSnapshot, Stage, Transaction,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of discarded runs whose logs are kept.
const DISCARDED_MAX: usize = 4;
/// Maximum number of keys that are locked for a rerun. A run touches at most 1,000; if each run
/// touches different ones, the oldest are forgotten.
const KEYS_MAX: usize = 4_000;

/// A transactional call: what to run until it commits or fails.
pub(super) struct Run<'p> {
    plugin: &'p Plugin,
    context: CallContext,
    settings: SettingsSnapshot,
    target: InvocationTarget,
    input: Pieces,
    delivery: Option<(Arc<DeliveryContext>, LeaseToken)>,
    claim: Option<&'p AnswerClaim>,
}

impl<'p> Run<'p> {
    pub(super) fn new(
        plugin: &'p Plugin,
        context: CallContext,
        settings: SettingsSnapshot,
        target: InvocationTarget,
        input: Pieces,
    ) -> Run<'p> {
        Run {
            plugin,
            context,
            settings,
            target,
            input,
            delivery: None,
            claim: None,
        }
    }

    /// Makes its commit keep the answer of a call with an idempotency key.
    pub(super) fn answering(self, claim: Option<&'p AnswerClaim>) -> Run<'p> {
        Run { claim, ..self }
    }

    /// Makes it the run of a delivery, which its commit acknowledges.
    pub(super) fn of_delivery(self, context: DeliveryContext, receipt: LeaseToken) -> Run<'p> {
        Run {
            delivery: Some((Arc::new(context), receipt)),
            ..self
        }
    }

    fn request(&self, services: Services) -> InvocationRequest {
        InvocationRequest {
            context: self.context.clone(),
            app_name: Arc::clone(&self.plugin.app_name),
            target: self.target.clone(),
            input: self.input.clone(),
            services,
            settings: self.settings.clone(),
            delivery: self
                .delivery
                .as_ref()
                .map(|(context, _)| Arc::clone(context)),
            transaction: None,
            gives_way: None,
            slot: None,
        }
    }

    /// A failure after the guest's last run, or without one.
    fn failure(&self, error: CallError) -> CallFailure {
        CallFailure::before_the_run(error, self.context.request_id)
    }

    /// The failure of a run whose guest has succeeded.
    fn uncommitted(&self, error: CallError, response: Response) -> CallFailure {
        CallFailure {
            cost: response.cost,
            log: response.log,
            ..self.failure(error)
        }
    }
}

/// The outcome of one run.
enum RunOutcome {
    Done(Response),
    /// It had no effect, and is not rerun.
    Failed(CallFailure),
    /// A conflict: others changed what it read, or hold what it needs.
    Lost {
        cost: Cost,
        log: GuestLog,
        touched: BTreeSet<Address>,
        kind: ConflictKind,
    },
}

enum ConflictKind {
    /// Others changed what it read.
    Conflict,
    /// As `Conflict`, and it had read writes that were not yet durable.
    FollowedCommit,
    /// It gave way to the holders of locks it needs.
    GaveWay,
}

/// The locks of a call.
struct Locks {
    locks: Arc<KeyLocks>,
    held: LockSetGuard,
    /// What earlier runs touched without holding the locks; locked before the next run.
    wants: BTreeSet<Address>,
    keys: BTreeSet<Address>,
    chains: bool,
}

impl Locks {
    fn new(locks: &Arc<KeyLocks>, context: &CallContext) -> Locks {
        Locks {
            locks: Arc::clone(locks),
            held: LockSet::open(locks, context.caller.app()),
            wants: BTreeSet::new(),
            keys: BTreeSet::new(),
            chains: true,
        }
    }

    /// Returns how the next run handles locks that others hold.
    fn way(&mut self, context: &CallContext) -> LockPolicy {
        let way = LockPolicy::new(
            Arc::clone(&self.locks),
            Arc::clone(self.held.lane()),
            std::mem::take(&mut self.wants),
            context.deadline.clone(),
        );
        match self.chains {
            true => way,
            false => way.not_pipelined(),
        }
    }

    /// Prepares the next run after a conflict. If the run held the locks of all that it touched,
    /// the next one keeps them. Otherwise the next one first locks all keys touched so far, in
    /// order.
    fn renew(&mut self, touched: BTreeSet<Address>, kind: ConflictKind) {
        // After such a conflict, the next runs wait until preceding commits are durable.
        self.chains &= !matches!(kind, ConflictKind::FollowedCommit);
        if !touched.is_empty() && self.held.lane().holds(&touched) {
            return;
        }
        if self.keys.len() + touched.len() > KEYS_MAX {
            self.keys.clear();
        }
        self.keys.extend(touched);
        self.wants = self.keys.clone();
        self.held = LockSet::open(&self.locks, self.held.lane().app());
    }
}

impl Host {
    /// Reruns until a run commits, fails on its own account, or the call times out. All runs and
    /// their commits share the time of one call, and one instance slot, which they keep: others
    /// may be waiting for their locks.
    pub(super) async fn run_transaction(&self, run: Run<'_>) -> Result<Response, CallFailure> {
        let deadline = &run.context.deadline;
        let place = self.0.runtime.acquire_slot(&run.context).await;
        let place = place.map_err(|error| run.failure(error))?;
        let mut discarded = Vec::new();
        let mut cost = Cost::default();
        let mut locks = Locks::new(&self.0.locks, &run.context);
        for runs in 1.. {
            let is_late = deadline.is_half_spent();
            let way = locks.way(&run.context);
            match self.run_once(&run, way, &place).await {
                RunOutcome::Done(response) => {
                    cost.add(&response.cost);
                    return Ok(Response {
                        cost,
                        discarded,
                        ..response
                    });
                }
                RunOutcome::Failed(failure) => {
                    cost.add(&failure.cost);
                    return Err(CallFailure {
                        cost,
                        error: lost_time(failure.error, runs, is_late),
                        discarded,
                        ..failure
                    });
                }
                RunOutcome::Lost {
                    cost: of_run,
                    log,
                    touched,
                    kind,
                } => {
                    self.0.metrics.transaction_rerun();
                    cost.add(&of_run);
                    if discarded.len() < DISCARDED_MAX {
                        discarded.push(log);
                    }
                    locks.renew(touched, kind);
                }
            }
            if deadline.has_passed() {
                let timeout = deadline.timeout(Stage::Other);
                let error = CallError::Conflict { runs, timeout };
                return Err(CallFailure {
                    cost,
                    discarded,
                    ..run.failure(error)
                });
            }
        }
        // Unreachable: the counter does not overflow before the deadline.
        Err(run.failure(deadline.timeout(Stage::Other).into()))
    }

    async fn run_once(
        &self,
        run: &Run<'_>,
        way: LockPolicy,
        place: &Arc<FairPermit>,
    ) -> RunOutcome {
        let caller = &run.context.caller;
        let gives_way = way.gives_way();
        let kv = Arc::clone(&self.0.services.kv);
        let event = run.delivery.as_ref().map(|(context, _)| context.event_id);
        let transaction = Transaction::new(kv, &self.0.limits).with_way(way);
        let transaction = Arc::new(transaction.of_delivery(event));
        let services = Services {
            kv: Arc::clone(&transaction) as Arc<dyn kvasm_service::Kv>,
            ..self.0.services.clone()
        };
        let compiled = &run.plugin.compiled;
        let request = InvocationRequest {
            gives_way: Some(gives_way),
            slot: Some(Arc::clone(place)),
            transaction: Some(Arc::clone(&transaction)),
            ..run.request(services)
        };
        match self.0.runtime.call(compiled, request).await {
            Ok(response) => self.commit(run, &transaction, response).await,
            Err(failure) if transaction.gave_way() && failure.error.may_be_due_to_giving_way() => {
                let CallFailure { cost, log, .. } = failure;
                lost(&transaction, cost, log, ConflictKind::GaveWay)
            }
            // A run that read an inconsistent state may have failed only because of that.
            Err(failure) if failure.error.may_be_due_to_stale_reads() => {
                let current = transaction.is_current(caller);
                match run.context.deadline.within(Stage::Commit, current).await {
                    Ok(Ok(false)) => in_conflict(&transaction, failure.cost, failure.log),
                    Ok(Ok(true) | Err(_)) | Err(_) => RunOutcome::Failed(failure),
                }
            }
            Err(failure) => RunOutcome::Failed(failure),
        }
    }

    async fn commit(
        &self,
        run: &Run<'_>,
        transaction: &Transaction,
        response: Response,
    ) -> RunOutcome {
        let receipt = run.delivery.as_ref().map(|(_, receipt)| receipt.clone());
        let CallContext {
            caller, deadline, ..
        } = &run.context;
        if transaction.gave_way() || !transaction.claim(receipt.is_some()).await {
            let Response { cost, log, .. } = response;
            return lost(transaction, cost, log, ConflictKind::GaveWay);
        }
        let claim = run
            .claim
            .filter(|_| is_final(&run.target, &response.output));
        let keep = claim.map(|claim| claim.answer(&response.output));
        let committed = match transaction.linked_batch(receipt) {
            Ok(None) if keep.is_none() => return RunOutcome::Done(response),
            Ok(found) => {
                let (batch, _settles) = found.unwrap_or_default();
                let batch = Batch {
                    keep: keep.map(Box::new),
                    ..batch
                };
                let committer = transaction.committer(caller);
                let commit = self.0.services.kv.commit(&committer, batch);
                match deadline.within(Stage::Commit, commit).await {
                    Ok(committed) => committed,
                    Err(timeout) => {
                        return RunOutcome::Failed(run.uncommitted(timeout.into(), response));
                    }
                }
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => RunOutcome::Done(response),
            Err(ServiceError::Conflict { .. }) => {
                in_conflict(transaction, response.cost, response.log)
            }
            Err(error) => RunOutcome::Failed(run.uncommitted(CallError::Commit(error), response)),
        }
    }
}

/// The outcome of a run that lost by a conflict.
fn in_conflict(transaction: &Transaction, cost: Cost, log: GuestLog) -> RunOutcome {
    let kind = match transaction.forget_followed() {
        true => ConflictKind::FollowedCommit,
        false => ConflictKind::Conflict,
    };
    lost(transaction, cost, log, kind)
}

fn lost(transaction: &Transaction, cost: Cost, log: GuestLog, kind: ConflictKind) -> RunOutcome {
    RunOutcome::Lost {
        cost,
        log,
        touched: transaction.touched(),
        kind,
    }
}

/// Turns a timeout into a conflict if the run waited for locks, or began late because earlier
/// runs lost: then it is not to blame for the timeout.
fn lost_time(error: CallError, runs: u32, is_late: bool) -> CallError {
    match error {
        CallError::Deadline { timeout, .. }
            if (runs > 1 && is_late) || timeout.longest() == Stage::Locks =>
        {
            CallError::Conflict { runs, timeout }
        }
        other => other,
    }
}
