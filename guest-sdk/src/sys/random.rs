//! The custom backends of the `getrandom` crate, over the host's `random_fill`.
//!
//! The crate itself is not a dependency: on wasm32-unknown-unknown it does not compile without
//! a backend, so every plugin would need the flags that `docs/writing-plugins.md` requires only
//! of those that use randomness.
#![allow(unsafe_code)]
#![cfg(target_os = "unknown")]

use std::num::NonZeroI32;

/// `Error::CUSTOM_START` of getrandom 0.3 and 0.4, the first free error code.
const FAILED_V03: NonZeroI32 = match NonZeroI32::new(1 << 17) {
    Some(code) => code,
    None => NonZeroI32::MAX,
};
/// `Error::CUSTOM_START` of getrandom 0.2.
const FAILED_V02: u32 = (1 << 31) + (1 << 30);

fn fill(out: *mut u8, len: usize) -> bool {
    // SAFETY: getrandom passes the start and length of a buffer to write to. It
    // may be uninitialised, so it is cleared before it becomes a slice.
    let bytes = unsafe {
        out.write_bytes(0, len);
        std::slice::from_raw_parts_mut(out, len)
    };
    // Every plugin has these functions, so they must not need the code of an `Error`.
    super::wasm::try_random_fill(bytes).is_ok()
}

/// The backend of getrandom 0.3 and 0.4. They declare `Result<(), Error>`, where
/// `Error` is a struct around a `NonZeroI32`, which is passed like its field.
#[unsafe(no_mangle)]
extern "Rust" fn __getrandom_v03_custom(out: *mut u8, len: usize) -> Result<(), NonZeroI32> {
    if fill(out, len) {
        Ok(())
    } else {
        Err(FAILED_V03)
    }
}

/// The backend of getrandom 0.2 with its feature `custom`.
#[unsafe(no_mangle)]
extern "Rust" fn __getrandom_custom(out: *mut u8, len: usize) -> u32 {
    if fill(out, len) { 0 } else { FAILED_V02 }
}
