//! The health of triggers: consecutive failures, pauses and probes.

use kvasm_core::{AppId, LeaseToken, Pause, Timestamp, TriggerHealth, TriggerName};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

/// Whether a trigger `t` is claimable at `?now`, which replaces `{}`.
macro_rules! open_at {
    ($now:literal) => {
        concat!(
            "(paused IS NULL OR (paused = 'failures' AND coalesce(probe_at, 0) <= ",
            $now,
            "))"
        )
    };
}
pub(super) use open_at;

/// The columns that `standing` reads.
pub(super) const STANDING: &str = "paused, failures, series, probe_at, probe, probes_failed";

/// Decodes the columns of `STANDING`, which start at `first`.
pub(super) fn standing(row: &Row<'_>, first: usize) -> rusqlite::Result<TriggerHealth> {
    let paused: Option<String> = row.get(first)?;
    let probe_at: Option<i64> = row.get(first + 3)?;
    let probe: Option<[u8; 16]> = row.get(first + 4)?;
    Ok(TriggerHealth {
        paused: paused.map(|why| match why.as_str() {
            "failures" => Pause::Failures,
            _ => Pause::Operator,
        }),
        failures: row.get(first + 1)?,
        series: row.get(first + 2)?,
        probe_at: probe_at.map(Timestamp),
        probe: probe.map(Uuid::from_bytes),
        probes_failed: row.get(first + 5)?,
    })
}

/// Returns the stored word for a pause.
pub(super) const fn pause_word(pause: Pause) -> &'static str {
    match pause {
        Pause::Operator => "operator",
        Pause::Failures => "failures",
    }
}

/// Returns the health of a trigger, if it exists.
pub(super) fn read(
    connection: &Connection,
    app: AppId,
    trigger: &TriggerName,
) -> rusqlite::Result<Option<TriggerHealth>> {
    connection
        .prepare_cached(&format!(
            "SELECT {STANDING} FROM triggers WHERE app_id = ?1 AND name = ?2"
        ))?
        .query_row(params![app.uuid().as_bytes(), trigger.as_str()], |row| {
            standing(row, 0)
        })
        .optional()
}

/// Writes the health of a trigger. Returns whether it exists.
pub(super) fn write(
    connection: &Connection,
    app: AppId,
    trigger: &TriggerName,
    standing: &TriggerHealth,
) -> rusqlite::Result<bool> {
    let changed = connection
        .prepare_cached(
            "UPDATE triggers SET paused = ?3, failures = ?4, series = ?5, probe_at = ?6,
               probe = ?7, probes_failed = ?8
             WHERE app_id = ?1 AND name = ?2",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            trigger.as_str(),
            standing.paused.map(pause_word),
            standing.failures,
            standing.series,
            standing.probe_at.map(|at| at.0),
            standing.probe.map(Uuid::into_bytes),
            standing.probes_failed
        ])?;
    Ok(changed > 0)
}

/// Records that a lease was renewed. If it is that of a probe, the next probe waits longer.
pub(super) fn renew(
    connection: &Connection,
    receipt: &LeaseToken,
    until: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE triggers SET probe_at = ?4 WHERE app_id = ?1 AND name = ?2 AND probe = ?3",
        )?
        .execute(params![
            receipt.app.uuid().as_bytes(),
            receipt.place.trigger.as_str(),
            receipt.lease.as_bytes(),
            until.0
        ])
        .map(drop)
}

/// Records that a delivery of a trigger succeeded.
pub(super) fn succeed(
    connection: &Connection,
    app: AppId,
    trigger: &TriggerName,
) -> rusqlite::Result<()> {
    if let Some(mut standing) = read(connection, app, trigger)?
        && standing.succeed()
    {
        write(connection, app, trigger, &standing)?;
    }
    Ok(())
}
