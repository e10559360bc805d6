//! Writes: one thread, one connection, commits in groups.
//!
//! While one commit waits for the disk, the writes that arrive gather in the
//! channel; the next transaction takes them all. So the disk is waited for once
//! a group, and the more callers there are, the larger the groups.

use super::tally::{Delta, Tally};
use super::{SqliteOptions, error, read, registry};
use crate::metrics::Metrics;
use crate::model::{
    AppId, Applied, Audit, Change, Changed, Check, Collection, Key, Op, Timestamp, Value, Version,
    WriteBatch,
};
use crate::store::StoreError;
use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the writer; more callers than that wait to hand
/// theirs over.
const QUEUE_LEN: usize = 1024;
/// A group is closed when it has this many requests or bytes of values, so that
/// its first caller does not wait for long.
const GROUP_REQUESTS: usize = 512;
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// What the writer is asked for, and where its answer goes.
enum Job {
    Commit(
        WriteBatch,
        oneshot::Sender<Result<Vec<Applied>, StoreError>>,
    ),
    Change(
        Box<(Change, Option<Audit>)>,
        oneshot::Sender<Result<Changed, StoreError>>,
    ),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Commit(batch, _) => batch.ops.iter().map(op_bytes).sum(),
            Job::Change(..) => 0,
        }
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Set { value, .. } => value.as_bytes().len(),
        Op::Delete { .. } | Op::Increment { .. } => 0,
    }
}

/// An answer that waits for the commit, and whose it is.
enum Answer {
    Commit(
        oneshot::Sender<Result<Vec<Applied>, StoreError>>,
        Result<Vec<Applied>, StoreError>,
    ),
    Change(
        oneshot::Sender<Result<Changed, StoreError>>,
        Result<Changed, StoreError>,
    ),
}

impl Answer {
    /// Sends the answer, or why the transaction came to nothing.
    fn send(self, committed: &rusqlite::Result<()>) {
        // A caller that has stopped waiting does not need its answer.
        match self {
            Answer::Commit(reply, answer) => drop(reply.send(or_lost(committed, answer))),
            Answer::Change(reply, answer) => drop(reply.send(or_lost(committed, answer))),
        }
    }
}

/// The handle of the writer thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(options: &SqliteOptions) -> Result<Writer, StoreError> {
        let connection = open(options).map_err(error::store)?;
        let metrics = options.metrics.clone();
        let (jobs, queue) = mpsc::channel(QUEUE_LEN);
        let thread = std::thread::Builder::new()
            .name("kvasm-sqlite".to_owned())
            .spawn(move || run(&connection, queue, &metrics))
            .map_err(error::host)?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Applies a batch.
    pub(super) async fn commit(&self, batch: WriteBatch) -> Result<Vec<Applied>, StoreError> {
        self.submit(|reply| Job::Commit(batch, reply)).await
    }

    /// Makes a change.
    pub(super) async fn change(
        &self,
        change: Change,
        audit: Option<Audit>,
    ) -> Result<Changed, StoreError> {
        let request = Box::new((change, audit));
        self.submit(|reply| Job::Change(request, reply)).await
    }

    /// Hands a job over and waits for its commit. Once it is handed over it is
    /// carried out even if the caller stops waiting.
    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let stopped = || error::host("the writer thread has stopped");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the channel ends the thread after what it has been handed.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(options: &SqliteOptions) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&options.path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // After a burst the log file is cut back to this size.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    Ok(connection)
}

fn run(connection: &Connection, mut queue: mpsc::Receiver<Job>, metrics: &Metrics) {
    let mut waiting = None;
    loop {
        let first = match waiting.take() {
            Some(job) => job,
            None => match queue.blocking_recv() {
                Some(job) => job,
                None => return,
            },
        };
        waiting = group(connection, first, &mut queue, metrics);
    }
}

/// One transaction. Returns a job that it could not take in.
fn group(
    connection: &Connection,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    metrics: &Metrics,
) -> Option<Job> {
    let mut transaction = match Transaction::begin(connection) {
        Ok(transaction) => transaction,
        Err(error) => {
            let answer = match first {
                Job::Commit(_, reply) => Answer::Commit(reply, Ok(Vec::new())),
                Job::Change(_, reply) => Answer::Change(reply, Ok(Changed::Nothing)),
            };
            answer.send(&Err(error));
            return None;
        }
    };
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(job) = next.take() {
        bytes += job.bytes();
        transaction.take(job);
        // Some errors, such as a full disk, end the transaction by themselves.
        let ended = connection.is_autocommit();
        if ended || transaction.answers.len() >= GROUP_REQUESTS || bytes >= GROUP_BYTES {
            break;
        }
        next = queue.try_recv().ok();
    }
    metrics.commit_group(transaction.answers.len());
    transaction.commit();
    next
}

/// An open transaction and the answers that wait for its commit.
struct Transaction<'c> {
    connection: &'c Connection,
    /// The last version given out.
    version: i64,
    first_version: i64,
    tally: Tally,
    answers: Vec<Answer>,
}

impl<'c> Transaction<'c> {
    fn begin(connection: &'c Connection) -> rusqlite::Result<Transaction<'c>> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let version = connection
            .prepare_cached("SELECT last FROM kv_version WHERE id = 1")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        let version = match version {
            Ok(version) => version,
            Err(error) => {
                roll_back(connection);
                return Err(error);
            }
        };
        Ok(Transaction {
            connection,
            version,
            first_version: version,
            tally: Tally::default(),
            answers: Vec::new(),
        })
    }

    fn take(&mut self, job: Job) {
        let answer = match job {
            Job::Commit(batch, reply) => Answer::Commit(reply, self.apply(&batch)),
            Job::Change(request, reply) => {
                let (change, audit) = &*request;
                Answer::Change(reply, self.change(change, audit.as_ref()))
            }
        };
        self.answers.push(answer);
    }

    fn change(&mut self, change: &Change, audit: Option<&Audit>) -> Result<Changed, StoreError> {
        // The change may touch what the tally has read.
        self.tally.write(self.connection).map_err(error::store)?;
        self.whole(|this| registry::change(this.connection, change, audit))
    }

    /// Applies one batch so that it leaves all of itself or nothing.
    fn apply(&mut self, batch: &WriteBatch) -> Result<Vec<Applied>, StoreError> {
        self.tally.open(self.connection, batch.app_id)?;
        let failed = failed_checks(self.connection, batch).map_err(error::store)?;
        if !failed.is_empty() {
            return Err(StoreError::Conflict { failed });
        }
        // A single operation is one statement, which is atomic by itself.
        if let ([op], None) = (batch.ops.as_slice(), &batch.audit) {
            return self.op(batch, op, true).map(|(applied, delta)| {
                self.tally.add(batch.app_id, delta);
                vec![applied]
            });
        }
        let (applied, delta) = self.whole(|this| this.ops(batch))?;
        self.tally.add(batch.app_id, delta);
        Ok(applied)
    }

    /// All operations, and the audit row.
    fn ops(&mut self, batch: &WriteBatch) -> Result<(Vec<Applied>, Delta), StoreError> {
        let mut applied = Vec::with_capacity(batch.ops.len());
        let mut total = Delta::default();
        for op in &batch.ops {
            let (done, delta) = self.op(batch, op, false)?;
            applied.push(done);
            total += delta;
        }
        self.tally.check(batch.app_id, total)?;
        if let Some(audit) = &batch.audit {
            registry::write_audit(self.connection, audit).map_err(error::store)?;
        }
        Ok((applied, total))
    }

    /// Runs statements that take effect together or not at all.
    fn whole<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.savepoint("SAVEPOINT whole")?;
        let result = run(self);
        if result.is_err() && !self.connection.is_autocommit() {
            self.savepoint("ROLLBACK TO whole")?;
        }
        if !self.connection.is_autocommit() {
            self.savepoint("RELEASE whole")?;
        }
        result
    }

    fn savepoint(&self, sql: &str) -> Result<(), StoreError> {
        let run = |sql| self.connection.prepare_cached(sql)?.execute([]);
        run(sql).map(drop).map_err(error::store)
    }

    /// One operation, and what it changes of the app's usage. If it is `alone`,
    /// the quota is asked before anything is written.
    fn op(
        &mut self,
        batch: &WriteBatch,
        op: &Op,
        alone: bool,
    ) -> Result<(Applied, Delta), StoreError> {
        let app = batch.app_id;
        match op {
            Op::Set {
                collection,
                key,
                value,
                expires_at,
            } => {
                let size = collection.as_str().len() + key.as_str().len() + value.as_bytes().len();
                let size = size as i64;
                let before = self.size(app, collection, key).map_err(error::store)?;
                let delta = Delta {
                    entries: i64::from(before.is_none()),
                    bytes: size - before.unwrap_or(0),
                };
                if alone {
                    self.tally.check(app, delta)?;
                }
                self.version += 1;
                let value = match value {
                    Value::Json(text) => rusqlite::types::ValueRef::Text(text.as_str().as_bytes()),
                    Value::Bytes(bytes) => rusqlite::types::ValueRef::Blob(bytes),
                };
                let row = (
                    app.uuid().into_bytes(),
                    collection.as_str(),
                    key.as_str(),
                    rusqlite::types::ToSqlOutput::Borrowed(value),
                    size,
                    self.version,
                    batch.now.0,
                    expires_at.map(|at| at.0),
                );
                self.connection
                    .prepare_cached(SET)
                    .and_then(|mut statement| statement.execute(row))
                    .map_err(error::store)?;
                let version = Version(self.version.unsigned_abs());
                Ok((Applied::Set(version), delta))
            }
            Op::Increment { .. } => Err(error::host("not yet")),
            Op::Delete { collection, key } => self
                .delete(app, batch.now, collection, key)
                .map_err(error::store),
        }
    }

    /// The size of the entry that a set will replace, expired or not.
    fn size(
        &self,
        app: AppId,
        collection: &Collection,
        key: &Key,
    ) -> rusqlite::Result<Option<i64>> {
        let app_id = app.uuid();
        let mut statement = self.connection.prepare_cached(
            "SELECT size FROM kv_entries WHERE app_id = ?1 AND collection = ?2 AND key = ?3",
        )?;
        let mut rows = statement.query((app_id.as_bytes(), collection.as_str(), key.as_str()))?;
        rows.next()?.map(|row| row.get(0)).transpose()
    }

    fn delete(
        &self,
        app: AppId,
        now: Timestamp,
        collection: &Collection,
        key: &Key,
    ) -> rusqlite::Result<(Applied, Delta)> {
        let mut statement = self.connection.prepare_cached(DELETE)?;
        let app_id = app.uuid();
        let parameters = (app_id.as_bytes(), collection.as_str(), key.as_str(), now.0);
        let mut rows = statement.query(parameters)?;
        let mut existed = false;
        let mut delta = Delta::default();
        while let Some(row) = rows.next()? {
            existed = row.get(0)?;
            delta = Delta {
                entries: -1,
                bytes: -row.get::<_, i64>(1)?,
            };
        }
        Ok((Applied::Deleted { existed }, delta))
    }

    /// Commits, then answers everybody.
    fn commit(mut self) {
        let committed = self.commit_transaction();
        if committed.is_err() {
            roll_back(self.connection);
        }
        for answer in self.answers {
            answer.send(&committed);
        }
    }

    fn commit_transaction(&mut self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        self.tally.write(self.connection)?;
        if self.version != self.first_version {
            self.connection
                .prepare_cached("UPDATE kv_version SET last = ?1 WHERE id = 1")?
                .execute([self.version])?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

/// An answer, or the error of its transaction. What failed by itself keeps its
/// own error.
fn or_lost<T>(
    committed: &rusqlite::Result<()>,
    answer: Result<T, StoreError>,
) -> Result<T, StoreError> {
    match (committed, answer) {
        (Ok(()), answer) | (Err(_), answer @ Err(_)) => answer,
        (Err(error), Ok(_)) => Err(lost(error)),
    }
}

/// The answer to a write whose group failed for a reason that was not its own.
fn lost(error: &rusqlite::Error) -> StoreError {
    let why = format!("the transaction was rolled back: {error}").into();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(why),
        _ => StoreError::Unavailable(why),
    }
}

fn roll_back(connection: &Connection) {
    if connection.is_autocommit() {
        return;
    }
    if let Err(error) = connection.execute_batch("ROLLBACK") {
        tracing::error!(%error, "SQLite did not roll back");
    }
}

const SET: &str = "INSERT INTO kv_entries
       (app_id, collection, key, value, size, version, created_at, updated_at, expires_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)
     ON CONFLICT (app_id, collection, key) DO UPDATE SET
       value = excluded.value,
       size = excluded.size,
       version = excluded.version,
       created_at = CASE WHEN expires_at <= excluded.updated_at
                         THEN excluded.created_at ELSE created_at END,
       updated_at = excluded.updated_at,
       expires_at = excluded.expires_at";

const DELETE: &str = "DELETE FROM kv_entries WHERE app_id = ?1 AND collection = ?2 AND key = ?3
     RETURNING expires_at IS NULL OR expires_at > ?4, size";

/// The positions of the checks that do not hold.
fn failed_checks(connection: &Connection, batch: &WriteBatch) -> rusqlite::Result<Vec<usize>> {
    let mut failed = Vec::new();
    for (at, check) in batch.checks.iter().enumerate() {
        let Check {
            collection,
            key,
            expect,
        } = check;
        let found = read::version(connection, batch.app_id, collection, key, batch.now)?;
        if !expect.holds(found) {
            failed.push(at);
        }
    }
    Ok(failed)
}
