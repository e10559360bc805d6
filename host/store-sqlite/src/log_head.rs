//! Detects whether anything was committed to the file, without a read of it.
//!
//! The end of SQLite's log is in memory that all processes share: the header of the WAL index,
//! whose format is documented (<https://sqlite.org/walformat.html>, section 2.2). Each commit of
//! any process writes it before it returns. SQLite itself compares it at the start of each read to
//! check whether its cache is valid. As long as the header is the same, a read gives the same
//! result.
//!
//! There are two copies. A writer changes the second one first, so if they are equal when read in
//! the other order, they are consistent.

use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::ffi::{SQLITE_FCNTL_FILE_POINTER, SQLITE_OK, sqlite3_file, sqlite3_file_control};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Words in one copy.
const WORDS: usize = 12;
/// Size of the part of the index that SQLite maps at once, in bytes.
const REGION_BYTES: i32 = 32 * 1024;

/// The end of the log. It is unique for each commit: it includes a counter of commits, the salt of
/// the log and a checksum over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalHead([u32; WORDS]);

/// The header of a database's WAL index.
pub(super) struct LogHead {
    copies: Copies,
    /// Keeps the index mapped. Runs no statements.
    _connection: Mutex<Connection>,
}

/// The result of a read, valid until the next commit.
pub(super) struct Remembered<T> {
    /// Without it, every read is made.
    log_head: Option<LogHead>,
    /// With a head that was taken before the read.
    last: Mutex<Option<(WalHead, T)>>,
}

impl<T: Copy> Remembered<T> {
    pub(super) fn new(log_head: Option<LogHead>) -> Remembered<T> {
        Remembered {
            log_head,
            last: Mutex::new(None),
        }
    }

    /// Returns the current result of `read`, which runs only if there was a commit since the last
    /// one.
    pub(super) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let head = self.log_head.as_ref().and_then(LogHead::now);
        if let (Some(head), Some((of, known))) = (head, *self.last.lock())
            && head == of
        {
            return Ok(known);
        }
        let found = read.await?;
        if let Some(head) = head {
            *self.last.lock() = Some((head, found));
        }
        Ok(found)
    }
}

/// The two copies, adjacent in memory that lives as long as the connection.
struct Copies(*const [[AtomicU32; WORDS]; 2]);

// SAFETY: The memory belongs to no thread: SQLite maps it for all of the process, and shares
// it with other processes. This type only reads it, word by word and atomically. SQLite
// writes it without regard to these reads, so they may find it half written; see `whole`.
unsafe impl Send for Copies {}
// SAFETY: As above.
unsafe impl Sync for Copies {}

impl LogHead {
    /// Opens the header for a connection in WAL mode that has read before; `None` if SQLite does
    /// not expose it.
    pub(super) fn of(connection: Connection) -> Option<LogHead> {
        let copies = Copies(map(&connection)?.cast_const().cast());
        Some(LogHead {
            copies,
            _connection: Mutex::new(connection),
        })
    }

    /// Returns the end of the log; `None` while it is being changed.
    pub(super) fn now(&self) -> Option<WalHead> {
        // SAFETY: SQLite has mapped 32 KiB there, aligned to a page, until the connection
        // closes, which lives as long as this. The copies are at its start. SQLite writes
        // them in words of any size, which a comparison of both copies detects.
        whole(unsafe { &*self.copies.0 })
    }
}

/// Returns the first copy, if the second is equal. Otherwise a write is in progress.
fn whole(copies: &[[AtomicU32; WORDS]; 2]) -> Option<WalHead> {
    let [first, second] = copies;
    let read = |copy: &[AtomicU32; WORDS]| copy.each_ref().map(|word| word.load(Ordering::Relaxed));
    let head = read(first);
    fence(Ordering::SeqCst);
    (head == read(second)).then_some(WalHead(head))
}

/// Returns the start of the WAL index of a connection.
fn map(connection: &Connection) -> Option<*mut c_void> {
    let mut file: *mut sqlite3_file = ptr::null_mut();
    // SAFETY: The connection is open and used by this thread alone; for this operation
    // SQLite writes one pointer to the place that it is given.
    let found = unsafe {
        sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    if found != SQLITE_OK || file.is_null() {
        return None;
    }
    // SAFETY: It is the connection's open file, which points to its methods or to none.
    let methods = unsafe { (*file).pMethods.as_ref() }?;
    if methods.iVersion < 2 {
        return None;
    }
    let mut start = ptr::null_mut();
    // SAFETY: The method is of this file. The first region is the one that SQLite maps
    // with this size for every database in WAL mode; it is not made if it is not there.
    let mapped = unsafe { methods.xShmMap?(file, 0, REGION_BYTES, 0, &raw mut start) };
    (mapped == SQLITE_OK && !start.is_null()).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection
    }

    fn log_head(path: &Path) -> LogHead {
        let connection = open(path);
        let count = "SELECT count(*) FROM sqlite_schema";
        let _: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        LogHead::of(connection).unwrap()
    }

    /// Each commit of any process changes the head, whatever happens to the log; other operations
    /// do not.
    #[test]
    fn log_head_changes_with_every_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let writers = [open(&path), open(&path)];
        let make = "CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT)";
        writers[0].execute_batch(make).unwrap();
        let log_head = log_head(&path);
        let mut seen = vec![log_head.now().unwrap()];
        for round in 0..500_usize {
            let writer = &writers[round % 2];
            let write = "INSERT OR REPLACE INTO t VALUES (1, 'the same')";
            writer.execute(write, []).unwrap();
            let head = log_head.now().unwrap();
            assert!(!seen.contains(&head), "round {round}");
            seen.push(head);
            match round % 5 {
                0 => writer
                    .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                    .unwrap(),
                1 => writer.execute_batch("PRAGMA wal_checkpoint").unwrap(),
                2 => writer
                    .execute_batch("BEGIN; DELETE FROM t; ROLLBACK")
                    .unwrap(),
                3 => drop(open(&path)),
                _ => {
                    let x: String = writer
                        .query_row("SELECT x FROM t", [], |r| r.get(0))
                        .unwrap();
                    assert_eq!(x, "the same");
                }
            }
            // A checkpoint may restart the log, which is also a change.
            let now = log_head.now().unwrap();
            assert!(now == head || round % 5 < 2, "round {round}");
        }
    }

    /// While one thread commits, a head that was taken before a read of the database is never that
    /// of a later commit.
    #[test]
    fn log_head_is_never_newer_than_the_following_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let writer = open(&path);
        let make = "PRAGMA synchronous = OFF; CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (0)";
        writer.execute_batch(make).unwrap();
        let (log_head, reader) = (log_head(&path), open(&path));
        let writes = std::thread::spawn(move || {
            for _ in 0..3_000 {
                writer.execute("UPDATE t SET n = n + 1", []).unwrap();
            }
        });
        let mut known: Option<(WalHead, i64)> = None;
        let mut hits = 0;
        while !writes.is_finished() || hits == 0 {
            let head = log_head.now();
            let n: i64 = reader
                .query_row("SELECT n FROM t", [], |r| r.get(0))
                .unwrap();
            let still = log_head.now();
            if let (Some(head), Some((of, before))) = (head, known)
                && head == of
                && still == Some(of)
            {
                assert_eq!(before, n);
                hits += 1;
            }
            known = head.map(|head| (head, n));
        }
        writes.join().unwrap();
    }

    #[test]
    fn differing_header_copies_are_rejected() {
        let copy = |last: u32| std::array::from_fn(|at| AtomicU32::new(at as u32 * last));
        assert!(whole(&[copy(7), copy(7)]).is_some());
        assert!(whole(&[copy(7), copy(8)]).is_none());
    }
}
