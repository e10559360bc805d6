//! Logs of apps and records of their calls, in segments.

use super::StoreError;
use crate::AppId;
use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

/// What the records of a segment are. Each kind has its own segments, sizes and ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentKind {
    /// Lines of the app's log.
    Lines,
    /// Calls of the app's plugin.
    Calls,
}

impl SegmentKind {
    /// All kinds.
    pub const ALL: [SegmentKind; 2] = [SegmentKind::Lines, SegmentKind::Calls];
}

/// Consecutive records of one kind about one app, written by one host.
///
/// Positions are microseconds since 1970. They increase strictly on each host, so they order the
/// records of an app over all hosts by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSegment {
    /// Its identity. A segment whose identity is already stored is not written again.
    pub id: Uuid,
    /// What its records are.
    pub kind: SegmentKind,
    /// The app.
    pub app: AppId,
    /// The host process that wrote it.
    pub host: Uuid,
    /// The position of its first record.
    pub first: u64,
    /// The position of its last record.
    pub last: u64,
    /// The number of its records.
    pub records: u32,
    /// The records; only their writer and reader know the format.
    pub body: Bytes,
}

/// A page of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentQuery {
    /// Only segments of this kind.
    pub kind: SegmentKind,
    /// Only segments whose last record is at or after this position.
    pub from: u64,
    /// Only segments whose first record is at or before this position.
    pub to: u64,
    /// Only segments before this one: its last position and its identity.
    pub before: Option<(u64, Uuid)>,
    /// Only segments of other hosts than this one.
    pub not_of: Option<Uuid>,
    /// Maximum number of segments.
    pub limit: u32,
}

/// The methods of a store for segments of logs and calls. They are independent of entries: segments
/// may be lost when the machine crashes, and they never make a commit wait.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// Adds a segment. It survives the end of this process, but perhaps not a crash of the machine.
    /// Whether the app exists is not checked. Can be repeated after a lost answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Full`] or [`StoreError::Failed`].
    async fn append_log(&self, segment: &LogSegment) -> Result<(), StoreError>;

    /// Returns segments of an app by their last position and their identity, the last first.
    async fn log_segments(
        &self,
        app: AppId,
        query: &SegmentQuery,
    ) -> Result<Vec<LogSegment>, StoreError>;

    /// Removes up to `limit` segments of a kind of an app, the oldest first: those whose last record
    /// is before a position, and those behind newer ones that have `bytes_max` bytes together with
    /// them. Returns the number removed.
    async fn prune_log(
        &self,
        app: AppId,
        kind: SegmentKind,
        before: u64,
        bytes_max: u64,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Returns up to `limit` apps that have segments of a kind, by identity, after one if given. They
    /// may have been deleted.
    async fn apps_with_log(
        &self,
        kind: SegmentKind,
        after: Option<AppId>,
        limit: u32,
    ) -> Result<Vec<AppId>, StoreError>;
}
