//! Setup that must run before plugin code on wasm32.
#![cfg_attr(target_os = "wasi", allow(unsafe_code))]

use super::wasm;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};

/// Routes lines of the `log` crate and the messages of panics to the app's log.
pub(crate) fn start() {
    // An instance has one thread, so a `Once` would only be larger.
    static IS_STARTED: AtomicBool = AtomicBool::new(false);
    if IS_STARTED.swap(true, Ordering::Relaxed) {
        return;
    }
    // This fails only if the module's own start code has set another logger, which stays in use.
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    std::panic::set_hook(Box::new(report));
}

/// Runs the module's constructors, once in each instance.
///
/// A linker that finds nothing which calls them wraps each export: it would run the constructors
/// before and the destructors of C's library after every function.
#[cfg(target_os = "wasi")]
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker defines the function, with this signature.
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // SAFETY: hosts call `_initialize` before anything else, and once.
    unsafe { __wasm_call_ctors() }
}

/// Logs the message and location of a panic, which on wasm32-unknown-unknown ends in a trap
/// without them.
fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("(non-string payload)");
    let line = match panic.location() {
        Some(place) => format!("panicked at {place}: {message}"),
        None => format!("panicked: {message}"),
    };
    wasm::log(kvasm_abi::level::ERROR, &line);
}

struct HostLog;

impl Log for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => kvasm_abi::level::ERROR,
            Level::Warn => kvasm_abi::level::WARN,
            Level::Info => kvasm_abi::level::INFO,
            Level::Debug => kvasm_abi::level::DEBUG,
            Level::Trace => kvasm_abi::level::TRACE,
        };
        match record.args().as_str() {
            Some(text) => wasm::log(level, text),
            None => wasm::log(level, &std::fmt::format(*record.args())),
        }
    }

    fn flush(&self) {}
}
