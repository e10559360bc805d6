//! The program `kvasm serve` as a process: start and stop, slow, broken and numerous clients,
//! and a failing store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod admin;
mod calls;
mod client_commands;
mod clients;
mod clocks;
mod deploy;
mod file_system;
mod hosts;
mod logs;
mod metrics;
mod otel;
mod otel_kit;
mod otel_transport;
mod otel_trees;
mod otlp_certificates;
mod otlp_collector;
mod otlp_reader;
mod secrets;
mod server_log;
mod start;
mod stop;
mod stores;
mod timers;
mod upgrade;
mod watch;
mod webhooks;
