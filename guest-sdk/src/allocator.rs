//! The global allocator of plugins: an initial arena, then memory growth.
//!
//! An instance lives for one call, and each `memory.grow` costs that call a system call that
//! blocks all threads of the host. The arena is part of the module's initial memory, so a call
//! that allocates little never grows it.
#![allow(unsafe_code)]

use core::alloc::Layout;
use core::arch::wasm32::memory_grow;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

/// The size of the arena. It is zero-initialised, so it adds nothing to the module's file.
const ARENA_BYTES: usize = 128 * 1024;
/// A page of WebAssembly.
const PAGE_BYTES: usize = 64 * 1024;
/// The allocator's overhead in addition to the requested bytes: headers of the chunk and of the
/// heap.
const OVERHEAD_BYTES: usize = 256;

static mut ARENA: [MaybeUninit<u8>; ARENA_BYTES] = [MaybeUninit::uninit(); ARENA_BYTES];

#[global_allocator]
static ALLOCATOR: TalcSyncCell<ArenaThenGrow, WasmBinning> =
    TalcSyncCell::new_wasm(ArenaThenGrow {
        is_arena_claimed: false,
        end: None,
    });

/// Provides the arena on the first request, and then new pages.
#[derive(Debug)]
struct ArenaThenGrow {
    is_arena_claimed: bool,
    /// The end of the most recently grown heap.
    end: Option<NonNull<u8>>,
}

// SAFETY: `acquire` allocates nothing and reaches the allocator by `talc` alone.
unsafe impl Source for ArenaThenGrow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        if !talc.source.is_arena_claimed {
            talc.source.is_arena_claimed = true;
            // SAFETY: only this line names the arena, and it runs once.
            let claimed = unsafe { talc.claim((&raw mut ARENA).cast(), ARENA_BYTES) };
            return claimed.map(drop).ok_or(());
        }
        let bytes = layout
            .size()
            .checked_add(layout.align())
            .and_then(|bytes| bytes.checked_add(OVERHEAD_BYTES))
            .ok_or(())?;
        let pages = bytes.div_ceil(PAGE_BYTES);
        let before = memory_grow::<0>(pages);
        if before == usize::MAX {
            return Err(());
        }
        let base = (before * PAGE_BYTES) as *mut u8;
        let end = match talc.source.end {
            Some(end) if end.as_ptr() == base => {
                // SAFETY: `end` ends a heap that was claimed, and the pages behind it were
                // just grown, so they are nobody's.
                Some(unsafe { talc.extend(end, base.wrapping_add(pages * PAGE_BYTES)) })
            }
            // SAFETY: the pages were just grown, so they are nobody's.
            _ => unsafe { talc.claim(base, pages * PAGE_BYTES) },
        };
        talc.source.end = end;
        end.map(drop).ok_or(())
    }
}
