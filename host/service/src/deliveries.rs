//! Administration of outstanding deliveries.

use super::dead_letters::{DEAD_LETTERS_MAX, PageBuilder, RowPage, check_limit};
use super::{Actor, Admin, ServiceError};
use kvasm_core::{App, Capability, Delivery, DeliveryFilter, DeliveryKey, Timestamp};
use serde_json::{Value, json};

/// Maximum number of deliveries per page. They are read with their values, so this bounds the
/// memory of a page.
pub const DELIVERIES_MAX: u32 = 100;

impl Admin {
    /// Returns up to `limit` outstanding deliveries of an app, ordered by trigger and key,
    /// starting after `after`. A page has at least one, however large, if there is any.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, because they contain values;
    /// [`ServiceError::Invalid`] for more than [`DELIVERIES_MAX`].
    pub async fn deliveries(
        &self,
        actor: &Actor,
        app: &App,
        which: &DeliveryFilter,
        after: Option<&DeliveryKey>,
        limit: u32,
    ) -> Result<RowPage<Delivery>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, DELIVERIES_MAX)?;
        // One more than requested shows whether there is a next page.
        let rows = self.store.outstanding(app.id, which, after, limit + 1);
        let mut page = PageBuilder::new();
        for delivery in rows.await? {
            let bytes = delivery.event.kind.bytes();
            if !page.push(delivery, bytes, limit) {
                break;
            }
        }
        Ok(page.page)
    }

    /// Discards up to `limit` outstanding deliveries, ordered by trigger and key, and returns
    /// their number. A handler that is running one of them cannot commit. A dry run only counts
    /// them. An empty filter selects all deliveries of the app.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app;
    /// [`ServiceError::Invalid`] for more than [`DEAD_LETTERS_MAX`].
    pub async fn discard_deliveries(
        &self,
        actor: &Actor,
        app: &App,
        which: DeliveryFilter,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        check_limit(limit, DEAD_LETTERS_MAX)?;
        if dry_run {
            let count = self.store.count_deliveries(app.id, &which, limit);
            return Ok(count.await?);
        }
        let detail = filter_detail(&which, limit);
        let audit = actor.audit("delivery.discard", Some(app), Timestamp::now(), detail);
        let discarded = self.store.discard_deliveries(app.id, which, limit, audit);
        Ok(discarded.await?)
    }
}

/// The filter as recorded in the audit log: only the fields that are set.
fn filter_detail(which: &DeliveryFilter, limit: u32) -> Value {
    let DeliveryFilter {
        events,
        trigger,
        from,
        until,
    } = which;
    let is_all = *which == DeliveryFilter::default();
    let parts = [
        ("events", (!events.is_empty()).then(|| json!(events))),
        ("trigger", trigger.as_ref().map(|name| json!(name))),
        ("from", from.map(|at| json!(at.0))),
        ("until", until.map(|at| json!(at.0))),
        // Marks a row without a filter explicitly.
        ("all", is_all.then_some(Value::Bool(true))),
        ("limit", Some(json!(limit))),
    ];
    let parts = parts.into_iter();
    Value::Object(
        parts
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
    )
}
