//! A timer that is due, as its handler receives it.

use super::{ChangeValue, HandlerOutput, Permanent};
use crate::HandlerError;
use serde::Deserialize;

/// A timer that is due.
///
/// `Timer<T>` decodes the payload as the JSON of a `T`; a payload that does not fit fails the
/// delivery permanently. `Timer<Bytes>` accepts any payload. [`timer`](crate::timer) sets timers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timer<T> {
    /// Its name.
    pub name: String,
    /// What it was set with.
    pub payload: T,
    /// The time for which it was set, in milliseconds since the Unix epoch. It may run later.
    pub at_ms: i64,
    /// Identifies this setting of the timer; the same in every attempt and replay.
    pub event_id: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
}

#[derive(Deserialize)]
struct Head {
    timer: String,
    event_id: String,
    attempt: u32,
    at_ms: i64,
}

/// A type that a handler of timers can take: a [`Timer`].
#[diagnostic::on_unimplemented(
    message = "a handler of timers cannot take `{Self}`",
    label = "not a timer",
    note = "take `kvasm_guest::Timer<T>` where `T: serde::de::DeserializeOwned`, or `Timer<Bytes>`"
)]
pub trait TimerArgument: Sized {
    /// Decodes a frame of the host.
    fn decode(frame: Vec<u8>) -> Result<Self, String>;
}

impl<T: ChangeValue> TimerArgument for Timer<T> {
    fn decode(mut frame: Vec<u8>) -> Result<Timer<T>, String> {
        let (head, body) = kvasm_abi::http::split(&frame)
            .map_err(|_| "the input is not a timer: it ends within its head")?;
        let head: Head =
            serde_json::from_slice(head).map_err(|e| format!("the input is not a timer: {e}"))?;
        let body_start = frame.len() - body.len();
        frame.drain(..body_start);
        // The host keeps bytes; whether they are JSON is up to the handler.
        let payload = T::from_value(kvasm_abi::FORMAT_JSON, frame)
            .map_err(|e| format!("the payload of the timer {:?}: {e}", head.timer))?;
        Ok(Timer {
            name: head.timer,
            payload,
            at_ms: head.at_ms,
            event_id: head.event_id,
            attempt: head.attempt,
        })
    }
}

/// Runs a handler on the timer in the input.
pub fn run_timer<A: TimerArgument, R: HandlerOutput>(handler: impl FnOnce(A) -> R) -> i32 {
    crate::function::run_on_input(|input| {
        let timer = A::decode(input).map_err(Permanent)?;
        handler(timer).into_result()?;
        Ok::<_, HandlerError>(Vec::new())
    })
}

/// Encodes the frame as the host does.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn encode(
    name: &str,
    payload: &[u8],
    at_ms: i64,
    event_id: &str,
    attempt: u32,
) -> Result<Vec<u8>, String> {
    let head = serde_json::json!({
        "kind": "timer",
        "timer": name,
        "event_id": event_id,
        "trigger": kvasm_abi::TIMER_HANDLER,
        "attempt": attempt,
        "depth": 1,
        "at_ms": at_ms,
        "format": kvasm_abi::FORMAT_BYTES,
    });
    crate::http::handler::frame(&head, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::native;
    use crate::{Bytes, Retry};
    use std::time::Duration;

    #[test]
    fn host_frame_is_decoded() {
        let frame = encode("t", b"[1,2]", 9, "e", 3).unwrap();
        let timer = Timer::<Vec<u8>>::decode(frame.clone()).unwrap();
        assert_eq!((timer.name.as_str(), timer.payload), ("t", vec![1, 2]));
        assert_eq!((timer.at_ms, timer.attempt), (9, 3));
        let bytes = Timer::<Bytes>::decode(frame).unwrap();
        assert_eq!(bytes.payload.0, b"[1,2]");
    }

    #[test]
    fn undecodable_timer_fails_permanently() {
        for (frame, why) in [
            (
                encode("t", b"x", 9, "e", 1).unwrap(),
                "the payload of the timer \"t\"",
            ),
            (b"\x02\0\0\0{}".to_vec(), "missing field"),
            (b"\x01".to_vec(), "ends within its head"),
        ] {
            native::set_input(&frame);
            let code = run_timer(|_: Timer<u32>| -> () { panic!("it must not run") });
            let message = String::from_utf8(native::take_output()).unwrap();
            assert_eq!(code, kvasm_abi::EXIT_PERMANENT, "{message}");
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn retry_has_its_exit_code_and_its_wait_within_the_limits() {
        for (wait, output) in [(0, "1000"), (5_000, "5000"), (u64::MAX, "2592000000")] {
            native::set_input(&encode("t", b"1", 9, "e", 1).unwrap());
            let wait = Duration::from_millis(wait);
            let code = run_timer(|_: Timer<u32>| Err(Retry::after(wait)));
            assert_eq!(code, kvasm_abi::EXIT_LATER);
            assert_eq!(native::take_output(), output.as_bytes());
        }
    }
}
