//! Reads logs: what is in the store, and what this host has in memory.

use super::keeper::within;
use super::unflushed::SEGMENT_SPAN;
use super::{LogFilter, LogKeeper, LogRecord, now_us, segment};
use kvasm_core::AppId;
use kvasm_core::store::{LogSegment, SegmentQuery, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Segments of the first read of a page. Each further one reads twice as many.
const SEGMENTS_FIRST: u32 = 4;
/// Maximum number of segments of a read.
const SEGMENTS_MAX: u32 = 128;
/// Size of the segments that are read for one page, in bytes. A page may end before it is full.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A place in an app's log: before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor {
    /// The position of the line.
    pub(super) seq: u64,
    /// The host that wrote it, as two hosts can write lines at the same position.
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

/// Which lines of a log to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Conditions that lines must meet.
    pub filter: LogFilter,
    /// Only lines after this position.
    pub after: u64,
    /// Only lines before this place.
    pub before: Option<LogCursor>,
    /// Maximum number of lines, the newest ones.
    pub limit: usize,
}

/// A page of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// Oldest first.
    pub lines: Vec<LogRecord>,
    /// The place before which older lines may be; `None` if there are none. It can be present although
    /// the page is not full, even if it is empty, because one page reads only a part of a long log.
    pub older: Option<LogCursor>,
    /// The position of the last line of each host.
    ends: HashMap<Uuid, u64>,
}

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

impl LogKeeper {
    /// Returns the newest lines of an app that a query asks for, of all hosts: those in the store,
    /// and those that this host has not written yet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page(&self, app: AppId, query: &LogQuery) -> Result<LogPage, StoreError> {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|error| StoreError::Failed(error.into()))?;
        let mut merge = Merge::new(query);
        // Memory first: a line that is written in between is then found in both, not in neither.
        for line in self.logs.in_memory(app) {
            merge.add(self.logs.host, &line);
        }
        let (from, mut limit, mut bytes) = (merge.from, SEGMENTS_FIRST, 0);
        let mut before = merge.segments_end();
        loop {
            let page = SegmentQuery {
                from,
                to: query.before.map_or(u64::MAX, |before| before.seq),
                before,
                not_of: None,
                limit,
            };
            let segments = within(self.store.log_segments(app, &page)).await?;
            bytes += segments.iter().map(|s| s.body.len()).sum::<usize>();
            let is_last = segments.len() < limit as usize;
            let frontier = segments.last().map(|last| (last.last, last.id));
            for (host, lines) in decoded(segments).await? {
                for line in &lines {
                    merge.add(host, line);
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
        let newest = self.logs.newest().max(query.after);
        let mut page = self.page(app, query).await?;
        let own = page.ends.remove(&self.logs.host).unwrap_or(0);
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
        let newest = self.logs.newest();
        let lines = self.logs.find(app, tail.own, usize::MAX, filter);
        let has_grown = !self.logs.read(app, tail.own, 1).is_empty();
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
            from: now_us().saturating_sub(LOOK_BACK).max(tail.floor),
            to: u64::MAX,
            before: None,
            not_of: Some(self.logs.host),
            limit: LOOK_SEGMENTS,
        };
        let mut segments = within(self.store.log_segments(app, &query)).await?;
        segments.retain(|segment| tail.end_of(segment.host) < segment.last);
        segments.reverse();
        let mut found = Vec::new();
        for (host, lines) in decoded(segments).await? {
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
async fn decoded(segments: Vec<LogSegment>) -> Result<Vec<(Uuid, Vec<LogRecord>)>, StoreError> {
    let read = move || {
        let of_host = |segment: &LogSegment| (segment.host, segment::decode(segment));
        segments.iter().map(of_host).collect()
    };
    let decoded = tokio::task::spawn_blocking(read).await;
    decoded.map_err(|error| StoreError::Failed(error.into()))
}

/// The newest lines among those added, in any order. A line that is added twice is there once.
struct Merge<'q> {
    query: &'q LogQuery,
    /// The position from which lines can match.
    from: u64,
    lines: BTreeMap<LogCursor, LogRecord>,
}

impl<'q> Merge<'q> {
    fn new(query: &'q LogQuery) -> Merge<'q> {
        // A line's position is at least its time, except after a step of the clock.
        let since = query.filter.since.map_or(0, |since| since.0.max(0));
        let since = since.unsigned_abs().saturating_mul(1_000);
        Merge {
            query,
            from: since.max(query.after.saturating_add(1)),
            lines: BTreeMap::new(),
        }
    }

    /// The segment before which all segments with lines of the page are: one that begins before the
    /// page's end ends at most its span later.
    fn segments_end(&self) -> Option<(u64, Uuid)> {
        let before = self.query.before?;
        Some((before.seq.saturating_add(SEGMENT_SPAN + 1), Uuid::max()))
    }

    fn add(&mut self, host: Uuid, line: &LogRecord) {
        let place = LogCursor {
            seq: line.seq,
            host,
        };
        let is_in_range =
            line.seq > self.query.after && self.query.before.is_none_or(|before| place < before);
        if is_in_range && self.query.filter.covers(line) {
            self.lines.entry(place).or_insert_with(|| line.clone());
            // One more than the page has, to know whether there are older ones.
            if self.lines.len() > self.query.limit.saturating_add(1) {
                self.lines.pop_first();
            }
        }
    }

    /// Whether the page is complete, if all other lines are at or before a position.
    fn is_full(&self, frontier: u64) -> bool {
        let newer = self.lines.range(
            LogCursor {
                seq: frontier.saturating_add(1),
                host: Uuid::nil(),
            }..,
        );
        newer.take(self.query.limit).count() >= self.query.limit
    }

    /// Ends the page. All lines at or after `complete` have been added.
    fn end(self, complete: u64) -> LogPage {
        let place = LogCursor {
            seq: complete,
            host: Uuid::nil(),
        };
        let newest_first = self.lines.into_iter().rev();
        let mut known = newest_first.take_while(|(at, _)| *at >= place);
        let mut lines: Vec<_> = known.by_ref().take(self.query.limit).collect();
        let has_more = known.next().is_some();
        lines.reverse();
        let first = lines.first().map(|(at, _)| *at);
        let first = first.or(self.query.before);
        LogPage {
            ends: lines.iter().map(|(at, _)| (at.host, at.seq)).collect(),
            older: match (has_more, first) {
                (true, Some(first)) => Some(first),
                _ if complete == 0 => None,
                // The page has all lines down to here, and there may be more.
                (_, Some(first)) if lines.len() >= self.query.limit => Some(first),
                _ => Some(place),
            },
            lines: lines.into_iter().map(|(_, line)| line).collect(),
        }
    }
}
