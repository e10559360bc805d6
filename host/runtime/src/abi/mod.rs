//! The `kvasm_v1` host functions: decode the guest's arguments, call a service,
//! encode the answer. Nothing is decided here.
//!
//! Every function ends in one of three ways: a result of zero or more, a status
//! below zero with a message that `error_message` reads, or a trap for a pointer
//! range outside the guest's memory.

mod fault;
mod io;
mod kv;
mod log;
mod many;
mod memory;
mod meter;
mod page;
mod state;
mod turns;

use wasmtime::Linker;

pub use fault::{BadPointer, NoMemory};
pub(crate) use io::RANDOM_BYTES_MAX;
pub use log::{GuestLog, LogLine};
pub(crate) use log::{printable, printable_start};
#[cfg(feature = "fuzzing")]
pub use many::fuzz_batch;
pub(crate) use meter::{Meter, TICK};
pub use state::{DeliveryContext, GuestState, GuestView};
pub(crate) use turns::Turns;

/// Links every import of `kvasm_v1` over the part of the store's data that it
/// needs.
///
/// # Errors
/// When a name is linked already.
pub fn link<T: GuestView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    kv::link(linker)?;
    many::link(linker)?;
    io::link(linker)
}
