//! Access to the guest's memory: check the range, compare with the limit, then copy.
//!
//! No reference into the memory is held across an await.

use super::fault::{BadPointer, Fault, NoMemory};
use super::state::GuestView;
use kvasm_abi::Range32;
use kvasm_core::{Invalid, Subject};
use std::ops::Range;
use std::sync::Arc;
use wasmtime::{Caller, Extern, Memory};

/// A host function's view of the guest that called it.
pub(super) struct Guest<'c, T: 'static> {
    pub(super) caller: Caller<'c, T>,
    memory: Memory,
    function: &'static str,
}

impl<'c, T: GuestView> Guest<'c, T> {
    /// # Errors
    /// A trap when the guest exports no memory.
    pub(super) fn new(
        mut caller: Caller<'c, T>,
        function: &'static str,
    ) -> wasmtime::Result<Guest<'c, T>> {
        let memory = match caller.data_mut().guest().memory {
            Some(memory) => memory,
            // The start function runs before the instance is known.
            None => match caller.get_export(kvasm_abi::MEMORY) {
                Some(Extern::Memory(memory)) => memory,
                _ => return Err(NoMemory.into()),
            },
        };
        Ok(Guest {
            caller,
            memory,
            function,
        })
    }

    pub(super) fn state(&mut self) -> &mut super::GuestState {
        self.caller.data_mut().guest()
    }

    /// Acquires a CPU permit before a large copy: copying is CPU work, during which the guest
    /// cannot be preempted. Call it once all checks have passed.
    pub(super) async fn acquire_cpu_permit(&mut self, bytes: usize) {
        const COPY_WITHOUT_PERMIT_MAX: usize = 64 * 1024;
        if bytes > COPY_WITHOUT_PERMIT_MAX {
            let state = self.state();
            let (turns, meter) = (Arc::clone(&state.turns), Arc::clone(&state.meter));
            turns.acquire(meter).await;
        }
    }

    fn range(&self, argument: &'static str, at: Range32) -> Result<Range<usize>, BadPointer> {
        let memory = self.memory.data_size(&self.caller);
        let start = at.ptr as usize;
        match start.checked_add(at.len as usize) {
            Some(end) if end <= memory => Ok(start..end),
            _ => Err(BadPointer {
                function: self.function,
                argument,
                ptr: at.ptr,
                len: at.len,
                memory,
            }),
        }
    }

    /// Checks that a range is in the memory, so that a bad buffer fails every call, and not only
    /// when there is something to write to it.
    pub(super) fn check(&self, argument: &'static str, at: Range32) -> Result<(), Fault> {
        self.range(argument, at)?;
        Ok(())
    }

    /// Copies a range of at most `limit` bytes.
    pub(super) fn read(
        &self,
        argument: &'static str,
        subject: Subject,
        at: Range32,
        limit: usize,
    ) -> Result<Vec<u8>, Fault> {
        let range = self.limited(argument, subject, at, limit)?;
        Ok(self.bytes(range).to_vec())
    }

    /// Like [`read`](Guest::read), for data that may be large: acquires a CPU permit after the
    /// checks.
    pub(super) async fn read_large(
        &mut self,
        argument: &'static str,
        subject: Subject,
        at: Range32,
        limit: usize,
    ) -> Result<Vec<u8>, Fault> {
        let range = self.limited(argument, subject, at, limit)?;
        self.acquire_cpu_permit(range.len()).await;
        Ok(self.bytes(range).to_vec())
    }

    /// Checks a range of at most `limit` bytes.
    fn limited(
        &self,
        argument: &'static str,
        subject: Subject,
        at: Range32,
        limit: usize,
    ) -> Result<Range<usize>, Fault> {
        let range = self.range(argument, at)?;
        if range.len() > limit {
            return Err(Fault::from(Invalid::TooLarge {
                subject,
                len: range.len() as u64,
                limit: limit as u64,
            }));
        }
        Ok(range)
    }

    /// Copies the first `limit` bytes of a range.
    pub(super) fn read_start(
        &self,
        argument: &'static str,
        at: Range32,
        limit: usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut range = self.range(argument, at)?;
        range.end = range.end.min(range.start.saturating_add(limit));
        Ok(self.bytes(range).to_vec())
    }

    /// Copies up to `known` bytes of an option struct; `None` for the null pointer.
    pub(super) fn read_options(&self, ptr: u32, known: usize) -> Result<Option<Vec<u8>>, Fault> {
        const SIZE_BYTES: u32 = 4;
        if ptr == 0 {
            return Ok(None);
        }
        let len = SIZE_BYTES;
        let size = self.range("options", Range32 { ptr, len })?;
        let size = self.bytes(size).try_into().map_or(0, u32::from_le_bytes);
        let len = size.max(SIZE_BYTES);
        let mut range = self.range("options", Range32 { ptr, len })?;
        range.end = range.end.min(range.start.saturating_add(known));
        Ok(Some(self.bytes(range).to_vec()))
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        // The range was checked, and the memory cannot shrink.
        self.memory
            .data(&self.caller)
            .get(range)
            .unwrap_or_default()
    }

    /// Returns a range of the guest's memory for writing.
    pub(super) fn bytes_mut(
        &mut self,
        argument: &'static str,
        at: Range32,
    ) -> Result<&mut [u8], Fault> {
        let range = self.range(argument, at)?;
        let memory = self.memory.data_mut(&mut self.caller);
        Ok(memory.get_mut(range).unwrap_or_default())
    }

    /// Returns a range of the guest's memory for writing, and the state of its call.
    pub(super) fn bytes_and_state(
        &mut self,
        argument: &'static str,
        at: Range32,
    ) -> Result<(&mut [u8], &mut super::GuestState), Fault> {
        let range = self.range(argument, at)?;
        let (memory, data) = self.memory.data_and_store_mut(&mut self.caller);
        Ok((memory.get_mut(range).unwrap_or_default(), data.guest()))
    }

    /// Returns bytes of any length to the guest: in its buffer if they fit, otherwise in the
    /// slot that `result_read` reads. Returns their full length.
    pub(super) fn answer(&mut self, out: Range32, bytes: Vec<u8>) -> Result<i64, Fault> {
        let len = bytes.len();
        let buffer = self.bytes_mut("out", out)?;
        match buffer.get_mut(..len) {
            Some(buffer) => buffer.copy_from_slice(&bytes),
            None => self.state().slot = bytes.into(),
        }
        Ok(len as i64)
    }
}
