//! Triggers, handlers and transactional functions: real plugins on a host with a dispatcher.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod additions;
mod bank;
mod call_records;
mod conformance;
mod contention;
mod cron;
mod declared_retries;
mod event_host;
mod faults;
mod guest_transactions;
mod handlers;
mod hosts;
mod idempotency;
mod inbox;
mod language_features;
mod languages;
mod leases;
mod lock_waits;
mod orders;
mod outbound;
mod retry;
mod serializability;
mod settings;
mod timers;
mod traces;
mod transactions;
mod ttl;
mod typed;
mod upkeep;
mod webhooks;
