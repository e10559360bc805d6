//! What a store says of itself, for gauges.

use super::StoreError;
use crate::{AppId, Timestamp, Usage};
use async_trait::async_trait;
use std::time::Duration;

/// The most dead letters of an app that are counted.
pub const LETTERS_COUNTED_MAX: u32 = 100_000;

/// What there is of an app at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppSurvey {
    /// What its quota counts.
    pub usage: Usage,
    /// Its dead letters, counted up to 100,000.
    pub dead_letters: u64,
    /// Its triggers that are paused.
    pub paused_triggers: u64,
    /// When the delivery was due that has been so for longest, or will be due if none is;
    /// those of paused triggers left out.
    pub oldest_due: Option<Timestamp>,
}

/// How much room a store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreSize {
    /// Bytes of the database; `None` if it is in memory alone.
    pub database: Option<u64>,
    /// The log beside the database, if it has one.
    pub log: Option<LogSize>,
}

/// The log in which a store keeps what is not in the database yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSize {
    /// Its bytes.
    pub bytes: u64,
    /// How long one reader has kept it from being folded into the database, as far as
    /// two calls have seen it; zero if none does, or if the log is small.
    pub held: Duration,
}

/// What a store knows of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreClock {
    /// Its own clock, now, which all hosts can compare theirs with.
    Database(Timestamp),
    /// The time that it was last given to keep.
    Seen(Timestamp),
    /// Nothing.
    None,
}

/// The part of a store that gauges use. Other callers are not held up, and what it
/// costs does not depend on how many deliveries there are.
#[async_trait]
pub trait Survey: Send + Sync {
    /// Looks at an app; all zero for one that is not there. The cost grows with its
    /// triggers and its dead letters.
    async fn survey(&self, app: AppId) -> Result<AppSurvey, StoreError>;

    /// How much room the store takes.
    async fn size(&self) -> Result<StoreSize, StoreError>;

    /// Returns what the store knows of the time.
    async fn clock(&self) -> Result<StoreClock, StoreError>;
}
