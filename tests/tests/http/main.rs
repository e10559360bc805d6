//! The HTTP server as its clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod access;
mod document;
mod entries;
mod limits;
mod plugins;
mod problems;
