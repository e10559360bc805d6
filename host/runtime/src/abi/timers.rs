//! `timer_set`, `timer_cancel`, and the timers of `kv_commit`.

use super::fault::Fault;
use super::kv::{async_function, at};
use super::memory::Guest;
use super::state::{GuestView, HostCalls};
use kvasm_abi::{MODULE, Status, TimerTimeError};
use kvasm_core::{
    Applied, Batch, NewTimer, Subject, TIMER_BYTES_MAX, TimerName, TimerOp, TimerTime, Timestamp,
    Value,
};
use kvasm_service::ServiceError;
use wasmtime::{Caller, Linker};

pub(super) fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "timer_set",
        |caller: Caller<'_, T>, arguments: (i32, i32, i32, i64, i32, i32)| {
            Box::new(async move {
                let mut guest = Guest::new(caller, "timer_set")?;
                guest.state().waiting_in = Some("timer_set");
                guest
                    .state()
                    .calls
                    .count(const { HostCalls::index_of("timer_set") });
                let result = set(&mut guest, arguments).await;
                guest.state().waiting_in = None;
                guest.state().finish(result)
            })
        },
    )?;
    async_function!(linker, "timer_cancel", cancel, (name, len));
    Ok(())
}

/// Returns an error unless the plugin handles timers, and the app grants them now. Every use passes
/// here first.
pub(super) async fn require_timers<T: GuestView>(guest: &mut Guest<'_, T>) -> Result<(), Fault> {
    if !guest.state().handles_timers {
        return Err(Fault::Status(
            Status::Invalid,
            "the plugin has no handler of timers; declare one with #[kvasm_guest::on_timer], or as \
             the kind on_timer in its manifest"
                .to_owned(),
        ));
    }
    let state = guest.state();
    let settings = state.settings.clone();
    let permissions = state.meter.exclude(settings.current_permissions()).await?;
    permissions.allows_timers().map_err(ServiceError::from)?;
    Ok(())
}

/// Checks the parts of a timer.
pub(super) fn timer(
    name: TimerName,
    flags: i32,
    ms: i64,
    payload: Vec<u8>,
    payload_max: usize,
) -> Result<TimerOp, Fault> {
    let time = match kvasm_abi::TimerTime::parse(flags, ms).map_err(fault)? {
        kvasm_abi::TimerTime::At(ms) => TimerTime::At(Timestamp(ms)),
        kvasm_abi::TimerTime::After(ms) => TimerTime::After(ms),
    };
    if payload.len() > payload_max {
        return Err(Fault::from(kvasm_core::Invalid::TooLarge {
            subject: Subject::Payload,
            len: payload.len() as u64,
            limit: payload_max as u64,
        }));
    }
    Ok(TimerOp::Set(NewTimer {
        name,
        time,
        payload: Value::Bytes(payload),
    }))
}

fn fault(error: TimerTimeError) -> Fault {
    let status = match error {
        TimerTimeError::Flags(_) => Status::Unsupported,
        TimerTimeError::Range { .. } => Status::Invalid,
    };
    Fault::Status(status, error.to_string())
}

impl<T: GuestView> Guest<'_, T> {
    fn timer_name(&self, ptr: i32, len: i32) -> Result<TimerName, Fault> {
        let range = at(ptr, len);
        let bytes = self.read("name", Subject::Timer, range, TIMER_BYTES_MAX)?;
        Ok(TimerName::parse(bytes)?)
    }
}

async fn set<T: GuestView>(
    guest: &mut Guest<'_, T>,
    (name, name_len, flags, ms, payload, payload_len): (i32, i32, i32, i64, i32, i32),
) -> Result<i64, Fault> {
    let name = guest.timer_name(name, name_len)?;
    let limit = guest.state().limits.value_bytes;
    let range = at(payload, payload_len);
    let payload = guest.read_large("payload", Subject::Payload, range, limit);
    let op = timer(name, flags, ms, payload.await?, limit)?;
    change(guest, op).await?;
    Ok(0)
}

async fn cancel<T: GuestView>(guest: &mut Guest<'_, T>, name: i32, len: i32) -> Result<i64, Fault> {
    let name = guest.timer_name(name, len)?;
    let expect = None;
    match change(guest, TimerOp::Cancel { name, expect }).await? {
        Some(Applied::TimerCancelled { existed }) => Ok(i64::from(existed)),
        _ => Ok(0),
    }
}

async fn change<T: GuestView>(
    guest: &mut Guest<'_, T>,
    op: TimerOp,
) -> Result<Option<Applied>, Fault> {
    require_timers(guest).await?;
    let state = guest.state();
    let bytes = op.payload_bytes();
    let batch = Batch {
        timers: vec![op],
        ..Batch::default()
    };
    let commit = state.services.kv.commit(&state.context.caller, batch);
    let applied: Result<_, ServiceError> = state.meter.exclude(commit).await;
    let applied = applied?.pop();
    state.used.write(1, bytes);
    Ok(applied)
}
