//! Timers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvasm_core::{Delivery, EventKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A timer that is set: an outstanding delivery with a name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TimerView {
    /// Name.
    pub timer: String,
    /// The time for which it was set.
    pub at: i64,
    /// `pending` until its next attempt, or `leased` while its handler runs.
    pub state: String,
    /// When its next attempt is due; if leased, when the lease expires.
    pub due_at: Option<i64>,
    /// Number of attempts so far, including the current one.
    pub attempts: u32,
    /// Error of the last attempt, shortened.
    #[serde(default)]
    pub error: Option<String>,
    /// Id of its event: the same for each attempt and replay, another one each time it is set.
    pub event_id: String,
    /// Payload, in base64.
    pub payload: String,
}

impl TimerView {
    /// Returns the timer that a delivery is; `None` if it is not a timer's.
    pub fn new(delivery: &Delivery) -> Option<TimerView> {
        let EventKind::Timer { name, payload } = &delivery.event.kind else {
            return None;
        };
        Some(TimerView {
            timer: name.to_string(),
            at: delivery.event.at.0,
            state: delivery.state().as_str().to_owned(),
            due_at: delivery.due_at.map(|at| at.0),
            attempts: delivery.attempts,
            error: delivery.error.clone(),
            event_id: delivery.event.id.to_string(),
            payload: STANDARD.encode(payload.as_bytes()),
        })
    }
}

/// A page of timers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TimerPage {
    /// Ordered by name.
    pub timers: Vec<TimerView>,
    /// Whether there are more.
    pub more: bool,
    /// The name to pass as `after` for the next page; absent on the last page.
    #[serde(default)]
    pub next: Option<String>,
}

/// The timer to cancel or run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimerRequest {
    /// Name.
    pub timer: String,
}

/// The result of cancelling or running a timer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TimerDone {
    /// Whether there was such a timer. One whose handler is running is not run again.
    pub done: bool,
}
