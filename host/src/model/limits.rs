//! What one invocation, one value and one page may use.

use std::time::Duration;

/// The limits of a host. Every length that comes from outside is compared with
/// its limit before anything is allocated for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A value, in bytes. Default 1 MiB.
    pub value_bytes: usize,
    /// Entries in a page. Default 1,000.
    pub page_entries: u32,
    /// Keys and values in a page, in bytes; a page holds at least one entry.
    /// Default 1 MiB.
    pub page_bytes: usize,
    /// A wasm module, in bytes. Default 16 MiB.
    pub module_bytes: usize,
    /// The input of an invocation, in bytes. Default 8 MiB.
    pub input_bytes: usize,
    /// The output of an invocation, in bytes. Default 8 MiB.
    pub output_bytes: usize,
    /// A line of a guest's log, in bytes; a longer one is cut. Default 4 KiB.
    pub log_line_bytes: usize,
    /// Log lines of an invocation; later ones are counted and dropped. Default 1,000.
    pub log_lines: usize,
    /// A guest's memory, in bytes, summed over all its memories. Default 64 MiB.
    pub memory_bytes: usize,
    /// A guest's memories. Default 8.
    pub memories: u32,
    /// A guest's tables. Default 4.
    pub tables: u32,
    /// Elements of a table. Default 65,536. Each takes 8 bytes.
    pub table_elements: u32,
    /// The time from a call to its end: waiting, loading, running and committing
    /// together. Default 5 s.
    pub wall_time: Duration,
    /// The CPU time that an invocation computes, without the store's. Default 1 s.
    pub cpu_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        Limits {
            value_bytes: MIB,
            page_entries: 1_000,
            page_bytes: MIB,
            module_bytes: 16 * MIB,
            input_bytes: 8 * MIB,
            output_bytes: 8 * MIB,
            log_line_bytes: 4 * KIB,
            log_lines: 1_000,
            memory_bytes: 64 * MIB,
            memories: 8,
            tables: 4,
            table_elements: 65_536,
            wall_time: Duration::from_secs(5),
            cpu_time: Duration::from_secs(1),
        }
    }
}
