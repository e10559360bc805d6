//! Buffers that the host writes to.
#![allow(unsafe_code)]

use super::wasm::result;
use kvasm_abi::Status;

/// Makes a call that returns a length, with a buffer of `guess` bytes, and reads the host's
/// result slot if the buffer was too small.
pub(super) fn fill(guess: usize, call: impl FnOnce(*mut u8, usize) -> i64) -> Result<Vec<u8>, i64> {
    let mut buffer = Vec::with_capacity(guess);
    let cap = buffer.capacity();
    let len = length(call(buffer.as_mut_ptr(), cap))?;
    if len > cap {
        return result(len);
    }
    // SAFETY: `len <= cap`, and then the host has written `len` bytes.
    unsafe { buffer.set_len(len) };
    Ok(buffer)
}

/// Makes a call that must copy exactly `len` bytes.
pub(super) fn exactly(len: usize, call: impl FnOnce(*mut u8) -> i64) -> Result<Vec<u8>, i64> {
    let mut buffer = Vec::with_capacity(len);
    let copied = length(call(buffer.as_mut_ptr()))?;
    if copied != len {
        return Err(Status::Internal.code());
    }
    // SAFETY: the capacity is at least `len`, and the host has written `len` bytes.
    unsafe { buffer.set_len(len) };
    Ok(buffer)
}

/// Returns the length that a call has answered, or the status of its error.
pub(super) fn length(answer: i64) -> Result<usize, i64> {
    usize::try_from(answer).map_err(|_| answer)
}
