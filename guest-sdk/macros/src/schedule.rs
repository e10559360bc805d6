//! Schedules: the checks that are possible at compile time. The host parses them when the
//! plugin is loaded and rejects the remaining errors.

/// Validates a schedule.
pub fn check(text: &str) -> Result<(), String> {
    kvasm_abi::schedule::check(text).map_err(|error| error.to_string())
}
