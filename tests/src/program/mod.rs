//! The program `kvasm` as a process, and connections to it byte by byte.

pub mod guest;
pub mod line;
pub mod process;
