//! Writes: one thread, one connection, commits in groups.
//!
//! While one commit waits for the disk, the writes that arrive gather in the
//! channel; the next transaction takes them all. So the disk is waited for once
//! a group, and the more callers there are, the larger the groups.

use super::{SqliteOptions, error, read};
use crate::model::{App, AppId, Applied, Check, Op, Timestamp, Value, WriteBatch};
use crate::store::StoreError;
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

/// What the writer is asked for.
pub(super) enum Request {
    Commit(WriteBatch),
    CreateApp(App),
    DeleteApp(AppId),
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Commit(batch) => batch.ops.iter().map(op_bytes).sum(),
            Request::CreateApp(_) | Request::DeleteApp(_) => 0,
        }
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Set { value, .. } => value.as_bytes().len(),
        Op::Delete { .. } => 0,
    }
}

type Answer = Result<Vec<Applied>, StoreError>;

struct Job {
    request: Request,
    reply: oneshot::Sender<Answer>,
}

/// The handle of the writer thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(options: &SqliteOptions) -> Result<Writer, StoreError> {
        let connection = open(options).map_err(error::store)?;
        let (jobs, queue) = mpsc::channel(QUEUE_LEN);
        let thread = std::thread::Builder::new()
            .name("kvasm-sqlite".to_owned())
            .spawn(move || run(&connection, queue))
            .map_err(error::host)?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Hands a request over and waits for its commit. Once it is handed over it
    /// is carried out even if the caller stops waiting.
    pub(super) async fn submit(&self, request: Request) -> Answer {
        let stopped = || error::host("the writer thread has stopped");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Job { request, reply })
            .await
            .map_err(|_| stopped())?;
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

fn run(connection: &Connection, mut queue: mpsc::Receiver<Job>) {
    let mut waiting = None;
    loop {
        let first = match waiting.take() {
            Some(job) => job,
            None => match queue.blocking_recv() {
                Some(job) => job,
                None => return,
            },
        };
        waiting = group(connection, first, &mut queue);
    }
}

/// One transaction. Returns a job that it could not take in.
fn group(connection: &Connection, first: Job, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
    let mut transaction = match Transaction::begin(connection) {
        Ok(transaction) => transaction,
        Err(error) => {
            let _ = first.reply.send(Err(error::store(error)));
            return None;
        }
    };
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(job) = next.take() {
        bytes += job.request.bytes();
        transaction.take(job);
        // Some errors, such as a full disk, end the transaction by themselves.
        let ended = connection.is_autocommit();
        if ended || transaction.answers.len() >= GROUP_REQUESTS || bytes >= GROUP_BYTES {
            break;
        }
        next = queue.try_recv().ok();
    }
    transaction.commit();
    next
}

/// An open transaction and the answers that wait for its commit.
struct Transaction<'c> {
    connection: &'c Connection,
    /// The last version given out.
    version: i64,
    first_version: i64,
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
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
            answers: Vec::new(),
        })
    }

    fn take(&mut self, job: Job) {
        let answer = match job.request {
            Request::Commit(batch) => self.apply(&batch),
            Request::CreateApp(app) => create_app(self.connection, &app),
            Request::DeleteApp(app) => delete_app(self.connection, app),
        };
        self.answers.push((job.reply, answer));
    }

    /// Applies one batch so that it leaves all of itself or nothing.
    fn apply(&mut self, batch: &WriteBatch) -> Answer {
        // A set runs into the foreign key; anything else would find nothing.
        let sets = |op: &Op| matches!(op, Op::Set { .. });
        if !(batch.checks.is_empty() && batch.ops.iter().any(sets)) {
            self.require_app(batch.app_id)?;
        }
        let failed = failed_checks(self.connection, batch).map_err(error::store)?;
        if !failed.is_empty() {
            return Err(StoreError::Conflict { failed });
        }
        // A single statement is atomic by itself.
        if let [op] = batch.ops.as_slice() {
            let applied = self.op(batch.app_id, batch.now, op);
            return Ok(vec![applied.map_err(error::store)?]);
        }
        self.savepoint("SAVEPOINT batch")?;
        let applied = batch
            .ops
            .iter()
            .map(|op| self.op(batch.app_id, batch.now, op))
            .collect::<rusqlite::Result<Vec<_>>>();
        if applied.is_err() && !self.connection.is_autocommit() {
            self.savepoint("ROLLBACK TO batch")?;
        }
        if !self.connection.is_autocommit() {
            self.savepoint("RELEASE batch")?;
        }
        applied.map_err(error::store)
    }

    fn require_app(&self, app: AppId) -> Result<(), StoreError> {
        let found = self
            .connection
            .prepare_cached("SELECT 1 FROM apps WHERE id = ?1")
            .and_then(|mut statement| statement.exists([app.uuid().as_bytes()]));
        match found.map_err(error::store)? {
            true => Ok(()),
            false => Err(StoreError::AppNotFound),
        }
    }

    fn savepoint(&self, sql: &str) -> Result<(), StoreError> {
        let run = |sql| self.connection.prepare_cached(sql)?.execute([]);
        run(sql).map(drop).map_err(error::store)
    }

    fn op(&mut self, app: AppId, now: Timestamp, op: &Op) -> rusqlite::Result<Applied> {
        match op {
            Op::Set {
                collection,
                key,
                value,
                expires_at,
            } => {
                self.version += 1;
                let bytes = value.as_bytes();
                let size = collection.as_str().len() + key.as_str().len() + bytes.len();
                let value = match value {
                    Value::Json(text) => rusqlite::types::ValueRef::Text(text.as_str().as_bytes()),
                    Value::Bytes(bytes) => rusqlite::types::ValueRef::Blob(bytes),
                };
                self.connection.prepare_cached(SET)?.execute((
                    app.uuid().as_bytes(),
                    collection.as_str(),
                    key.as_str(),
                    rusqlite::types::ToSqlOutput::Borrowed(value),
                    size as i64,
                    self.version,
                    now.0,
                    expires_at.map(|at| at.0),
                ))?;
                Ok(Applied::Set(crate::model::Version(
                    self.version.unsigned_abs(),
                )))
            }
            Op::Delete { collection, key } => {
                let mut statement = self.connection.prepare_cached(DELETE)?;
                let app_id = app.uuid();
                let parameters = (app_id.as_bytes(), collection.as_str(), key.as_str(), now.0);
                let mut rows = statement.query(parameters)?;
                let mut existed = false;
                while let Some(row) = rows.next()? {
                    existed = row.get(0)?;
                }
                Ok(Applied::Deleted { existed })
            }
        }
    }

    /// Commits, then answers everybody.
    fn commit(self) {
        let committed = self.commit_transaction();
        if committed.is_err() {
            roll_back(self.connection);
        }
        for (reply, answer) in self.answers {
            // A caller that has stopped waiting does not need its answer.
            let _ = reply.send(match (&committed, answer) {
                (Ok(()), answer) | (Err(_), answer @ Err(_)) => answer,
                (Err(error), Ok(_)) => Err(lost(error)),
            });
        }
    }

    fn commit_transaction(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        if self.version != self.first_version {
            self.connection
                .prepare_cached("UPDATE kv_version SET last = ?1 WHERE id = 1")?
                .execute([self.version])?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

/// The answer to a write whose group failed for a reason that was not its own.
fn lost(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable(format!("the transaction was rolled back: {error}").into())
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
     RETURNING expires_at IS NULL OR expires_at > ?4";

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

fn create_app(connection: &Connection, app: &App) -> Answer {
    connection
        .prepare_cached(
            "INSERT INTO apps (id, name, cursor_key, created_at) VALUES (?1, ?2, ?3, ?4)",
        )
        .and_then(|mut statement| {
            statement.execute((
                app.id.uuid().as_bytes(),
                app.name.as_str(),
                app.cursor_key.as_bytes(),
                app.created_at.0,
            ))
        })
        .map_err(error::store)?;
    Ok(Vec::new())
}

fn delete_app(connection: &Connection, app: AppId) -> Answer {
    let deleted = connection
        .prepare_cached("DELETE FROM apps WHERE id = ?1")
        .and_then(|mut statement| statement.execute([app.uuid().as_bytes()]))
        .map_err(error::store)?;
    Ok(vec![Applied::Deleted {
        existed: deleted > 0,
    }])
}
