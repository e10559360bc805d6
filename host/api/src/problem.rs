//! Problems, as clients see them.

use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was refused, or failed: problem details (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProblemView {
    /// Which case it is: `urn:kvasm:problem:` and a name that does not change.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:kvasm:problem:[a-z-]+$")]
    pub kind: String,
    /// The case in words.
    pub title: &'static str,
    /// The response's status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What was wrong, for people.
    pub detail: String,
    /// The request, as logs have it.
    #[schema(format = "uuid")]
    pub request_id: String,
    /// Of a batch: the entries that were not as a check expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::EntryRef>>)]
    pub failed: Option<serde_json::Value>,
    /// Of a server that is not ready, for who may see it: what fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub failing: Option<serde_json::Value>,
}
