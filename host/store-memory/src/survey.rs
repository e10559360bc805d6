//! Values of gauges.

use super::MemoryStore;
use async_trait::async_trait;
use kvasm_core::AppId;
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::LETTERS_COUNTED_MAX;
use kvasm_core::store::{AppSurvey, StoreClock, StoreSize, Survey};

#[async_trait]
impl Survey for MemoryStore {
    async fn survey(&self, app: AppId) -> Result<AppSurvey, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(AppSurvey::default());
        };
        let paused = tenant
            .triggers
            .values()
            .filter(|t| t.standing.paused.is_some());
        let deliveries = tenant.deliveries.iter();
        let is_paused = |trigger| {
            let trigger = tenant.triggers.get(trigger);
            trigger.is_some_and(|trigger| trigger.standing.paused.is_some())
        };
        let waiting = deliveries.filter(|((trigger, ..), _)| !is_paused(trigger));
        let letters = tenant.dead_letters.len() as u64;
        Ok(AppSurvey {
            usage: tenant.usage,
            dead_letters: letters.min(LETTERS_COUNTED_MAX.into()),
            paused_triggers: paused.count() as u64,
            oldest_due: waiting.filter_map(|(_, row)| row.due_at).min(),
        })
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        Ok(StoreSize::default())
    }

    async fn clock(&self) -> Result<StoreClock, StoreError> {
        Ok(StoreClock::None)
    }
}
