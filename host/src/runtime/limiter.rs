//! A guest's memory, summed over all its memories, and its tables.

use wasmtime::ResourceLimiter;

/// Allows growth up to a limit on the sum of an instance's memories.
pub(super) struct MemoryLimiter {
    used: usize,
    limit: usize,
    last_growth: usize,
    refused: bool,
    table_elements: usize,
}

impl MemoryLimiter {
    pub(super) fn new(limit: usize, table_elements: u32) -> MemoryLimiter {
        MemoryLimiter {
            used: 0,
            limit,
            table_elements: usize::try_from(table_elements).unwrap_or(usize::MAX),
            last_growth: 0,
            refused: false,
        }
    }

    /// Whether the guest asked for more than it may have.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let fits = self
            .used
            .checked_add(growth)
            .is_some_and(|used| used <= self.limit);
        self.last_growth = if fits { growth } else { 0 };
        self.used += self.last_growth;
        self.refused |= !fits;
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Growth that was allowed here can still fail, at the module's own maximum.
        self.used -= self.last_growth;
        self.last_growth = 0;
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_count_together() {
        let mut limiter = MemoryLimiter::new(100, 0);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap());
        assert!(limiter.refused());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(60, 61, None).unwrap());
    }

    #[test]
    fn growth_that_fails_later_is_given_back() {
        let mut limiter = MemoryLimiter::new(100, 0);
        assert!(limiter.memory_growing(0, 90, Some(50)).unwrap());
        limiter
            .memory_grow_failed(wasmtime::format_err!("over the module's maximum"))
            .unwrap();
        assert!(limiter.memory_growing(0, 100, None).unwrap());
    }
}
