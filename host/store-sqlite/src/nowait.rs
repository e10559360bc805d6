//! Reads that do not wait for the disk.
//!
//! A read whose pages are in memory takes microseconds and runs on the calling thread. A read that
//! has to wait for the disk may take hundreds of milliseconds, and would block every call on that
//! thread. SQLite cannot tell in advance which it will be, but Linux can: `preadv2` with
//! `RWF_NOWAIT` refuses a read of pages that are not in the page cache.
//!
//! So readers open their files through a VFS that differs from SQLite's own only in `xRead`. Within
//! [`at_once`] it asks the system not to wait. If the system refuses, the statement ends with an
//! error, and the caller runs the whole read again on a thread that may wait.
//!
//! On other systems, and on file systems without `RWF_NOWAIT`, every read waits.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::path::Path;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

thread_local! {
    /// Whether reads of this thread must not wait now.
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
    /// Whether a read would have had to wait.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Runs reads on the current thread that must not wait for the disk. Returns `None` if one would
/// have had to: then what `read` returned is a meaningless error.
pub(super) fn at_once<T>(read: impl FnOnce() -> T) -> Option<T> {
    /// Restored even if the read panics.
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            AT_ONCE.set(false);
        }
    }
    REFUSED.set(false);
    AT_ONCE.set(true);
    let waits = Waits;
    let done = read();
    drop(waits);
    (!REFUSED.get()).then_some(done)
}

/// The device and inode of a file.
type Identity = (u64, u64);

/// The database files that stores of this process have open.
///
/// SQLite does not expose its file descriptors, so reads without waiting need one of their own. But
/// closing any descriptor of a file drops all POSIX locks that the process has on it, including
/// SQLite's. So there is one descriptor for each file, which stays open as long as a store or a
/// reader uses it.
static DATABASES: LazyLock<Mutex<HashMap<Identity, Weak<File>>>> = LazyLock::new(Mutex::default);

/// Opens a database file for reads without waiting, as long as the result is held, which must be as
/// long as any connection to it is open. Returns `None` if it cannot be opened.
pub(super) fn keep(path: &Path) -> Option<Arc<File>> {
    let mut files = DATABASES.lock();
    let identity = identity(&path.metadata().ok()?)?;
    if let Some(file) = files.get(&identity).and_then(Weak::upgrade) {
        return Some(file);
    }
    files.retain(|_, file| file.strong_count() > 0);
    let file = Arc::new(File::open(path).ok()?);
    files.insert(identity, Arc::downgrade(&file));
    Some(file)
}

fn kept(path: &Path) -> Option<Arc<File>> {
    let identity = identity(&path.metadata().ok()?)?;
    DATABASES.lock().get(&identity)?.upgrade()
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)]
fn identity(metadata: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<Identity> {
    None
}

#[cfg(target_os = "linux")]
pub(super) use vfs::name;

/// Returns the VFS for readers; `None`, because all reads wait.
#[cfg(not(target_os = "linux"))]
pub(super) fn name() -> Option<&'static std::ffi::CStr> {
    None
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod vfs;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
