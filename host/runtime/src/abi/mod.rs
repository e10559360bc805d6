//! The `kvasm_v1` host functions: decode the guest's arguments, call a service, encode the
//! answer. They contain no policy.
//!
//! Every function has one of three outcomes: a result of zero or more, a negative status with a
//! message that `error_message` returns, or a trap for a pointer range outside the guest's
//! memory.

mod cpu_permit;
mod dead_letters;
mod fault;
mod http;
mod io;
mod kv;
mod log;
mod many;
mod memory;
mod meter;
mod page;
mod settings;
mod state;
mod timers;
mod transactions;

use wasmtime::Linker;

pub(crate) use cpu_permit::CpuPermit;
pub use fault::{BadPointer, NoMemory};
#[cfg(feature = "fuzzing")]
pub use http::fuzz_fetch;
pub(crate) use io::RANDOM_BYTES_MAX;
pub use log::{GuestLog, LogLine};
pub(crate) use log::{printable, printable_start};
#[cfg(feature = "fuzzing")]
pub use many::fuzz_batch;
pub(crate) use meter::{CpuMeter, TICK};
pub use state::{DeliveryContext, GuestState, GuestView};
pub(crate) use transactions::RunTransactions;

/// Links every import of `kvasm_v1`.
///
/// # Errors
/// If a name is already linked.
pub fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    kv::link(linker)?;
    many::link(linker)?;
    dead_letters::link(linker)?;
    transactions::link(linker)?;
    timers::link(linker)?;
    settings::link(linker)?;
    http::link(linker)?;
    io::link(linker)
}
