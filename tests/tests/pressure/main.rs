//! Hosts under pressure: what one app, client or neighbour does, and what the
//! others feel of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod modules;
