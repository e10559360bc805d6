//! Memory limits: per instance, over all its memories and tables, and for all instances of the
//! host.

use super::invocation::StopReason;
use kvasm_core::AppId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// The host's memory for guests. One app gets at most as much as remains free afterwards, so
/// that it cannot take all of it; the first request of an app that holds nothing is granted if
/// there is enough.
pub(super) struct HostMemory {
    bytes: u64,
    state: Mutex<MemoryUse>,
}

#[derive(Default)]
struct MemoryUse {
    all: u64,
    apps: HashMap<AppId, u64>,
}

impl HostMemory {
    pub(super) fn new(bytes: u64) -> HostMemory {
        HostMemory {
            bytes,
            state: Mutex::default(),
        }
    }

    fn take(&self, app: AppId, bytes: u64) -> bool {
        if bytes == 0 {
            return true;
        }
        let mut held = self.state.lock();
        let left = self.bytes.saturating_sub(held.all).checked_sub(bytes);
        let own = held.apps.get(&app).copied().unwrap_or(0);
        let fits = left.is_some_and(|left| own == 0 || own.saturating_add(bytes) <= left);
        if fits {
            held.all += bytes;
            *held.apps.entry(app).or_default() += bytes;
        }
        fits
    }

    fn release(&self, app: AppId, bytes: u64) {
        let mut held = self.state.lock();
        held.all -= bytes;
        if let Some(own) = held.apps.get_mut(&app) {
            *own -= bytes;
            if *own == 0 {
                held.apps.remove(&app);
            }
        }
    }
}

/// Limits the total size of an instance's memories.
pub(super) struct MemoryLimiter {
    host: Arc<HostMemory>,
    app: AppId,
    used: usize,
    limit: usize,
    last_growth: usize,
    refused: bool,
    /// Whether the host's memory was exhausted.
    exhausted: bool,
    table_elements: usize,
}

impl MemoryLimiter {
    pub(super) fn new(
        host: Arc<HostMemory>,
        app: AppId,
        limit: usize,
        table_elements: u32,
    ) -> MemoryLimiter {
        MemoryLimiter {
            host,
            app,
            used: 0,
            limit,
            last_growth: 0,
            refused: false,
            exhausted: false,
            table_elements: usize::try_from(table_elements).unwrap_or(usize::MAX),
        }
    }

    /// Returns the size of the instance's memories, in bytes. It is also their peak: a memory
    /// never shrinks.
    pub(super) fn used(&self) -> u64 {
        self.used as u64
    }

    /// Whether the guest requested more than its limit.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Whether the host had too little memory for what the guest requested. Usually that ends the
    /// guest; growth of a collected heap is only attempted, and wasmtime ignores why it failed.
    pub(super) fn exhausted(&self) -> bool {
        self.exhausted
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        if self.used > 0 {
            self.host.release(self.app, self.used as u64);
        }
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
        self.last_growth = 0;
        self.refused |= !fits;
        if fits {
            // Denying growth would make the guest fail, and be blamed, for the host's shortage.
            if !self.host.take(self.app, growth as u64) {
                self.exhausted = true;
                return Err(StopReason::HostMemory.into());
            }
            self.last_growth = growth;
            self.used += growth;
        }
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Growth that was allowed can still fail, at the module's own maximum.
        self.host.release(self.app, self.last_growth as u64);
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

    fn limiter(host: &Arc<HostMemory>, app: u128, limit: usize) -> MemoryLimiter {
        let app = AppId::from(uuid::Uuid::from_u128(app));
        MemoryLimiter::new(Arc::clone(host), app, limit, 10)
    }

    #[test]
    fn limiter_counts_all_memories_together() {
        let host = Arc::new(HostMemory::new(1_000));
        let mut limiter = limiter(&host, 1, 100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 41, None).unwrap());
        assert!(limiter.refused());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_growing(60, 61, None).unwrap());
        assert!(limiter.table_growing(0, 10, None).unwrap());
        assert!(!limiter.table_growing(10, 11, None).unwrap());
    }

    #[test]
    fn failed_growth_is_released() {
        let host = Arc::new(HostMemory::new(1_000));
        let mut limiter = limiter(&host, 1, 100);
        assert!(limiter.memory_growing(0, 90, Some(50)).unwrap());
        limiter
            .memory_grow_failed(wasmtime::format_err!("at its maximum"))
            .unwrap();
        assert_eq!(host.state.lock().all, 0);
        assert!(limiter.memory_growing(0, 100, None).unwrap());
    }

    #[test]
    fn one_app_cannot_take_all_host_memory() {
        let host = Arc::new(HostMemory::new(100));
        let mut a: Vec<_> = (0..5).map(|_| limiter(&host, 1, 100)).collect();
        let given = |limiter: &mut MemoryLimiter, bytes| limiter.memory_growing(0, bytes, None);
        for limiter in &mut a {
            assert!(given(limiter, 10).unwrap());
        }
        let mut more = limiter(&host, 1, 100);
        assert!(given(&mut more, 10).is_err());
        assert!(!more.refused(), "not its own limit");
        let mut b = limiter(&host, 2, 100);
        assert!(given(&mut b, 50).unwrap());
        assert!(given(&mut limiter(&host, 3, 100), 1).is_err());
        drop(a);
        assert!(given(&mut more, 10).unwrap());
        drop((b, more));
        let held = host.state.lock();
        assert!(held.all == 0 && held.apps.is_empty());
    }
}
