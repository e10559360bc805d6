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

#[cfg(test)]
mod tests {
    /// `wasm.rs` is not compiled here, so its text is held to the contract.
    #[test]
    fn the_imports_are_those_of_the_abi() {
        let source = include_str!("wasm.rs");
        let module = format!("wasm_import_module = \"{}\"", kvasm_abi::MODULE);
        let (_, block) = source.split_once(&module).unwrap();
        let (block, _) = block.split_once("\n    }\n").unwrap();
        let mut declared = 0;
        for import in kvasm_abi::IMPORTS {
            let (_, rest) = block.split_once(&format!("fn {}(", import.name)).unwrap();
            let (params, rest) = rest.split_once(')').unwrap();
            // Pointers and `usize` have 32 bits on wasm32.
            let types = params.split(',').filter_map(|param| param.split_once(':'));
            let types: Vec<&str> = types
                .map(|(_, ty)| if ty.trim() == "i64" { "i64" } else { "i32" })
                .collect();
            assert_eq!(types.join(" "), import.params, "{}", import.name);
            assert!(rest.starts_with(" -> i64;"), "{}", import.name);
            declared += 1;
        }
        assert_eq!(block.matches(" fn ").count(), declared);
    }
}
