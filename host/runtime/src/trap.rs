//! Converts wasmtime errors to call errors.

use super::error::CallError;
use super::invocation::{Invocation, StopReason};
use crate::abi::printable;
use crate::abi::{BadPointer, NoMemory};
use std::fmt::Write;
use wasmtime::{Trap, WasmBacktrace};

/// Maximum length of a function name in a backtrace, in characters.
const NAME_CHARS_MAX: usize = 256;

/// Classifies the error that ended a guest.
pub(super) fn classify(error: &wasmtime::Error, invocation: &Invocation) -> CallError {
    let starting = invocation.starting();
    if let Some(stop) = error.downcast_ref::<StopReason>() {
        return match stop {
            StopReason::Deadline => invocation.timeout(),
            StopReason::CpuTime => CallError::CpuTime {
                limit: invocation.cpu_time(),
                starting,
            },
            StopReason::HostMemory => CallError::HostMemory,
        };
    }
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map_or_else(String::new, readable);
    let reason = reason(error, invocation);
    if starting {
        CallError::Start { reason, backtrace }
    } else {
        CallError::Trap { reason, backtrace }
    }
}

fn reason(error: &wasmtime::Error, invocation: &Invocation) -> String {
    let mut reason = if let Some(trap) = error.downcast_ref::<Trap>() {
        trap.to_string()
    } else if let Some(pointer) = error.downcast_ref::<BadPointer>() {
        pointer.to_string()
    } else if error.downcast_ref::<NoMemory>().is_some() {
        NoMemory.to_string()
    } else {
        // The error of an embedder's host function, or wasmtime's message about a module that
        // cannot be instantiated.
        printable(&error.root_cause().to_string())
    };
    if let Some(limit) = invocation.memory_refused() {
        let _ = write!(
            reason,
            " (the guest requested more memory than its limit of {limit} bytes)"
        );
    }
    reason
}

/// Formats one line per frame. Names come from the guest, so they are truncated and escaped.
fn readable(backtrace: &WasmBacktrace) -> String {
    let mut out = String::new();
    for (at, frame) in backtrace.frames().iter().enumerate() {
        let name = match frame.func_name() {
            Some(name) => {
                // The alternate form leaves out the hash.
                let name = format!("{:#}", rustc_demangle::demangle(name));
                printable(&name.chars().take(NAME_CHARS_MAX).collect::<String>())
            }
            None => format!("function {}", frame.func_index()),
        };
        let _ = writeln!(out, "  {at}: {name}");
    }
    out.truncate(out.trim_end().len());
    out
}
