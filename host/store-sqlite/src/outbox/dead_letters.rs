//! Dead letters.

use super::super::entries::uuid_of;
use super::super::writer::WriteTransaction;
use super::super::{error, usage::UsageDelta};
use super::row::{DEAD_LETTER, dead_letter, ids_parameter};
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Commit, DELIVERY_BYTES, DeadLetter, DeadLetterFilter, DeadReason, Timestamp,
    ordering_key_of, timer_ordering_key,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The condition that selects dead letters of the app.
const FILTER: &str = "(?2 IS NULL OR id IN (SELECT unhex(value) FROM json_each(?2)))
   AND (?3 IS NULL OR trigger_name = ?3) AND (?4 IS NULL OR reason = ?4)
   AND (?5 IS NULL OR dead_at >= ?5) AND (?6 IS NULL OR dead_at < ?6)";

/// The parameters of `MEANT`, with the app.
struct DeadLetterParams {
    app: [u8; 16],
    ids: Option<String>,
    trigger: Option<String>,
    reason: Option<&'static str>,
    from: Option<i64>,
    until: Option<i64>,
}

impl DeadLetterParams {
    fn new(app: AppId, letters: &DeadLetterFilter) -> DeadLetterParams {
        DeadLetterParams {
            app: app.uuid().into_bytes(),
            ids: ids_parameter(&letters.ids),
            trigger: letters.trigger.clone().map(String::from),
            reason: letters.reason.map(DeadReason::as_str),
            from: letters.from.map(|at| at.0),
            until: letters.until.map(|at| at.0),
        }
    }

    /// Appends the parameters of a statement, from `?7` on.
    fn and<'p>(&'p self, more: &[&'p dyn ToSql]) -> Vec<&'p dyn ToSql> {
        let own: [&dyn ToSql; 6] = [
            &self.app,
            &self.ids,
            &self.trigger,
            &self.reason,
            &self.from,
            &self.until,
        ];
        own.into_iter().chain(more.iter().copied()).collect()
    }
}

pub(crate) fn dead_letters(
    connection: &Connection,
    app: AppId,
    letters: &DeadLetterFilter,
    before: Option<Uuid>,
    limit: u32,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let meant = DeadLetterParams::new(app, letters);
    connection
        .prepare_cached(&format!(
            "SELECT {DEAD_LETTER} WHERE app_id = ?1 AND {FILTER} AND (?7 IS NULL OR id < ?7)
             ORDER BY id DESC LIMIT ?8"
        ))?
        .query_map(
            meant
                .and(&[&before.map(Uuid::into_bytes), &limit])
                .as_slice(),
            dead_letter,
        )?
        .collect()
}

/// A dead letter to move or remove.
struct Found {
    id: [u8; 16],
    /// The ordering key of its delivery.
    chain: i64,
    /// What its delivery counts against the quota.
    size: i64,
    /// The bytes of the texts of its failure.
    texts: i64,
}

impl Found {
    /// Returns what it counts against the quota, as `DeadLetter::bytes` does.
    fn cost(&self) -> i64 {
        self.size.max(DELIVERY_BYTES as i64) + self.texts
    }
}

/// The columns that `found` reads.
const FOUND: &str = "id, coalesce(key, ''), size,
   octet_length(error) + coalesce(octet_length(trace), 0), kind, event_id";

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let (key, kind): (String, String) = (row.get(1)?, row.get(4)?);
    let chain = match kind.as_str() {
        "timer" => timer_ordering_key(uuid_of(row, 5)?),
        _ => ordering_key_of(&key),
    };
    Ok(Found {
        id: row.get(0)?,
        chain,
        size: row.get(2)?,
        texts: row.get(3)?,
    })
}

/// Returns the selected dead letters, oldest first.
fn oldest(
    connection: &Connection,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
) -> rusqlite::Result<Vec<Found>> {
    let meant = DeadLetterParams::new(app, letters);
    connection
        .prepare_cached(&format!(
            "SELECT {FOUND} FROM dead_letters WHERE app_id = ?1 AND {FILTER} ORDER BY id LIMIT ?7"
        ))?
        .query_map(meant.and(&[&limit]).as_slice(), found)?
        .collect()
}

pub(crate) fn count(
    connection: &Connection,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
) -> rusqlite::Result<u64> {
    oldest(connection, app, letters, limit).map(|found| found.len() as u64)
}

fn remove(connection: &Connection, app: AppId, found: &Found) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM dead_letters WHERE app_id = ?1 AND id = ?2")?
        .execute(params![app.uuid().as_bytes(), found.id])
        .map(drop)
}

pub(crate) fn replay(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
    now: Timestamp,
) -> Result<u64, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let found = oldest(transaction.connection, app, letters, limit).map_err(error::store)?;
    for letter in &found {
        let delta = replay_one(transaction, app, letter, now)?;
        transaction.tally.add(app, delta);
    }
    Ok(found.len() as u64)
}

/// Replays the dead letters of a batch, oldest first. Returns whether each existed, and the change
/// of the app's usage.
pub(crate) fn replay_in(
    transaction: &mut WriteTransaction<'_>,
    commit: &Commit,
) -> Result<(Vec<bool>, UsageDelta), StoreError> {
    let Commit { app_id, now, .. } = *commit;
    let mut delta = UsageDelta::default();
    let replays = &commit.batch.replays;
    let letters: BTreeSet<_> = replays.iter().map(|replay| replay.letter).collect();
    let mut found = BTreeSet::new();
    for letter in letters {
        let these = find(transaction.connection, app_id, &[letter.into_bytes()]);
        for this in &these.map_err(error::store)? {
            delta += replay_one(transaction, app_id, this, now)?;
            found.insert(letter);
        }
    }
    let mut existed = Vec::with_capacity(replays.len());
    for replay in replays {
        let is_found = found.remove(&replay.letter);
        if replay.is_required && !is_found {
            let failed = vec![commit.batch.checks.len()];
            return Err(StoreError::Conflict { failed });
        }
        existed.push(is_found);
    }
    Ok((existed, delta))
}

fn replay_one(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    letter: &Found,
    now: Timestamp,
) -> Result<UsageDelta, StoreError> {
    let seq = transaction.next_version();
    let connection = transaction.connection;
    send_again(connection, app, letter, seq, now).map_err(error::store)?;
    remove(connection, app, letter).map_err(error::store)?;
    let mut delta = UsageDelta::queued(letter.size);
    delta += UsageDelta::of_bytes(-letter.cost());
    Ok(delta)
}

fn send_again(
    connection: &Connection,
    app: AppId,
    letter: &Found,
    seq: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO deliveries
               (app_id, trigger_name, chain, seq, due_at, attempts, replays, queued_at, function,
                event_id, depth, at, kind, collection, key, version, size, value,
                followers, trace_context)
             SELECT app_id, trigger_name, ?3, ?4,
                CASE WHEN EXISTS (SELECT 1 FROM deliveries AS d
                                  WHERE d.app_id = ?1 AND d.trigger_name = l.trigger_name
                                    AND d.chain = ?3)
                     THEN NULL ELSE ?5 END,
                0, replays + 1, ?5, function, event_id, depth, at, kind, collection, key, version,
                size, value, followers, trace_context
             FROM dead_letters AS l WHERE app_id = ?1 AND id = ?2",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            letter.id,
            letter.chain,
            seq,
            now.0
        ])
        .map(drop)
}

pub(crate) fn discard(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    letters: &DeadLetterFilter,
    limit: u32,
) -> Result<u64, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let found = oldest(transaction.connection, app, letters, limit).map_err(error::store)?;
    remove_all(transaction, app, &found).map_err(error::store)?;
    Ok(found.len() as u64)
}

fn remove_all(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    found: &[Found],
) -> rusqlite::Result<()> {
    for letter in found {
        remove(transaction.connection, app, letter)?;
    }
    let bytes: i64 = found.iter().map(Found::cost).sum();
    transaction.tally.add(app, UsageDelta::of_bytes(-bytes));
    Ok(())
}

/// Scans only the `?4` oldest dead letters: both those that are too old and those that are too many
/// are among them. They are not counted if the app uses too few bytes to have that many.
const SPARE: &str = "SELECT id FROM
       (SELECT id, dead_at FROM dead_letters WHERE app_id = ?1 ORDER BY id LIMIT ?4)
     WHERE dead_at < ?2
        OR id <= CASE WHEN (SELECT bytes FROM app_usage WHERE app_id = ?1) / ?5 > ?3
                      THEN (SELECT id FROM dead_letters WHERE app_id = ?1
                            ORDER BY id DESC LIMIT 1 OFFSET ?3) END
     ORDER BY id";

/// The identity of a dead letter.
type LetterId = [u8; 16];

/// Returns whether the app has a dead letter.
pub(crate) fn has_letters(connection: &Connection, app: AppId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM dead_letters WHERE app_id = ?1 LIMIT 1")?
        .exists([app.uuid().as_bytes()])
}

/// Returns those of the oldest `limit` dead letters that are too old, or more than may be kept.
pub(crate) fn spare(
    connection: &Connection,
    app: AppId,
    before: Timestamp,
    keep: u32,
    limit: u32,
) -> rusqlite::Result<Vec<LetterId>> {
    let app = app.uuid();
    let parameters = params![app.as_bytes(), before.0, keep, limit, DELIVERY_BYTES as i64];
    connection
        .prepare_cached(SPARE)?
        .query_map(parameters, |row| row.get(0))?
        .collect()
}

/// Removes those of these dead letters that still exist. Returns the number removed.
pub(crate) fn prune(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    letters: &[LetterId],
) -> Result<u64, StoreError> {
    match transaction.tally.open(transaction.connection, app) {
        Err(StoreError::AppNotFound) => return Ok(0),
        opened => opened?,
    }
    transaction.atomically(|transaction| {
        let found = find(transaction.connection, app, letters).map_err(error::store)?;
        remove_all(transaction, app, &found).map_err(error::store)?;
        Ok(found.len() as u64)
    })
}

fn find(connection: &Connection, app: AppId, letters: &[LetterId]) -> rusqlite::Result<Vec<Found>> {
    let mut find = connection.prepare_cached(&format!(
        "SELECT {FOUND} FROM dead_letters WHERE app_id = ?1 AND id = ?2"
    ))?;
    let mut all = Vec::with_capacity(letters.len());
    for letter in letters {
        all.extend(
            find.query_row(params![app.uuid().as_bytes(), letter], found)
                .optional()?,
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, SqliteStore};
    use rusqlite::StatementStatus;

    const LETTERS: u32 = 2_000;
    const LIMIT: u32 = 10;

    /// Returns the number of virtual machine steps of the query for an app whose dead letters are
    /// all young.
    fn steps(connection: &Connection, bytes: i64, keep: u32) -> i32 {
        let usage = "UPDATE app_usage SET bytes = ?1";
        connection.execute(usage, [bytes]).unwrap();
        let mut statement = connection.prepare(SPARE).unwrap();
        let parameters = params![[1_u8; 16], 0, keep, LIMIT, DELIVERY_BYTES as i64];
        assert!(!statement.exists(parameters).unwrap());
        statement.get_status(StatementStatus::VmStep)
    }

    /// It runs for each app in each round.
    #[tokio::test]
    async fn prune_query_reads_only_the_oldest_dead_letters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let _store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let connection = Connection::open(&path).unwrap();
        let letters = format!(
            "INSERT INTO apps (id, name, cursor_key, created_at)
               VALUES (x'{app}', 'app', zeroblob(32), 0);
             INSERT INTO app_usage (app_id) VALUES (x'{app}');
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {LETTERS})
             INSERT INTO dead_letters (app_id, id, trigger_name, function, reason, error, attempts,
                                       replays, dead_at, event_id, depth, at, kind, size)
             SELECT x'{app}', unhex(format('%032d', n)), 't', 'f', 'attempts', '', 1, 0, n, x'', 1,
                    0, 'schedule', 0 FROM n",
            app = "01".repeat(16)
        );
        connection.execute_batch(&letters).unwrap();
        let used = i64::from(LETTERS) * DELIVERY_BYTES as i64;
        let few = steps(&connection, used, LETTERS);
        assert!(few < 50 * LIMIT as i32, "{few} steps");
        // It does count if there may be too many. The number to keep is not too many.
        let many = steps(&connection, used * 10, LETTERS);
        assert!(many > LETTERS as i32, "{many} steps");

        let mut plan = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {SPARE}"))
            .unwrap();
        let steps = plan.query_map(params![b"a", 0, 0, 0, 0], |row| row.get::<_, String>(3));
        let steps: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
        let letters = steps.iter().filter(|step| step.contains("dead_letters"));
        let ranges = letters.map(|step| {
            let range = "SEARCH dead_letters USING PRIMARY KEY (app_id=?)";
            assert_eq!(step, range, "{steps:?}");
        });
        assert_eq!(ranges.count(), 2);
        let sorts = steps.iter().any(|step| step.contains("TEMP B-TREE"));
        assert!(!sorts, "{steps:?}");
    }
}
