//! Checks that a large request, the output of a plugin, and an uploaded module are each copied
//! only once outside wasm. A copy needs a buffer, so large buffers are counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    unsafe_code
)]

mod calls;
mod runs;
mod uploads;

use kvasm::HostBuilder;
use kvasm::model::Limits;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

const MIB: usize = 1 << 20;
/// Buffers of at least this size may hold much of a body. Connections use smaller ones.
const LARGE: usize = MIB / 4;

/// The total size of all large buffers allocated so far.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
/// One test at a time, as they count the allocations of the process.
static SERIAL: Mutex<()> = Mutex::const_new(());

struct Counting;

fn count(size: usize) {
    if size >= LARGE {
        ALLOCATED.fetch_add(size, Ordering::SeqCst);
    }
}

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    /// A growing buffer may be copied as a whole.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The total size of the large buffers allocated during `work`.
async fn allocated_during<T>(work: impl Future<Output = T>) -> (usize, T) {
    let before = ALLOCATED.load(Ordering::SeqCst);
    let done = work.await;
    (ALLOCATED.load(Ordering::SeqCst) - before, done)
}

/// Runs blocking work, which starts only when this is awaited.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn patient(builder: HostBuilder) -> HostBuilder {
    // On a busy machine a call takes long.
    builder.limits(Limits {
        wall_time: Duration::from_secs(60),
        cpu_time: Duration::from_secs(60),
        ..Limits::default()
    })
}

/// The address of the guests' input.
const AT: usize = 64 * 1024;

/// Reads the input to [`AT`], into memory grown for it, and leaves its length in the local `n`.
fn read_input() -> String {
    format!(
        "(local $n i32)
         (drop (memory.grow (i32.const 140)))
         (local.set $n (i32.wrap_i64
            (call $input_read (i32.const 0) (i32.const {AT}) (i32.const {}))))",
        8 * MIB
    )
}
