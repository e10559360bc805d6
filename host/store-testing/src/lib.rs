//! Tests for stores: a conformance suite that every store passes, a checker of
//! linearizability, and a store that fails on command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod conformance;
pub mod faulty;
pub mod linearizability;
