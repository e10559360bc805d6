//! What administrators add, and the record of what they did.

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
    /// The module.
    pub wasm: Bytes,
    /// What it offers.
    pub exports: Exports,
    /// Make it the active version in the same transaction.
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

/// Who did what, when, on whose request. One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Its identity, which sorts by time.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// The token that was used, if it was one.
    pub token: Option<TokenId>,
    /// The token's name, or the command that was used.
    pub actor: String,
    /// What was done, such as `plugin.activate`.
    pub action: Cow<'static, str>,
    /// The app that it was about, if it was one. Kept after the app is gone.
    pub app: Option<(AppId, AppName)>,
    /// What exactly: a JSON object. It holds no secret and no value, and is at most
    /// [`DETAIL_BYTES_MAX`](Audit::DETAIL_BYTES_MAX) long.
    pub detail: Value,
    /// The request's id.
    pub request_id: Uuid,
}

/// The last change of the registry, by the identity of its audit row. No two changes have
/// the same, so what was read at one generation is current for as long as the store
/// answers with that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub Uuid);

impl Audit {
    /// The most bytes of a detail, as JSON.
    pub const DETAIL_BYTES_MAX: usize = 1024;

    /// Cuts a detail that is too long. Texts and lists keep what fits of their
    /// beginning, other members are left out; `cut` then has the full size of each
    /// that was cut: the bytes of a text, the parts of a list.
    pub fn bounded(detail: Value) -> Value {
        if json_len(&detail) <= Audit::DETAIL_BYTES_MAX {
            return detail;
        }
        let Value::Object(members) = detail else {
            return json!({ "cut": { "detail": json_len(&detail) } });
        };
        let mut members: Vec<_> = members.into_iter().collect();
        // The small ones first: they say what was done.
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

/// The bytes of a text, the parts of a list, or else the bytes of its JSON.
fn full_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts.len(),
        other => json_len(other),
    }
}

/// What fits of the beginning of a text or a list, if it is one.
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
    fn a_short_detail_stays() {
        let detail = json!({ "collection": "c", "key": "k".repeat(900) });
        assert_eq!(Audit::bounded(detail.clone()), detail);
    }

    #[test]
    fn a_long_detail_is_cut_and_says_so() {
        let ids: Vec<_> = (0..1_000).map(|n| format!("{n:036}")).collect();
        let detail = json!({ "ids": ids, "limit": 7, "trigger": "t" });
        let cut = Audit::bounded(detail);
        assert!(json_len(&cut) <= Audit::DETAIL_BYTES_MAX);
        assert_eq!((&cut["limit"], &cut["trigger"]), (&json!(7), &json!("t")));
        let kept = cut["ids"].as_array().unwrap();
        assert!(kept.len() > 5 && kept[..] == ids[..kept.len()]);
        assert_eq!(cut["cut"], json!({ "ids": 1_000 }));
        // Six bytes of JSON for each of a key, and no character is halved.
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
    fn a_detail_of_any_shape_is_bounded() {
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
