//! What a wrong clock has put off in a queue.

use super::classify::store_error;
use super::pool::{Pool, Statement};
use super::sql::{outbox as sql, triggers as trigger_sql};
use kvasm_core::store::StoreError;
use kvasm_core::{Queue, Timestamp};
use uuid::Uuid;

/// The deliveries at the beginning of a queue of which the leases are looked at: no
/// index has them. Claims take from the beginning, so what is leased is there.
const LEASES_LOOKED_AT: i64 = 1_000;

/// Makes deliveries, leases and the probe due that are so after `beyond`; how many
/// deliveries. Each step is as good twice as once, and without the others.
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
    let probe = |_| on_queue(trigger_sql::RESCUE_PROBE);
    pool.write(probe).await.map_err(store_error)?;
    let mut rescued = 0;
    for (text, most) in [
        (sql::RESCUE_DUE, i64::from(limit)),
        (sql::RESCUE_LEASED, LEASES_LOOKED_AT),
    ] {
        // Of the rows that are inserted if they are not there, which they are.
        let statement = |_| on_queue(text).bind(Uuid::nil()).bind(most);
        let rows = pool.write(statement).await.map_err(store_error)?;
        rescued += rows.len() as u64;
    }
    Ok(rescued)
}
