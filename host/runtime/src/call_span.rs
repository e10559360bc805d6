//! The span of a call.

use super::error::CallFailure;
use super::request::{InvocationRequest, Response};
use kvasm_service::{OpenSpan, SpanRecorder};

/// Starts the span of a call, if it is sampled.
pub(super) fn call_span(
    name: &str,
    request: &InvocationRequest,
) -> Option<(SpanRecorder, OpenSpan)> {
    let recorder = request.context.caller.recorder()?;
    let mut span = recorder.start_call(format!("call {name}"));
    span.set("kvasm.app", request.app_name.to_string());
    span.set("faas.name", name.to_owned());
    span.set("faas.invocation_id", request.context.request_id.to_string());
    Some((recorder.clone(), span))
}

/// Ends it, with the outcome and the cost of the run.
pub(super) fn end_call_span(
    recorder: &SpanRecorder,
    mut span: OpenSpan,
    result: &Result<Response, CallFailure>,
    outcome: &'static str,
) {
    let cost = match result {
        Ok(response) => &response.cost,
        Err(failure) => &failure.cost,
    };
    span.set("kvasm.outcome", outcome);
    let cpu_us = u64::try_from(cost.cpu.as_micros());
    span.set("kvasm.cpu_us", cpu_us.unwrap_or(u64::MAX));
    span.set("kvasm.memory_bytes", cost.memory_bytes);
    span.set("kvasm.host_calls", cost.host_calls);
    if let left_out @ 1.. = recorder.host_functions_left_out() {
        span.set("kvasm.host_functions_left_out", left_out);
    }
    match result {
        Ok(_) => span.end(),
        Err(_) => span.fail(outcome),
    }
}
