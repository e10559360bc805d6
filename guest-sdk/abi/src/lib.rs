//! The wire contract of Kvasm's `kvasm_v1` ABI: every name and number that the
//! host and a guest must agree on, compiled by both sides.
//!
//! The text for plugin authors is `docs/abi.md`; a test holds its tables to the
//! constants here. Nothing in this crate allocates or needs `std`.
#![no_std]
#![deny(missing_docs)]

pub mod http;
mod options;
mod page;
mod status;

pub use options::{DeleteOptions, ListOptions, OptionsError, Range32, SetOptions};
pub use page::{ENTRY_HEADER_BYTES, EntryHeader, Malformed, Page, PageEntry, PageReader};
pub use status::Status;

/// The import module that holds every function of this ABI version.
pub const MODULE: &str = "kvasm_v1";

/// The name of the linear memory that a guest must export.
pub const MEMORY: &str = "memory";

/// The custom section that declares a plugin's functions.
///
/// Its bytes are JSON objects, one to a line, as linkers concatenate the
/// fragments that each declaration adds. `{"kind":"function","name":"add"}` is a
/// function that can be called by name; `{"kind":"http","name":"handle"}` is the
/// [HTTP handler](http), of which a plugin has at most one. Both are exports
/// `() -> i32`.
pub const MANIFEST_SECTION: &str = "kvasm.plugin.v1";

/// A value that is JSON text.
pub const FORMAT_JSON: i32 = 0;
/// A value that is bytes.
pub const FORMAT_BYTES: i32 = 1;

/// `kv_get`: put an [`EntryHeader`] in front of the value.
pub const GET_WITH_HEADER: i32 = 1;

/// Levels of `log`, as in the `log` crate: 1 is the most severe.
pub mod level {
    /// An error.
    pub const ERROR: i32 = 1;
    /// A warning.
    pub const WARN: i32 = 2;
    /// Information.
    pub const INFO: i32 = 3;
    /// For debugging.
    pub const DEBUG: i32 = 4;
    /// The finest.
    pub const TRACE: i32 = 5;
}

/// One imported function of the ABI: its name and its WebAssembly signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Import {
    /// The field name within [`MODULE`].
    pub name: &'static str,
    /// The parameters, in order, in the text format's words.
    pub params: &'static str,
    /// The result, in the text format's words.
    pub result: &'static str,
}

/// Every import that a host of this version links, in the order of the docs.
pub const IMPORTS: &[Import] = &[
    import("kv_get", "i32 i32 i32 i32 i32 i32 i32 i32"),
    import("kv_set", "i32 i32 i32 i32 i32 i32 i32 i32"),
    import("kv_has", "i32 i32 i32 i32"),
    import("kv_delete", "i32 i32 i32 i32 i32"),
    import("kv_list", "i32 i32 i32 i32 i32"),
    import("result_read", "i32 i32 i32"),
    import("error_message", "i32 i32"),
    import("input_len", ""),
    import("input_read", "i32 i32 i32"),
    import("output_write", "i32 i32"),
    import("context", "i32 i32"),
    import("log", "i32 i32 i32"),
    import("now_ms", ""),
    import("random_fill", "i32 i32"),
];

const fn import(name: &'static str, params: &'static str) -> Import {
    Import {
        name,
        params,
        result: "i64",
    }
}
