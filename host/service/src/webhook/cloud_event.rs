//! Events as CloudEvents 1.0 in JSON, the structured mode of [the specification].
//!
//! [the specification]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md

use crate::rfc3339;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvasm_core::{AppName, Delivery, EventKind, Timestamp, TraceContext, Value};
use serde::Serialize;
use serde_json::value::RawValue;

/// The media type of the body.
pub(super) const MEDIA_TYPE: &str = "application/cloudevents+json";

/// The names of extensions are in lower case and at most 20 characters, as the specification says.
#[derive(Serialize)]
struct CloudEvent<'d> {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<&'d str>,
    /// As text: numbers of CloudEvents have 32 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    entryversion: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'d str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'d RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// What happened to an app, for an event.
struct Occurrence<'d> {
    app: &'d AppName,
    /// Unique for the app.
    id: String,
    at: Timestamp,
    kind: &'d EventKind,
    trigger: Option<&'d str>,
    trace: Option<&'d TraceContext>,
}

/// Returns the event of a delivery as JSON.
///
/// # Errors
/// The value is not JSON: the store is damaged.
pub(super) fn encode(
    app: &AppName,
    delivery: &Delivery,
    trace: &TraceContext,
) -> Result<Vec<u8>, serde_json::Error> {
    let event = &delivery.event;
    encode_occurrence(&Occurrence {
        app,
        id: event.id.to_string(),
        at: event.at,
        kind: &event.kind,
        trigger: Some(delivery.place.trigger.as_str()),
        trace: Some(trace),
    })
}

/// Returns the event of a change at a position of the app's log, as JSON.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_change(
    app: &AppName,
    position: u64,
    at: Timestamp,
    kind: &EventKind,
) -> Result<Vec<u8>, serde_json::Error> {
    encode_occurrence(&Occurrence {
        app,
        id: position.to_string(),
        at,
        kind,
        trigger: None,
        trace: None,
    })
}

fn encode_occurrence(event: &Occurrence<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let (kind, version, value) = match event.kind {
        EventKind::Set { version, value, .. } => ("kvasm.entry.set", Some(version), Some(value)),
        EventKind::Deleted { version, .. } => ("kvasm.entry.delete", Some(version), None),
        EventKind::Due => ("kvasm.schedule", None, None),
        EventKind::Timer { payload, .. } => ("kvasm.timer", None, Some(payload)),
    };
    let entry = event.kind.entry();
    let (data, bytes) = match value {
        None => (None, None),
        Some(Value::Json(text)) => (Some(serde_json::from_str(text.as_str())?), None),
        Some(Value::Bytes(bytes)) => (None, Some(STANDARD.encode(bytes))),
    };
    let media_type = match (data, &bytes) {
        (Some(_), _) => Some("application/json"),
        (None, Some(_)) => Some("application/octet-stream"),
        (None, None) => None,
    };
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: event.id.clone(),
        source: format!("/apps/{}", event.app),
        kind,
        time: rfc3339(event.at),
        subject: match event.kind {
            EventKind::Timer { name, .. } => Some(name.as_str()),
            _ => entry.map(|(_, key)| key.as_str()),
        },
        datacontenttype: media_type,
        trigger: event.trigger,
        collection: entry.map(|(collection, _)| collection.as_str()),
        entryversion: version.map(|version| version.0.to_string()),
        traceparent: event.trace.map(TraceContext::parent),
        tracestate: event.trace.and_then(TraceContext::state),
        data,
        data_base64: bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{
        Collection, DeliveryKey, DeliveryTarget, Event, JsonText, Key, Policy, TriggerName, Version,
    };
    use serde_json::json;
    use uuid::Uuid;

    fn encoded_text(kind: EventKind, at: i64) -> String {
        let id = Uuid::from_u128(7);
        let event = Event {
            id,
            depth: 1,
            followers: 0,
            at: Timestamp(at),
            trace: None,
            kind,
        };
        let delivery = Delivery {
            place: DeliveryKey {
                trigger: TriggerName::parse("orders-hook").unwrap(),
                ordering_key: 0,
                seq: 1,
            },
            event,
            target: DeliveryTarget::Webhook,
            policy: Policy::default(),
            attempts: 1,
            replays: 0,
            queued_at: Timestamp(at),
            due_at: None,
            leased: true,
            error: None,
            is_probe: false,
        };
        let trace = TraceContext::root(id);
        let app = AppName::parse("shop").unwrap();
        String::from_utf8(encode(&app, &delivery, &trace).unwrap()).unwrap()
    }

    /// Without the random parent.
    fn encoded(kind: EventKind, at: i64) -> serde_json::Value {
        let mut event: serde_json::Value = serde_json::from_str(&encoded_text(kind, at)).unwrap();
        let parent = event.as_object_mut().unwrap().remove("traceparent");
        assert!(parent.unwrap().as_str().unwrap().starts_with("00-"));
        event
    }

    fn set(value: Value) -> EventKind {
        EventKind::Set {
            collection: Collection::parse("orders").unwrap(),
            key: Key::parse("eu/1").unwrap(),
            version: Version(u64::MAX),
            value,
        }
    }

    #[test]
    fn change_is_a_cloud_event() {
        let value = || Value::Json(JsonText::stored(r#"{"cents": 5}"#.into()));
        assert_eq!(
            encoded(set(value()), 1_600_000_000_123),
            json!({
                "specversion": "1.0",
                "id": "00000000-0000-0000-0000-000000000007",
                "source": "/apps/shop",
                "type": "kvasm.entry.set",
                "time": "2020-09-13T12:26:40.123Z",
                "subject": "eu/1",
                "datacontenttype": "application/json",
                "trigger": "orders-hook",
                "collection": "orders",
                "entryversion": "18446744073709551615",
                "data": { "cents": 5 },
            })
        );
    }

    #[test]
    fn numbers_keep_all_their_digits() {
        let digits = "123456789012345678901234567890.10";
        let value = Value::Json(JsonText::stored(format!("[{digits}]")));
        let text = encoded_text(set(value), 0);
        assert!(
            text.ends_with(&format!(r#","data":[{digits}]}}"#)),
            "{text}"
        );
    }

    #[test]
    fn bytes_are_base64_and_a_deletion_has_no_data() {
        let event = encoded(set(Value::Bytes(vec![0xff, 0])), 0);
        assert_eq!(event["data_base64"], "/wA=");
        assert_eq!(event["datacontenttype"], "application/octet-stream");
        let deleted = EventKind::Deleted {
            collection: Collection::parse("orders").unwrap(),
            key: Key::parse("eu/1").unwrap(),
            version: Version(3),
        };
        let event = encoded(deleted, 0);
        assert_eq!(event["type"], "kvasm.entry.delete");
        for absent in ["data", "data_base64", "datacontenttype"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
        let event = encoded(EventKind::Due, 0);
        assert_eq!(event["type"], "kvasm.schedule");
        assert!(event.get("subject").is_none());
    }

    #[test]
    fn time_outside_of_the_format_is_left_out() {
        for at in [i64::MIN, -1, i64::MAX] {
            assert!(encoded(EventKind::Due, at).get("time").is_none(), "{at}");
        }
    }
}
