//! New plugin versions, and the audit log of administrators' operations.

use super::{AppId, AppName, Digest, Exports, Timestamp, TokenId};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use uuid::Uuid;

/// A plugin version to add.
#[derive(Clone)]
pub struct NewPlugin {
    /// Its app.
    pub app: AppId,
    /// The SHA-256 of the module.
    pub digest: Digest,
    /// The bytes of the module.
    pub wasm: Bytes,
    /// What it exports.
    pub exports: Exports,
    /// Whether to activate it in the same transaction.
    pub activate: bool,
}

impl std::fmt::Debug for NewPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewPlugin")
            .field("app", &self.app)
            .field("digest", &self.digest)
            .field("activate", &self.activate)
            .finish_non_exhaustive()
    }
}

/// A row of the audit log: who did what, when, in which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Its identity, which sorts by time.
    pub id: Uuid,
    /// When it was done.
    pub at: Timestamp,
    /// The token that was used, if any.
    pub token: Option<TokenId>,
    /// The name of the token, or of the command that was used.
    pub actor: String,
    /// The action, such as `plugin.activate`.
    pub action: Cow<'static, str>,
    /// The app that was affected, if any. Kept after the app is deleted.
    pub app: Option<(AppId, AppName)>,
    /// Details: a JSON object. It contains no secrets and no values, and is at most
    /// [`DETAIL_BYTES_MAX`](Audit::DETAIL_BYTES_MAX) long.
    pub detail: Value,
    /// The ID of the request.
    pub request_id: Uuid,
}

/// The last change of the registry, identified by its audit row. No two changes share a generation,
/// so data read at one generation is current as long as the store returns that generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub Uuid);

impl Audit {
    /// The maximum size of a detail as JSON, in bytes.
    pub const DETAIL_BYTES_MAX: usize = 1024;

    /// Truncates a detail that is too long. Texts and lists are cut to a prefix that fits, other
    /// members are dropped. `cut` then has the full size of each member that was cut: the bytes of
    /// a text, the number of parts of a list.
    pub fn bounded(detail: Value) -> Value {
        if json_len(&detail) <= Audit::DETAIL_BYTES_MAX {
            return detail;
        }
        let Value::Object(members) = detail else {
            return json!({ "cut": { "detail": json_len(&detail) } });
        };
        let mut members: Vec<_> = members.into_iter().collect();
        // Small members first: they identify what was done.
        members.sort_by_key(|(_, value)| json_len(value));
        // Half is for `cut`, less its frame and the number of the others.
        let mut room = Audit::DETAIL_BYTES_MAX / 2;
        let mut room_of_cut = Audit::DETAIL_BYTES_MAX / 2 - 64;
        let mut others = 0;
        let (mut kept, mut cut) = (Map::new(), Map::new());
        for (name, value) in members {
            // Quotes, colon, comma.
            let name_len = json_len(&json!(name)) + 2;
            let len = json_len(&value);
            if name_len + len <= room {
                room -= name_len + len;
                kept.insert(name, value);
                continue;
            }
            // The longest number has 20 digits.
            if name_len > room || name_len + 20 > room_of_cut {
                others += 1;
                continue;
            }
            room_of_cut -= name_len + 20;
            cut.insert(name.clone(), json!(full_size(&value)));
            if let Some(beginning) = beginning(value, room - name_len) {
                room -= name_len + json_len(&beginning);
                kept.insert(name, beginning);
            }
        }
        if others > 0 {
            cut.insert("others".to_owned(), json!(others));
        }
        kept.insert("cut".to_owned(), Value::Object(cut));
        Value::Object(kept)
    }
}

fn json_len(value: &Value) -> usize {
    value.to_string().len()
}

/// Returns the bytes of a text, the number of parts of a list, or the bytes of other JSON.
fn full_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts.len(),
        other => json_len(other),
    }
}

/// Returns the prefix of a text or a list that fits.
fn beginning(value: Value, room: usize) -> Option<Value> {
    match value {
        Value::String(text) => {
            let mut used = 2;
            let mut fits = |c: char| {
                // Without the quotes.
                used += json_len(&json!(c)) - 2;
                used <= room
            };
            Some(Value::String(
                text.chars().take_while(|c| fits(*c)).collect(),
            ))
        }
        Value::Array(parts) => {
            let mut used = 1;
            let fits = |part: &Value| {
                used += json_len(part) + 1;
                used <= room
            };
            Some(Value::Array(parts.into_iter().take_while(fits).collect()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_audit_detail_is_unchanged() {
        let detail = json!({ "collection": "c", "key": "k".repeat(900) });
        assert_eq!(Audit::bounded(detail.clone()), detail);
    }

    #[test]
    fn long_audit_detail_is_truncated_and_marked() {
        let ids: Vec<_> = (0..1_000).map(|n| format!("{n:036}")).collect();
        let detail = json!({ "ids": ids, "limit": 7, "trigger": "t" });
        let cut = Audit::bounded(detail);
        assert!(json_len(&cut) <= Audit::DETAIL_BYTES_MAX);
        assert_eq!((&cut["limit"], &cut["trigger"]), (&json!(7), &json!("t")));
        let kept = cut["ids"].as_array().unwrap();
        assert!(kept.len() > 5 && kept[..] == ids[..kept.len()]);
        assert_eq!(cut["cut"], json!({ "ids": 1_000 }));
        // Each takes six bytes of JSON per key character, and no character is split.
        for c in ["\u{1}", "é"] {
            let key = c.repeat(9_000);
            let cut = Audit::bounded(json!({ "collection": "c", "key": key }));
            assert!(json_len(&cut) <= Audit::DETAIL_BYTES_MAX);
            let kept = cut["key"].as_str().unwrap();
            assert!(!kept.is_empty() && key.starts_with(kept));
            assert_eq!(cut["cut"], json!({ "key": key.len() }));
        }
    }

    #[test]
    fn audit_detail_of_any_shape_is_bounded() {
        let many: Map<_, _> = (0..9_000).map(|n| (format!("{n}"), json!(n))).collect();
        let deep = json!({ "a": { "b": "x".repeat(5_000) }, "c": 1 });
        let named = json!({ "n".repeat(9_000): 1, "c": 1 });
        let several = json!({ "a": "x".repeat(5_000), "b": "y".repeat(5_000), "c": "z".repeat(9) });
        for detail in [
            Value::Object(many),
            deep,
            named,
            several,
            json!(["x".repeat(5_000)]),
        ] {
            let cut = Audit::bounded(detail);
            assert!(json_len(&cut) <= Audit::DETAIL_BYTES_MAX, "{cut}");
            assert!(cut["cut"].is_object());
        }
    }
}
