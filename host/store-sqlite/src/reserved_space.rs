//! Disk space reserved for deletions on a full disk.
//!
//! A deletion writes too: to the log, and to the pages that it changes. So a reserved space file of
//! a few MiB is kept next to the database. When a write finds no space, the file is removed, and
//! from then on only writes that free space are accepted, until there is space for the file again.
//! The absence of the file is the mark of that state, for all processes and across restarts.

use super::{SqliteOptions, upkeep};
use kvasm_core::store::StoreError;
use rusqlite::Connection;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The space that must be free in addition to the reserved file before other writes are accepted
/// again: the most that a probe writes, so that the next probe does not end it at once.
const SPARE_BYTES: u64 = 1024 * 1024;
/// The delay between two attempts to recreate the file.
const PAUSE: Duration = Duration::from_millis(500);
/// Vacuum steps after one group of writes.
const STEPS: u32 = 16;

/// The reserved space file.
pub(super) struct ReservedSpace {
    path: PathBuf,
    bytes: u64,
    state: ReserveState,
    tried: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReserveState {
    /// The file is not supported or not wanted: all writes are accepted.
    Disabled,
    /// The file exists.
    Kept,
    /// The file was removed, and only writes that free space are accepted.
    Released,
}

impl ReservedSpace {
    /// Creates the state for a database. The file is neither checked nor created yet.
    pub(super) fn of(options: &SqliteOptions) -> ReservedSpace {
        let mut path = options.path.clone().into_os_string();
        path.push("-ballast");
        ReservedSpace {
            path: path.into(),
            bytes: options.ballast,
            state: ReserveState::Disabled,
            tried: None,
        }
    }

    /// Creates the file if it does not exist.
    pub(super) fn ensure(&mut self, connection: &Connection) {
        // Without incremental vacuum the database file keeps freed pages, so the disk would never
        // have space again.
        if self.bytes == 0 || !upkeep::is_incremental(connection).unwrap_or(false) {
            return;
        }
        self.state = match self.is_there() {
            true => ReserveState::Kept,
            false => ReserveState::Released,
        };
        self.restore();
    }

    /// Checks whether another process has removed the file, and recreates it if there is space.
    pub(super) fn refresh(&mut self) {
        if self.state == ReserveState::Kept && !self.is_there() {
            self.state = ReserveState::Released;
        }
        if self.tried.is_none_or(|tried| tried.elapsed() >= PAUSE) {
            self.restore();
        }
    }

    /// Returns whether only writes that free space are accepted.
    pub(super) fn is_released(&self) -> bool {
        self.state == ReserveState::Released
    }

    /// Removes the file, for writes that free space. Returns whether it existed.
    pub(super) fn release(&mut self) -> bool {
        let removed = fs::remove_file(&self.path).is_ok();
        if self.state == ReserveState::Kept {
            self.state = ReserveState::Released;
            self.tried = Some(Instant::now());
            tracing::error!(
                "the SQLite file cannot grow: only writes that free space are accepted"
            );
        }
        removed
    }

    /// Vacuums after a group of writes. Free pages leave the file, and so the disk, at the
    /// checkpoint.
    pub(super) fn vacuum(&self, connection: &Connection) {
        for _ in 0..STEPS {
            let given_back = upkeep::vacuum(connection, 0);
            // Running reads block the checkpoint. The next group tries again.
            let timeout = connection.busy_timeout(Duration::from_millis(100));
            let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                row.get::<_, i64>(0)
            });
            let more = matches!((given_back, timeout, folded), (Ok(true), Ok(()), Ok(0)));
            if !more {
                break;
            }
        }
    }

    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= self.bytes)
    }

    fn restore(&mut self) {
        if self.state != ReserveState::Released {
            return;
        }
        self.tried = Some(Instant::now());
        let made = make(&self.path, self.bytes);
        let Err(error) = made else {
            self.state = ReserveState::Kept;
            return;
        };
        // A partial file takes space.
        let _ = fs::remove_file(&self.path);
        if !matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ) {
            tracing::warn!(%error, "cannot reserve space for deletions on a full disk");
            self.state = ReserveState::Disabled;
        }
    }
}

/// Creates the file if there is space for it and the margin.
fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    allocate(&file, bytes + SPARE_BYTES)?;
    file.set_len(bytes)
}

/// Allocates `bytes` bytes on the disk for a file.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    // Not zeros: some file systems do not store them.
    let mut file = file;
    let block: Vec<u8> = (0..64 * 1024_u32)
        .map(|n| n.wrapping_mul(167) as u8)
        .collect();
    let mut left = bytes;
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(block.get(..some).unwrap_or_default())?;
        left -= some as u64;
    }
    file.sync_data()
}

/// Returns the error for a write that would add to a full disk.
pub(super) fn refusal() -> StoreError {
    StoreError::Full("the disk is full: only writes that free space are accepted".into())
}

#[cfg(test)]
mod tests {
    use super::super::writer::{WriteCost, WriteTransaction};
    use super::super::{SqliteStore, error};
    use super::*;
    use kvasm_core::store::Store;

    #[cfg(unix)]
    #[tokio::test]
    async fn reserved_file_allocates_space_and_its_absence_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        drop(SqliteStore::open(options.clone()).await.unwrap());
        let path = folder.path().join("kvasm.db-ballast");
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.len(), options.ballast);
        let taken = std::os::unix::fs::MetadataExt::blocks(&about) * 512;
        assert!(taken >= options.ballast, "{taken} bytes on the disk");

        let connection = Connection::open(&options.path).unwrap();
        let mut ballast = ReservedSpace::of(&options);
        ballast.ensure(&connection);
        assert!(!ballast.is_released());
        // Another process finds no space.
        fs::remove_file(&path).unwrap();
        ballast.tried = Some(Instant::now() + 60 * PAUSE);
        ballast.refresh();
        assert!(ballast.is_released());
        ballast.tried = None;
        ballast.refresh();
        assert!(!ballast.is_released());
        assert!(path.exists());
        assert!(ballast.release());
        assert!(ballast.is_released() && !path.exists());
    }

    #[tokio::test]
    async fn no_reserved_file_without_incremental_vacuum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch("CREATE TABLE t (a)").unwrap();
        drop(old);
        drop(SqliteStore::open(SqliteOptions::new(&path)).await.unwrap());
        assert!(!folder.path().join("kvasm.db-ballast").exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn full_disk_releases_reserve_and_accepts_only_freeing_writes() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        let ballast = folder.path().join("kvasm.db-ballast");
        let store = SqliteStore::open(options).await.unwrap();
        let pages = |pages: i64| {
            let set = move |transaction: &mut WriteTransaction<'_>| {
                let set = format!("PRAGMA max_page_count = {pages}");
                let set = transaction.connection.query_row(&set, [], |_| Ok(()));
                set.map_err(error::store)
            };
            store.writer.run(WriteCost::NONE.freeing_space(), set)
        };
        let add = |bytes: usize| {
            let add = move |transaction: &mut WriteTransaction<'_>| {
                let insert = "INSERT INTO modules (digest, wasm, created_at)
                              VALUES (randomblob(32), zeroblob(?1), 0)";
                let insert = transaction.connection.execute(insert, [bytes as i64]);
                insert.map(drop).map_err(error::store)
            };
            store.writer.run(WriteCost::NONE.with_bytes(bytes), add)
        };
        let remove = || {
            let remove = |transaction: &mut WriteTransaction<'_>| {
                let delete = transaction.connection.execute("DELETE FROM modules", []);
                delete.map_err(error::store)
            };
            store.writer.run(WriteCost::NONE.freeing_space(), remove)
        };
        add(400_000).await.unwrap();
        pages(1).await.unwrap();
        assert!(ballast.exists());
        let refused = add(400_000).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
        assert!(!ballast.exists());
        assert_eq!(remove().await.unwrap(), 1);
        pages(1_000_000).await.unwrap();
        let start = Instant::now();
        while add(400_000).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(ballast.exists());
        store.ping().await.unwrap();
    }
}
