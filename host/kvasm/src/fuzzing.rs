//! Private decoders of guest and client input, exposed to the targets of `fuzz/`. Not part of
//! the API: they exist only with the feature `fuzzing`.

pub use kvasm_egress::fuzz_outgoing as outgoing;
pub use kvasm_runtime::{fuzz_batch as batch, fuzz_fetch as fetch};
pub use kvasm_runtime::{fuzz_declarations as declarations, fuzz_section as section};
pub use kvasm_server::{
    fuzz_address as address, fuzz_answer as answer, fuzz_line as line, fuzz_lines as lines,
    fuzz_percent as percent, fuzz_tags as tags,
};
