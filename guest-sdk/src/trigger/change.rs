//! The change of an entry, as a handler receives it.

use super::{HandlerOutput, Permanent};
use crate::{Bytes, HandlerError, json};
use kvasm_abi::FORMAT_JSON;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The entry was written, whether it existed before or not.
    Set,
    /// The entry was deleted.
    Delete,
}

/// A change of an entry.
///
/// `Change<T>` decodes a written value as the JSON of a `T`; a value that does not fit fails
/// the delivery permanently. `Change<Bytes>` accepts any value: the bytes, or the text of the
/// JSON.
///
/// The change holds the value at the time of the write. By the time of a retry or a replay the
/// entry may have changed again; read it with
/// `kv::collection(&change.collection).get(&change.key)`.
///
/// ```
/// use kvasm_guest::{Change, Error, kv, testing};
///
/// /// Keeps the last price of every product, even of deleted ones.
/// #[kvasm_guest::on_change(collection = "prices")]
/// fn remember(change: Change<u32>) -> Result<(), Error> {
///     if let Some(price) = change.value {
///         kv::collection("last-prices").set(&change.key, &price)?;
///     }
///     Ok(())
/// }
///
/// testing::change(remember, Change::set("prices", "paper", 12)).unwrap();
/// testing::change(remember, Change::delete("prices", "paper")).unwrap();
/// assert_eq!(kv::collection("last-prices").get("paper")?, Some(12));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<T> {
    /// Whether the entry was written or deleted.
    pub kind: ChangeKind,
    /// The entry's collection.
    pub collection: String,
    /// The entry's key.
    pub key: String,
    /// The version that was written or deleted.
    pub version: u64,
    /// The value that was written; `None` for a delete.
    pub value: Option<T>,
    /// Identifies the change; the same in every attempt and replay.
    pub event_id: String,
    /// The name of the trigger that delivers it.
    pub trigger: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// 1 for a change made by a call, plus one for each handler in the chain of changes that
    /// led to this one.
    pub depth: u32,
    /// The time of the change, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    kind: ChangeKind,
    event_id: String,
    trigger: String,
    attempt: u32,
    depth: u32,
    collection: String,
    key: String,
    version: u64,
    at_ms: i64,
    #[serde(default)]
    format: i32,
}

/// A type that a value can be decoded as: the JSON of any type that serde supports, or
/// [`Bytes`].
#[diagnostic::on_unimplemented(
    message = "a changed value cannot be read as `{Self}`",
    label = "not a value",
    note = "it is the `T` of `Change<T>`: a type with `serde::Deserialize`, or `kvasm_guest::Bytes`"
)]
pub trait ChangeValue: Sized {
    /// Decodes a value.
    fn from_value(format: i32, value: Vec<u8>) -> Result<Self, String>;
}

impl<T: DeserializeOwned> ChangeValue for T {
    fn from_value(format: i32, value: Vec<u8>) -> Result<T, String> {
        if format != FORMAT_JSON {
            return Err("the changed entry holds bytes, not JSON".to_owned());
        }
        json::decode(&value).map_err(|why| {
            format!("the changed entry is not the JSON that this handler takes: {why}")
        })
    }
}

impl ChangeValue for Bytes {
    fn from_value(_: i32, value: Vec<u8>) -> Result<Bytes, String> {
        Ok(Bytes(value))
    }
}

/// A type that a handler of changes can take: a [`Change`].
#[diagnostic::on_unimplemented(
    message = "a handler of changes cannot take `{Self}`",
    label = "not a change",
    note = "take `kvasm_guest::Change<T>` where `T: serde::de::DeserializeOwned`, or `Change<Bytes>`"
)]
pub trait ChangeArgument: Sized {
    /// Decodes a frame of the host.
    fn decode(frame: Vec<u8>) -> Result<Self, String>;
}

impl<T: ChangeValue> ChangeArgument for Change<T> {
    fn decode(mut frame: Vec<u8>) -> Result<Change<T>, String> {
        let (head, body) = kvasm_abi::http::split(&frame)
            .map_err(|_| "the input is not a change: it ends within its head")?;
        let head: Head =
            serde_json::from_slice(head).map_err(|e| format!("the input is not a change: {e}"))?;
        // The value stays in its buffer, as memory for a second one may be short.
        let body_start = frame.len() - body.len();
        frame.drain(..body_start);
        let value = match head.kind {
            ChangeKind::Set => Some(T::from_value(head.format, frame)?),
            ChangeKind::Delete => None,
        };
        Ok(Change {
            kind: head.kind,
            collection: head.collection,
            key: head.key,
            version: head.version,
            value,
            event_id: head.event_id,
            trigger: head.trigger,
            attempt: head.attempt,
            depth: head.depth,
            at_ms: head.at_ms,
        })
    }
}

/// Runs a handler on the change in the input.
pub fn run_change<A: ChangeArgument, R: HandlerOutput>(handler: impl FnOnce(A) -> R) -> i32 {
    crate::function::run_on_input(|input| {
        let change = A::decode(input).map_err(Permanent)?;
        handler(change).into_result()?;
        Ok::<_, HandlerError>(Vec::new())
    })
}

/// Changes for tests. Set the other members through the public fields.
impl<T> Change<T> {
    /// Returns a write of this value, at version 1, in the first attempt.
    pub fn set(collection: &str, key: &str, value: T) -> Change<T> {
        Change::new(ChangeKind::Set, collection, key, Some(value))
    }

    /// Returns a delete of version 1, in the first attempt.
    pub fn delete(collection: &str, key: &str) -> Change<T> {
        Change::new(ChangeKind::Delete, collection, key, None)
    }

    fn new(kind: ChangeKind, collection: &str, key: &str, value: Option<T>) -> Change<T> {
        Change {
            kind,
            collection: collection.to_owned(),
            key: key.to_owned(),
            version: 1,
            value,
            event_id: "test".to_owned(),
            trigger: "test".to_owned(),
            attempt: 1,
            depth: 1,
            at_ms: crate::now_ms(),
        }
    }
}

/// A type that a test's change can hold: the types that [`ChangeValue`] can decode.
#[cfg(not(target_arch = "wasm32"))]
#[diagnostic::on_unimplemented(
    message = "a change of a test cannot carry `{Self}`",
    note = "the value goes through its JSON: it needs `serde::Serialize`, or to be `kvasm_guest::Bytes`"
)]
pub trait ToValue {
    /// Returns the format and the bytes.
    fn to_value(&self) -> Result<(i32, Vec<u8>), String>;
}

#[cfg(not(target_arch = "wasm32"))]
impl<T: Serialize> ToValue for T {
    fn to_value(&self) -> Result<(i32, Vec<u8>), String> {
        let json = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        Ok((FORMAT_JSON, json))
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl ToValue for Bytes {
    fn to_value(&self) -> Result<(i32, Vec<u8>), String> {
        Ok((kvasm_abi::FORMAT_BYTES, self.0.clone()))
    }
}

/// Encodes the frame as the host does.
#[cfg(not(target_arch = "wasm32"))]
impl<T: ToValue> Change<T> {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let value = self.value.as_ref().map(ToValue::to_value).transpose()?;
        let (format, body) = value.unwrap_or_default();
        let head = Head {
            kind: self.kind,
            event_id: self.event_id.clone(),
            trigger: self.trigger.clone(),
            attempt: self.attempt,
            depth: self.depth,
            collection: self.collection.clone(),
            key: self.key.clone(),
            version: self.version,
            at_ms: self.at_ms,
            format,
        };
        crate::http::handler::frame(&head, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::native;

    fn framed(head: &str, body: &[u8]) -> Vec<u8> {
        let prefix = kvasm_abi::http::prefix(head.len()).unwrap();
        [&prefix, head.as_bytes(), body].concat()
    }

    fn head(kind: &str, format: i32) -> String {
        format!(
            r#"{{"kind":"{kind}","event_id":"e","trigger":"t","attempt":2,"depth":3,
            "collection":"c","key":"k","version":7,"at_ms":9,"format":{format},"more":0}}"#
        )
    }

    fn run<T: ChangeValue>(frame: &[u8], handler: fn(Change<T>)) -> (i32, String) {
        native::set_input(frame);
        let code = run_change(handler);
        (code, String::from_utf8(native::take_output()).unwrap())
    }

    #[test]
    fn host_frame_is_decoded() {
        let set = Change::<u32>::decode(framed(&head("set", 0), b"5")).unwrap();
        assert_eq!(
            (set.kind, set.value, set.version),
            (ChangeKind::Set, Some(5), 7)
        );
        assert_eq!((set.attempt, set.depth, set.at_ms), (2, 3, 9));
        assert_eq!((set.collection.as_str(), set.key.as_str()), ("c", "k"));
        assert_eq!(Change::decode(set.encode().unwrap()), Ok(set));
        let delete = Change::<u32>::decode(framed(&head("delete", 0), b"")).unwrap();
        assert_eq!((delete.kind, delete.value), (ChangeKind::Delete, None));
        let bytes = Change::<Bytes>::decode(framed(&head("set", 1), b"\0")).unwrap();
        assert_eq!(bytes.value, Some(Bytes(vec![0])));
        assert_eq!(Change::decode(bytes.encode().unwrap()), Ok(bytes));
        let text = Change::<Bytes>::decode(framed(&head("set", 0), b"{}")).unwrap();
        assert_eq!(text.value, Some(Bytes(b"{}".to_vec())));
    }

    #[test]
    fn undecodable_change_fails_permanently() {
        for (frame, why) in [
            (framed(&head("set", 0), b"\"x\""), "expected u32"),
            (framed(&head("set", 0), b""), "EOF"),
            (framed(&head("set", 1), b"5"), "holds bytes"),
            (framed(&head("moved", 0), b"5"), "unknown variant"),
            (framed("{}", b"5"), "missing field"),
            (b"\x01".to_vec(), "ends within its head"),
        ] {
            let (code, message) = run::<u32>(&frame, |_| panic!("it must not run"));
            assert_eq!(code, kvasm_abi::EXIT_PERMANENT, "{message}");
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn handler_outcome_maps_to_its_exit_code() {
        let frame = framed(&head("delete", 0), b"");
        let end = |result: Result<(), HandlerError>| {
            native::set_input(&frame);
            let code = run_change(|_: Change<u32>| result);
            (code, native::take_output())
        };
        assert_eq!(end(Ok(())), (0, Vec::new()));
        assert_eq!(end(Err("later".into())), (1, b"later".to_vec()));
        assert_eq!(end(Err(Permanent("no").into())), (2, b"no".to_vec()));
        assert_eq!(run::<u32>(&frame, |_| ()), (0, String::new()));
        native::set_input(&frame);
        assert_eq!(run_change(|_: Change<u32>| Err(Permanent(1))), 2);
    }
}
