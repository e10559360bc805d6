//! The span of a request to another server, by the semantic conventions for HTTP clients.

use super::{OpenSpan, OutboundError, OutboundResponse, SpanKind, SpanRecorder};
use kvasm_core::{HostName, HttpOrigin, TraceContext};

/// The methods that the conventions know. Any other one is a text of its sender.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// The span of a request to another server. If it is dropped before it is ended, it was cancelled.
pub struct OutboundSpan {
    span: OpenSpan,
    origin: HttpOrigin,
}

impl OutboundSpan {
    /// Starts it within the current span, if what happens is recorded.
    pub fn start(
        recorder: Option<&SpanRecorder>,
        method: &str,
        origin: &HttpOrigin,
    ) -> Option<OutboundSpan> {
        let known = METHODS.into_iter().find(|known| *known == method);
        let mut span = recorder?.start(SpanKind::Client, known.unwrap_or("HTTP"));
        span.set("http.request.method", known.unwrap_or("_OTHER"));
        Some(OutboundSpan {
            span,
            origin: origin.clone(),
        })
    }

    /// Returns the trace context for the request: its receiver's span is a child of this one.
    pub fn trace(&self) -> Option<TraceContext> {
        self.span.trace()
    }

    /// Ends it by the result. The URL is left out, since it may contain keys and tokens.
    pub fn end(mut self, result: &Result<OutboundResponse, OutboundError>) {
        // What an app may not reach is a text of its plugin.
        if !matches!(result, Err(error) if is_before_the_check(error)) {
            let address = match self.origin.host() {
                HostName::V6(address) => address.to_string(),
                host => host.to_string(),
            };
            self.span.set("server.address", address);
            self.span.set("server.port", self.origin.port());
        }
        match result {
            Err(error) => self.span.fail(error.outcome()),
            Ok(response) => {
                let status = response.status;
                self.span.set("http.response.status_code", status);
                match status {
                    400.. => self.span.fail(status.to_string()),
                    _ => self.span.end(),
                }
            }
        }
    }
}

/// Whether the permission of the origin may not have been checked, or was denied.
fn is_before_the_check(error: &OutboundError) -> bool {
    match error {
        OutboundError::Invalid(_)
        | OutboundError::RequestTooLarge { .. }
        | OutboundError::Denied(_)
        | OutboundError::Permissions(_)
        | OutboundError::Off => true,
        OutboundError::Rate { .. }
        | OutboundError::Busy
        | OutboundError::Refused { .. }
        | OutboundError::Name { .. }
        | OutboundError::Connect { .. }
        | OutboundError::Tls { .. }
        | OutboundError::Timeout { .. }
        | OutboundError::ResponseTooLarge { .. }
        | OutboundError::Broken { .. } => false,
    }
}
