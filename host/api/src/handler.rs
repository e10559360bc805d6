//! Requests to the HTTP handler of a plugin, and its responses, as data.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request to the HTTP handler of an app's active plugin, in a body of at most 64 KiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandlerRequest {
    /// `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`.
    #[schema(example = "GET")]
    pub method: String,
    /// The path after the app's name, and the query if there is one.
    #[schema(example = "/orders/7?full=1")]
    pub path: String,
    /// At most 100 headers: pairs of a name and a value without control characters.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The body in base64, if it is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

/// The response of a plugin's HTTP handler.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HandlerResponse {
    /// Status.
    pub status: u16,
    /// Headers that a client would get: pairs of a name and a value.
    pub headers: Vec<(String, String)>,
    /// The body, if it is UTF-8 without control characters other than tabs and line breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The body in base64, if it is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}
