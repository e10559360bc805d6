//! Writes: one thread, one connection, commits in groups.
//!
//! While one commit waits for the disk, the writes that arrive queue up in the channel, and the
//! next transaction takes all of them. So there is one wait for the disk per group, and groups grow
//! with the number of callers.

use super::fair_queue::FairQueue;
use super::links::Links;
use super::outbox::Watchers;
use super::reserved_space::{self, ReservedSpace};
use super::usage::UsageCounters;
use super::{SqliteOptions, error, set_cache};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, Timestamp};
use kvasm_metrics::Metrics;
use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The length of the writer's queue; further callers wait to enqueue.
const QUEUE_LEN: usize = 1024;
/// A group is closed when it has this many requests, bytes of values or changed rows, so that its
/// first caller does not wait long.
const GROUP_REQUESTS: usize = 512;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
const GROUP_ROWS: u64 = 10_000;

/// The size of the row that a probe writes, unless a larger write has failed.
const PROBE_BYTES: usize = 16 * 1024;
/// The maximum that a probe writes.
const PROBE_BYTES_MAX: usize = 1024 * 1024;

/// The purpose and the cost of a write.
#[derive(Clone, Copy)]
pub(super) struct WriteCost {
    /// The app whose turn it takes; `None` if it belongs to no app.
    pub(super) app: Option<AppId>,
    /// The approximate number of bytes that it writes.
    pub(super) bytes: usize,
    /// Whether it is accepted on a full disk.
    pub(super) frees_space: bool,
}

impl WriteCost {
    /// A small write of no app.
    pub(super) const NONE: WriteCost = WriteCost {
        app: None,
        bytes: 0,
        frees_space: false,
    };

    /// A small write of an app.
    pub(super) const fn of(app: AppId) -> WriteCost {
        WriteCost {
            app: Some(app),
            ..WriteCost::NONE
        }
    }

    pub(super) const fn with_bytes(self, bytes: usize) -> WriteCost {
        WriteCost { bytes, ..self }
    }

    /// Marks it as freeing space: it adds no more than an audit row.
    pub(super) const fn freeing_space(self) -> WriteCost {
        WriteCost {
            frees_space: true,
            ..self
        }
    }
}

/// A request to the writer, whose caller waits for the answer or was cancelled.
pub(super) trait Job: Send {
    fn work(&self) -> WriteCost;
    /// Returns whether the caller was cancelled. Such a job is dropped unless it already runs.
    fn is_abandoned(&self) -> bool;
    /// Runs in the open transaction. The answer is sent once the transaction has ended.
    fn run(self: Box<Self>, transaction: &mut WriteTransaction<'_>) -> Answer;
    /// Answers without running.
    fn refuse(self: Box<Self>, why: StoreError);
}

/// Sends the answer, once it is known whether the transaction was committed.
type Answer = Box<dyn FnOnce(&rusqlite::Result<()>) + Send>;

struct WriteRequest<T, F> {
    work: WriteCost,
    run: F,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for WriteRequest<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut WriteTransaction<'_>) -> Result<T, StoreError> + Send,
{
    fn work(&self) -> WriteCost {
        self.work
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(self: Box<Self>, transaction: &mut WriteTransaction<'_>) -> Answer {
        let WriteRequest { work, run, reply } = *self;
        let run = AssertUnwindSafe(|| run(transaction));
        let answer = match catch_unwind(run) {
            Ok(answer) => answer,
            Err(_) => {
                // A part of the work may be done, in the database and in memory.
                transaction.poisoned = true;
                Err(error::host("the write panicked; the panic is in the log"))
            }
        };
        if let Err(StoreError::Full(_) | StoreError::Failed(_)) = &answer {
            transaction.failed = transaction.failed.max(work.bytes);
        }
        if let Err(error) = &answer {
            transaction.is_full |= error::may_be_full(error);
        }
        // A caller that was cancelled meanwhile does not need its answer.
        Box::new(move |committed| drop(reply.send(or_lost(committed, answer))))
    }

    fn refuse(self: Box<Self>, why: StoreError) {
        drop(self.reply.send(Err(why)));
    }
}

/// A handle to the writer thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        options: &SqliteOptions,
        mut ballast: ReservedSpace,
    ) -> Result<Writer, StoreError> {
        let connection = open(options).map_err(error::store)?;
        ballast.ensure(&connection);
        let busy_timeout = options.busy_timeout;
        let metrics = options.metrics.clone();
        let (jobs, queue) = mpsc::channel(QUEUE_LEN);
        let thread = std::thread::Builder::new()
            .name("kvasm-sqlite".to_owned())
            .spawn(move || run(&connection, queue, ballast, busy_timeout, &metrics))
            .map_err(error::host)?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs `run` in a transaction and returns its result after the commit. If it fails, it must
    /// leave no changes behind. If the caller is cancelled before its turn, `run` is never called;
    /// after that it is completed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: WriteCost,
        run: impl FnOnce(&mut WriteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run_after(work, run, || ()).await
    }

    /// As [`run`](Writer::run), and calls `queued` when it is in the queue.
    pub(super) async fn run_after<T: Send + 'static>(
        &self,
        work: WriteCost,
        run: impl FnOnce(&mut WriteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
        queued: impl FnOnce() + Send,
    ) -> Result<T, StoreError> {
        let stopped = || error::host("the writer thread has stopped");
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        let job = Box::new(WriteRequest { work, run, reply });
        jobs.send(job).await.map_err(|_| stopped())?;
        queued();
        answer.await.map_err(|_| stopped())?
    }

    /// Writes a small row, to check whether writes work. After a failed write, for example on a
    /// full disk, it writes as much as that one (up to 1 MiB), until that works again.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.run(WriteCost::NONE.with_bytes(PROBE_BYTES), |transaction| {
            let now = Timestamp::now().0;
            let bytes = PROBE_BYTES.max(*transaction.unproved);
            // SQLite does not write unchanged pages, so the bytes change.
            let filler: Vec<u8> = now.to_le_bytes().into_iter().cycle().take(bytes).collect();
            let update = transaction
                .connection
                .prepare_cached("UPDATE health SET filler = ?1 WHERE id = 1")
                .and_then(|mut statement| statement.execute([filler]));
            update.map_err(error::store)?;
            transaction.proved = bytes;
            Ok(())
        })
        .await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the channel ends the thread after the queued jobs.
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
    set_cache(&connection, options.cache)?;
    // After a burst the log file is truncated to this size.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    Ok(connection)
}

fn run(
    connection: &Connection,
    queue: mpsc::Receiver<Box<dyn Job>>,
    mut ballast: ReservedSpace,
    busy_timeout: Duration,
    metrics: &Metrics,
) {
    let mut turns = FairQueue::new(queue);
    let (mut watchers, mut links) = (Watchers::default(), Links::default());
    let mut unproved = 0;
    while let Some(first) = turns.wait() {
        if first.is_abandoned() {
            continue;
        }
        ballast.refresh();
        let is_short = ballast.is_released();
        let group = AssertUnwindSafe(|| {
            let memory = (&mut watchers, &mut links);
            let begun = WriteTransaction::begin(connection, memory, &mut unproved, is_short);
            group(begun, first, &mut turns, &mut ballast, metrics);
        });
        // A job's own panic is caught in its run. After any other panic the callers of the group
        // are answered by the closed channels.
        if catch_unwind(group).is_err() {
            roll_back(connection);
            watchers.forget();
            links.forget();
        }
        if ballast.is_released() {
            ballast.vacuum(connection);
            if let Err(error) = connection.busy_timeout(busy_timeout) {
                tracing::error!(%error, "cannot set SQLite's busy timeout");
            }
        }
        turns.gather();
    }
}

/// Runs one transaction.
fn group(
    transaction: rusqlite::Result<WriteTransaction<'_>>,
    first: Box<dyn Job>,
    turns: &mut FairQueue,
    ballast: &mut ReservedSpace,
    metrics: &Metrics,
) {
    let mut transaction = match transaction {
        Ok(transaction) => transaction,
        Err(error) => {
            if error::is_no_room(&error) {
                ballast.release();
            }
            // Those that arrived meanwhile would wait for the same lock, one after another.
            first.refuse(rolled_back_error(&error));
            while let Some(job) = turns.next() {
                job.refuse(rolled_back_error(&error));
            }
            return;
        }
    };
    let rows_before = transaction.connection.total_changes();
    let mut bytes = 0;
    let mut answers = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next.take() {
        if transaction.is_short && !job.work().frees_space {
            job.refuse(reserved_space::refusal());
        } else if !job.is_abandoned() {
            bytes += job.work().bytes;
            answers.push(job.run(&mut transaction));
        }
        // Some errors, such as a full disk, end the transaction automatically.
        let ended = transaction.connection.is_autocommit() || transaction.poisoned;
        let rows = transaction.connection.total_changes() - rows_before;
        let is_large =
            answers.len() >= GROUP_REQUESTS || bytes >= GROUP_BYTES || rows >= GROUP_ROWS;
        if ended || is_large {
            break;
        }
        next = turns.next();
    }
    metrics.commit_group(answers.len());
    let (committed, is_full) = transaction.commit(bytes);
    // First, so that a deletion after the answer has the space.
    if is_full {
        ballast.release();
    }
    for answer in answers {
        answer(&committed);
    }
}

/// An open transaction.
pub(super) struct WriteTransaction<'c> {
    pub(super) connection: &'c Connection,
    /// The last assigned version.
    version: i64,
    first_version: i64,
    pub(super) tally: UsageCounters,
    pub(super) watchers: &'c mut Watchers,
    pub(super) links: &'c mut Links,
    /// The apps whose changes are kept, once they were read.
    pub(super) kept_changes: Option<HashSet<AppId>>,
    /// A job has panicked: the transaction cannot be trusted.
    poisoned: bool,
    /// The size of the largest failed write that no later write has shown to work again; 0 if none.
    unproved: &'c mut usize,
    /// The size of the largest failed job of this transaction.
    failed: usize,
    /// The number of bytes that a probe of this transaction has written.
    proved: usize,
    /// Whether only writes that free space are accepted.
    pub(super) is_short: bool,
    /// Whether a job has run out of space.
    is_full: bool,
}

impl<'c> WriteTransaction<'c> {
    fn begin(
        connection: &'c Connection,
        (watchers, links): (&'c mut Watchers, &'c mut Links),
        unproved: &'c mut usize,
        is_short: bool,
    ) -> rusqlite::Result<WriteTransaction<'c>> {
        // A transaction is still open only if an earlier ROLLBACK failed.
        roll_back(connection);
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
        Ok(WriteTransaction {
            connection,
            version,
            first_version: version,
            tally: UsageCounters::default(),
            watchers,
            links,
            kept_changes: None,
            poisoned: false,
            unproved,
            failed: 0,
            proved: 0,
            is_short,
            is_full: false,
        })
    }

    /// Returns the next version, which is also the sequence number of deliveries: it increases with
    /// each write.
    pub(super) fn next_version(&mut self) -> i64 {
        self.version += 1;
        self.version
    }

    /// Runs statements atomically, together with their changes of the usage counters. Must not be
    /// nested.
    pub(super) fn atomically<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.savepoint("SAVEPOINT whole")?;
        self.tally.save();
        let result = run(self);
        let ended = self.end_savepoint(result.is_ok());
        if ended.is_err() {
            // The database and the counters may disagree.
            self.poisoned = true;
        }
        ended.and(result)
    }

    /// Keeps or undoes the changes since the savepoint, in the database and in memory.
    fn end_savepoint(&mut self, is_kept: bool) -> Result<(), StoreError> {
        if is_kept {
            self.tally.release();
        } else {
            self.tally.roll_back();
            self.watchers.forget();
        }
        // Some errors end the transaction, and the savepoint with it.
        if self.connection.is_autocommit() {
            return Ok(());
        }
        if !is_kept {
            self.savepoint("ROLLBACK TO whole")?;
        }
        self.savepoint("RELEASE whole")
    }

    fn savepoint(&self, sql: &str) -> Result<(), StoreError> {
        let run = |sql| self.connection.prepare_cached(sql)?.execute([]);
        run(sql).map(drop).map_err(error::store)
    }

    /// Commits `bytes` bytes of writes. Also returns whether the disk may be full.
    fn commit(mut self, bytes: usize) -> (rusqlite::Result<()>, bool) {
        let committed = self.commit_transaction();
        if committed.is_err() {
            roll_back(self.connection);
            self.watchers.forget();
            self.links.forget();
            self.failed = self.failed.max(bytes);
        }
        if self.failed > 0 {
            let failed = self.failed.clamp(PROBE_BYTES, PROBE_BYTES_MAX);
            *self.unproved = failed.max(*self.unproved);
        } else if bytes.max(self.proved) >= *self.unproved {
            *self.unproved = 0;
        }
        let is_full = self.is_full || committed.as_ref().is_err_and(error::is_no_room);
        (committed, is_full)
    }

    fn commit_transaction(&mut self) -> rusqlite::Result<()> {
        if self.poisoned || self.connection.is_autocommit() {
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

/// Returns an answer, or the error of its transaction. A job that failed on its own keeps its
/// error.
fn or_lost<T>(
    committed: &rusqlite::Result<()>,
    answer: Result<T, StoreError>,
) -> Result<T, StoreError> {
    match (committed, answer) {
        (Ok(()), answer) | (Err(_), answer @ Err(_)) => answer,
        (Err(error), Ok(_)) => Err(rolled_back_error(error)),
    }
}

/// Returns the error of a write whose group failed for another reason.
fn rolled_back_error(error: &rusqlite::Error) -> StoreError {
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
        tracing::error!(%error, "SQLite failed to roll back");
    }
}

#[cfg(test)]
mod tests;
