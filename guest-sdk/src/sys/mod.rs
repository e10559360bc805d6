//! The host's functions, typed: imports on wasm32, an in-process host elsewhere.
//!
//! Both modules have the same functions, and everything above compiles
//! against either without knowing which it is.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod native;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;

#[cfg(target_arch = "wasm32")]
mod random;
#[cfg(target_arch = "wasm32")]
mod start;
#[cfg(target_arch = "wasm32")]
mod wasm;
#[cfg(target_arch = "wasm32")]
pub(crate) use {start::start, wasm::*};

use crate::Error;

/// What a list asks for.
pub(crate) struct Query<'a> {
    pub(crate) prefix: Option<&'a str>,
    pub(crate) start: Option<&'a str>,
    pub(crate) end: Option<&'a str>,
    pub(crate) cursor: Option<&'a [u8]>,
    pub(crate) limit: Option<u32>,
    pub(crate) reverse: bool,
    pub(crate) values: bool,
}

/// Why a batch did not commit.
pub(crate) enum CommitFailure {
    /// Checks failed.
    Conflict {
        /// Their positions, packed.
        failed: Vec<u8>,
        /// The host's words for it.
        error: Error,
    },
    /// Anything else.
    Error(Error),
}

impl From<Error> for CommitFailure {
    fn from(error: Error) -> CommitFailure {
        CommitFailure::Error(error)
    }
}
