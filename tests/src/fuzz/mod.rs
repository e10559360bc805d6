//! Fuzz targets for the decoders of guest and client input. Each is a function of arbitrary
//! bytes that panics when a guarantee of the decoder is violated. The programs of `fuzz/` run
//! them under libFuzzer; `tests/tests/fuzz` runs them with the committed corpus and mutations
//! of it, without a nightly compiler.

mod guest;
mod http;
mod mutation;
mod packed;
mod seeds;

pub use guest::{cursor, json, manifest, options};
pub use http::{fetch, http_frame, http_text, import_lines, trace_context};
pub use mutation::mutate;
pub use packed::{batch, page, records};
pub use seeds::seeds;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its program in `fuzz/fuzz_targets` and of its folder in
    /// `fuzz/corpus`.
    pub name: &'static str,
    /// Panics if the bytes reveal a fault of the decoder.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        &[$(Target { name: stringify!($name), run: $name }),*]
    };
}

/// All fuzz targets.
pub const TARGETS: &[Target] = targets![
    batch,
    cursor,
    fetch,
    http_frame,
    http_text,
    import_lines,
    json,
    manifest,
    options,
    page,
    records,
    trace_context,
];
