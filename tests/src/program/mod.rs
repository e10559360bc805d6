//! The program `kvasm` as a process, and raw connections to it.

pub mod guest;
pub mod line;
pub mod process;
