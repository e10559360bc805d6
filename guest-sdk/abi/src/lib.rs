//! The wire contract of Kvasm's `kvasm_v1` ABI: every name and number that the
//! host and a guest must agree on, compiled by both sides.
//!
//! `docs/abi.md` describes the contract for plugin authors; a test compares its tables with the
//! constants here. This crate has no dependencies, and neither allocates nor needs `std`.
//!
//! The feature `json` adds the rules of JSON values, for hosts. It allocates, and depends on
//! `serde` and `serde_json`; guests do without it.
#![no_std]
#![deny(missing_docs)]

#[cfg(feature = "json")]
extern crate alloc;

mod batch;
mod bytes;
mod entity_tags;
pub mod http;
#[cfg(feature = "json")]
pub mod json;
pub mod limits;
mod many;
pub mod names;
mod options;
pub mod outbound;
mod page;
mod records;
pub mod schedule;
mod status;
mod timers;

pub use batch::{
    Applied, BATCH_BYTES_MAX, BATCH_OPS_MAX, Batch, BatchCheck, BatchOp, OP_DELETE, OP_INCREMENT,
    OP_SET, OP_TIMER_CANCEL, OP_TIMER_SET, SUM_BYTES_MAX, TRANSACTIONS_MAX,
};
pub use bytes::Malformed;
pub use entity_tags::{EntityTag, EntityTags};
pub use many::{Address, KEYS_MAX, MANY_BYTES_MAX, Slot};
pub use options::{DeleteOptions, ListOptions, OptionsError, Range32, SetOptions};
pub use page::{CURSOR_BYTES_MAX, ENTRY_HEADER_BYTES, EntryHeader, Page, PageEntry, PageReader};
pub use records::{Record, Records, encode_records};
pub use status::Status;
pub use timers::{
    TIMER_AFTER, TIMER_AFTER_MS_MAX, TIMER_AT, TIMER_AT_MS_MAX, TimerTime, TimerTimeError, retry_ms,
};

/// The import module that holds every function of this ABI version.
pub const MODULE: &str = "kvasm_v1";

/// The name of the linear memory that a guest must export.
pub const MEMORY: &str = "memory";

/// A declared function is exported under this prefix and its name, or under its name alone. The prefix
/// is for languages in which an export of this name would be a symbol that others call, such as
/// `write` of the C library.
pub const FUNCTION_EXPORTS: &str = "kvasm_function:";

/// The custom section that declares a plugin's functions.
///
/// It contains JSON objects, one per line, as linkers concatenate the fragments of the
/// declarations. The member `kind` says what the export `name`, a function `() -> i32`, is:
///
/// - `function`: it can be called by name; with `"transaction":true` each call is a
///   transaction.
/// - `http`: the [HTTP handler](http), of which a plugin has at most one.
/// - `on_change`: it handles changes of the entries that `collection`, `prefix` and `on` (a
///   list of `"set"` and `"delete"`) select; without `collection`, only an operator's triggers
///   call it.
/// - `cron`: it runs according to its `schedule`.
/// - `on_timer`: it handles the timers that the plugin sets. Its name is [`TIMER_HANDLER`], so a
///   plugin has at most one.
pub const MANIFEST_SECTION: &str = "kvasm.plugin.v1";

/// The custom section that describes exports for people, as JSON lines with the `name` of an export:
/// `input` and `output` are types as written in the source, and `routes` those of an HTTP handler, such
/// as `GET /users/{id}`. Hosts do not read it.
pub const TYPES_SECTION: &str = "kvasm.types.v1";

/// The exit code for success.
pub const EXIT_OK: i32 = 0;
/// The exit code for a failure. A delivery is retried later.
pub const EXIT_FAILED: i32 = 1;
/// The exit code for a failure that the same input would cause again.
pub const EXIT_PERMANENT: i32 = 2;
/// The exit code for a rejected input; the output is the reason, for the caller. For a handler
/// it is equivalent to [`EXIT_PERMANENT`].
pub const EXIT_REFUSED: i32 = 3;

/// The exit code for "run the delivery again later", which is no failure. The output is the wait in
/// milliseconds as decimal digits, from [`RETRY_MS_MIN`] to [`RETRY_MS_MAX`]. Of a function that
/// handles no delivery, or with another output, it is equivalent to [`EXIT_FAILED`].
pub const EXIT_LATER: i32 = 4;
/// The minimum wait of [`EXIT_LATER`], in milliseconds: 1 second.
pub const RETRY_MS_MIN: u64 = 1_000;
/// The maximum wait of [`EXIT_LATER`], in milliseconds: 30 days.
pub const RETRY_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;

/// The name of the export that handles timers.
pub const TIMER_HANDLER: &str = "on_timer";

/// Versions from this one on are those of writes in an uncommitted transaction; they are valid
/// only within that run.
pub const PROVISIONAL_VERSION_MIN: u64 = 1 << 62;

/// `kv_list`: the message of a cursor that the list does not accept.
pub const FOREIGN_CURSOR: &str = "the cursor was not returned by a list of this collection with these options, or was \
     modified; restart the list without a cursor";

/// `kv_get`: the message of an entry of bytes that is read as JSON.
pub const HOLDS_BYTES: &str = "the entry holds bytes, not JSON; read it as bytes (`get_bytes` in the SDK, format 1 in the ABI)";

/// `dead_letters`: the maximum number of dead letters in one result.
pub const LETTERS_MAX: i32 = 1000;
/// `dead_letters`: the number of dead letters that a limit of 0 stands for.
pub const LETTERS_DEFAULT: i32 = 100;

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
    /// Debugging information.
    pub const DEBUG: i32 = 4;
    /// The most detailed level.
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
    import("kv_increment", "i32 i32 i32 i32 i64 i32"),
    import("kv_add", "i32 i32 i32 i32 i64"),
    import("kv_get_many", "i32 i32 i32 i32"),
    import("kv_commit", "i32 i32 i32 i32"),
    import("transaction_begin", ""),
    import("transaction_commit", ""),
    import("transaction_drop", ""),
    import("timer_set", "i32 i32 i32 i64 i32 i32"),
    import("timer_cancel", "i32 i32"),
    import("dead_letters", "i32 i32 i32 i32 i32"),
    import("dead_letter_replay", "i32 i32"),
    import("config_get", "i32 i32 i32 i32"),
    import("secret_get", "i32 i32 i32 i32"),
    import("http_fetch", "i32 i32 i32 i32"),
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
