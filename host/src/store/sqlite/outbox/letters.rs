//! Dead letters.

use super::super::error;
use super::super::writer::Transaction;
use super::queue::freed;
use super::row::{DEAD_LETTER, dead_letter};
use crate::model::{AppId, Changed, DeadLetter, Letters, Timestamp, TriggerName, chain_of};
use crate::store::StoreError;
use rusqlite::{Connection, params};
use uuid::Uuid;

/// Which letters of the app are meant.
const MEANT: &str = "(?2 IS NULL OR id IN (SELECT unhex(value) FROM json_each(?2)))
   AND (?3 IS NULL OR trigger_name = ?3) AND (?4 IS NULL OR reason = ?4)
   AND (?5 IS NULL OR dead_at >= ?5) AND (?6 IS NULL OR dead_at < ?6)";

/// The identities as SQLite reads them out of one parameter.
fn ids(letters: &Letters) -> Option<String> {
    if letters.ids.is_empty() {
        return None;
    }
    let ids = letters.ids.iter().map(|id| id.simple().to_string());
    Some(serde_json::Value::from_iter(ids).to_string())
}

pub(in crate::store::sqlite) fn dead_letters(
    connection: &Connection,
    app: AppId,
    letters: &Letters,
    before: Option<Uuid>,
    limit: u32,
) -> rusqlite::Result<Vec<DeadLetter>> {
    connection
        .prepare_cached(&format!(
            "SELECT {DEAD_LETTER} WHERE app_id = ?1 AND {MEANT} AND (?7 IS NULL OR id < ?7)
             ORDER BY id DESC LIMIT ?8"
        ))?
        .query_map(
            params![
                app.uuid().as_bytes(),
                ids(letters),
                letters.trigger.as_ref().map(TriggerName::as_str),
                letters.reason.map(|reason| reason.as_str()),
                letters.from.map(|at| at.0),
                letters.until.map(|at| at.0),
                before.map(Uuid::into_bytes),
                limit
            ],
            dead_letter,
        )?
        .collect()
}

/// A letter to move or remove.
struct Found {
    id: [u8; 16],
    key: String,
    size: i64,
}

/// Those that are meant, oldest first.
fn oldest(
    connection: &Connection,
    app: AppId,
    letters: &Letters,
    limit: u32,
) -> rusqlite::Result<Vec<Found>> {
    connection
        .prepare_cached(&format!(
            "SELECT id, coalesce(key, ''), size FROM dead_letters WHERE app_id = ?1 AND {MEANT} ORDER BY id LIMIT ?7"
        ))?
        .query_map(
            params![
                app.uuid().as_bytes(),
                ids(letters),
                letters.trigger.as_ref().map(TriggerName::as_str),
                letters.reason.map(|reason| reason.as_str()),
                letters.from.map(|at| at.0),
                letters.until.map(|at| at.0),
                limit
            ],
            |row| {
                Ok(Found {
                    id: row.get(0)?,
                    key: row.get(1)?,
                    size: row.get(2)?,
                })
            },
        )?
        .collect()
}

pub(in crate::store::sqlite) fn count(
    connection: &Connection,
    app: AppId,
    letters: &Letters,
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

fn counted(letters: usize) -> Changed {
    match letters {
        0 => Changed::Nothing,
        count => Changed::Letters(count as u64),
    }
}

pub(in crate::store::sqlite) fn replay(
    transaction: &mut Transaction<'_>,
    app: AppId,
    letters: &Letters,
    limit: u32,
    now: Timestamp,
) -> Result<Changed, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let found = oldest(transaction.connection, app, letters, limit).map_err(error::store)?;
    for letter in &found {
        let seq = transaction.next_version();
        let connection = transaction.connection;
        send_again(connection, app, letter, seq, now).map_err(error::store)?;
        remove(connection, app, letter).map_err(error::store)?;
    }
    Ok(counted(found.len()))
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
                event_id, depth, at, kind, collection, key, version, size, value)
             SELECT app_id, trigger_name, ?3, ?4,
                CASE WHEN EXISTS (SELECT 1 FROM deliveries AS d
                                  WHERE d.app_id = ?1 AND d.trigger_name = l.trigger_name
                                    AND d.chain = ?3)
                     THEN NULL ELSE ?5 END,
                0, replays + 1, ?5, function, event_id, depth, at, kind, collection, key, version,
                size, value
             FROM dead_letters AS l WHERE app_id = ?1 AND id = ?2",
        )?
        .execute(params![
            app.uuid().as_bytes(),
            letter.id,
            chain_of(&letter.key),
            seq,
            now.0
        ])
        .map(drop)
}

pub(in crate::store::sqlite) fn discard(
    transaction: &mut Transaction<'_>,
    app: AppId,
    letters: &Letters,
    limit: u32,
) -> Result<Changed, StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let found = oldest(transaction.connection, app, letters, limit).map_err(error::store)?;
    remove_all(transaction, app, &found).map_err(error::store)?;
    Ok(counted(found.len()))
}

fn remove_all(
    transaction: &mut Transaction<'_>,
    app: AppId,
    found: &[Found],
) -> rusqlite::Result<()> {
    for letter in found {
        remove(transaction.connection, app, letter)?;
    }
    let bytes = found.iter().map(|letter| letter.size).sum();
    transaction.tally.add(app, freed(bytes));
    Ok(())
}

pub(in crate::store::sqlite) fn prune(
    transaction: &mut Transaction<'_>,
    app: AppId,
    before: Timestamp,
    keep: u32,
    limit: u32,
) -> Result<u64, StoreError> {
    match transaction.tally.open(transaction.connection, app) {
        Err(StoreError::AppNotFound) => return Ok(0),
        opened => opened?,
    }
    transaction.whole(|transaction| {
        let found = spare(transaction.connection, app, before, keep, limit);
        let found = found.map_err(error::store)?;
        remove_all(transaction, app, &found).map_err(error::store)?;
        Ok(found.len() as u64)
    })
}

/// Letters that are too old, or more than may be kept.
fn spare(
    connection: &Connection,
    app: AppId,
    before: Timestamp,
    keep: u32,
    limit: u32,
) -> rusqlite::Result<Vec<Found>> {
    connection
        .prepare_cached(
            "SELECT id, '', size FROM dead_letters
             WHERE app_id = ?1 AND (dead_at < ?2
               OR id <= (SELECT id FROM dead_letters WHERE app_id = ?1
                         ORDER BY id DESC LIMIT 1 OFFSET ?3))
             ORDER BY id LIMIT ?4",
        )?
        .query_map(
            params![app.uuid().as_bytes(), before.0, keep, limit],
            |row| {
                Ok(Found {
                    id: row.get(0)?,
                    key: row.get(1)?,
                    size: row.get(2)?,
                })
            },
        )?
        .collect()
}
