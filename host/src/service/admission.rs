//! Which calls may start: calls a second and calls at once, app by app.

use crate::metrics::Metrics;
use crate::model::{App, AppId};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::oneshot;

/// A call that may not start now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The app has had its calls of this second.
    #[error("the app's limit of {limit} calls a second is reached; try again later")]
    Rate {
        /// The limit.
        limit: u32,
        /// When the next call may start.
        retry_after: Duration,
    },
    /// As many calls of the app run and wait as may.
    #[error("{at_once} calls of the app run and {queue} wait, which is the limit; try again later")]
    Queue {
        /// How many run at once.
        at_once: u32,
        /// How many may wait.
        queue: usize,
    },
    /// No other call of the app ended within the time that this one could wait.
    #[error("no other call of the app ended within {} ms; try again later", .0.as_millis())]
    Waited(Duration),
    /// Who made the call has left while it waited.
    #[error(
        "the client has closed its side of the connection while the call waited for others of its app"
    )]
    Left,
}

impl Refusal {
    /// When another try makes sense.
    pub fn retry_after(&self) -> Duration {
        match self {
            Refusal::Rate { retry_after, .. } => *retry_after,
            Refusal::Queue { .. } | Refusal::Waited(_) | Refusal::Left => Duration::from_secs(1),
        }
    }
}

/// The gates of all apps. One app at its limits does not hold up another.
pub struct Admission {
    gates: Mutex<Gates>,
    queue_max: usize,
    metrics: Metrics,
}

struct Gates {
    by_app: HashMap<AppId, Arc<Gate>>,
    /// The number of gates at which the idle ones are let go.
    prune_at: usize,
}

const PRUNE_AT_LEAST: usize = 1024;

impl Admission {
    /// Gates at each of which `queue_max` calls may wait.
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

    /// Waits until a call of the app may run, up to `wait`. The call runs for as
    /// long as the pass lives.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(&self, app: &App, wait: Duration) -> Result<Pass, Refusal> {
        let gate = self.gate(app.id);
        let settings = &app.settings;
        let Some(next) = gate.enter(
            settings.calls_per_second,
            settings.calls_at_once,
            self.queue_max,
            Instant::now(),
        )?
        else {
            return Ok(Pass::new(gate));
        };
        let _waiting = self.metrics.waiting_for_admission();
        match tokio::time::timeout(wait, next).await {
            Ok(Ok(pass)) => Ok(pass),
            // A pass that arrives just now is dropped with the channel, and goes
            // on to the next in the queue.
            Ok(Err(_)) | Err(_) => Err(Refusal::Waited(wait)),
        }
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
    running: u32,
    waiting: VecDeque<oneshot::Sender<Pass>>,
    /// The calls of the last second that still count, and when they were counted.
    recent: f64,
    counted_at: Option<Instant>,
}

impl GateState {
    /// Lets calls fall due that are longer ago; `limit` of them a second.
    fn decay(&mut self, limit: f64, now: Instant) {
        let since = self
            .counted_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.recent = (self.recent - since.as_secs_f64() * limit).max(0.0);
        self.counted_at = Some(now);
    }
}

impl Gate {
    /// Counts a call. `None` if it runs at once, else what to wait for.
    fn enter(
        self: &Arc<Gate>,
        per_second: Option<u32>,
        at_once: Option<u32>,
        queue_max: usize,
        now: Instant,
    ) -> Result<Option<oneshot::Receiver<Pass>>, Refusal> {
        let mut state = self.state.lock();
        if let Some(limit) = per_second {
            let rate = f64::from(limit);
            state.decay(rate, now);
            if state.recent + 1.0 > rate {
                let excess = state.recent + 1.0 - rate;
                return Err(Refusal::Rate {
                    limit,
                    retry_after: match limit {
                        0 => Duration::from_secs(60),
                        _ => Duration::from_secs_f64(excess / rate),
                    },
                });
            }
        }
        let runs = at_once.is_none_or(|limit| state.running < limit);
        if !runs {
            state.waiting.retain(|next| !next.is_closed());
            if state.waiting.len() >= queue_max {
                return Err(Refusal::Queue {
                    at_once: at_once.unwrap_or(u32::MAX),
                    queue: queue_max,
                });
            }
        }
        if per_second.is_some() {
            state.recent += 1.0;
        }
        if runs {
            state.running += 1;
            return Ok(None);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        Ok(Some(receiver))
    }

    /// Gives the place of a call that has ended to the first that still waits.
    fn leave(self: &Arc<Gate>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                match state.waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        state.running = state.running.saturating_sub(1);
                        return;
                    }
                }
            };
            match next.send(Pass::new(Arc::clone(self))) {
                Ok(()) => return,
                // It has stopped waiting: its place is still to be given.
                Err(pass) => pass.forget(),
            }
        }
    }

    /// Whether nothing is lost if the gate is made anew.
    fn is_idle(self: &Arc<Gate>, now: Instant) -> bool {
        let state = self.state.lock();
        let quiet = state
            .counted_at
            .is_none_or(|at| now.saturating_duration_since(at) > Duration::from_secs(1));
        Arc::strong_count(self) == 1 && state.running == 0 && quiet
    }
}

/// A call that runs.
pub struct Pass {
    /// None once the place was given on.
    gate: Option<Arc<Gate>>,
}

impl Pass {
    fn new(gate: Arc<Gate>) -> Pass {
        Pass { gate: Some(gate) }
    }

    /// Ends without giving the place on.
    fn forget(mut self) {
        self.gate = None;
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

    fn enter(gate: &Arc<Gate>, at_once: u32) -> Result<Option<oneshot::Receiver<Pass>>, Refusal> {
        gate.enter(None, Some(at_once), 1, Instant::now())
    }

    #[test]
    fn calls_wait_for_each_other_and_the_queue_is_bounded() {
        let gate = Arc::new(Gate::default());
        assert!(enter(&gate, 1).unwrap().is_none());
        let first = Pass::new(Arc::clone(&gate));
        let mut second = enter(&gate, 1).unwrap().unwrap();
        assert!(matches!(enter(&gate, 1), Err(Refusal::Queue { .. })));
        assert!(second.try_recv().is_err());
        drop(first);
        let second = second.try_recv().unwrap();
        // The place was passed on, so there is still one that runs.
        assert_eq!(gate.state.lock().running, 1);
        drop(second);
        assert_eq!(gate.state.lock().running, 0);
    }

    #[test]
    fn who_has_stopped_waiting_is_passed_over() {
        let gate = Arc::new(Gate::default());
        assert!(enter(&gate, 1).unwrap().is_none());
        let first = Pass::new(Arc::clone(&gate));
        let second = enter(&gate, 1).unwrap().unwrap();
        drop(second);
        // Its place in the queue is free again.
        let mut third = enter(&gate, 1).unwrap().unwrap();
        drop(first);
        drop(third.try_recv().unwrap());
        assert_eq!(gate.state.lock().running, 0);
    }

    #[test]
    fn calls_a_second_come_back_with_time_and_never_for_a_clock_that_stands() {
        let gate = Arc::new(Gate::default());
        let start = Instant::now();
        let call = |at| gate.enter(Some(2), None, 0, at).map(drop);
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
