//! Hosts under pressure: what one app, client or neighbour does, and what the
//! others feel of it. Each file has one kind of pressure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod background;
