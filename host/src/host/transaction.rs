//! Runs that are one commit: transactional functions, and handlers of deliveries.

use super::{Host, Plugin};
use crate::abi::{DeliveryContext, GuestLog};
use crate::model::{Pieces, Receipt};
use crate::runtime::{CallError, CallFailure, Request, Response, Target};
use crate::service::{
    Address, CallContext, Held, Lane, Lanes, ServiceError, Services, Stage, Timeout, Transaction,
    Way,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

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

    fn request(&self, services: Services, gives_way: Arc<Notify>) -> Request {
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
            gives_way: Some(gives_way),
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
    /// It gave way to those who hold what it needs.
    GaveWay,
}

/// The locks that a run holds which has lost, and what they are for.
#[derive(Default)]
struct Locks {
    held: Option<Held>,
    keys: BTreeSet<Address>,
}

impl Locks {
    /// Before the next run. One that has all that the last touched keeps it; the
    /// others start with the locks of all that was ever touched, in order.
    async fn renew(
        &mut self,
        lanes: &Arc<Lanes>,
        context: &CallContext,
        touched: BTreeSet<Address>,
    ) -> Result<(), Timeout> {
        if let Some(held) = &self.held
            && held.lane().holds(&touched)
        {
            held.lane().pause();
            return Ok(());
        }
        // Never waits for one while it holds others.
        self.held = None;
        if self.keys.len() + touched.len() > KEYS_MAX {
            self.keys.clear();
        }
        self.keys.extend(touched);
        let taken = lanes.take(context.caller.app(), self.keys.clone());
        let held = context.deadline.within(Stage::Lane, taken).await?;
        self.held = Some(held);
        Ok(())
    }

    fn lane(&self) -> Option<Arc<Lane>> {
        self.held.as_ref().map(|held| Arc::clone(held.lane()))
    }
}

impl Host {
    /// Runs until a run commits, or fails by itself, or the time is up. All runs and
    /// their commits together have the time of one call. The first run takes no
    /// locks; those after one that lost do.
    pub(super) async fn run_transaction(&self, run: Run<'_>) -> Result<Response, CallFailure> {
        let deadline = &run.context.deadline;
        let mut discarded = Vec::new();
        let mut locks = Locks::default();
        let mut chains = true;
        for runs in 1.. {
            let is_late = deadline.is_half_spent();
            let lane = locks.lane();
            let had_lane = lane.is_some();
            let error = match self.run_once(&run, lane, chains).await {
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
                    // Then it wants to be the only one for once.
                    chains &= !(had_lane && matches!(kind, Loss::Conflict));
                    self.0.metrics.transaction_rerun();
                    if discarded.len() < DISCARDED_MAX {
                        discarded.push(log);
                    }
                    let renewed = locks.renew(&self.0.lanes, &run.context, touched).await;
                    match renewed {
                        Ok(()) if !deadline.has_passed() => continue,
                        Ok(()) => deadline.timeout(Stage::Other),
                        Err(timeout) => timeout,
                    }
                }
            };
            let error = CallError::Conflict {
                runs,
                timeout: error,
            };
            return Err(CallFailure {
                discarded,
                ..run.failure(error, GuestLog::new(0, 0))
            });
        }
        // Nobody counts so far before the deadline.
        Err(run.failure(deadline.timeout(Stage::Other).into(), GuestLog::new(0, 0)))
    }

    async fn run_once(&self, run: &Run<'_>, lane: Option<Arc<Lane>>, chains: bool) -> Ended {
        let caller = &run.context.caller;
        let way = Way::new(Arc::clone(&self.0.lanes), caller.app(), lane, chains);
        let gives_way = way.gives_way();
        let kv = Arc::clone(&self.0.services.kv);
        let transaction = Arc::new(Transaction::new(kv, &self.0.limits).with_way(way));
        let services = Services {
            kv: Arc::clone(&transaction) as Arc<dyn crate::service::Kv>,
            ..self.0.services.clone()
        };
        let compiled = &run.plugin.compiled;
        let request = run.request(services, gives_way);
        match self.0.runtime.call(compiled, request).await {
            Ok(response) => self.commit(run, &transaction, response).await,
            Err(failure) if transaction.gave_way() && failure.error.may_come_of_giving_way() => {
                lost(&transaction, failure.log, Loss::GaveWay)
            }
            // Somebody who has seen two moments at once may fail for no other reason.
            Err(failure) if failure.error.may_come_of_stale_reads() => {
                let current = transaction.is_current(caller);
                match run.context.deadline.within(Stage::Commit, current).await {
                    Ok(Ok(false)) => lost(&transaction, failure.log, Loss::Conflict),
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
        if transaction.gave_way() {
            return lost(transaction, response.log, Loss::GaveWay);
        }
        let committed = match transaction.linked_batch(receipt) {
            Ok(None) => return Ended::Done(response),
            Ok(Some(_)) if transaction.should_give_way() => {
                return lost(transaction, response.log, Loss::GaveWay);
            }
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
            Err(ServiceError::Conflict { .. }) => lost(transaction, response.log, Loss::Conflict),
            Err(error) => Ended::Failed(run.failure(CallError::Commit(error), response.log)),
        }
    }
}

fn lost(transaction: &Transaction, log: GuestLog, kind: Loss) -> Ended {
    if let Loss::Conflict = kind {
        transaction.forget_followed();
    }
    Ended::Lost {
        log,
        touched: transaction.touched(),
        kind,
    }
}

/// A run that began late, as those before it had lost, is not to blame for not
/// ending in time.
fn lost_time(error: CallError, runs: u32, is_late: bool) -> CallError {
    match error {
        CallError::Deadline { timeout, .. } if runs > 1 && is_late => {
            CallError::Conflict { runs, timeout }
        }
        other => other,
    }
}
