//! What a call of a plugin used.

use std::time::Duration;

/// What a call of a plugin used, over all its runs: a transaction that is rerun after a conflict
/// pays for each run, whether its writes took effect or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Number of runs: 0 if the plugin did not run, more than 1 if a transaction was rerun.
    pub runs: u32,
    /// CPU time of the plugin, including the creation of its instance and excluding the store's
    /// work. A run that is shorter than 10 ms, or that is interrupted by other work, may be
    /// charged up to 10 ms too much.
    pub cpu: Duration,
    /// The largest size that the instance's linear memories had together, in bytes; of the
    /// largest run.
    pub memory_bytes: u64,
    /// Number of entries read: each key that was looked up, whether it exists or not, and each
    /// entry of a listed page.
    pub entries_read: u64,
    /// Number of entries written: each set, deletion and increment that was accepted. An
    /// increment does not count as a read.
    pub entries_written: u64,
    /// Size of the values read, in bytes.
    pub bytes_read: u64,
    /// Size of the values set, in bytes. Deletions and increments count none.
    pub bytes_written: u64,
    /// Number of calls of host functions of `kvasm_v1`.
    pub host_calls: u64,
    /// Number of outbound HTTP requests, including those that failed or were refused.
    pub fetches: u64,
}

impl Cost {
    /// Adds entries that were read, and the size of their values.
    pub fn read(&mut self, entries: usize, bytes: usize) {
        self.entries_read = self.entries_read.saturating_add(entries as u64);
        self.bytes_read = self.bytes_read.saturating_add(bytes as u64);
    }

    /// Adds entries that were written, and the size of their values.
    pub fn write(&mut self, entries: usize, bytes: usize) {
        self.entries_written = self.entries_written.saturating_add(entries as u64);
        self.bytes_written = self.bytes_written.saturating_add(bytes as u64);
    }

    /// Adds the cost of a further run of the same call. Runs do not overlap, so the larger peak
    /// of memory is kept.
    pub fn add(&mut self, run: &Cost) {
        self.runs = self.runs.saturating_add(run.runs);
        self.cpu = self.cpu.saturating_add(run.cpu);
        self.memory_bytes = self.memory_bytes.max(run.memory_bytes);
        self.entries_read = self.entries_read.saturating_add(run.entries_read);
        self.entries_written = self.entries_written.saturating_add(run.entries_written);
        self.bytes_read = self.bytes_read.saturating_add(run.bytes_read);
        self.bytes_written = self.bytes_written.saturating_add(run.bytes_written);
        self.host_calls = self.host_calls.saturating_add(run.host_calls);
        self.fetches = self.fetches.saturating_add(run.fetches);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_except_for_memory() {
        let run = |memory_bytes| Cost {
            runs: 1,
            cpu: Duration::from_millis(2),
            memory_bytes,
            entries_read: 3,
            entries_written: 4,
            bytes_read: 5,
            bytes_written: 6,
            host_calls: 7,
            fetches: 8,
        };
        let mut sum = run(10);
        sum.add(&run(30));
        sum.add(&run(20));
        let expected = Cost {
            runs: 3,
            cpu: Duration::from_millis(6),
            memory_bytes: 30,
            entries_read: 9,
            entries_written: 12,
            bytes_read: 15,
            bytes_written: 18,
            host_calls: 21,
            fetches: 24,
        };
        assert_eq!(sum, expected);
    }
}
