//! SQLite's VFS for Unix with a different `xRead`.
//!
//! A file of this VFS is a file of SQLite's own, followed by a [`Tail`] in the memory that SQLite
//! reserves. All methods but two are SQLite's, called with what they expect.

use super::{AT_ONCE, REFUSED, kept};
use rusqlite::ffi::{
    SQLITE_ERROR, SQLITE_IOERR_BLOCKED, SQLITE_OK, SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_WAL,
    sqlite3_file, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find, sqlite3_vfs_register,
};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, OnceLock};

const NAME: &CStr = c"kvasm";

/// SQLite's own VFS, which is never unregistered.
struct Base(*mut sqlite3_vfs);

// SAFETY: SQLite shares its VFS objects among threads, and nobody changes this one.
unsafe impl Send for Base {}
// SAFETY: As above.
unsafe impl Sync for Base {}

static BASE: OnceLock<Option<Base>> = OnceLock::new();

/// Returns the VFS for readers, which the first call registers; `None` if that fails.
pub fn name() -> Option<&'static CStr> {
    let base = BASE.get_or_init(|| {
        // SAFETY: A null name asks for the default VFS, a static object.
        let base = unsafe { sqlite3_vfs_find(ptr::null()) };
        // SAFETY: It is null or points to that object.
        let vfs = unsafe { base.as_ref() }?;
        let tail = c_int::try_from(size_of::<Tail>()).ok()?;
        let aligned = usize::try_from(vfs.szOsFile).ok()? % align_of::<Tail>() == 0;
        if !aligned || vfs.xOpen.is_none() {
            return None;
        }
        let ours = Box::leak(Box::new(sqlite3_vfs {
            szOsFile: vfs.szOsFile.checked_add(tail)?,
            pNext: ptr::null_mut(),
            zName: NAME.as_ptr(),
            xOpen: Some(open),
            ..*vfs
        }));
        // SAFETY: `ours` is a whole VFS that is never freed.
        let registered = unsafe { sqlite3_vfs_register(ours, 0) };
        (registered == SQLITE_OK).then_some(Base(base))
    });
    base.as_ref().map(|_| NAME)
}

fn base() -> Option<*mut sqlite3_vfs> {
    BASE.get()?.as_ref().map(|Base(base)| *base)
}

/// The part of a file behind SQLite's own.
#[repr(C)]
struct Tail {
    /// SQLite's methods with two of them replaced; the file points here.
    methods: sqlite3_io_methods,
    /// SQLite's own methods.
    own: *const sqlite3_io_methods,
    /// The descriptor for reads without waiting.
    file: Arc<File>,
}

/// Returns the tail of a file.
fn tail(file: *mut sqlite3_file) -> Option<*mut Tail> {
    // SAFETY: The base VFS is a static object.
    let size = usize::try_from(unsafe { (*base()?).szOsFile }).ok()?;
    Some(file.cast::<u8>().wrapping_add(size).cast())
}

/// Opens a descriptor for the file that SQLite has just opened.
///
/// SQLite opens the log under a lock that keeps others from removing it, so the name still refers
/// to the same file. It takes no locks on it, so this descriptor may be closed.
fn descriptor(path: &Path, flags: c_int) -> Option<Arc<File>> {
    match flags {
        _ if flags & SQLITE_OPEN_MAIN_DB != 0 => kept(path),
        _ if flags & SQLITE_OPEN_WAL != 0 => File::open(path).ok().map(Arc::new),
        _ => None,
    }
}

// SAFETY: SQLite calls it with what `xOpen` gets: memory of `szOsFile` bytes, and a name that
// is null or ends with a NUL.
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let Some(base) = base() else {
        return SQLITE_ERROR;
    };
    // SAFETY: The base VFS is a static object.
    let Some(own_open) = (unsafe { (*base).xOpen }) else {
        return SQLITE_ERROR;
    };
    // SAFETY: These are the arguments that SQLite gave for this call; the memory at `file`
    // is larger than the base VFS needs.
    let opened = unsafe { own_open(base, path, file, flags, flags_out) };
    if opened != SQLITE_OK || path.is_null() {
        return opened;
    }
    // SAFETY: A name that is not null ends with a NUL.
    let name = unsafe { CStr::from_ptr(path) };
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let Some((descriptor, tail)) = descriptor(path, flags).zip(tail(file)) else {
        return opened;
    };
    // SAFETY: An open file points to its methods, which are static. The tail is within
    // the memory of the file, as `szOsFile` of our VFS says, and is aligned, as `name`
    // has checked; SQLite aligns files to 8 bytes.
    unsafe {
        let own = (*file).pMethods;
        let methods = sqlite3_io_methods {
            xRead: Some(read),
            xClose: Some(close),
            ..*own
        };
        tail.write(Tail {
            methods,
            own,
            file: descriptor,
        });
        (*file).pMethods = &raw const (*tail).methods;
    }
    opened
}

// SAFETY: SQLite calls it once, with a file that `open` has given this method.
unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let Some(tail) = tail(file) else {
        return SQLITE_ERROR;
    };
    // SAFETY: Only files with a tail have this method, and SQLite closes a file once; so the
    // tail is there, and is moved out once.
    let tail = unsafe { tail.read() };
    // SAFETY: The file is open and gets its own methods back.
    unsafe { (*file).pMethods = tail.own };
    // SAFETY: These are the methods that the base VFS gave the file.
    match unsafe { (*tail.own).xClose } {
        // `tail` is dropped afterwards, and with it our descriptor.
        Some(own_close) => {
            // SAFETY: As above.
            unsafe { own_close(file) }
        }
        None => SQLITE_ERROR,
    }
}

// SAFETY: SQLite calls it with a file that `open` has given this method, and a buffer of
// `amount` bytes.
unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let Some(tail) = tail(file) else {
        return SQLITE_ERROR;
    };
    // SAFETY: Only files with a tail have this method.
    let tail = unsafe { &*tail };
    if AT_ONCE.get()
        && let (Ok(length), Ok(from)) = (usize::try_from(amount), u64::try_from(offset))
    {
        let bytes = buffer.cast::<u8>();
        // SAFETY: SQLite gives a buffer of `amount` bytes, and nothing else uses it during
        // the call. It may be fresh memory, which no slice may refer to, so it is written
        // first.
        let buffer = unsafe {
            bytes.write_bytes(0, length);
            std::slice::from_raw_parts_mut(bytes, length)
        };
        let mut buffers = [IoSliceMut::new(buffer)];
        match preadv2(&*tail.file, &mut buffers, from, ReadWriteFlags::NOWAIT) {
            Ok(read) if read == length => return SQLITE_OK,
            // Past the end of the file: SQLite's own read reports that as it should.
            Ok(0) => {}
            Ok(_) | Err(Errno::AGAIN) => {
                REFUSED.set(true);
                return SQLITE_IOERR_BLOCKED;
            }
            // The file system or the kernel does not support the flag.
            Err(_) => {}
        }
    }
    // SAFETY: These are the methods that the base VFS gave the file.
    match unsafe { (*tail.own).xRead } {
        // SAFETY: They get what SQLite gave us.
        Some(own_read) => unsafe { own_read(file, buffer, amount, offset) },
        None => SQLITE_ERROR,
    }
}
