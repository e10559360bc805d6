//! Periodic removal of old data.

use super::MemoryStore;
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::store::Upkeep;
use kvasm_core::store::backend::first_id;
use kvasm_core::{AppId, Timestamp};
use uuid::Uuid;

impl MemoryStore {
    /// Removes audit rows. Returns the number removed.
    fn forget(&self, rows: impl FnOnce(&super::MemoryState) -> Vec<Uuid>) -> u64 {
        let mut state = self.state.write();
        let rows = rows(&state);
        for id in &rows {
            state.audit.remove(id);
        }
        rows.len() as u64
    }
}

#[async_trait]
impl Upkeep for MemoryStore {
    async fn prune_audit(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        Ok(self.forget(|state| {
            let old = state.audit.range(..first_id(before));
            old.map(|(id, _)| *id).take(limit as usize).collect()
        }))
    }

    async fn prune_audit_of(&self, app: AppId, keep: u32, limit: u32) -> Result<u64, StoreError> {
        Ok(self.forget(|state| {
            let of_app = |row: &&kvasm_core::Audit| row.app.as_ref().is_some_and(|a| a.0 == app);
            let rows: Vec<_> = state.audit.values().filter(of_app).map(|r| r.id).collect();
            let spare = rows.len().saturating_sub(keep as usize);
            rows.into_iter().take(spare.min(limit as usize)).collect()
        }))
    }

    async fn reclaim_space(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// A deleted app is removed at once: there is no disk to wait for.
    async fn tombstones(&self, _: Option<AppId>, _: u32) -> Result<Vec<AppId>, StoreError> {
        Ok(Vec::new())
    }

    async fn reap(&self, _: AppId, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn record_time(&self, _now: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }
}
