//! Runs that are one commit: transactional functions, and handlers of deliveries.

use super::{Host, Plugin};
use kvasm_core::{Pieces, Receipt};
use kvasm_runtime::{CallError, CallFailure, Request, Response, Target};
use kvasm_runtime::{DeliveryContext, GuestLog};
use kvasm_service::{
    Address, CallContext, Held, KeyLocks, Lane, Place, ServiceError, Services, Stage, Transaction,
    Way,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of how many discarded runs the log is kept.
const DISCARDED_MAX: usize = 4;
/// Of so many keys the locks are taken for a run that lost: a run touches 1,000 at
/// the most. When one touches others each time, what it touched long ago is left out.
const KEYS_MAX: usize = 4_000;

/// What is run, until it has committed or failed.
pub(super) struct Run<'p> {
    plugin: &'p Plugin,
    context: CallContext,
    target: Target,
    input: Pieces,
    delivery: Option<(Arc<DeliveryContext>, Receipt)>,
}

impl<'p> Run<'p> {
    pub(super) fn new(
        plugin: &'p Plugin,
        context: CallContext,
        target: Target,
        input: Pieces,
    ) -> Run<'p> {
        Run {
            plugin,
            context,
            target,
            input,
            delivery: None,
        }
    }

    /// The same, for a delivery that its commit takes along.
    pub(super) fn of_delivery(self, context: DeliveryContext, receipt: Receipt) -> Run<'p> {
        Run {
            delivery: Some((Arc::new(context), receipt)),
            ..self
        }
    }

    fn request(&self, services: Services) -> Request {
        Request {
            context: self.context.clone(),
            app_name: Arc::clone(&self.plugin.app_name),
            target: self.target.clone(),
            input: self.input.clone(),
            services,
            delivery: self
                .delivery
                .as_ref()
                .map(|(context, _)| Arc::clone(context)),
            transaction: true,
            gives_way: None,
            place: None,
        }
    }

    fn failure(&self, error: CallError, log: GuestLog) -> CallFailure {
        CallFailure {
            error,
            request_id: self.context.request_id,
            log,
            discarded: Vec::new(),
        }
    }
}

/// How one run has ended.
enum Ended {
    Done(Response),
    /// Nothing is left of it, and it will not be run again.
    Failed(CallFailure),
    /// Others have changed what it had read, or hold what it needs.
    Lost {
        log: GuestLog,
        touched: BTreeSet<Address>,
        kind: Loss,
    },
}

enum Loss {
    /// Others have changed what it had read.
    Conflict,
    /// The same, and it had read what was not durable yet.
    Followed,
    /// It gave way to those who hold what it needs.
    GaveWay,
}

/// The locks of a call, and what they are for.
struct Locks {
    locks: Arc<KeyLocks>,
    held: Held,
    /// What those before the next run have touched, where it has not the locks.
    wants: BTreeSet<Address>,
    keys: BTreeSet<Address>,
    chains: bool,
}

impl Locks {
    fn new(locks: &Arc<KeyLocks>, context: &CallContext) -> Locks {
        Locks {
            locks: Arc::clone(locks),
            held: Lane::open(locks, context.caller.app()),
            wants: BTreeSet::new(),
            keys: BTreeSet::new(),
            chains: true,
        }
    }

    /// How the next run goes about what others hold.
    fn way(&mut self, context: &CallContext) -> Way {
        let way = Way::new(
            Arc::clone(&self.locks),
            Arc::clone(self.held.lane()),
            std::mem::take(&mut self.wants),
            context.deadline.clone(),
        );
        match self.chains {
            true => way,
            false => way.unchained(),
        }
    }

    /// After a run that lost. If it had the locks of all that it touched, the next has
    /// them. If not, that begins with those of all that was ever touched, in order.
    fn renew(&mut self, touched: BTreeSet<Address>, kind: Loss) {
        // After that it waits for what is before it to end.
        self.chains &= !matches!(kind, Loss::Followed);
        if !touched.is_empty() && self.held.lane().holds(&touched) {
            return;
        }
        if self.keys.len() + touched.len() > KEYS_MAX {
            self.keys.clear();
        }
        self.keys.extend(touched);
        self.wants = self.keys.clone();
        self.held = Lane::open(&self.locks, self.held.lane().app());
    }
}

impl Host {
    /// Runs until a run commits, or fails by itself, or the call times out. All runs and
    /// their commits together have the time of one call, and one instance at a time,
    /// whose place they keep: others may wait for their locks.
    pub(super) async fn run_transaction(&self, run: Run<'_>) -> Result<Response, CallFailure> {
        let deadline = &run.context.deadline;
        let place = self.0.runtime.place(&run.context).await;
        let place = place.map_err(|error| run.failure(error, GuestLog::new(0, 0)))?;
        let mut discarded = Vec::new();
        let mut locks = Locks::new(&self.0.locks, &run.context);
        for runs in 1.. {
            let is_late = deadline.is_half_spent();
            let way = locks.way(&run.context);
            match self.run_once(&run, way, &place).await {
                Ended::Done(response) => {
                    return Ok(Response {
                        discarded,
                        ..response
                    });
                }
                Ended::Failed(failure) => {
                    return Err(CallFailure {
                        error: lost_time(failure.error, runs, is_late),
                        discarded,
                        ..failure
                    });
                }
                Ended::Lost { log, touched, kind } => {
                    self.0.metrics.transaction_rerun();
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
                    discarded,
                    ..run.failure(error, GuestLog::new(0, 0))
                });
            }
        }
        // Nobody counts so far before the deadline.
        Err(run.failure(deadline.timeout(Stage::Other).into(), GuestLog::new(0, 0)))
    }

    async fn run_once(&self, run: &Run<'_>, way: Way, place: &Arc<Place>) -> Ended {
        let caller = &run.context.caller;
        let gives_way = way.gives_way();
        let kv = Arc::clone(&self.0.services.kv);
        let transaction = Arc::new(Transaction::new(kv, &self.0.limits).with_way(way));
        let services = Services {
            kv: Arc::clone(&transaction) as Arc<dyn kvasm_service::Kv>,
            ..self.0.services.clone()
        };
        let compiled = &run.plugin.compiled;
        let request = Request {
            gives_way: Some(gives_way),
            place: Some(Arc::clone(place)),
            ..run.request(services)
        };
        match self.0.runtime.call(compiled, request).await {
            Ok(response) => self.commit(run, &transaction, response).await,
            Err(failure) if transaction.gave_way() && failure.error.may_come_of_giving_way() => {
                lost(&transaction, failure.log, Loss::GaveWay)
            }
            // Somebody who has seen two moments at once may fail for no other reason.
            Err(failure) if failure.error.may_come_of_stale_reads() => {
                let current = transaction.is_current(caller);
                match run.context.deadline.within(Stage::Commit, current).await {
                    Ok(Ok(false)) => in_conflict(&transaction, failure.log),
                    Ok(Ok(true) | Err(_)) | Err(_) => Ended::Failed(failure),
                }
            }
            Err(failure) => Ended::Failed(failure),
        }
    }

    async fn commit(&self, run: &Run<'_>, transaction: &Transaction, response: Response) -> Ended {
        let receipt = run.delivery.as_ref().map(|(_, receipt)| receipt.clone());
        let CallContext {
            caller, deadline, ..
        } = &run.context;
        if transaction.gave_way() || !transaction.claim(receipt.is_some()) {
            return lost(transaction, response.log, Loss::GaveWay);
        }
        let committed = match transaction.linked_batch(receipt) {
            Ok(None) => return Ended::Done(response),
            Ok(Some((batch, settles))) => {
                let _settles = settles;
                let committer = transaction.committer(caller);
                let commit = self.0.services.kv.commit(&committer, batch);
                match deadline.within(Stage::Commit, commit).await {
                    Ok(committed) => committed,
                    Err(timeout) => {
                        return Ended::Failed(run.failure(timeout.into(), response.log));
                    }
                }
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => Ended::Done(response),
            Err(ServiceError::Conflict { .. }) => in_conflict(transaction, response.log),
            Err(error) => Ended::Failed(run.failure(CallError::Commit(error), response.log)),
        }
    }
}

/// That a run has lost by a conflict.
fn in_conflict(transaction: &Transaction, log: GuestLog) -> Ended {
    match transaction.forget_followed() {
        true => lost(transaction, log, Loss::Followed),
        false => lost(transaction, log, Loss::Conflict),
    }
}

fn lost(transaction: &Transaction, log: GuestLog, kind: Loss) -> Ended {
    Ended::Lost {
        log,
        touched: transaction.touched(),
        kind,
    }
}

/// A run that waited for others, or began late, as those before it had lost, is not to
/// blame for not ending in time.
fn lost_time(error: CallError, runs: u32, is_late: bool) -> CallError {
    match error {
        CallError::Deadline { timeout, .. }
            if (runs > 1 && is_late) || timeout.longest() == Stage::Lane =>
        {
            CallError::Conflict { runs, timeout }
        }
        other => other,
    }
}
