//! The log of changes, for watchers.
//!
//! Transactions commit in another order than that in which they draw positions, so a position is
//! readable only once no transaction with an earlier one is in progress. To find out, a host marks
//! the last position that was drawn with a transaction id of its own, which is later than those of
//! all transactions that have drawn up to it. When no older transaction is in progress any more, all
//! positions up to the mark are readable. A transaction anywhere on the server that has written and
//! stays open delays watchers, and nothing else.

use super::PostgresStore;
use super::classify::store_error;
use super::entries;
use super::log_segments::app_ids;
use super::pool::{Pool, Statement};
use super::sql::changes_sql;
use async_trait::async_trait;
use kvasm_core::store::backend::signed;
use kvasm_core::store::{
    ChangeLog, ChangePage, ChangeRange, ChangeRetention, ChangesHead, LoggedChange, StoreError,
};
use kvasm_core::{AppId, Collection, JsonText, Key, Timestamp, Value};
use parking_lot::Mutex;
use sqlx::postgres::PgRow;
use sqlx::{Error, Row};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a new log waits for the commits in progress.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of looking whether they have ended.
const START_INTERVAL: Duration = Duration::from_millis(20);

/// What is known of the positions.
#[derive(Debug, Default)]
pub(super) struct ChangePositions(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    /// The positions that are not readable yet, each with the transaction id that must have ended,
    /// as must all before it.
    open: VecDeque<(u64, i64)>,
    /// The last position that is marked.
    marked: u64,
    /// The last position that is readable.
    readable: u64,
}

impl ChangePositions {
    /// Returns the last marked position, and whether some are not readable yet.
    fn marked(&self) -> (u64, bool) {
        let marks = self.0.lock();
        (marks.marked, !marks.open.is_empty())
    }

    fn add(&self, position: u64, transaction: i64) {
        let mut marks = self.0.lock();
        marks.open.push_back((position, transaction));
        marks.marked = marks.marked.max(position);
    }

    /// Settles the marks before the oldest transaction in progress. Returns the last position that
    /// is readable.
    fn settle(&self, oldest_running: i64) -> u64 {
        let mut marks = self.0.lock();
        let Marks { open, readable, .. } = &mut *marks;
        open.retain(|(position, transaction)| {
            let is_open = *transaction > oldest_running;
            if !is_open {
                *readable = (*readable).max(*position);
            }
            is_open
        });
        *readable
    }

    fn readable(&self) -> u64 {
        self.0.lock().readable
    }
}

fn position(row: &PgRow, column: usize) -> Result<u64, Error> {
    row.try_get::<i64, _>(column).map(i64::unsigned_abs)
}

/// Runs a statement that answers with one row.
async fn one<T>(
    pool: &Pool,
    sql: &'static str,
    decode: impl FnOnce(&PgRow) -> Result<T, Error>,
) -> Result<T, StoreError> {
    let rows = pool.read(|| sqlx::query(sql)).await?;
    let row = rows.first().ok_or(Error::RowNotFound);
    row.and_then(decode).map_err(store_error)
}

async fn last_position(pool: &Pool) -> Result<u64, StoreError> {
    one(pool, changes_sql::LAST_POSITION, |row| position(row, 0)).await
}

async fn mark(pool: &Pool) -> Result<(i64, i64), StoreError> {
    let decode = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    one(pool, changes_sql::MARK, decode).await
}

async fn oldest_running(pool: &Pool) -> Result<i64, StoreError> {
    one(pool, changes_sql::OLDEST_RUNNING, |row| row.try_get(0)).await
}

fn change(row: &PgRow) -> Result<LoggedChange, Error> {
    let json: Option<String> = row.try_get(6)?;
    let bytes: Option<Vec<u8>> = row.try_get(7)?;
    let json = json.map(|text| Value::Json(JsonText::stored(text)));
    Ok(LoggedChange {
        position: position(row, 1)?,
        at: Timestamp(row.try_get(2)?),
        version: entries::version(row, 3)?,
        collection: Collection::stored(row.try_get(4)?),
        key: Key::stored(row.try_get(5)?),
        value: json.or(bytes.map(Value::Bytes)),
    })
}

fn page(rows: &[PgRow]) -> Result<ChangePage, Error> {
    let Some(first) = rows.first() else {
        return Ok(ChangePage::default());
    };
    let start: Option<i64> = first.try_get(0)?;
    let is_change = |row: &&PgRow| row.try_get::<Option<i64>, _>(1).ok().flatten().is_some();
    let changes = rows.iter().filter(is_change).map(change);
    Ok(ChangePage {
        start: start.map(i64::unsigned_abs),
        changes: changes.collect::<Result<_, _>>()?,
    })
}

impl PostgresStore {
    /// Waits until all transactions that began before have ended.
    async fn wait_for_commits(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let (transaction, mut oldest) = mark(&self.pool).await?;
        while oldest < transaction {
            if began.elapsed() > START_TIMEOUT {
                let why = "a transaction of the database has been open for too long";
                return Err(StoreError::Unavailable(why.into()));
            }
            tokio::time::sleep(START_INTERVAL).await;
            oldest = oldest_running(&self.pool).await?;
        }
        Ok(())
    }

    async fn removed<'q>(&self, statement: impl Fn() -> Statement<'q>) -> Result<u64, StoreError> {
        let rows = self
            .pool
            .write(|_| statement())
            .await
            .map_err(store_error)?;
        Ok(rows.len() as u64)
    }
}

#[async_trait]
impl ChangeLog for PostgresStore {
    async fn keep_changes(&self, app: AppId, until: Timestamp) -> Result<u64, StoreError> {
        let keep = || {
            let statement = sqlx::query(changes_sql::KEEP_CHANGES).bind(app.uuid());
            statement.bind(until.0)
        };
        let rows = self.pool.read(keep).await?;
        let row = rows.first().ok_or(StoreError::AppNotFound)?;
        let start: Option<i64> = row.try_get(0).map_err(store_error)?;
        if let Some(start) = start {
            return Ok(start.unsigned_abs());
        }
        // A commit in progress may have looked before the log was kept.
        self.wait_for_commits().await?;
        let last = last_position(&self.pool).await?;
        let begin = || {
            let statement = sqlx::query(changes_sql::START_CHANGES).bind(app.uuid());
            statement.bind(signed(last))
        };
        let rows = self.pool.read(begin).await?;
        let row = rows.first().ok_or(StoreError::AppNotFound)?;
        position(row, 0).map_err(store_error)
    }

    async fn changes_head(&self, after: u64) -> Result<ChangesHead, StoreError> {
        let positions = &self.change_positions;
        // The position first: its transaction has its id already.
        let last = last_position(&self.pool).await?;
        let readable = match positions.marked() {
            (marked, _) if last > marked => {
                let (transaction, oldest) = mark(&self.pool).await?;
                positions.add(last, transaction);
                positions.settle(oldest)
            }
            (_, true) => positions.settle(oldest_running(&self.pool).await?),
            (_, false) => positions.readable(),
        };
        let mut head = ChangesHead {
            position: readable.max(after),
            apps: Vec::new(),
        };
        if readable > after {
            let statement = || {
                let statement = sqlx::query(changes_sql::CHANGED_APPS).bind(signed(after));
                statement.bind(signed(readable))
            };
            let rows = self.pool.read(statement).await?;
            let ids = rows.iter().map(|row| row.try_get::<Uuid, _>(0));
            let ids = ids.collect::<Result<Vec<_>, _>>().map_err(store_error)?;
            head.apps = ids.into_iter().map(AppId::from).collect();
        }
        Ok(head)
    }

    async fn changes(&self, app: AppId, range: ChangeRange) -> Result<ChangePage, StoreError> {
        let statement = || {
            sqlx::query(changes_sql::CHANGES)
                .bind(app.uuid())
                .bind(signed(range.after))
                .bind(signed(range.to))
                .bind(i64::from(range.limit))
                .bind(signed(range.bytes_max))
        };
        page(&self.pool.read(statement).await?).map_err(store_error)
    }

    async fn prune_changes(
        &self,
        app: AppId,
        now: Timestamp,
        retain: ChangeRetention,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let age = i64::try_from(retain.age.as_millis()).unwrap_or(i64::MAX);
        let prune = |_| {
            sqlx::query(changes_sql::PRUNE_CHANGES)
                .bind(app.uuid())
                .bind(now.0)
                .bind(now.0.saturating_sub(age))
                .bind(signed(retain.bytes))
                .bind(i64::from(limit))
        };
        let rows = self.pool.write(prune).await.map_err(store_error)?;
        let Some(row) = rows.first() else {
            let drop = || sqlx::query(changes_sql::DROP_CHANGES).bind(app.uuid());
            return self.removed(drop).await;
        };
        let decode = |row: &PgRow| Ok((row.try_get::<i64, _>(0)?, row.try_get::<bool, _>(1)?));
        let (removed, kept) = decode(row).map_err(store_error)?;
        if removed == 0 && !kept {
            let end = || {
                let statement = sqlx::query(changes_sql::END_CHANGES).bind(app.uuid());
                statement.bind(now.0)
            };
            if self.removed(end).await? > 0 {
                // Of commits in progress that saw the log.
                let drop = || sqlx::query(changes_sql::DROP_CHANGES).bind(app.uuid());
                return self.removed(drop).await;
            }
        }
        Ok(removed.unsigned_abs())
    }

    async fn apps_with_changes(
        &self,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError> {
        app_ids(&self.pool, changes_sql::APPS_WITH_CHANGES, after, limit).await
    }
}
