//! Outstanding deliveries, for administrators.

use super::letters::{Filling, LETTERS_MAX, Page, check_limit};
use super::{Actor, Admin, ServiceError};
use kvasm_core::{App, Capability, Delivery, Outstanding, Place, Timestamp};
use serde_json::{Value, json};

/// The most deliveries that are read at once. The store reads them whole, so this
/// bounds the memory that a page of large values takes.
pub const DELIVERIES_MAX: u32 = 100;

impl Admin {
    /// Up to `limit` outstanding deliveries of an app, in the order of triggers and
    /// keys, after one if given. There is always room for one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:read` of the app, whose values they
    /// hold; [`ServiceError::Invalid`] for more than [`DELIVERIES_MAX`].
    pub async fn deliveries(
        &self,
        actor: &Actor,
        app: &App,
        which: &Outstanding,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Page<Delivery>, ServiceError> {
        actor.require(Capability::AppKvRead(app.id))?;
        check_limit(limit, DELIVERIES_MAX)?;
        // One more than asked for tells whether there are more.
        let rows = self.store.outstanding(app.id, which, after, limit + 1);
        let mut page = Filling::new();
        for delivery in rows.await? {
            let bytes = delivery.event.what.bytes();
            if !page.take(delivery, bytes, limit) {
                break;
            }
        }
        Ok(page.page)
    }

    /// Discards up to `limit` outstanding deliveries, in the order of triggers and
    /// keys; how many. A handler that runs one of them cannot commit. A dry run only
    /// counts them. A choice that narrows nothing means all of the app.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `script:write` of the app;
    /// [`ServiceError::Invalid`] for more than [`LETTERS_MAX`].
    pub async fn discard_deliveries(
        &self,
        actor: &Actor,
        app: &App,
        which: Outstanding,
        limit: u32,
        dry_run: bool,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppKvWrite(app.id))?;
        check_limit(limit, LETTERS_MAX)?;
        if dry_run {
            let count = self.store.count_deliveries(app.id, &which, limit);
            return Ok(count.await?);
        }
        let detail = choice(&which, limit);
        let audit = actor.audit("delivery.discard", Some(app), Timestamp::now(), detail);
        let discarded = self.store.discard_deliveries(app.id, which, limit, audit);
        Ok(discarded.await?)
    }
}

/// A choice of deliveries as the audit log has it: what narrows it, and no more.
fn choice(which: &Outstanding, limit: u32) -> Value {
    let Outstanding {
        events,
        trigger,
        from,
        until,
    } = which;
    let is_all = *which == Outstanding::default();
    let parts = [
        ("events", (!events.is_empty()).then(|| json!(events))),
        ("trigger", trigger.as_ref().map(|name| json!(name))),
        ("from", from.map(|at| json!(at.0))),
        ("until", until.map(|at| json!(at.0))),
        // So that a row without a choice says what it was.
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
