//! Reads records: what is in the store, and what this host has in memory.

use super::keeper::within;
use super::segment_record::{RecordSource, SegmentRecord};
use super::unflushed::SEGMENT_SPAN;
use super::{LogFilter, LogKeeper, LogRecord, SegmentKeeper, now_us, segment};
use kvasm_core::store::{LogSegment, SegmentQuery, StoreError};
use kvasm_core::{AppId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Segments of the first read of a page. Each further one reads twice as many.
const SEGMENTS_FIRST: u32 = 4;
/// Maximum number of segments of a read, about 2 MiB.
const SEGMENTS_MAX: u32 = 32;
/// Size of the segments that are read for one page, in bytes, apart from the last read. A page may end
/// before it is full.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A place in an app's log or among its calls: before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor {
    /// The position of the record.
    pub(super) seq: u64,
    /// The host that wrote it, as two hosts can write records at the same position.
    pub(super) host: Uuid,
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.host.simple())
    }
}

impl FromStr for LogCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<LogCursor, ()> {
        let (seq, host) = text.split_once('-').ok_or(())?;
        Ok(LogCursor {
            seq: seq.parse().map_err(|_| ())?,
            host: Uuid::try_parse(host).map_err(|_| ())?,
        })
    }
}

/// Which records to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordQuery<F> {
    /// Conditions that records must meet.
    pub filter: F,
    /// Only records after this position.
    pub after: u64,
    /// Only records before this place.
    pub before: Option<LogCursor>,
    /// Maximum number of records, the newest ones.
    pub limit: usize,
}

/// Which lines of a log to read.
pub type LogQuery = RecordQuery<LogFilter>;

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordPage<R> {
    /// Oldest first.
    pub records: Vec<R>,
    /// The place before which older records may be; `None` if there are none. It can be present
    /// although the page is not full, even if it is empty, because one page reads only a part of many
    /// records.
    pub older: Option<LogCursor>,
    /// The number of records in the range of the page that were left out when they were written,
    /// whether they would meet the filter or not. 0 for logs, where lines say so.
    pub left_out: u64,
    /// The position of the last record of each host.
    ends: HashMap<Uuid, u64>,
}

/// A page of a log.
pub type LogPage = RecordPage<LogRecord>;

/// The place in a log up to which a follower has read it.
#[derive(Debug, Clone)]
pub struct LogTail {
    /// Of the lines of this host.
    own: u64,
    /// Of the lines of other hosts. They become known when their host has written them.
    others: HashMap<Uuid, u64>,
    /// Of a host that is not among these.
    floor: u64,
}

/// How far back a follower looks for segments that other hosts have written since it last looked,
/// in microseconds: longer than a line usually waits to be written.
const LOOK_BACK: u64 = 30_000_000;
/// Maximum number of such segments that are read at once.
const LOOK_SEGMENTS: u32 = 64;

impl<S: RecordSource> SegmentKeeper<S> {
    /// Returns the newest records of an app that a query asks for, of all hosts: those in the store,
    /// and those that this host has not written yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page(
        &self,
        app: AppId,
        query: &RecordQuery<<S::Record as SegmentRecord>::Filter>,
    ) -> Result<RecordPage<S::Record>, StoreError> {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|error| StoreError::Failed(error.into()))?;
        let mut merge = Merge::<S::Record>::new(query);
        // Memory first: a record that is written in between is then found in both, not in neither.
        for record in self.source.in_memory(app) {
            merge.add(self.source.host(), &record);
        }
        let (from, mut limit, mut bytes) = (merge.from, SEGMENTS_FIRST, 0);
        let mut before = merge.segments_end();
        loop {
            let page = SegmentQuery {
                kind: S::Record::KIND,
                from,
                to: merge.before.map_or(u64::MAX, |before| before.seq),
                before,
                not_of: None,
                limit,
            };
            let segments = within(self.store.log_segments(app, &page)).await?;
            bytes += segments.iter().map(|s| s.body.len()).sum::<usize>();
            let is_last = segments.len() < limit as usize;
            let frontier = segments.last().map(|last| (last.last, last.id));
            for (host, records) in decoded(segments).await? {
                for record in &records {
                    merge.add(host, record);
                }
            }
            match frontier.filter(|_| !is_last) {
                None => return Ok(merge.end(0)),
                Some((last, _)) if merge.is_full(last) || bytes > PAGE_BYTES_MAX => {
                    return Ok(merge.end(last.saturating_add(1)));
                }
                frontier => before = frontier,
            }
            limit = SEGMENTS_MAX.min(limit * 2);
        }
    }
}

impl LogKeeper {
    /// Returns the page of a query, and the place after it, from which the log can be followed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page_to_follow(
        &self,
        app: AppId,
        query: &LogQuery,
    ) -> Result<(LogPage, LogTail), StoreError> {
        // Before the page: lines that arrive meanwhile are in the page or after it.
        let newest = self.source.newest().max(query.after);
        let mut page = self.page(app, query).await?;
        let own = page.ends.remove(&self.source.host).unwrap_or(0);
        let tail = LogTail {
            own: newest.max(own),
            others: std::mem::take(&mut page.ends),
            floor: page.older.map_or(query.after, |older| older.seq),
        };
        Ok((page, tail))
    }

    /// Returns the lines of this host after a place, and moves the place. They are those in memory,
    /// and whether there were any before the filter.
    pub fn next_own(
        &self,
        app: AppId,
        tail: &mut LogTail,
        filter: &LogFilter,
    ) -> (Vec<LogRecord>, bool) {
        // Read before the lines, so that lines that arrive meanwhile are read again.
        let newest = self.source.newest();
        let lines = self.source.find(app, tail.own, usize::MAX, filter);
        let has_grown = !self.source.read(app, tail.own, 1).is_empty();
        let last = lines.last().map_or(0, |last| last.seq);
        tail.own = tail.own.max(newest).max(last);
        (lines, has_grown)
    }

    /// Returns the lines after a place that other hosts have written to the store, and moves the
    /// place. Those of one host are in order.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next_of_others(
        &self,
        app: AppId,
        tail: &mut LogTail,
        filter: &LogFilter,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|error| StoreError::Failed(error.into()))?;
        let query = SegmentQuery {
            kind: LogRecord::KIND,
            from: now_us().saturating_sub(LOOK_BACK).max(tail.floor),
            to: u64::MAX,
            before: None,
            not_of: Some(self.source.host),
            limit: LOOK_SEGMENTS,
        };
        let mut segments = within(self.store.log_segments(app, &query)).await?;
        segments.retain(|segment| tail.end_of(segment.host) < segment.last);
        segments.reverse();
        let mut found = Vec::new();
        for (host, lines) in decoded::<LogRecord>(segments).await? {
            let end = tail.end_of(host);
            let new = lines.into_iter().filter(|line| line.seq > end);
            for line in new {
                tail.others.insert(host, line.seq);
                if filter.covers(&line) {
                    found.push(line);
                }
            }
        }
        Ok(found)
    }
}

impl LogTail {
    fn end_of(&self, host: Uuid) -> u64 {
        self.others.get(&host).copied().unwrap_or(self.floor)
    }
}

/// Decodes segments on a thread where this may take a while.
async fn decoded<R: SegmentRecord>(
    segments: Vec<LogSegment>,
) -> Result<Vec<(Uuid, Vec<R>)>, StoreError> {
    let read = move || {
        let of_host = |segment: &LogSegment| (segment.host, segment::decode(segment));
        segments.iter().map(of_host).collect()
    };
    let decoded = tokio::task::spawn_blocking(read).await;
    decoded.map_err(|error| StoreError::Failed(error.into()))
}

/// The newest records among those added, in any order. A record that is added twice is there once.
struct Merge<'q, R: SegmentRecord> {
    query: &'q RecordQuery<R::Filter>,
    /// The position from which records can match.
    from: u64,
    /// The place before which they can.
    before: Option<LogCursor>,
    records: BTreeMap<LogCursor, R>,
    /// Notes about records that were left out, and their numbers.
    gaps: BTreeMap<LogCursor, u64>,
}

impl<'q, R: SegmentRecord> Merge<'q, R> {
    fn new(query: &'q RecordQuery<R::Filter>) -> Merge<'q, R> {
        // A record's position is at least its time, except after a step of the clock.
        let position = |time: Timestamp| time.0.max(0).unsigned_abs().saturating_mul(1_000);
        let (since, until) = R::times(&query.filter);
        let until = until.map(|until| LogCursor {
            seq: position(until),
            host: Uuid::nil(),
        });
        Merge {
            query,
            from: since.map_or(0, position).max(query.after.saturating_add(1)),
            before: query.before.into_iter().chain(until).min(),
            records: BTreeMap::new(),
            gaps: BTreeMap::new(),
        }
    }

    /// The segment before which all segments with records of the page are: one that begins before
    /// the page's end ends at most its span later.
    fn segments_end(&self) -> Option<(u64, Uuid)> {
        let before = self.before?;
        Some((before.seq.saturating_add(SEGMENT_SPAN + 1), Uuid::max()))
    }

    fn add(&mut self, host: Uuid, record: &R) {
        let seq = record.seq();
        let place = LogCursor { seq, host };
        if seq <= self.query.after || self.before.is_some_and(|before| place >= before) {
            return;
        }
        if record.left_out() > 0 {
            if seq >= self.from {
                self.gaps.insert(place, record.left_out());
            }
        } else if record.meets(&self.query.filter) {
            self.records.entry(place).or_insert_with(|| record.clone());
            // One more than the page has, to know whether there are older ones.
            if self.records.len() > self.query.limit.saturating_add(1) {
                self.records.pop_first();
            }
        }
    }

    /// Whether the page is complete, if all other records are at or before a position.
    fn is_full(&self, frontier: u64) -> bool {
        let newer = self.records.range(
            LogCursor {
                seq: frontier.saturating_add(1),
                host: Uuid::nil(),
            }..,
        );
        newer.take(self.query.limit).count() >= self.query.limit
    }

    /// Ends the page. All records at or after `complete` have been added.
    fn end(self, complete: u64) -> RecordPage<R> {
        let place = LogCursor {
            seq: complete,
            host: Uuid::nil(),
        };
        let newest_first = self.records.into_iter().rev();
        let mut known = newest_first.take_while(|(at, _)| *at >= place);
        let mut records: Vec<_> = known.by_ref().take(self.query.limit).collect();
        let has_more = known.next().is_some();
        records.reverse();
        let first = records.first().map(|(at, _)| *at);
        let first = first.or(self.before);
        let older = match (has_more, first) {
            (true, Some(first)) => Some(first),
            _ if complete == 0 => None,
            // The page has all records down to here, and there may be more.
            (_, Some(first)) if records.len() >= self.query.limit => Some(first),
            _ => Some(place),
        };
        let in_range = |at: &LogCursor| older.is_none_or(|older| *at >= older);
        let gaps = self.gaps.iter().filter(|(at, _)| in_range(at));
        RecordPage {
            left_out: gaps.map(|(_, left_out)| left_out).sum(),
            ends: records.iter().map(|(at, _)| (at.host, at.seq)).collect(),
            older,
            records: records.into_iter().map(|(_, record)| record).collect(),
        }
    }
}
