//! The stores: the conformance suite for each, and tests of SQLite and Postgres alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod backends;
mod faults;
mod old_schemas;
mod postgres;
mod refused_rows;

mod memory {
    kvasm_store_testing::conformance!(crate::backends::memory);
}

mod faulty {
    kvasm_store_testing::conformance!(crate::backends::faulty);
}

mod sqlite {
    kvasm_store_testing::conformance!(crate::backends::sqlite);
}

mod on_postgres {
    kvasm_store_testing::conformance!(crate::backends::postgres);
}
