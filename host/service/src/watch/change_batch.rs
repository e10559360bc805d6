//! Changes as server-sent events, encoded once for all watchers.

use super::ChangeFilter;
use crate::webhook::encode_change;
use bytes::Bytes;
use kvasm_core::store::LoggedChange;
use kvasm_core::{AppName, EventKind};
use std::ops::Range;

/// Consecutive changes of an app.
#[derive(Debug)]
pub(super) struct ChangeBatch {
    /// The position up to which the changes of the app are known with this batch.
    pub(super) last: u64,
    /// Whether changes before this batch are missing.
    pub(super) gap: bool,
    changes: Vec<EncodedChange>,
    /// The events, one after another.
    bytes: Bytes,
}

/// A change, and its part of the batch's bytes.
#[derive(Debug)]
struct EncodedChange {
    position: u64,
    collection: String,
    key: String,
    part: Range<usize>,
}

impl ChangeBatch {
    /// Encodes changes. One whose value is damaged is left out, and logged.
    pub(super) fn new(app: &AppName, changes: Vec<LoggedChange>, last: u64) -> ChangeBatch {
        let mut bytes = Vec::new();
        let mut encoded = Vec::with_capacity(changes.len());
        for change in changes {
            let from = bytes.len();
            let (position, collection, key) = (
                change.position,
                change.collection.as_str().to_owned(),
                change.key.as_str().to_owned(),
            );
            if let Err(error) = write_event(&mut bytes, app, change) {
                tracing::error!(%app, position, %error, "a change cannot be encoded");
                bytes.truncate(from);
                continue;
            }
            encoded.push(EncodedChange {
                position,
                collection,
                key,
                part: from..bytes.len(),
            });
        }
        ChangeBatch {
            last,
            gap: false,
            changes: encoded,
            bytes: bytes.into(),
        }
    }

    /// The mark of changes that are missing, up to a position.
    pub(super) fn gap(last: u64) -> ChangeBatch {
        ChangeBatch {
            last,
            gap: true,
            changes: Vec::new(),
            bytes: Bytes::new(),
        }
    }

    /// Returns the approximate size in memory.
    pub(super) fn size(&self) -> usize {
        let texts = |c: &EncodedChange| c.collection.len() + c.key.len() + 96;
        self.bytes.len() + self.changes.iter().map(texts).sum::<usize>()
    }

    /// Returns the number of bytes of all events.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the events after a position that a filter covers, without copying them.
    pub(super) fn select(&self, filter: &ChangeFilter, after: u64, to: &mut Vec<Bytes>) {
        let first = self.changes.partition_point(|c| c.position <= after);
        if filter.is_empty() && first == 0 {
            if !self.bytes.is_empty() {
                to.push(self.bytes.clone());
            }
            return;
        }
        let mut run: Option<Range<usize>> = None;
        let covered = |c: &&EncodedChange| filter.covers(&c.collection, &c.key);
        for change in self.changes.iter().skip(first).filter(covered) {
            run = Some(match run {
                Some(run) if run.end == change.part.start => run.start..change.part.end,
                other => {
                    to.extend(other.map(|run| self.bytes.slice(run)));
                    change.part.clone()
                }
            });
        }
        to.extend(run.map(|run| self.bytes.slice(run)));
    }
}

/// Writes a change as an event whose id is its position.
fn write_event(
    to: &mut Vec<u8>,
    app: &AppName,
    change: LoggedChange,
) -> Result<(), serde_json::Error> {
    let LoggedChange {
        position,
        at,
        collection,
        key,
        version,
        value,
    } = change;
    let kind = match value {
        Some(value) => EventKind::Set {
            collection,
            key,
            version,
            value,
        },
        None => EventKind::Deleted {
            collection,
            key,
            version,
        },
    };
    let event = encode_change(app, position, at, &kind)?;
    to.extend_from_slice(format!("id: {position}\ndata: ").as_bytes());
    // A stored value may have line breaks between its tokens, which would end the field.
    let is_break = |byte: u8| matches!(byte, b'\n' | b'\r');
    to.extend(event.iter().map(|b| if is_break(*b) { b' ' } else { *b }));
    to.extend_from_slice(b"\n\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{Collection, JsonText, Key, Timestamp, Value, Version};

    fn change(position: u64, collection: &str, key: &str, json: &str) -> LoggedChange {
        LoggedChange {
            position,
            at: Timestamp(0),
            collection: Collection::parse(collection).unwrap(),
            key: Key::parse(key).unwrap(),
            version: Version(position),
            value: Some(Value::Json(JsonText::stored(json.to_owned()))),
        }
    }

    fn selected(batch: &ChangeBatch, filter: &ChangeFilter, after: u64) -> (usize, Vec<u64>) {
        let mut parts = Vec::new();
        batch.select(filter, after, &mut parts);
        let text = String::from_utf8(parts.concat()).unwrap();
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        (parts.len(), ids.map(|id| id.parse().unwrap()).collect())
    }

    #[test]
    fn watchers_share_the_bytes_that_they_want() {
        let app = AppName::parse("shop").unwrap();
        let changes = vec![
            change(3, "a", "x/1", "1"),
            change(5, "b", "x/1", "1"),
            change(6, "a", "y", "1"),
            change(9, "a", "x/2", "1"),
        ];
        let batch = ChangeBatch::new(&app, changes, 9);
        let all = ChangeFilter::default();
        assert_eq!(selected(&batch, &all, 0), (1, vec![3, 5, 6, 9]));
        assert_eq!(selected(&batch, &all, 5), (1, vec![6, 9]));
        assert_eq!(selected(&batch, &all, 9), (0, vec![]));
        let of_a = ChangeFilter {
            collection: Some(Collection::parse("a").unwrap()),
            prefix: None,
        };
        assert_eq!(selected(&batch, &of_a, 0), (2, vec![3, 6, 9]));
        let with_prefix = ChangeFilter {
            prefix: Some("x/".to_owned()),
            ..of_a
        };
        assert_eq!(selected(&batch, &with_prefix, 3), (1, vec![9]));
    }

    #[test]
    fn event_is_one_line_whatever_the_value() {
        let app = AppName::parse("shop").unwrap();
        let value = "{\r\n\"text\":\n\"line\\nbreak\"}";
        let batch = ChangeBatch::new(&app, vec![change(1, "c", "k\n\ndata: x", value)], 1);
        let text = String::from_utf8(batch.bytes.to_vec()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        let json = text.lines().nth(1).unwrap().strip_prefix("data: ").unwrap();
        let event: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(event["data"]["text"], "line\nbreak");
        assert_eq!(event["subject"], "k\n\ndata: x");
    }
}
