//! Limits of invocations, values and pages.

use kvasm_abi::limits;
use std::time::Duration;

/// The limits of a host. Every length from outside is compared with its limit before anything is
/// allocated for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Size of a value, in bytes. Default 1 MiB.
    pub value_bytes: usize,
    /// Entries in a page. Default 1,000.
    pub page_entries: u32,
    /// Keys and values in a page, in bytes. A page holds at least one entry. Default 1 MiB.
    pub page_bytes: usize,
    /// Size of a wasm module, in bytes. Default 16 MiB.
    pub module_bytes: usize,
    /// Input of an invocation, in bytes. Default 8 MiB.
    pub input_bytes: usize,
    /// Output of an invocation, in bytes. Default 8 MiB.
    pub output_bytes: usize,
    /// A log line of a guest, in bytes. Longer lines are truncated. Default 4 KiB.
    pub log_line_bytes: usize,
    /// Log lines of an invocation. Later lines are counted and discarded. Default 1,000.
    pub log_lines: usize,
    /// Memory of a guest, in bytes, summed over all its memories. Default 64 MiB.
    pub memory_bytes: usize,
    /// Memories of a guest. Default 8.
    pub memories: u32,
    /// Tables of a guest. Default 4.
    pub tables: u32,
    /// Elements of a table. Default 65,536. Each takes 8 bytes.
    pub table_elements: u32,
    /// The time from a call to its end, including waiting, loading, running and committing. Default
    /// 5 s.
    pub wall_time: Duration,
    /// The CPU time of an invocation, without that of the store. Default 1 s.
    pub cpu_time: Duration,
    /// How long the answer of a call with an idempotency key is kept. Default 24 h.
    pub idempotency: Duration,
    /// Outbound HTTP requests of a run. Default 32.
    pub fetches: u32,
}

/// The allowance for the names of an entry and its framing, in addition to a value.
const FRAME_BYTES: usize = 64 * 1024;
const BATCH_BYTES: usize = kvasm_abi::BATCH_BYTES_MAX;
const LINE_BYTES: usize = 8 * 1024 * 1024;

impl Limits {
    /// Returns the limit of the names and values of a batch, and so of a transaction's writes, in
    /// bytes: 4 MiB, or the size of the largest entry if that is more.
    pub fn batch_bytes(&self) -> usize {
        BATCH_BYTES.max(self.value_bytes.saturating_add(FRAME_BYTES))
    }

    /// Returns the limit of a JSON body with entries, in bytes: 4 MiB, or the size of the largest
    /// value in base64 if that is more.
    pub fn body_bytes(&self) -> usize {
        BATCH_BYTES.max(self.text_bytes())
    }

    /// Returns the limit of an entry as a line of an import, in bytes: 8 MiB, or the size of the
    /// largest value in base64 if that is more.
    pub fn line_bytes(&self) -> usize {
        LINE_BYTES.max(self.text_bytes())
    }

    /// Returns the size of the largest entry as JSON, with its value in base64.
    fn text_bytes(&self) -> usize {
        let base64 = self.value_bytes.div_ceil(3).saturating_mul(4);
        base64.saturating_add(FRAME_BYTES)
    }

    /// Checks that the limits are consistent.
    ///
    /// # Errors
    /// The limit that is too small, and what it must hold.
    pub fn check(&self) -> Result<(), LimitsError> {
        let event = self.value_bytes.saturating_add(FRAME_BYTES);
        if self.input_bytes < event {
            return Err(LimitsError {
                limit: "input",
                bytes: self.input_bytes,
                min: event,
                why: "a handler's input holds a value and its metadata",
            });
        }
        Ok(())
    }
}

/// A limit that is too small for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsError {
    /// The name of the limit that is too small.
    pub limit: &'static str,
    /// Its value.
    pub bytes: usize,
    /// Its minimum.
    pub min: usize,
    /// What it must hold.
    pub why: &'static str,
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Limits {
            value_bytes: limits::VALUE_BYTES,
            page_entries: limits::PAGE_ENTRIES,
            page_bytes: limits::PAGE_BYTES,
            module_bytes: 16 * MIB,
            input_bytes: 8 * MIB,
            output_bytes: limits::OUTPUT_BYTES,
            log_line_bytes: 4 * KIB,
            log_lines: 1_000,
            memory_bytes: 64 * MIB,
            memories: 8,
            tables: 4,
            table_elements: 65_536,
            wall_time: Duration::from_secs(5),
            cpu_time: Duration::from_secs(1),
            idempotency: Duration::from_secs(24 * 60 * 60),
            fetches: limits::FETCHES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_limits_fit_the_largest_entry() {
        let mut limits = Limits::default();
        assert_eq!(limits.batch_bytes(), BATCH_BYTES);
        assert_eq!(limits.line_bytes(), LINE_BYTES);
        assert_eq!(limits.check(), Ok(()));
        limits.value_bytes = 12 * 1024 * 1024;
        assert!(limits.batch_bytes() > limits.value_bytes);
        assert!(limits.line_bytes() > limits.value_bytes / 3 * 4);
        assert_eq!(limits.check().unwrap_err().limit, "input");
        limits.value_bytes = usize::MAX;
        assert_eq!(limits.line_bytes(), usize::MAX);
    }
}
