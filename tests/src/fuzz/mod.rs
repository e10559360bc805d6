//! The decoders that take a guest's or a client's bytes, each as a function of any bytes
//! that panics when what it promises does not hold. The programs of `fuzz/` call them
//! under libFuzzer; `tests/tests/fuzz` calls them with the committed corpus and with
//! mutations of it, where there is no nightly compiler.

mod guest;
mod http;
mod mutation;
mod packed;
mod seeds;

pub use guest::{cursor, json, manifest, options};
pub use http::{http_frame, http_text, import_lines};
pub use mutation::mutate;
pub use packed::{batch, page, records};
pub use seeds::seeds;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its program in `fuzz/fuzz_targets` and of its folder in
    /// `fuzz/corpus`.
    pub name: &'static str,
    /// Panics when the bytes show a fault of the decoder.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        &[$(Target { name: stringify!($name), run: $name }),*]
    };
}

/// All of them.
pub const TARGETS: &[Target] = targets![
    batch,
    cursor,
    http_frame,
    http_text,
    import_lines,
    json,
    manifest,
    options,
    page,
    records,
];
