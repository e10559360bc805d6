//! Hosts under pressure: the load of one app, client or neighbour, and the effect on the
//! others. Each file has one kind of pressure, next to a [`kit::Neighbour`] whose calls, writes
//! and deliveries are measured.
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
