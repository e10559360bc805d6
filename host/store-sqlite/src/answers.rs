//! Kept answers of idempotent calls.

use super::error;
use super::usage::UsageDelta;
use super::writer::WriteTransaction;
use kvasm_core::store::StoreError;
use kvasm_core::{
    ANSWERS_MAX, ANSWERS_OF_RANGE_MAX, AnswerId, AppId, Commit, KeptAnswer, RequestHash, Resource,
    Timestamp,
};
use rusqlite::{Connection, OptionalExtension};

/// Returns an answer that has not expired.
pub(super) fn get(
    connection: &Connection,
    app: AppId,
    id: AnswerId,
    now: Timestamp,
) -> rusqlite::Result<Option<KeptAnswer>> {
    connection
        .prepare_cached(
            // As for entries, rows of a deleted app are absent.
            "SELECT request, output, expires_at FROM kept_answers
             WHERE app_id = ?1 AND id = ?2 AND expires_at > ?3
               AND NOT EXISTS (SELECT 1 FROM apps WHERE id = ?1 AND deleted_at IS NOT NULL)",
        )?
        .query_row((app.uuid().as_bytes(), id.0, now.0), |row| {
            Ok(KeptAnswer {
                id,
                request: RequestHash(row.get(0)?),
                output: row.get::<_, Option<Vec<u8>>>(1)?.map(Into::into),
                expires_at: Timestamp(row.get(2)?),
            })
        })
        .optional()
}

/// Fails if the answer that a batch keeps exists. Returns the size of an expired one in its place.
pub(super) fn check(connection: &Connection, commit: &Commit) -> Result<Option<i64>, StoreError> {
    let Some(answer) = &commit.batch.keep else {
        return Ok(None);
    };
    let found = connection
        .prepare_cached("SELECT expires_at, size FROM kept_answers WHERE app_id = ?1 AND id = ?2")
        .and_then(|mut statement| {
            let at = (commit.app_id.uuid().into_bytes(), answer.id.0);
            statement
                .query_row(at, |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
                .optional()
        });
    match found.map_err(error::store)? {
        Some((expires_at, _)) if expires_at > commit.now.0 => Err(StoreError::AlreadyAnswered),
        found => Ok(found.map(|(_, size)| size)),
    }
}

/// Writes an answer that [`check`] has admitted, in place of an expired one of size `replaced`.
pub(super) fn keep(
    connection: &Connection,
    app: AppId,
    answer: &KeptAnswer,
    replaced: Option<i64>,
) -> Result<UsageDelta, StoreError> {
    if replaced.is_none() && is_full(connection, app, answer.id).map_err(error::store)? {
        return Err(StoreError::Quota {
            resource: Resource::Answers,
            limit: ANSWERS_MAX,
        });
    }
    let size = i64::try_from(answer.bytes()).unwrap_or(i64::MAX);
    let columns = (
        app.uuid().into_bytes(),
        answer.id.0,
        answer.request.0,
        answer.output.as_deref(),
        size,
        answer.expires_at.0,
    );
    connection
        .prepare_cached(KEEP)
        .and_then(|mut statement| statement.execute(columns))
        .map_err(error::store)?;
    Ok(UsageDelta::of_bytes(size - replaced.unwrap_or(0)))
}

/// Returns whether the range of an identity has as many answers as it may have.
fn is_full(connection: &Connection, app: AppId, id: AnswerId) -> rusqlite::Result<bool> {
    let (first, last) = id.range();
    let range = (
        app.uuid().into_bytes(),
        first.0,
        last.0,
        ANSWERS_OF_RANGE_MAX as i64,
    );
    let count: i64 = connection
        .prepare_cached(COUNT)?
        .query_row(range, |row| row.get(0))?;
    Ok(count.unsigned_abs() >= ANSWERS_OF_RANGE_MAX)
}

/// Returns whether the app has an expired answer.
pub(super) fn has_expired(
    connection: &Connection,
    app: AppId,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(HAS_EXPIRED)?
        .exists((app.uuid().as_bytes(), now.0))
}

/// Removes up to `limit` expired answers of an app whose usage is open. Returns the number removed.
pub(super) fn sweep(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let sizes: Vec<i64> = transaction
        .connection
        .prepare_cached(SWEEP)
        .and_then(|mut statement| {
            let rows = statement.query_map((app.uuid().as_bytes(), now.0, limit), |row| row.get(0));
            rows?.collect()
        })
        .map_err(error::store)?;
    let freed = sizes.iter().sum::<i64>();
    transaction.tally.add(app, UsageDelta::of_bytes(-freed));
    Ok(sizes.len() as u64)
}

const KEEP: &str = "INSERT INTO kept_answers (app_id, id, request, output, size, expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (app_id, id) DO UPDATE SET
       request = excluded.request,
       output = excluded.output,
       size = excluded.size,
       expires_at = excluded.expires_at";

const COUNT: &str = "SELECT count(*) FROM (SELECT 1 FROM kept_answers
     WHERE app_id = ?1 AND id BETWEEN ?2 AND ?3 LIMIT ?4)";

const HAS_EXPIRED: &str =
    "SELECT 1 FROM kept_answers WHERE app_id = ?1 AND expires_at <= ?2 LIMIT 1";

/// See the sweep of entries.
const SWEEP: &str = "DELETE FROM kept_answers NOT INDEXED WHERE app_id = ?1 AND rowid IN (
       SELECT rowid FROM kept_answers WHERE app_id = ?1 AND expires_at <= ?2
       ORDER BY expires_at LIMIT ?3)
     RETURNING size";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SqliteOptions, SqliteStore, plan};

    /// A commit counts a range, and the writer sweeps each app in turn.
    #[tokio::test]
    async fn answers_are_counted_and_swept_by_their_indexes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let _store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let connection = Connection::open(&path).unwrap();
        let steps = plan(&connection, COUNT, &[b"a", b"b", b"c", &1]).join("; ");
        let counts = "COVERING INDEX sqlite_autoindex_kept_answers_1 (app_id=? AND id>? AND id<?)";
        assert!(steps.contains(counts), "{steps}");
        let finds = "kept_answers_by_expiry (app_id=? AND expires_at<?)";
        let steps = plan(&connection, HAS_EXPIRED, &[b"a", &0]).join("; ");
        assert!(steps.contains(finds), "{steps}");
        let steps = plan(&connection, SWEEP, &[b"a", &0, &0]);
        assert!(
            steps[0].ends_with("USING INTEGER PRIMARY KEY (rowid=?)"),
            "{steps:?}"
        );
        assert!(steps.iter().any(|step| step.contains(finds)), "{steps:?}");
    }
}
