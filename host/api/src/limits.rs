//! The limits of an app.

use kvasm_core::{AppLimits, LimitsPatch, Quota};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The limits of an app. `null` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
// The name in the OpenAPI document.
#[schema(as = Limits)]
pub struct LimitsView {
    /// Maximum number of entries.
    pub entries: Option<u64>,
    /// Maximum total bytes of entries: collections, keys and values.
    pub bytes: Option<u64>,
    /// Calls per second, on each host.
    pub calls_per_second: Option<u32>,
    /// Concurrent calls, on each host.
    pub calls_at_once: Option<u32>,
}

impl From<&AppLimits> for LimitsView {
    fn from(limits: &AppLimits) -> LimitsView {
        LimitsView {
            entries: limits.quota.entries,
            bytes: limits.quota.bytes,
            calls_per_second: limits.calls_per_second,
            calls_at_once: limits.calls_at_once,
        }
    }
}

impl From<LimitsView> for AppLimits {
    fn from(limits: LimitsView) -> AppLimits {
        AppLimits {
            quota: Quota {
                entries: limits.entries,
                bytes: limits.bytes,
            },
            calls_per_second: limits.calls_per_second,
            calls_at_once: limits.calls_at_once,
        }
    }
}

/// A change of some limits. Absent limits stay unchanged; `null` removes a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    /// Maximum number of entries.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<u64>)]
    pub entries: Option<Option<u64>>,
    /// Maximum total bytes of entries: collections, keys and values.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<u64>)]
    pub bytes: Option<Option<u64>>,
    /// Calls per second, on each host.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<u32>)]
    pub calls_per_second: Option<Option<u32>>,
    /// Concurrent calls, on each host.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "given"
    )]
    #[schema(value_type = Option<u32>)]
    pub calls_at_once: Option<Option<u32>>,
}

/// Distinguishes a field that is present, `null` or not, from an absent one.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl From<LimitsChange> for LimitsPatch {
    fn from(change: LimitsChange) -> LimitsPatch {
        LimitsPatch {
            entries: change.entries,
            bytes: change.bytes,
            calls_per_second: change.calls_per_second,
            calls_at_once: change.calls_at_once,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_null_limits_are_distinct() {
        let text = r#"{"bytes":null,"calls_at_once":3}"#;
        let change: LimitsChange = serde_json::from_str(text).unwrap();
        let expected = LimitsChange {
            bytes: Some(None),
            calls_at_once: Some(Some(3)),
            ..LimitsChange::default()
        };
        assert_eq!(change, expected);
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
    }
}
