//! The running invocation's context, and the host's clock and randomness.

use crate::{Error, sys};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Caller {
    /// A caller without a token. The plugin decides what it may do.
    Public,
    /// The holder of a token. The host checks each KV call against its scopes.
    Principal,
    /// The host, for a change of an entry or a schedule; there is no caller to answer.
    Trigger,
    /// A kind of caller that this version of the SDK does not know.
    #[serde(other)]
    Unknown,
}

/// The running invocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Context {
    /// The app's name.
    pub app: String,
    /// The name by which this function was called.
    pub function: String,
    /// Identifies this invocation in the host's logs.
    pub request_id: String,
    /// Who called.
    pub caller: Caller,
    /// The delivery that started the invocation, if it was a change or a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Whether the invocation is a transaction: its writes take effect together if it succeeds,
    /// and not at all if it fails.
    #[serde(default)]
    pub transaction: bool,
    /// The `traceparent` of what the invocation causes, as in W3C Trace Context: the trace that it
    /// belongs to, and its span. `None` if the host is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The `tracestate` of what the invocation causes, if its trace has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// The delivery that a handler runs for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trigger {
    /// The trigger's name.
    pub name: String,
    /// Identifies the event; the same in every attempt and replay.
    pub event_id: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// 1 for a change made by a call, plus one for each handler in the chain of changes that
    /// led to this one. The host limits the depth.
    pub depth: u32,
}

#[cfg(not(target_arch = "wasm32"))]
impl Trigger {
    pub(crate) fn new(name: &str, event_id: &str, attempt: u32, depth: u32) -> Trigger {
        Trigger {
            name: name.to_owned(),
            event_id: event_id.to_owned(),
            attempt,
            depth,
        }
    }
}

/// Returns the context of the running invocation.
///
/// Natively it is a placeholder, which `testing::set_context` replaces.
///
/// # Errors
/// [`Error::Internal`] if the host's answer is malformed.
///
/// ```
/// let context = kvasm_guest::context()?;
/// log::info!("{} runs as request {}", context.function, context.request_id);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn context() -> Result<Context, Error> {
    let json = sys::context()?;
    serde_json::from_slice(&json)
        .map_err(|e| Error::Internal(format!("the host's context is malformed: {e}")))
}

/// Returns the time of the host's clock.
///
/// `SystemTime::now` panics on `wasm32-unknown-unknown`; this works everywhere.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms()).unwrap_or(0))
}

/// Returns the time of the host's clock in milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    sys::now_ms()
}

/// Fills `bytes` with cryptographically secure random bytes from the host.
///
/// Natively they are only suitable for tests.
///
/// # Errors
/// The host's error, such as [`Error::Unavailable`].
///
/// ```
/// let mut token = [0; 16];
/// kvasm_guest::random_fill(&mut token)?;
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn random_fill(bytes: &mut [u8]) -> Result<(), Error> {
    sys::random_fill(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_with_unknown_fields_is_accepted() {
        let json = r#"{"app":"a","function":"f","request_id":"r","caller":"robot","attempt":2}"#;
        let context: Context = serde_json::from_str(json).unwrap();
        assert_eq!(context.caller, Caller::Unknown);
        let json = json.replace("robot", "principal");
        let context: Context = serde_json::from_str(&json).unwrap();
        assert_eq!(context.caller, Caller::Principal);
        assert_eq!((context.trigger, context.transaction), (None, false));
        assert_eq!((context.traceparent, context.tracestate), (None, None));
    }

    #[test]
    fn handler_context_is_decoded() {
        let json = r#"{"app":"a","function":"f","request_id":"r","caller":"trigger","transaction":true,
            "trigger":{"name":"t","event_id":"e","attempt":2,"depth":3},
            "traceparent":"00-p","tracestate":"a=1"}"#;
        let context: Context = serde_json::from_str(json).unwrap();
        assert_eq!(
            (context.caller, context.transaction),
            (Caller::Trigger, true)
        );
        assert_eq!(context.trigger, Some(Trigger::new("t", "e", 2, 3)));
        let trace = (
            context.traceparent.as_deref(),
            context.tracestate.as_deref(),
        );
        assert_eq!(trace, (Some("00-p"), Some("a=1")));
    }

    #[test]
    fn random_bytes_differ() {
        let mut one = [0; 20];
        let mut two = [0; 20];
        random_fill(&mut one).unwrap();
        random_fill(&mut two).unwrap();
        assert_ne!(one, two);
        random_fill(&mut []).unwrap();
    }
}
