//! Typed host functions: imports on wasm32, an in-process host elsewhere.
//!
//! Both modules have the same functions, so that the rest of the crate does not depend on the
//! target.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod native;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;

#[cfg(target_arch = "wasm32")]
mod buffer;
#[cfg(target_arch = "wasm32")]
mod random;
#[cfg(target_arch = "wasm32")]
mod start;
#[cfg(target_arch = "wasm32")]
mod wasm;
#[cfg(target_arch = "wasm32")]
pub(crate) use {start::start, wasm::*};

use crate::Error;

/// The options of a list.
pub(crate) struct Query<'a> {
    pub(crate) prefix: Option<&'a str>,
    pub(crate) start: Option<&'a str>,
    pub(crate) end: Option<&'a str>,
    pub(crate) cursor: Option<&'a [u8]>,
    pub(crate) limit: Option<u32>,
    pub(crate) reverse: bool,
    pub(crate) values: bool,
}

/// Why a batch was not committed.
pub(crate) enum CommitFailure {
    /// Checks failed.
    Conflict {
        /// Their positions, packed.
        failed: Vec<u8>,
        /// The host's message.
        error: Error,
    },
    /// Any other error.
    Error(Error),
}

impl From<Error> for CommitFailure {
    fn from(error: Error) -> CommitFailure {
        CommitFailure::Error(error)
    }
}
