//! Admission of calls: the rate and concurrency limits of each app.

use super::rates::Rate;
use super::{Deadline, Stage};
use kvasm_core::{App, AppId};
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::oneshot;

/// A call that was rejected, temporarily.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The app has exceeded its call rate.
    #[error("rate limit exceeded: {limit} calls per second for this app; try again later")]
    Rate {
        /// The limit.
        limit: u32,
        /// When the next call may be admitted.
        retry_after: Duration,
    },
    /// The app's running calls and its queue are at their limits.
    #[error("too many concurrent calls: {at_once} running, {queue} queued; try again later")]
    Queue {
        /// The limit of running calls.
        at_once: u32,
        /// The limit of queued calls.
        queue: usize,
    },
    /// The call was queued, and no slot became free before its deadline.
    #[error("too many concurrent calls: still queued after {} ms; try again later", .0.as_millis())]
    QueueTimeout(Duration),
    /// The caller disconnected while the call was queued.
    #[error("the client disconnected while the call was queued behind other calls of its app")]
    Disconnected,
}

impl Refusal {
    /// Returns its kind, as one word.
    pub fn class(&self) -> &'static str {
        match self {
            Refusal::Rate { .. } => "rate",
            Refusal::Queue { .. } => "queue",
            Refusal::QueueTimeout(_) => "queue_timeout",
            Refusal::Disconnected => "disconnected",
        }
    }

    /// Returns when a retry makes sense.
    pub fn retry_after(&self) -> Duration {
        match self {
            Refusal::Rate { retry_after, .. } => *retry_after,
            Refusal::Queue { .. } | Refusal::QueueTimeout(_) | Refusal::Disconnected => {
                Duration::from_secs(1)
            }
        }
    }
}

/// The gates of all apps. One app at its limits does not block another.
pub struct Admission {
    gates: Mutex<Gates>,
    queue_max: usize,
    metrics: Metrics,
}

struct Gates {
    by_app: HashMap<AppId, Arc<Gate>>,
    /// The number of gates at which idle ones are removed.
    prune_at: usize,
}

const PRUNE_AT_LEAST: usize = 1024;

impl Admission {
    /// Creates an admission that queues up to `queue_max` calls per app.
    pub fn new(queue_max: usize, metrics: Metrics) -> Admission {
        Admission {
            gates: Mutex::new(Gates {
                by_app: HashMap::new(),
                prune_at: PRUNE_AT_LEAST,
            }),
            queue_max,
            metrics,
        }
    }

    /// Admits and counts a call of the app, or rejects it. It waits for a slot in
    /// [`Ticket::admit`].
    ///
    /// # Errors
    /// [`Refusal::Rate`] and [`Refusal::Queue`].
    pub fn enter(&self, app: &App) -> Result<Ticket, Refusal> {
        let gate = self.gate(app.id);
        let limits = &app.limits;
        gate.enter(
            limits.calls_per_second,
            limits.calls_at_once,
            self.queue_max,
            Instant::now(),
        )?;
        Ok(Ticket {
            gate,
            metrics: self.metrics.clone(),
        })
    }

    fn gate(&self, app: AppId) -> Arc<Gate> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.by_app.get(&app) {
            return Arc::clone(gate);
        }
        if gates.by_app.len() >= gates.prune_at {
            let now = Instant::now();
            gates.by_app.retain(|_, gate| !gate.is_idle(now));
            gates.prune_at = (gates.by_app.len() * 2).max(PRUNE_AT_LEAST);
        }
        Arc::clone(gates.by_app.entry(app).or_default())
    }
}

/// The gate of one app.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    /// Admitted calls that have not ended: queued, running, or with their input still to be
    /// read.
    inside: usize,
    running: u32,
    /// The limit on `running`, as of the last call that entered.
    at_once: Option<u32>,
    waiting: VecDeque<oneshot::Sender<Pass>>,
    rate: Rate,
}

impl GateState {
    fn has_place(&self) -> bool {
        self.at_once.is_none_or(|limit| self.running < limit)
    }
}

impl Gate {
    /// Admits and counts a call.
    fn enter(
        self: &Arc<Gate>,
        per_second: Option<u32>,
        at_once: Option<u32>,
        queue_max: usize,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.at_once != at_once {
            state.at_once = at_once;
            self.serve(&mut state);
        }
        if let Some(limit) = per_second {
            state.rate.check(limit, now)?;
        }
        if let Some(limit) = at_once {
            let inside_max = queue_max.saturating_add(limit as usize);
            if state.inside >= inside_max {
                return Err(Refusal::Queue {
                    at_once: limit,
                    queue: queue_max,
                });
            }
        }
        if per_second.is_some() {
            state.rate.count();
        }
        state.inside += 1;
        Ok(())
    }

    /// Returns a slot, or a receiver to wait for one.
    fn admit(self: &Arc<Gate>) -> Result<Pass, oneshot::Receiver<Pass>> {
        let mut state = self.state.lock();
        state.waiting.retain(|next| !next.is_closed());
        if state.waiting.is_empty() && state.has_place() {
            state.running += 1;
            return Ok(Pass::new(Arc::clone(self)));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        Err(receiver)
    }

    fn leave(self: &Arc<Gate>) {
        let mut state = self.state.lock();
        state.running = state.running.saturating_sub(1);
        self.serve(&mut state);
    }

    /// Grants free slots to queued calls, in order.
    fn serve(self: &Arc<Gate>, state: &mut GateState) {
        while state.has_place() {
            let Some(next) = state.waiting.pop_front() else {
                return;
            };
            match next.send(Pass::new(Arc::clone(self))) {
                Ok(()) => state.running += 1,
                // It was cancelled: its slot goes to the next one.
                Err(pass) => pass.forget(),
            }
        }
    }

    /// Whether the gate has no state worth keeping.
    fn is_idle(self: &Arc<Gate>, now: Instant) -> bool {
        let state = self.state.lock();
        Arc::strong_count(self) == 1 && state.inside == 0 && state.rate.is_idle(now)
    }
}

/// An admitted call. It counts until this is dropped.
pub struct Ticket {
    gate: Arc<Gate>,
    metrics: Metrics,
}

impl Ticket {
    /// Waits until the call may run, up to its deadline. It holds its slot until the pass is
    /// dropped.
    ///
    /// # Errors
    /// [`Refusal::QueueTimeout`].
    pub async fn admit(&self, deadline: &Deadline) -> Result<Pass, Refusal> {
        let next = match self.gate.admit() {
            Ok(pass) => return Ok(pass),
            Err(next) => next,
        };
        let _waiting = self.metrics.waiting_for_admission();
        match deadline.within(Stage::Queue, next).await {
            Ok(Ok(pass)) => Ok(pass),
            // A pass sent at this moment is dropped with the channel, and its slot goes to the
            // next call in the queue.
            Ok(Err(_)) | Err(_) => Err(Refusal::QueueTimeout(deadline.limit())),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.inside = state.inside.saturating_sub(1);
    }
}

/// A slot of a running call.
pub struct Pass {
    /// `None` once the slot was handed on.
    gate: Option<Arc<Gate>>,
}

impl Pass {
    fn new(gate: Arc<Gate>) -> Pass {
        Pass { gate: Some(gate) }
    }

    /// Drops the pass without handing its slot on.
    fn forget(mut self) {
        self.gate = None;
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass(..)")
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits a call and requests a slot.
    fn enter(
        gate: &Arc<Gate>,
        at_once: u32,
    ) -> Result<Result<Pass, oneshot::Receiver<Pass>>, Refusal> {
        gate.enter(None, Some(at_once), 1, Instant::now())?;
        Ok(gate.admit())
    }

    #[test]
    fn admission_queues_calls_up_to_limit() {
        let gate = Arc::new(Gate::default());
        let first = enter(&gate, 1).unwrap().unwrap();
        let mut second = enter(&gate, 1).unwrap().unwrap_err();
        assert!(matches!(enter(&gate, 1), Err(Refusal::Queue { .. })));
        assert!(second.try_recv().is_err());
        drop(first);
        let second = second.try_recv().unwrap();
        // The slot was handed on, so one call is still running.
        assert_eq!(gate.state.lock().running, 1);
        drop(second);
        assert_eq!(gate.state.lock().running, 0);
    }

    #[test]
    fn cancelled_queued_call_is_skipped() {
        let gate = Arc::new(Gate::default());
        let first = gate.admit().unwrap();
        gate.state.lock().at_once = Some(1);
        let second = gate.admit().unwrap_err();
        drop(second);
        let mut third = gate.admit().unwrap_err();
        drop(first);
        drop(third.try_recv().unwrap());
        assert_eq!(gate.state.lock().running, 0);
    }

    #[test]
    fn lowered_concurrency_limit_applies_to_queued_calls() {
        let gate = Arc::new(Gate::default());
        let now = Instant::now();
        gate.enter(None, Some(4), 9, now).unwrap();
        let running: Vec<_> = (0..4).map(|_| gate.admit().unwrap()).collect();
        let mut waiting: Vec<_> = (0..4).map(|_| gate.admit().unwrap_err()).collect();
        gate.enter(None, Some(1), 9, now).unwrap();
        let mut running: VecDeque<_> = running.into();
        for still in [3, 2, 1] {
            drop(running.pop_front());
            assert_eq!(gate.state.lock().running, still);
            assert!(waiting[0].try_recv().is_err());
        }
        drop(running);
        let one = waiting[0].try_recv().unwrap();
        assert!(waiting[1].try_recv().is_err());
        // After raising the limit, more of them run.
        gate.enter(None, Some(3), 9, now).unwrap();
        assert_eq!(gate.state.lock().running, 3);
        drop(one);
    }

    #[test]
    fn lowered_rate_limit_caps_past_calls() {
        let gate = Arc::new(Gate::default());
        let start = Instant::now();
        for _ in 0..1_000 {
            gate.enter(Some(1_000), None, 0, start).unwrap();
        }
        let refusal = gate.enter(Some(1), None, 0, start).unwrap_err();
        assert!(refusal.retry_after() <= Duration::from_secs(1));
        gate.enter(Some(1), None, 0, start + Duration::from_secs(1))
            .unwrap();
    }

    #[test]
    fn rate_limit_refills_only_as_time_passes() {
        let gate = Arc::new(Gate::default());
        let start = Instant::now();
        let call = |at| gate.enter(Some(2), None, 0, at);
        assert_eq!(call(start), Ok(()));
        assert_eq!(call(start), Ok(()));
        let refusal = call(start).unwrap_err();
        assert_eq!(refusal.retry_after(), Duration::from_millis(500));
        assert_eq!(call(start + Duration::from_millis(500)), Ok(()));
        assert!(call(start + Duration::from_millis(500)).is_err());
        let none = gate.enter(Some(0), None, 0, start + Duration::from_secs(9));
        assert!(matches!(none, Err(Refusal::Rate { limit: 0, .. })));
    }
}
