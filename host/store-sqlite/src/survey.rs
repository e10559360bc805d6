//! Values of gauges: measurements of apps, and file sizes.

use super::registry;
use super::{SqliteStore, error};
use async_trait::async_trait;
use kvasm_core::store::StoreError;
use kvasm_core::store::backend::LETTERS_COUNTED_MAX;
use kvasm_core::store::{AppSurvey, LogSize, StoreClock, StoreSize, Survey};
use kvasm_core::{AppId, Timestamp};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A larger log has something that blocks its checkpoint: the writer checkpoints it at 4 MiB.
const LOG_BYTES_LARGE: u64 = 16 * 1024 * 1024;

/// Detects whether a reader blocks the checkpoint of the log.
#[derive(Debug, Default)]
pub(super) struct LogWatch(Mutex<Option<Mark>>);

/// Frames of the log at one time that were not all checkpointed yet.
#[derive(Debug, Clone, Copy)]
struct Mark {
    frames: i64,
    since: Instant,
}

impl LogWatch {
    /// Records the number of frames of the log, and how many of them are checkpointed. A reader
    /// that started after the mark sees all of its frames and blocks none of them: as long as they
    /// are not checkpointed, an older reader exists.
    fn note(&self, frames: i64, folded: i64, now: Instant) -> Duration {
        let mut mark = self.0.lock();
        match *mark {
            Some(held) if frames >= held.frames && folded < held.frames => now - held.since,
            _ => {
                *mark = (folded < frames).then_some(Mark { frames, since: now });
                Duration::ZERO
            }
        }
    }

    fn forget(&self) {
        *self.0.lock() = None;
    }
}

#[async_trait]
impl Survey for SqliteStore {
    async fn survey(&self, app: AppId) -> Result<AppSurvey, StoreError> {
        let readers = Arc::clone(&self.readers);
        // There may be many dead letters.
        let read = move || readers.of_app(app, AppSurvey::default, |conn| survey(conn, app));
        self.places.run(None, read).await
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        let (path, watch) = (self.path.clone(), Arc::clone(&self.log_watch));
        let look = move || {
            let log = file_bytes(&wal(&path)).unwrap_or(0);
            Ok(StoreSize {
                database: Some(file_bytes(&path).map_err(error::host)?),
                log: Some(LogSize {
                    bytes: log,
                    checkpoint_blocked: held(&path, log, &watch),
                }),
            })
        };
        self.places.run(None, look).await
    }

    async fn clock(&self) -> Result<StoreClock, StoreError> {
        let seen = |connection: &Connection| {
            connection
                .prepare_cached("SELECT at FROM health WHERE id = 1")?
                .query_row([], |row| row.get(0))
        };
        Ok(StoreClock::Recorded(Timestamp(
            self.read_short(None, seen, || seen).await?,
        )))
    }
}

fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn file_bytes(path: &Path) -> std::io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

/// Returns how long a reader has blocked the checkpoint of a log of `bytes` bytes.
fn held(path: &Path, bytes: u64, watch: &LogWatch) -> Duration {
    if bytes < LOG_BYTES_LARGE {
        watch.forget();
        return Duration::ZERO;
    }
    match fold(path) {
        Ok((frames, folded)) if frames >= 0 => watch.note(frames, folded, Instant::now()),
        // Another connection is checkpointing it, or there is no space to do so.
        Ok(_) | Err(_) => Duration::ZERO,
    }
}

/// Checkpoints without waiting. Returns the number of frames of the log, and how many of them are
/// checkpointed.
fn fold(path: &Path) -> rusqlite::Result<(i64, i64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}

fn survey(connection: &Connection, app: AppId) -> rusqlite::Result<AppSurvey> {
    let id = app.uuid().into_bytes();
    let mut letters = connection.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM dead_letters WHERE app_id = ?1 LIMIT ?2)",
    )?;
    let mut paused = connection
        .prepare_cached("SELECT count(*) FROM triggers WHERE app_id = ?1 AND paused IS NOT NULL")?;
    let number = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    Ok(AppSurvey {
        usage: registry::usage(connection, app)?,
        dead_letters: letters
            .query_row((id, LETTERS_COUNTED_MAX), number)?
            .unsigned_abs(),
        paused_triggers: paused.query_row([id], number)?.unsigned_abs(),
        oldest_due: oldest_due(connection, id)?,
    })
}

/// The next queue, with its first due time.
const FIRST_OF_NEXT_QUEUE: &str = "SELECT trigger_name, due_at FROM deliveries
     WHERE due_at IS NOT NULL AND app_id = ?1 AND trigger_name > ?2
     ORDER BY trigger_name, due_at LIMIT 1";

/// Steps through the index from one queue to the next, regardless of their numbers of deliveries.
fn oldest_due(connection: &Connection, app: [u8; 16]) -> rusqlite::Result<Option<Timestamp>> {
    let mut first = connection.prepare_cached(FIRST_OF_NEXT_QUEUE)?;
    let mut is_paused = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM triggers
                        WHERE app_id = ?1 AND name = ?2 AND paused IS NOT NULL)",
    )?;
    let (mut at, mut oldest) = (String::new(), None::<i64>);
    loop {
        let found = first.query_row((app, &at), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        });
        let Some((name, due_at)) = found.optional()? else {
            return Ok(oldest.map(Timestamp));
        };
        if !is_paused.query_row((app, &name), |row| row.get::<_, bool>(0))? {
            oldest = Some(oldest.map_or(due_at, |oldest| oldest.min(due_at)));
        }
        at = name;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_hold_time_is_measured_per_reader() {
        let (watch, start) = (LogWatch::default(), Instant::now());
        let note = |frames, folded, seconds| {
            let now = start + Duration::from_secs(seconds);
            watch.note(frames, folded, now).as_secs()
        };
        assert_eq!(note(5_000, 5_000, 0), 0);
        // One reader that started at 5,000.
        assert_eq!(note(6_000, 5_000, 10), 0);
        assert_eq!(note(7_000, 5_000, 20), 10);
        assert_eq!(note(9_000, 5_000, 40), 30);
        // It has ended; another one started meanwhile.
        assert_eq!(note(9_500, 8_000, 50), 0);
        assert_eq!(note(9_600, 9_550, 60), 0);
        assert_eq!(note(9_700, 9_550, 70), 10);
        // The log was restarted.
        assert_eq!(note(100, 50, 80), 0);
        assert_eq!(note(100, 100, 90), 0);
        assert_eq!(note(200, 100, 100), 0);
    }

    /// A query that scans the deliveries would take longer with each.
    #[test]
    fn oldest_delivery_query_uses_the_index() {
        let connection = Connection::open_in_memory().unwrap();
        for sql in [
            include_str!("../../../migrations/sqlite/0001_initial.sql"),
            include_str!("../../../migrations/sqlite/0002_server.sql"),
            include_str!("../../../migrations/sqlite/0003_events.sql"),
        ] {
            connection.execute_batch(sql).unwrap();
        }
        let explain = format!("EXPLAIN QUERY PLAN {FIRST_OF_NEXT_QUEUE}");
        let plan = connection
            .query_row(&explain, ([0; 16], "a"), |row| row.get::<_, String>(3))
            .unwrap();
        assert!(
            plan.contains("USING COVERING INDEX deliveries_due"),
            "{plan}"
        );
        assert!(plan.contains("app_id=? AND trigger_name>?"), "{plan}");
    }
}
