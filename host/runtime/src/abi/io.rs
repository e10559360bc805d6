//! Host functions other than the store's: input, output, context, log, clock, randomness.

use super::fault::Fault;
use super::kv::{self, async_function};
use super::log;
use super::memory::Guest;
use super::state::{GuestState, GuestView, HostCalls};
use kvasm_abi::{MODULE, Range32, Status};
use kvasm_core::{Invalid, Pieces, Subject, Timestamp};
use wasmtime::{Caller, Linker};

/// Maximum size of one `random_fill`, or of WASI's `random_get`: the host cannot be interrupted
/// within a call.
pub(crate) const RANDOM_BYTES_MAX: u32 = 64 * 1024;

fn at(ptr: u32, len: u32) -> Range32 {
    Range32 { ptr, len }
}

/// Links one function that never waits.
macro_rules! function {
    ($linker:ident, $name:literal, $body:ident, ($($arg:ident: $ty:ty),*)) => {
        $linker.func_wrap(
            MODULE,
            $name,
            |caller: Caller<'_, T>, $($arg: $ty),*| -> wasmtime::Result<i64> {
                let mut guest = Guest::new(caller, $name)?;
                guest.state().calls.count(const { HostCalls::index_of($name) });
                let result = $body(&mut guest, $($arg),*);
                guest.state().finish(result)
            },
        )?;
    };
}

pub(super) use function;

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    function!(linker, "error_message", error_message, (out: u32, cap: u32));
    function!(linker, "context", context, (out: u32, cap: u32));
    function!(linker, "log", write_log, (level: i32, ptr: u32, len: u32));
    function!(linker, "random_fill", random_fill, (ptr: u32, len: u32));
    async_function!(linker, "result_read", result_read, (offset, ptr, len));
    async_function!(linker, "input_read", input_read, (offset, ptr, len));
    async_function!(linker, "output_write", output_write, (ptr, len));
    linker.func_wrap(MODULE, "input_len", |mut caller: Caller<'_, T>| {
        let state = caller.data_mut().guest();
        state
            .calls
            .count(const { HostCalls::index_of("input_len") });
        state.input.len() as i64
    })?;
    linker.func_wrap(MODULE, "now_ms", |mut caller: Caller<'_, T>| {
        let calls = &mut caller.data_mut().guest().calls;
        calls.count(const { HostCalls::index_of("now_ms") });
        Timestamp::now().0
    })?;
    Ok(())
}

/// Copies host bytes from `offset` into the guest's buffer, up to the end of either, and returns
/// the number of bytes copied. Large copies acquire a CPU permit.
async fn copy_out<T: GuestView>(
    guest: &mut Guest<'_, T>,
    bytes: fn(&GuestState) -> &Pieces,
    offset: i32,
    out: Range32,
) -> Result<i64, Fault> {
    guest.check("buffer", out)?;
    let offset = offset.cast_unsigned() as usize;
    let rest = bytes(guest.state()).len().saturating_sub(offset);
    guest.acquire_cpu_permit(rest.min(out.len as usize)).await;
    let (buffer, state) = guest.bytes_and_state("buffer", out)?;
    Ok(bytes(state).copy_to(offset, buffer) as i64)
}

async fn result_read<T: GuestView>(
    guest: &mut Guest<'_, T>,
    offset: i32,
    ptr: i32,
    len: i32,
) -> Result<i64, Fault> {
    copy_out(guest, |state| &state.slot, offset, kv::at(ptr, len)).await
}

async fn input_read<T: GuestView>(
    guest: &mut Guest<'_, T>,
    offset: i32,
    ptr: i32,
    len: i32,
) -> Result<i64, Fault> {
    copy_out(guest, |state| &state.input, offset, kv::at(ptr, len)).await
}

fn error_message<T: GuestView>(guest: &mut Guest<'_, T>, out: u32, cap: u32) -> Result<i64, Fault> {
    let message = guest.state().error.clone().into_bytes();
    guest.answer(at(out, cap), message)
}

async fn output_write<T: GuestView>(
    guest: &mut Guest<'_, T>,
    ptr: i32,
    len: i32,
) -> Result<i64, Fault> {
    let range = kv::at(ptr, len);
    guest.check("output", range)?;
    let len = range.len;
    let state = guest.state();
    let (limit, written) = (state.limits.output_bytes, state.output.len());
    let total = written.saturating_add(len as usize);
    if total > limit {
        return Err(Fault::from(Invalid::TooLarge {
            subject: Subject::Output,
            len: total as u64,
            limit: limit as u64,
        }));
    }
    guest.acquire_cpu_permit(len as usize).await;
    let (bytes, state) = guest.bytes_and_state("output", range)?;
    state.output.extend_from_slice(bytes);
    Ok(i64::from(len))
}

fn context<T: GuestView>(guest: &mut Guest<'_, T>, out: u32, cap: u32) -> Result<i64, Fault> {
    let state = guest.state();
    let caller = match (&state.delivery, state.context.caller.principal()) {
        (Some(_), _) => "trigger",
        (None, Some(_)) => "principal",
        (None, None) => "public",
    };
    let mut context = serde_json::json!({
        "app": &*state.app_name,
        "function": &*state.function,
        "request_id": state.context.request_id,
        "caller": caller,
        "transaction": state.transactions.is_within(),
    });
    if let (Some(delivery), Some(members)) = (&state.delivery, context.as_object_mut()) {
        let trigger = serde_json::json!({
            "name": delivery.trigger,
            "event_id": delivery.event_id,
            "attempt": delivery.attempt,
            "depth": delivery.depth,
        });
        members.insert("trigger".to_owned(), trigger);
    }
    if let (Some(trace), Some(members)) = (state.context.caller.trace(), context.as_object_mut()) {
        let state = trace.state().map(|state| ("tracestate", state.to_owned()));
        let headers = [("traceparent", trace.parent())].into_iter().chain(state);
        members.extend(headers.map(|(name, value)| (name.to_owned(), value.into())));
    }
    guest.answer(at(out, cap), context.to_string().into_bytes())
}

fn write_log<T: GuestView>(
    guest: &mut Guest<'_, T>,
    level: i32,
    ptr: u32,
    len: u32,
) -> Result<i64, Fault> {
    let Some(level) = log::level(level) else {
        return Err(Fault::Status(
            Status::Invalid,
            format!("the level is {level}; it must be from 1 (error) to 5 (trace)"),
        ));
    };
    // One byte more than the limit shows the log that the line is truncated.
    let limit = guest.state().limits.log_line_bytes.saturating_add(1);
    let bytes = guest.read_start("line", at(ptr, len), limit)?;
    guest.state().log.lock().push(level, &bytes);
    Ok(0)
}

fn random_fill<T: GuestView>(guest: &mut Guest<'_, T>, ptr: u32, len: u32) -> Result<i64, Fault> {
    let buffer = guest.bytes_mut("buffer", at(ptr, len))?;
    if len > RANDOM_BYTES_MAX {
        return Err(Fault::Status(
            Status::TooLarge,
            format!("too many random bytes: {len}; the limit is {RANDOM_BYTES_MAX} per call"),
        ));
    }
    getrandom::fill(buffer).map_err(|error| {
        tracing::error!(%error, "the system's random number generator failed");
        Fault::Status(
            Status::Internal,
            "the host's random number generator failed".to_owned(),
        )
    })?;
    Ok(0)
}
