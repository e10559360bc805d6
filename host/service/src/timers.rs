//! Administration of timers.

use super::dead_letters::{PageBuilder, RowPage, check_limit};
use super::{Actor, Admin, DELIVERIES_MAX, ServiceError};
use kvasm_core::{App, Capability, Delivery, DeliveryFilter, TimerName, Timestamp};
use serde_json::json;

/// How often a timer is looked up again that was replaced while it was cancelled.
const LOOKS: usize = 3;

impl Admin {
    /// Returns up to `limit` timers of an app that are set, by name, starting after `after`. A page
    /// has at least one, however large, if there is any.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, because they contain payloads;
    /// [`ServiceError::Invalid`] for more than [`DELIVERIES_MAX`].
    pub async fn timers(
        &self,
        actor: &Actor,
        app: &App,
        after: Option<&TimerName>,
        limit: u32,
    ) -> Result<RowPage<Delivery>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, DELIVERIES_MAX)?;
        // One more than requested shows whether there is a next page.
        let rows = self.store.timers(app.id, after, limit + 1);
        let mut page = PageBuilder::new();
        for timer in rows.await? {
            let bytes = timer.event.kind.bytes();
            if !page.push(timer, bytes, limit) {
                break;
            }
        }
        Ok(page.page)
    }

    /// Cancels a timer, and returns whether it was set. If its handler is running, it cannot commit.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app; [`ServiceError::AppNotFound`].
    pub async fn cancel_timer(
        &self,
        actor: &Actor,
        app: &App,
        name: &TimerName,
    ) -> Result<bool, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        for _ in 0..LOOKS {
            let Some(timer) = self.store.timer(app.id, name).await? else {
                return Ok(false);
            };
            let detail = json!({ "timer": name });
            let audit = actor.audit("timer.cancel", Some(app), Timestamp::now(), detail);
            let which = DeliveryFilter {
                events: vec![timer.event.id],
                ..DeliveryFilter::of(timer.place.trigger)
            };
            // None if it has run, or was set again, since it was read.
            if self
                .store
                .discard_deliveries(app.id, which, 1, audit)
                .await?
                > 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a timer due now, and returns whether there was one that is not running already.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app; [`ServiceError::AppNotFound`].
    pub async fn run_timer(
        &self,
        actor: &Actor,
        app: &App,
        name: &TimerName,
    ) -> Result<bool, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        let detail = json!({ "timer": name });
        let audit = actor.audit("timer.run", Some(app), Timestamp::now(), detail);
        Ok(self.store.run_timer(app.id, name.clone(), audit).await?)
    }
}
