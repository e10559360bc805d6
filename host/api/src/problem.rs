//! Problem documents.

use super::UnmetView;
use serde::Serialize;
use utoipa::ToSchema;

/// Problem details (RFC 9457): why a request was refused or failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProblemView {
    /// The problem type: `urn:kvasm:problem:` and a stable name.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:kvasm:problem:[a-z-]+$")]
    pub kind: String,
    /// Short description of the problem type.
    pub title: &'static str,
    /// Status of the response.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// Explanation of this occurrence, for people.
    pub detail: String,
    /// Id of the request, as in the logs.
    #[schema(format = "uuid")]
    pub request_id: String,
    /// For a batch: the entries whose check failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::EntryRef>>)]
    pub failed: Option<serde_json::Value>,
    /// For a server that is not ready, if the caller may see it: the failing components.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub failing: Option<serde_json::Value>,
    /// For a plugin version that is not activated: the needs that the app does not meet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub unmet: Vec<UnmetView>,
}
