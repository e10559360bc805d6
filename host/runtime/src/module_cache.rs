//! Compiled modules in memory, bounded by bytes and by number.

use super::module::CompiledPlugin;
use hashlink::LinkedHashMap;
use kvasm_core::Digest;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A module that was not used for this long is evicted when another one is added.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// Compiled modules by the hash of their bytes, the least recently used first.
pub(super) struct ModuleCache {
    modules: LinkedHashMap<Digest, CachedModule>,
    bytes: usize,
    bytes_max: usize,
    modules_max: usize,
}

struct CachedModule {
    plugin: Arc<CompiledPlugin>,
    used: Instant,
}

impl ModuleCache {
    pub(super) fn new(bytes_max: usize, modules_max: usize) -> ModuleCache {
        ModuleCache {
            modules: LinkedHashMap::new(),
            bytes: 0,
            bytes_max,
            modules_max: modules_max.max(1),
        }
    }

    pub(super) fn get(&mut self, digest: &Digest) -> Option<Arc<CompiledPlugin>> {
        let entry = self.modules.to_back(digest)?;
        entry.used = Instant::now();
        Some(Arc::clone(&entry.plugin))
    }

    /// Adds a module. The newest one is always kept, even if it exceeds the limit on its own: it
    /// is about to be called.
    pub(super) fn put(&mut self, digest: Digest, plugin: &Arc<CompiledPlugin>) {
        self.remove(&digest);
        let now = Instant::now();
        let entry = CachedModule {
            plugin: Arc::clone(plugin),
            used: now,
        };
        self.bytes += plugin.bytes();
        self.modules.insert(digest, entry);
        while self.modules.len() > 1 {
            let over = self.bytes > self.bytes_max || self.modules.len() > self.modules_max;
            let idle = self
                .modules
                .front()
                .is_some_and(|(_, entry)| now.duration_since(entry.used) > IDLE_MAX);
            if !over && !idle {
                break;
            }
            if let Some((_, entry)) = self.modules.pop_front() {
                self.bytes -= entry.plugin.bytes();
            }
        }
    }

    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.modules.contains_key(digest)
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(entry) = self.modules.remove(digest) {
            self.bytes -= entry.plugin.bytes();
        }
    }

    /// Returns the number of modules, and their size in bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.modules.len(), self.bytes)
    }
}
