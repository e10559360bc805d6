//! The dispatcher and transactions on a store that fails, or loses its answers.

use super::hosts::counter;
use super::stage::{EventHost, manifest, until};
use kvasm::dispatch::DispatchOptions;
use kvasm::model::{AppId, AppName, Claim, Key, Limits, Queue, Timestamp};
use kvasm::service::{Caller, ServiceError};
use kvasm::store::{MemoryStore, SqliteOptions, SqliteStore, Store, StoreError};
use kvasm::{CallError, Host, InvokeError};
use kvasm_store_testing::faulty::{FaultyStore, Faults, Operation, failed, unavailable};
use kvasm_tests::guests::{self, module_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The changes made in each app.
const CHANGES: u32 = 5;
