//! Converts wasmtime errors to call errors.

use super::error::CallError;
use super::invocation::{Invocation, StopReason};
use super::source_lines::SourceLines;
use crate::abi::printable;
use crate::abi::{BadPointer, NoMemory};
use kvasm_abi::FUNCTION_EXPORTS;
use std::fmt::Write;
use wasmtime::{FrameInfo, GcHeapOutOfMemory, ThrownException, Trap, WasmBacktrace};

/// Maximum length of a function name in a backtrace, in characters.
const NAME_CHARS_MAX: usize = 256;

/// How far below address 0 an access may be that is explained as a stack overflow: up to where large
/// local variables reach.
const OVERFLOW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Classifies the error that ended a guest, whose code comes from `lines`.
pub(super) fn classify(
    error: &wasmtime::Error,
    invocation: &Invocation,
    lines: &SourceLines,
) -> CallError {
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
    if is_heap_exhausted(error) && invocation.host_memory_exhausted() {
        return CallError::HostMemory;
    }
    let backtrace = error
        .downcast_ref::<WasmBacktrace>()
        .map_or_else(String::new, |backtrace| readable(backtrace, lines));
    let reason = reason(error, invocation);
    if starting {
        CallError::Start { reason, backtrace }
    } else {
        CallError::Trap { reason, backtrace }
    }
}

/// Whether the guest's collected heap could not grow.
fn is_heap_exhausted(error: &wasmtime::Error) -> bool {
    let too_large = matches!(error.downcast_ref::<Trap>(), Some(Trap::AllocationTooLarge));
    too_large || error.downcast_ref::<GcHeapOutOfMemory<()>>().is_some()
}

fn reason(error: &wasmtime::Error, invocation: &Invocation) -> String {
    let mut reason = if let Some(trap) = error.downcast_ref::<Trap>() {
        trap_reason(*trap, error)
    } else if let Some(pointer) = error.downcast_ref::<BadPointer>() {
        pointer.to_string()
    } else if error.downcast_ref::<NoMemory>().is_some() {
        NoMemory.to_string()
    } else if error.downcast_ref::<ThrownException>().is_some() {
        "an exception was thrown and not caught".to_owned()
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

fn trap_reason(trap: Trap, error: &wasmtime::Error) -> String {
    match trap {
        Trap::StackOverflow => format!("stack overflow ({trap})"),
        // Most languages keep local variables on a second stack, in linear memory. Rust and
        // others place it at address 0, so that an overflow is out of bounds.
        Trap::MemoryOutOfBounds => match fault_address(error) {
            Some(address) if address >= (1 << 32) - OVERFLOW_BYTES_MAX => format!(
                "{trap}, probably a stack overflow: it used an address just below 0, where the \
                 stack of most plugins ends"
            ),
            _ => trap.to_string(),
        },
        _ => trap.to_string(),
    }
}

/// Returns the address in linear memory of a memory fault. The type that has it is private to
/// wasmtime, so it is read from its text.
fn fault_address(error: &wasmtime::Error) -> Option<u64> {
    error.chain().find_map(|cause| {
        let text = cause.to_string();
        let address = text.strip_prefix("memory fault at wasm address 0x")?;
        u64::from_str_radix(address.split(' ').next()?, 16).ok()
    })
}

/// Formats one line per frame, with the source line if it is known; equal ones that follow each other
/// share a line.
fn readable(backtrace: &WasmBacktrace, lines: &SourceLines) -> String {
    let frames = backtrace.frames().iter();
    let mut frames: Vec<String> = frames.map(|frame| readable_frame(frame, lines)).collect();
    // What Rust does after a panic explains nothing.
    if let Some(panic) = frames.iter().position(|frame| is_panic(frame)) {
        frames.drain(..=panic);
    }
    let mut out = String::new();
    let mut at = 0;
    for same in frames.chunk_by(|one, other| one == other) {
        let _ = write!(out, "  {at}: {}", same.first().map_or("", String::as_str));
        let _ = match same.len() {
            1 => writeln!(out),
            times => writeln!(out, " ({times} times)"),
        };
        at += same.len();
    }
    out.truncate(out.trim_end().len());
    out
}

/// Whether a frame is that of the function that a panic in Rust calls first.
fn is_panic(frame: &str) -> bool {
    let name = frame.split(' ').next().unwrap_or_default();
    name.rsplit("::").next() == Some("rust_begin_unwind")
}

/// Formats one frame. Names and files come from the guest, so they are truncated and escaped.
fn readable_frame(frame: &FrameInfo, lines: &SourceLines) -> String {
    let mut out = match frame.func_name() {
        Some(name) => {
            let name = name.strip_prefix(FUNCTION_EXPORTS).unwrap_or(name);
            // The alternate form leaves out the hash.
            let name = format!("{:#}", rustc_demangle::demangle(name));
            printable(&name.chars().take(NAME_CHARS_MAX).collect::<String>())
        }
        None => format!("function {}", frame.func_index()),
    };
    if let Some((file, line)) = frame.module_offset().and_then(|at| lines.find(at)) {
        let _ = write!(out, " at {}:{line}", printable(file));
    }
    out
}
