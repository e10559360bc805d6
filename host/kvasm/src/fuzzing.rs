//! Decoders of what guests and clients send that are not public, for the targets of
//! `fuzz/`. Not a part of the API: it is there with the feature `fuzzing` alone.

pub use kvasm_runtime::fuzz_batch as batch;
pub use kvasm_runtime::{fuzz_declarations as declarations, fuzz_section as section};
pub use kvasm_server::{
    fuzz_address as address, fuzz_answer as answer, fuzz_line as line, fuzz_lines as lines,
    fuzz_percent as percent, fuzz_tags as tags,
};
