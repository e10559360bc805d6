//! Runs that are one commit: transactional functions, and handlers of deliveries.

use super::{Host, Plugin};
use crate::abi::{DeliveryContext, GuestLog};
use crate::model::Receipt;
use crate::runtime::{CallError, CallFailure, Request, Response, Target};
use crate::service::{CallContext, ServiceError, Services, Stage, Transaction};
use std::sync::Arc;

/// How often a transaction is run at the most.
pub(super) const RUNS_MAX: u32 = 5;

/// What is run, until it has committed or failed.
pub(super) struct Run<'p> {
    plugin: &'p Plugin,
    context: CallContext,
    target: Target,
    input: Vec<u8>,
    delivery: Option<(Arc<DeliveryContext>, Receipt)>,
}

impl<'p> Run<'p> {
    pub(super) fn new(
        plugin: &'p Plugin,
        context: CallContext,
        target: Target,
        input: Vec<u8>,
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
    /// Others have changed what it had read; what it logged.
    Lost(GuestLog),
}

impl Host {
    /// Runs until a run commits, or fails by itself, or has lost too often. All
    /// runs and their commits together have the time of one call.
    pub(super) async fn run_transaction(&self, run: Run<'_>) -> Result<Response, CallFailure> {
        let mut discarded = Vec::new();
        for runs in 1..=RUNS_MAX {
            match self.run_once(&run).await {
                Ended::Done(response) => {
                    return Ok(Response {
                        discarded,
                        ..response
                    });
                }
                Ended::Failed(failure) => {
                    return Err(CallFailure {
                        discarded,
                        ..failure
                    });
                }
                Ended::Lost(log) => discarded.push(log),
            }
            if runs == RUNS_MAX || run.context.deadline.has_passed() {
                let failure = run.failure(CallError::Conflict { runs }, GuestLog::new(0, 0));
                return Err(CallFailure {
                    discarded,
                    ..failure
                });
            }
        }
        // The last round of the loop returns.
        Err(run.failure(CallError::Conflict { runs: RUNS_MAX }, GuestLog::new(0, 0)))
    }

    async fn run_once(&self, run: &Run<'_>) -> Ended {
        let kv = Arc::clone(&self.0.services.kv);
        let transaction = Arc::new(Transaction::new(kv, &self.0.limits));
        let services = Services {
            kv: Arc::clone(&transaction) as Arc<dyn crate::service::Kv>,
            ..self.0.services.clone()
        };
        let compiled = &run.plugin.compiled;
        match self.0.runtime.call(compiled, run.request(services)).await {
            Ok(response) => self.commit(run, &transaction, response).await,
            // Somebody who has seen two moments at once may fail for no other reason.
            Err(failure) if failure.error.may_come_of_stale_reads() => {
                let current = transaction.is_current(&run.context.caller);
                match run.context.deadline.within(Stage::Commit, current).await {
                    Ok(Ok(false)) => Ended::Lost(failure.log),
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
        let committed = match transaction.batch(receipt) {
            Ok(None) => return Ended::Done(response),
            Ok(Some(batch)) => {
                let commit = self.0.services.kv.commit(caller, batch);
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
            Err(ServiceError::Conflict { .. }) => Ended::Lost(response.log),
            Err(error) => Ended::Failed(run.failure(CallError::Commit(error), response.log)),
        }
    }
}
