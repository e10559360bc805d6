//! Runs that are one commit: transactional functions, and handlers of deliveries.

use super::{Call, Host, Plugin};
use crate::abi::{DeliveryContext, GuestLog};
use crate::model::Receipt;
use crate::runtime::{CallError, CallFailure, Request, Response, Target};
use crate::service::{Caller, ServiceError, Services, Transaction};
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// How often a transaction is run at the most.
pub(super) const RUNS_MAX: u32 = 5;

/// What is run, until it has committed or failed.
pub(super) struct Run<'p> {
    plugin: &'p Plugin,
    caller: Caller,
    target: Target,
    input: Vec<u8>,
    request_id: Uuid,
    delivery: Option<(Arc<DeliveryContext>, Receipt)>,
}

impl<'p> Run<'p> {
    pub(super) fn new(plugin: &'p Plugin, caller: Caller, call: Call) -> Run<'p> {
        Run {
            plugin,
            caller,
            target: call.target,
            input: call.input,
            request_id: call.request_id.unwrap_or_else(Uuid::now_v7),
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
            caller: self.caller.clone(),
            app_name: Arc::clone(&self.plugin.app_name),
            target: self.target.clone(),
            input: self.input.clone(),
            request_id: self.request_id,
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
            request_id: self.request_id,
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
    /// runs together have the wall time of one call.
    pub(super) async fn run_transaction(&self, run: Run<'_>) -> Result<Response, CallFailure> {
        let deadline = Instant::now() + self.0.limits.wall_time;
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
            if runs == RUNS_MAX || Instant::now() >= deadline {
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
                match transaction.is_current(&run.caller).await {
                    Ok(false) => Ended::Lost(failure.log),
                    Ok(true) | Err(_) => Ended::Failed(failure),
                }
            }
            Err(failure) => Ended::Failed(failure),
        }
    }

    async fn commit(&self, run: &Run<'_>, transaction: &Transaction, response: Response) -> Ended {
        let receipt = run.delivery.as_ref().map(|(_, receipt)| receipt.clone());
        let committed = match transaction.batch(receipt) {
            Ok(None) => return Ended::Done(response),
            Ok(Some(batch)) => self.0.services.kv.commit(&run.caller, batch).await,
            Err(error) => Err(error),
        };
        match committed {
            Ok(_) => Ended::Done(response),
            Err(ServiceError::Conflict { .. }) => Ended::Lost(response.log),
            Err(error) => Ended::Failed(run.failure(CallError::Commit(error), response.log)),
        }
    }
}
