//! The program `kvasm` as a process, and raw connections to it.

pub mod guest;
pub mod process;
pub mod raw_client;
