//! Writes: one thread, one connection, commits in groups.
//!
//! While one commit waits for the disk, the writes that arrive gather in the
//! channel; the next transaction takes them all. So the disk is waited for once
//! a group, and the more callers there are, the larger the groups.

use super::outbox::Watchers;
use super::tally::Tally;
use super::{SqliteOptions, error};
use crate::metrics::Metrics;
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

/// What is done in the open transaction, or why none could be opened. Returns how
/// it is answered once the transaction has ended.
type Work = Box<dyn FnOnce(Result<&mut Transaction<'_>, rusqlite::Error>) -> Answer + Send>;
/// Answers, when it is known whether the transaction was committed.
type Answer = Box<dyn FnOnce(&rusqlite::Result<()>) + Send>;

/// What the writer is asked for.
struct Job {
    /// About how much it writes.
    bytes: usize,
    work: Work,
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

    /// Runs `run` in a transaction, of which it is told whether it was committed.
    /// What it does must leave nothing behind if it fails. Once it is handed over
    /// it is carried out even if the caller stops waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        run: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let stopped = || error::host("the writer thread has stopped");
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |transaction| {
            let answer = match transaction {
                Ok(transaction) => run(transaction),
                Err(error) => Err(lost(&error)),
            };
            // A caller that has stopped waiting does not need its answer.
            Box::new(move |committed| drop(reply.send(or_lost(committed, answer))))
        });
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        let sent = jobs.send(Job { bytes, work }).await;
        sent.map_err(|_| stopped())?;
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
    let mut watchers = Watchers::default();
    loop {
        let first = match waiting.take() {
            Some(job) => job,
            None => match queue.blocking_recv() {
                Some(job) => job,
                None => return,
            },
        };
        waiting = group(connection, first, &mut queue, &mut watchers, metrics);
    }
}

/// One transaction. Returns a job that it could not take in.
fn group(
    connection: &Connection,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    watchers: &mut Watchers,
    metrics: &Metrics,
) -> Option<Job> {
    let mut transaction = match Transaction::begin(connection, watchers) {
        Ok(transaction) => transaction,
        Err(error) => {
            (first.work)(Err(error))(&Ok(()));
            return None;
        }
    };
    let mut bytes = 0;
    let mut answers = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next.take() {
        bytes += job.bytes;
        answers.push((job.work)(Ok(&mut transaction)));
        // Some errors, such as a full disk, end the transaction by themselves.
        let ended = connection.is_autocommit();
        if ended || answers.len() >= GROUP_REQUESTS || bytes >= GROUP_BYTES {
            break;
        }
        next = queue.try_recv().ok();
    }
    metrics.commit_group(answers.len());
    let committed = transaction.commit();
    for answer in answers {
        answer(&committed);
    }
    next
}

/// An open transaction.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c Connection,
    /// The last version given out.
    version: i64,
    first_version: i64,
    pub(super) tally: Tally,
    pub(super) watchers: &'c mut Watchers,
}

impl<'c> Transaction<'c> {
    fn begin(
        connection: &'c Connection,
        watchers: &'c mut Watchers,
    ) -> rusqlite::Result<Transaction<'c>> {
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
            watchers,
        })
    }

    /// The next version, which also numbers deliveries: it grows with each write.
    pub(super) fn next_version(&mut self) -> i64 {
        self.version += 1;
        self.version
    }

    /// Runs statements that take effect together or not at all, and so does what they
    /// count in the tally. Not to be nested.
    pub(super) fn whole<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.savepoint("SAVEPOINT whole")?;
        self.tally.save();
        let result = run(self);
        match result {
            Ok(_) => self.tally.release(),
            Err(_) => self.tally.roll_back(),
        }
        if result.is_err() && !self.connection.is_autocommit() {
            self.savepoint("ROLLBACK TO whole")?;
            self.watchers.forget();
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

    fn commit(mut self) -> rusqlite::Result<()> {
        let committed = self.commit_transaction();
        if committed.is_err() {
            roll_back(self.connection);
            self.watchers.forget();
        }
        committed
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
