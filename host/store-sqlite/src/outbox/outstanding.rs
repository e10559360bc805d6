//! Outstanding deliveries, for administrators.

use super::super::error;
use super::super::usage::UsageDelta;
use super::super::writer::WriteTransaction;
use super::queue::unblock_next;
use super::row::{DELIVERY, delivery, ids_parameter};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Delivery, DeliveryFilter, DeliveryKey, Timestamp, TriggerName};
use rusqlite::{Connection, ToSql, params};
use std::collections::BTreeMap;

/// The condition that selects deliveries `d` of the app.
const FILTER: &str = "(?2 IS NULL OR d.event_id IN (SELECT unhex(value) FROM json_each(?2)))
   AND (?3 IS NULL OR d.trigger_name = ?3)
   AND (?4 IS NULL OR d.queued_at >= ?4) AND (?5 IS NULL OR d.queued_at < ?5)";

/// The parameters of `MEANT`, with the app.
struct DeliveryFilterParams {
    app: [u8; 16],
    events: Option<String>,
    trigger: Option<String>,
    from: Option<i64>,
    until: Option<i64>,
}

impl DeliveryFilterParams {
    fn new(app: AppId, which: &DeliveryFilter) -> DeliveryFilterParams {
        DeliveryFilterParams {
            app: app.uuid().into_bytes(),
            events: ids_parameter(&which.events),
            trigger: which.trigger.clone().map(String::from),
            from: which.from.map(|at| at.0),
            until: which.until.map(|at| at.0),
        }
    }

    /// Appends the parameters of a statement, from `?6` on.
    fn and<'p>(&'p self, more: &[&'p dyn ToSql]) -> Vec<&'p dyn ToSql> {
        let own: [&dyn ToSql; 5] = [
            &self.app,
            &self.events,
            &self.trigger,
            &self.from,
            &self.until,
        ];
        own.into_iter().chain(more.iter().copied()).collect()
    }
}

pub(crate) fn outstanding(
    connection: &Connection,
    app: AppId,
    which: &DeliveryFilter,
    after: Option<&DeliveryKey>,
    limit: u32,
) -> rusqlite::Result<Vec<Delivery>> {
    let meant = DeliveryFilterParams::new(app, which);
    // Below every delivery key: no trigger has an empty name.
    let (trigger, chain, seq) = after.map_or(("", 0, 0), |place| {
        (place.trigger.as_str(), place.ordering_key, place.seq)
    });
    connection
        .prepare_cached(&format!(
            "{DELIVERY} WHERE d.app_id = ?1 AND {FILTER}
               AND (d.trigger_name, d.chain, d.seq) > (?6, ?7, ?8)
             ORDER BY d.trigger_name, d.chain, d.seq LIMIT ?9"
        ))?
        .query_map(
            meant.and(&[&trigger, &chain, &seq, &limit]).as_slice(),
            delivery,
        )?
        .collect()
}

pub(crate) fn count(
    connection: &Connection,
    app: AppId,
    which: &DeliveryFilter,
    limit: u32,
) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries AS d
             WHERE d.app_id = ?1 AND {FILTER} LIMIT ?6)"
        ))?
        .query_row(
            DeliveryFilterParams::new(app, which)
                .and(&[&limit])
                .as_slice(),
            |row| row.get::<_, i64>(0),
        )
        .map(i64::unsigned_abs)
}

pub(crate) fn discard(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    which: &DeliveryFilter,
    limit: u32,
    now: Timestamp,
) -> Result<u64, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let connection = transaction.connection;
    let sizes = remove(connection, app, which, limit, now).map_err(error::store)?;
    let mut delta = UsageDelta::default();
    for size in &sizes {
        delta += -UsageDelta::queued(*size);
    }
    transaction.tally.add(app, delta);
    Ok(sizes.len() as u64)
}

/// Removes the selected deliveries, and makes those behind them due. Returns their sizes.
fn remove(
    connection: &Connection,
    app: AppId,
    which: &DeliveryFilter,
    limit: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<i64>> {
    let meant = DeliveryFilterParams::new(app, which);
    let found: Vec<(DeliveryKey, i64)> = connection
        .prepare_cached(&format!(
            "SELECT d.trigger_name, d.chain, d.seq, d.size FROM deliveries AS d
             WHERE d.app_id = ?1 AND {FILTER}
             ORDER BY d.trigger_name, d.chain, d.seq LIMIT ?6"
        ))?
        .query_map(meant.and(&[&limit]).as_slice(), |row| {
            let place = DeliveryKey {
                trigger: TriggerName::stored(row.get(0)?),
                ordering_key: row.get(1)?,
                seq: row.get(2)?,
            };
            Ok((place, row.get(3)?))
        })?
        .collect::<Result<_, _>>()?;
    let mut delete = connection.prepare_cached(
        "DELETE FROM deliveries
         WHERE app_id = ?1 AND trigger_name = ?2 AND chain = ?3 AND seq = ?4",
    )?;
    for (place, _) in &found {
        let trigger = place.trigger.as_str();
        delete.execute(params![
            app.uuid().as_bytes(),
            trigger,
            place.ordering_key,
            place.seq
        ])?;
    }
    let chains: BTreeMap<_, _> = found
        .iter()
        .map(|(place, _)| ((&place.trigger, place.ordering_key), place))
        .collect();
    for place in chains.into_values() {
        unblock_next(connection, app, place, now)?;
    }
    Ok(found.into_iter().map(|(_, size)| size).collect())
}
