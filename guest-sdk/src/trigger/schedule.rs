//! A scheduled run, as a handler receives it.

use super::{HandlerOutput, Permanent};
use crate::HandlerError;
use serde::{Deserialize, Serialize};

/// A scheduled run.
///
/// ```
/// use kvasm_guest::{Error, ScheduledRun, kv, testing};
///
/// /// Stores the start of the last hour.
/// #[kvasm_guest::cron("0 * * * *")]
/// fn hourly(run: ScheduledRun) -> Result<(), Error> {
///     kv::collection("times").set("hour", &run.at_ms)?;
///     Ok(())
/// }
///
/// testing::scheduled(hourly, ScheduledRun::at(3_600_000)).unwrap();
/// assert_eq!(kv::collection("times").get("hour")?, Some(3_600_000));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduledRun {
    /// Identifies the run; the same in every attempt and replay.
    pub event_id: String,
    /// The name of the trigger that delivers it.
    pub trigger: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Always 1, as no change led to it.
    pub depth: u32,
    /// The time at which the run was due, in milliseconds since the Unix epoch. It may run
    /// later.
    pub at_ms: i64,
}

impl ScheduledRun {
    /// Returns a run for tests that was due at this time, in the first attempt.
    pub fn at(at_ms: i64) -> ScheduledRun {
        ScheduledRun {
            event_id: "test".to_owned(),
            trigger: "test".to_owned(),
            attempt: 1,
            depth: 1,
            at_ms,
        }
    }

    fn decode(frame: &[u8]) -> Result<ScheduledRun, String> {
        let (head, _body) = kvasm_abi::http::split(frame)
            .map_err(|_| "the input is not a scheduled run: it ends within its head")?;
        serde_json::from_slice(head).map_err(|e| format!("the input is not a scheduled run: {e}"))
    }
}

/// Encodes the frame as the host does.
#[cfg(not(target_arch = "wasm32"))]
impl ScheduledRun {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        #[derive(Serialize)]
        struct Head<'a> {
            kind: &'static str,
            #[serde(flatten)]
            run: &'a ScheduledRun,
        }
        let head = Head {
            kind: "schedule",
            run: self,
        };
        crate::http::handler::frame(&head, &[])
    }
}

/// A type that a scheduled handler can take: a [`ScheduledRun`]. It exists only for the
/// compiler's message.
#[diagnostic::on_unimplemented(
    message = "a scheduled handler cannot take `{Self}`",
    label = "not a scheduled run",
    note = "take nothing, or `kvasm_guest::ScheduledRun`"
)]
pub trait ScheduleArgument: From<ScheduledRun> {}

impl ScheduleArgument for ScheduledRun {}

/// Runs a scheduled handler without an argument; the input is ignored.
pub fn run_scheduled<R: HandlerOutput>(handler: impl FnOnce() -> R) -> i32 {
    crate::function::run_on_input(|_| {
        handler().into_result()?;
        Ok::<_, HandlerError>(Vec::new())
    })
}

/// Runs a scheduled handler on the run in the input.
pub fn run_scheduled_with<A: ScheduleArgument, R: HandlerOutput>(
    handler: impl FnOnce(A) -> R,
) -> i32 {
    crate::function::run_on_input(|input| {
        let run = ScheduledRun::decode(&input).map_err(Permanent)?;
        handler(A::from(run)).into_result()?;
        Ok::<_, HandlerError>(Vec::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::native;

    #[test]
    fn host_frame_is_decoded() {
        let head =
            br#"{"kind":"schedule","event_id":"e","trigger":"t","attempt":2,"depth":1,"at_ms":9}"#;
        let prefix = kvasm_abi::http::prefix(head.len()).unwrap();
        let frame = [&prefix, &head[..]].concat();
        let run = ScheduledRun::decode(&frame).unwrap();
        assert_eq!((run.attempt, run.at_ms), (2, 9));
        assert_eq!(ScheduledRun::decode(&run.encode().unwrap()), Ok(run));
        native::set_input(b"\x09\0\0\0{}");
        assert_eq!(run_scheduled_with(|_: ScheduledRun| ()), 2);
        assert_eq!(run_scheduled(|| ()), 0);
        assert_eq!(run_scheduled(|| Err("no")), 1);
        native::take_output();
    }
}
