//! The HTTP server as its clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod access;
mod audit;
mod batches;
mod cache_coherence;
mod call_records;
mod calls;
mod console;
mod cost;
mod entries;
mod events;
mod faults;
mod grants;
mod handler_requests;
mod handlers;
mod idempotency;
mod limits;
mod logs;
mod openapi;
mod outstanding_deliveries;
mod overview;
mod pages;
mod plugins;
mod problems;
mod protocol;
mod scale;
mod schemathesis;
mod settings;
mod stored_logs;
mod timers;
mod tokens;
mod trace;
mod triggers;
mod watch;
mod watch_costs;
mod webhooks;
