//! Values of gauges.

use super::StoreError;
use crate::{AppId, Timestamp, Usage};
use async_trait::async_trait;
use std::time::Duration;

/// The maximum number of dead letters of an app that are counted.
pub const LETTERS_COUNTED_MAX: u32 = 100_000;

/// Measurements of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppSurvey {
    /// Its usage.
    pub usage: Usage,
    /// Its dead letters, counted up to 100,000.
    pub dead_letters: u64,
    /// Its paused triggers.
    pub paused_triggers: u64,
    /// The earliest due time of its deliveries, which may be in the future. Deliveries of paused
    /// triggers are left out.
    pub oldest_due: Option<Timestamp>,
}

/// The size of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreSize {
    /// Size of the database, in bytes; `None` if it is in memory only.
    pub database: Option<u64>,
    /// The write-ahead log, if there is one.
    pub log: Option<LogSize>,
}

/// The write-ahead log of a store, which holds what is not in the database file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSize {
    /// Its size, in bytes.
    pub bytes: u64,
    /// How long a reader has prevented its checkpoint, as seen by two calls; zero if none does, or
    /// if the log is small.
    pub checkpoint_blocked: Duration,
}

/// The time according to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreClock {
    /// The current time of its own clock, which all hosts can compare theirs with.
    Database(Timestamp),
    /// The last time that was recorded in it.
    Recorded(Timestamp),
    /// Unknown.
    None,
}

/// The methods of a store for gauges. They do not block other callers, and their cost does not
/// depend on the number of deliveries.
#[async_trait]
pub trait Survey: Send + Sync {
    /// Measures an app; all zero if it does not exist. The cost grows with the number of its
    /// triggers and dead letters.
    async fn survey(&self, app: AppId) -> Result<AppSurvey, StoreError>;

    /// Returns the size of the store.
    async fn size(&self) -> Result<StoreSize, StoreError>;

    /// Returns the time according to the store.
    async fn clock(&self) -> Result<StoreClock, StoreError>;
}
