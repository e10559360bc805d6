//! Repair of deliveries that a wrong clock has postponed.

use super::classify::store_error;
use super::pool::{Pool, Statement};
use super::sql::{outbox_sql as sql, triggers_sql};
use kvasm_core::store::StoreError;
use kvasm_core::{Queue, Timestamp};
use uuid::Uuid;

/// The number of deliveries at the start of a queue whose leases are checked: no index has them.
/// Claims take from the start, so leased deliveries are there.
const LEASES_LOOKED_AT: i64 = 1_000;

/// Makes deliveries, leases and the probe that are due after `beyond` due now. Returns the number
/// of deliveries. Each step is idempotent and independent of the others.
pub(super) async fn rescue(
    pool: &Pool,
    queue: &Queue,
    beyond: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let on_queue = |text: &'static str| -> Statement<'_> {
        let statement = sqlx::query(text).bind(queue.app.uuid());
        let statement = statement.bind(queue.trigger.as_str());
        statement.bind(beyond.0).bind(now.0)
    };
    let probe = |_| on_queue(triggers_sql::RESCUE_PROBE);
    pool.write(probe).await.map_err(store_error)?;
    let mut rescued = 0;
    for (text, most) in [
        (sql::RESCUE_DUE, i64::from(limit)),
        (sql::RESCUE_LEASED, LEASES_LOOKED_AT),
    ] {
        // The identity of the rows to insert if they do not exist, which they do.
        let statement = |_| on_queue(text).bind(Uuid::nil()).bind(most);
        let rows = pool.write(statement).await.map_err(store_error)?;
        rescued += rows.len() as u64;
    }
    Ok(rescued)
}
