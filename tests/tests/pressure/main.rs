//! Hosts under pressure: what one app, client or neighbour does, and what the
//! others feel of it. Each file has one kind of pressure, with a [`kit::Neighbour`]
//! beside it whose calls, writes and deliveries are measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod background;
mod bodies;
mod cpu;
mod full_disk;
mod full_postgres;
mod imports;
mod kit;
mod limits;
mod log;
mod modules;
mod registry;
mod storage;
