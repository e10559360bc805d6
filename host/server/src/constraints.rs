//! What the OpenAPI document says of parameters and fields beyond their types.

use super::try_handler::METHODS;
use kvasm_core::{Level, Scope};
use kvasm_service::{CALL_OUTCOMES, OnTriggerDelete};
use serde_json::{Value, json};

const APP: &str = "^[a-z0-9_-]+$";
const TRIGGER: &str = "^[A-Za-z0-9_.-]+$";
const TOKEN: &str = "^[0-9a-f]{32}$";
/// 32 hexadecimal digits or a UUID, not all zeros.
const TRACE_ID: &str =
    "^(?![0-]+$)([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$";
/// A position, and the identity of a host.
const LOG_CURSOR: &str = "^[0-9]{1,19}-[0-9a-f]{32}$";
/// A string of RFC 9651, or its characters alone.
const IDEMPOTENCY_KEY: &str = r#"^([!#-~][!-~]{0,254}|"([!#-\[\]-~]|\\["\\]){1,255}")$"#;
/// Simpler than what is accepted, which also includes addresses.
const ORIGIN: &str =
    r"^https?://(\*\.)?([a-z][a-z0-9]{0,62}\.){1,3}[a-z]{2,63}(:[1-9][0-9]{0,3})?$";
const ACTION: &str = r"^[a-z_]+(\.[a-z_]+)*$";
/// A percent-encoded path and query.
const TARGET: &str =
    r#"^/([!"$&-;=@-_a-z{|}~]|%[0-9A-Fa-f]{2})*(\?([!$&-;=?-~]|%[0-9A-Fa-f]{2})*)?$"#;
/// With padding, whose unused bits are zero.
const BASE64: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
const HEADER_NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
const HEADER_VALUE: &str = "^[\\t -~]*$";
const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
const NO_NUL: &str = "^[^\\u0000]*$";

fn text(min: u32, max: u32, pattern: &str) -> Value {
    json!({ "minLength": min, "maxLength": max, "pattern": pattern })
}

fn number(min: u32, max: u32) -> Value {
    json!({ "minimum": min, "maximum": max })
}

/// Reasons of dead letters.
const REASONS: [&str; 4] = ["attempts", "age", "deterministic", "depth"];

/// The constraints of a place in the document, beyond its type.
pub(super) fn constraints_of(place: &str, name: &str) -> Option<Value> {
    Some(match place {
        "?limit /v1/apps/{app}/deliveries" | "?limit /v1/apps/{app}/timers" => number(1, 100),
        "?limit /v1/apps/{app}/logs" | "?limit /v1/apps/{app}/calls" => number(0, u32::MAX),
        "Last-Event-ID /v1/apps/{app}/kv/watch" => {
            json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX })
        }
        "?after /v1/apps" => text(1, 64, APP),
        "?window /v1/overview" => json!({ "enum": ["1h", "1d"] }),
        "?after /v1/tokens" | "?after /v1/apps/{app}/tokens" => text(32, 32, TOKEN),
        "?after /v1/apps/{app}/kv/collections" => text(1, 128, NO_NUL),
        "?before /v1/audit"
        | "?before /v1/apps/{app}/audit"
        | "?before /v1/apps/{app}/dead-letters" => json!({ "format": "uuid" }),
        "?actor /v1/audit" | "?actor /v1/apps/{app}/audit" => text(1, 128, NO_CONTROL),
        "?action /v1/audit" | "?action /v1/apps/{app}/audit" => text(1, 64, ACTION),
        "?app /v1/audit" => text(1, 64, APP),
        "HandlerRequest.method" => json!({ "enum": METHODS }),
        "HandlerRequest.path" => text(1, 8 * 1024, TARGET),
        "HandlerRequest.bytes" => json!({ "pattern": BASE64 }),
        "HandlerRequest.headers" => json!({
            "maxItems": 100,
            "items": {
                "type": "array", "minItems": 2, "maxItems": 2,
                "prefixItems": [
                    { "type": "string", "pattern": HEADER_NAME },
                    { "type": "string", "pattern": HEADER_VALUE },
                ],
                "items": { "type": "string" },
            },
        }),
        "?after /v1/apps/{app}/timers" | "TimerRequest.timer" => text(1, 256, NO_NUL),
        "NewApp.name" => text(1, 64, APP),
        "NewToken.name" => text(1, 128, NO_CONTROL),
        "NewToken.scopes" => json!({
            "minItems": 1,
            "items": { "type": "string", "enum": Scope::ALL.map(Scope::as_str) },
        }),
        "Limits.entries" | "Limits.bytes" | "LimitsChange.entries" | "LimitsChange.bytes" => {
            json!({ "minimum": 0, "maximum": i64::MAX })
        }
        // At most so many bytes.
        "text/plain /v1/apps/{app}/config/{name}" => text(0, 16 * 1024, NO_NUL),
        "text/plain /v1/apps/{app}/secrets/{name}" => json!({ "maxLength": 16 * 1024 }),
        "Limits.calls_at_once" | "LimitsChange.calls_at_once" => number(1, u32::MAX),
        "TriggerPut.on" => json!({
            "minItems": 1,
            "items": { "type": "string", "enum": ["set", "delete"] },
        }),
        "LettersRequest.ids" => json!({
            "minItems": 1,
            "maxItems": 1_000,
            "items": { "type": "string", "format": "uuid" },
        }),
        "LettersRequest.trigger" => text(1, 64, TRIGGER),
        "?reason /v1/apps/{app}/dead-letters" => json!({ "enum": REASONS }),
        // A nullable enum must list null among its values.
        "LettersRequest.reason" => {
            let reasons = REASONS.map(Value::from);
            json!({ "enum": reasons.into_iter().chain([Value::Null]).collect::<Vec<_>>() })
        }
        "?after /v1/apps/{app}/deliveries" => json!({ "minLength": 1 }),
        "?deliveries /v1/apps/{app}/triggers/{name}" => {
            json!({ "enum": OnTriggerDelete::ALL.map(OnTriggerDelete::as_str) })
        }
        "?request /v1/apps/{app}/logs" | "?request /v1/apps/{app}/calls" => {
            json!({ "format": "uuid" })
        }
        "?trace /v1/apps/{app}/logs" => json!({ "pattern": TRACE_ID }),
        "?before /v1/apps/{app}/logs" | "?before /v1/apps/{app}/calls" => {
            json!({ "pattern": LOG_CURSOR })
        }
        "?outcome /v1/apps/{app}/calls" => json!({ "enum": CALL_OUTCOMES }),
        "?level /v1/apps/{app}/logs" => json!({ "enum": Level::ALL.map(Level::as_str) }),
        "DeliveriesRequest.events" => json!({
            "minItems": 1,
            "maxItems": 1_000,
            "items": { "type": "string", "format": "uuid" },
        }),
        "DeliveriesRequest.trigger" => text(1, 64, TRIGGER),
        "DeliveriesRequest.limit" => number(1, 1_000),
        "GrantView.origin" => json!({ "pattern": ORIGIN }),
        "GrantView.name" => text(1, 64, TRIGGER),
        "TriggerPut.attempts_max" => number(1, 100),
        "TriggerPut.age_max_ms" => number(1_000, 30 * 24 * 60 * 60 * 1_000),
        "LettersRequest.limit" => number(1, 1_000),
        "GetManyRequest.keys" => json!({ "maxItems": 1_000 }),
        _ => return known_by_name(name),
    })
}

/// The constraints of a parameter or field of this name, wherever it occurs.
fn known_by_name(name: &str) -> Option<Value> {
    Some(match name {
        "Idempotency-Key" => json!({ "pattern": IDEMPOTENCY_KEY }),
        "{app}" => text(1, 64, APP),
        "{name}" | "?trigger" => text(1, 64, TRIGGER),
        "{token}" => text(32, 32, TOKEN),
        "{id}" => json!({ "format": "uuid" }),
        "?limit" => number(1, 1_000),
        "?ttl_ms" | "ttl_ms" => json!({ "minimum": 1 }),
        "?cursor" => json!({ "minLength": 1 }),
        "?collection" | "collection" => text(1, 128, NO_NUL),
        "?key" | "key" => text(1, 1_024, NO_NUL),
        "?prefix" | "?start" | "?end" | "prefix" => text(0, 1_024, NO_NUL),
        _ => return None,
    })
}
