//! Runs what is due step by step, for tests of plugins: by a clock that a test moves, one handler
//! after another, and only when asked.

use super::supervisor::Stop;
use super::{DispatchContext, DispatchOptions, claims, cron};
use kvasm_core::Delivery;
use kvasm_core::store::StoreError;
use kvasm_host::{DeliverFailure, Host};
use std::sync::Arc;
use thiserror::Error;

/// Maximum number of runs at one time of the clock.
const RUNS_MAX: u32 = 10_000;
/// Maximum number of passes without a run.
const IDLE_PASSES_MAX: u32 = 1_000;

/// What happens to a delivery.
pub enum AttemptEvent<'d> {
    /// Its handler starts.
    Started(&'d Delivery),
    /// It is done.
    Succeeded(&'d Delivery),
    /// An attempt has failed. It is retried, or becomes a dead letter.
    Failed(&'d Delivery, &'d DeliverFailure),
}

pub(super) type AttemptObserver = Box<dyn Fn(AttemptEvent<'_>) + Send + Sync>;

/// Why what is due could not be run.
#[derive(Debug, Error)]
pub enum StepError {
    /// The store failed.
    #[error("the deliveries cannot be read")]
    Store(#[from] StoreError),
    /// There is always more to do.
    #[error("the handlers do not come to an end after {RUNS_MAX} runs at one time of the clock")]
    Endless,
    /// Something stays due and is not run.
    #[error("deliveries are due and cannot be claimed")]
    Stuck,
}

/// A dispatcher that runs handlers only when asked, in place of a
/// [`Dispatcher`](super::Dispatcher), not beside one. Retries have no jitter.
pub struct StepDispatcher {
    shared: Arc<DispatchContext>,
}

impl StepDispatcher {
    /// Creates one whose time is [`Timestamp::now`](kvasm_core::Timestamp::now). `observer` is notified
    /// of each attempt.
    pub fn new(
        host: Host,
        observer: impl Fn(AttemptEvent<'_>) + Send + Sync + 'static,
    ) -> StepDispatcher {
        let options = DispatchOptions {
            handlers: 1,
            handlers_of_app: 1,
            ..DispatchOptions::default()
        };
        let shared = DispatchContext::new(host, options, Some(Box::new(observer)));
        StepDispatcher {
            shared: Arc::new(shared),
        }
    }

    /// Runs what is due now, and what follows from it at once. Returns the number of runs.
    ///
    /// # Errors
    /// [`StepError`]; what was run until then has taken effect.
    pub async fn run_due(&self) -> Result<u32, StepError> {
        let task = self.shared.deliveries.clone();
        let (_tell, mut stop) = Stop::new();
        let (mut runs, mut idle, mut after) = (0, 0, None);
        loop {
            cron::pass(&self.shared, &task).await?;
            claims::look(&self.shared, &task, &mut after, &mut stop).await?;
            let mut handlers = std::mem::take(&mut *self.shared.handlers.lock());
            let ran = handlers.len();
            while handlers.join_next().await.is_some() {}
            if ran > 0 {
                (runs, idle) = (runs + 1, 0);
                if runs > RUNS_MAX {
                    return Err(StepError::Endless);
                }
                continue;
            }
            let now = self.shared.clock.now();
            if self.shared.host.store().due(None, now, 1).await?.is_empty() {
                return Ok(runs);
            }
            idle += 1;
            if idle > IDLE_PASSES_MAX {
                return Err(StepError::Stuck);
            }
        }
    }
}
