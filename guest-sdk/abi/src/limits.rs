//! The default limits of a host. An operator can change them; the SDK's in-process host has these.

/// The maximum size of a value, in bytes.
pub const VALUE_BYTES: usize = 1024 * 1024;
/// The maximum number of entries in a page.
pub const PAGE_ENTRIES: u32 = 1000;
/// The maximum size of the keys and values in a page, in bytes. A page holds at least one entry.
pub const PAGE_BYTES: usize = 1024 * 1024;
/// The maximum size of a configuration value or a secret, in bytes. It is fixed.
pub const SETTING_BYTES: usize = 16 * 1024;
/// The maximum output of an invocation, in bytes.
pub const OUTPUT_BYTES: usize = 8 * 1024 * 1024;
/// The maximum number of outbound requests of a run.
pub const FETCHES: u32 = 32;
/// The maximum size of the body of an outbound request, in bytes.
pub const FETCH_BODY_BYTES: usize = 1024 * 1024;
/// The maximum size of the names and values of the headers of an outbound request, in bytes.
pub const FETCH_HEADER_BYTES: usize = 64 * 1024;
/// The maximum number of headers of an outbound request.
pub const FETCH_HEADERS: usize = 128;
