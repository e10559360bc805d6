//! What must be in place before an author's code runs on wasm32.

use super::wasm;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::panic::PanicHookInfo;
use std::sync::Once;

/// Sends the lines of the `log` crate and the message of a panic to the app's log.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // It fails only where the module's own start code has set another logger, which stays.
        if log::set_logger(&HostLog).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
        std::panic::set_hook(Box::new(report));
    });
}

/// On wasm32-unknown-unknown a panic ends in a trap that says nothing, so the
/// message and the place go to the log first.
fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
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
            None => wasm::log(level, &record.args().to_string()),
        }
    }

    fn flush(&self) {}
}
