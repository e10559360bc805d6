//! Imports entries from a stream of JSON Lines.
//!
//! All input counts towards its app's rate, even if it is refused, and is parsed in pieces off the
//! server threads.

use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::counted::KeptBytes;
use super::export::{EntryLine, InvalidLine, JSON_LINES};
use super::params::Segments;
use super::problem::{Kind, Problem};
use super::stream::RateCredit;
use super::{Authority, SharedServer};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use kvasm_api::Imported;
use kvasm_core::{App, Batch, Capability, Op, Timestamp};
use kvasm_service::Caller;
use std::time::Duration;
use tokio::time::Instant;

/// An import commits after this many entries, or bytes of them. Reading as many lines or bytes
/// counts as one write of the app, since that is about the work of a commit: only the last commit
/// is smaller.
const BATCH_ENTRIES: usize = 500;
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of whole lines that are parsed at once, approximately.
const PIECE_BYTES: usize = 64 * 1024;
/// How long an import waits for its app's rate limit before it is refused.
const REST_MAX: Duration = Duration::from_secs(10);

/// Imports the entries of a stream, in batches of several hundred.
///
/// Entries before an invalid line are imported; the problem reports their number.
#[utoipa::path(post, path = "/v1/apps/{app}/kv/import", tag = "kv",
    params(("app" = String, Path)),
    request_body(content(
        (EntryLine = "application/jsonl"),
        (EntryLine = "application/x-ndjson"))),
    responses((status = 200, body = Imported)), security(("token" = ["script:write"])))]
pub(super) async fn import(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    kept: Option<Extension<KeptBytes>>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<Imported>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    body::require_type(&headers, &[JSON_LINES, "application/x-ndjson"])?;
    let mut import = ImportRun {
        caller: Caller::importer(&app, &actor),
        app,
        shared,
        kept: kept.map(|Extension(kept)| kept),
        unparsed: Vec::new(),
        whole: 0,
        bill: WriteMeter::default(),
        batch: Vec::new(),
        bytes: 0,
        line: 0,
        done: Imported {
            imported: 0,
            expired: 0,
        },
    };
    let read = import.read(body).await;
    let written = import.commit().await;
    match read.and(written) {
        Ok(()) => Ok(JsonBody(import.done)),
        Err(problem) => Err(problem.with_imported(import.done.imported)),
    }
}

struct ImportRun {
    shared: SharedServer,
    app: App,
    caller: Caller,
    kept: Option<KeptBytes>,
    /// Bytes that were read but not parsed.
    unparsed: Vec<u8>,
    /// How many of them belong to complete lines.
    whole: usize,
    bill: WriteMeter,
    /// Entries that were parsed but not committed.
    batch: Vec<Op>,
    /// Bytes of their values.
    bytes: usize,
    /// Number of parsed lines.
    line: u64,
    done: Imported,
}

impl ImportRun {
    async fn read(&mut self, mut body: Body) -> Result<(), Problem> {
        let shared = self.shared.clone();
        let options = &shared.options;
        let mut pace = RateCredit::new(options.body_timeout, options.min_rate, Instant::now());
        loop {
            // Reads all that has arrived before parsing, so that pieces are large; all work is done
            // before waiting for the sender.
            let part = match body::next_part(&mut body).now_or_never() {
                Some(part) => part?,
                None => {
                    self.parse().await?;
                    let deadline = pace.wait(Instant::now());
                    body::next(&shared, &mut body, deadline).await?
                }
            };
            let Some(part) = part else {
                self.whole = self.unparsed.len();
                return self.parse().await;
            };
            pace.moved(part.len(), Instant::now());
            self.take(&part).await?;
        }
    }

    /// Adds a part of the stream, which may end within a line.
    async fn take(&mut self, part: &[u8]) -> Result<(), Problem> {
        if let Some(last) = part.iter().rposition(|byte| *byte == b'\n') {
            self.whole = self.unparsed.len() + last + 1;
        }
        self.unparsed.extend_from_slice(part);
        let lines = part.iter().filter(|byte| **byte == b'\n').count();
        for _ in 0..self.bill.writes(lines, part.len()) {
            self.admit().await?;
        }
        let limit = self.shared.host.limits().line_bytes();
        let is_long = self.unparsed.len() - self.whole > limit;
        if self.whole >= PIECE_BYTES || is_long {
            self.parse().await?;
        }
        match is_long {
            true => {
                self.line += 1;
                Err(self.bad(over(limit)))
            }
            false => Ok(()),
        }
    }

    /// Parses the complete lines, and commits when there are enough entries.
    async fn parse(&mut self) -> Result<(), Problem> {
        if self.whole == 0 {
            return Ok(());
        }
        let rest = self.unparsed.split_off(self.whole);
        let piece = std::mem::replace(&mut self.unparsed, rest);
        self.whole = 0;
        let limits = self.shared.host.limits();
        let (line_bytes, value_bytes) = (limits.line_bytes(), limits.value_bytes);
        let parse = move || parse(&piece, line_bytes, value_bytes);
        let parsed = self.shared.aside.run(self.app.id, parse).await;
        let parsed = parsed.map_err(|error| Problem::internal(&error))?;
        self.line += parsed.lines;
        for op in parsed.writes {
            self.bytes += op.value().map_or(0, |value| value.as_bytes().len());
            self.batch.push(op);
            if self.batch.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES {
                self.commit().await?;
            }
        }
        if let Some(kept) = &self.kept {
            kept.set(self.unparsed.len() + self.bytes);
        }
        parsed.bad.map_or(Ok(()), |why| Err(self.bad(why)))
    }

    fn bad(&self, bad: InvalidLine) -> Problem {
        let line = self.line;
        let detail = match bad {
            InvalidLine::Other(why) => format!("line {line}: {why}"),
            InvalidLine::TooLarge(why) => {
                let raise = match self.shared.trust {
                    Authority::Tokens => "an operator can raise limits.value of the server",
                    Authority::Operator(_) => {
                        "raise limits.value in a configuration file and pass it with --config"
                    }
                };
                format!("line {line}: {why}; {raise}")
            }
        };
        Problem::new(Kind::MalformedLine, detail)
    }

    /// Counts a write of the app. An import that exceeds the app's rate is slowed down and does not
    /// fail.
    async fn admit(&self) -> Result<(), Problem> {
        while let Err(refusal) = self.shared.host.admit_write(&self.app) {
            let rest = refusal.retry_after();
            if rest > REST_MAX {
                return Err(refusal.into());
            }
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Problem> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let all = batch.len();
        // An entry may have expired while a slow sender was waited for.
        let ops = alive(batch, Timestamp::now());
        let entries = ops.len();
        self.done.expired += (all - entries) as u64;
        if !ops.is_empty() {
            let kv = self.shared.host.kv();
            kv.commit(&self.caller, Batch::of(ops)).await?;
        }
        self.done.imported += entries as u64;
        Ok(())
    }
}

/// Returns the writes of entries that have not expired.
fn alive(mut ops: Vec<Op>, now: Timestamp) -> Vec<Op> {
    let has_expired = |op: &Op| match op {
        Op::Set { expires_at, .. } => expires_at.is_some_and(|at| at <= now),
        Op::Delete { .. } | Op::Increment { .. } => false,
    };
    ops.retain(|op| !has_expired(op));
    ops
}

/// Input that has not yet been counted as a write.
#[derive(Default)]
struct WriteMeter {
    begun: bool,
    lines: usize,
    bytes: usize,
}

impl WriteMeter {
    /// The number of writes that this many further lines and bytes count as: one for the first, and
    /// one for each further 500 lines or 1 MiB, whichever comes first.
    fn writes(&mut self, lines: usize, bytes: usize) -> usize {
        let mut writes = usize::from(!self.begun);
        self.begun = true;
        self.lines += lines;
        self.bytes += bytes;
        while self.lines >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES {
            self.lines = self.lines.saturating_sub(BATCH_ENTRIES);
            self.bytes = self.bytes.saturating_sub(BATCH_BYTES);
            writes += 1;
        }
        writes
    }
}

/// Writes parsed from lines, up to the first invalid one.
#[derive(Default)]
struct Parsed {
    writes: Vec<Op>,
    /// Number of lines, including blank ones and the invalid one.
    lines: u64,
    /// Why the last line is invalid.
    bad: Option<InvalidLine>,
}

fn parse(piece: &[u8], line_bytes: usize, value_bytes: usize) -> Parsed {
    let mut parsed = Parsed::default();
    let lines = piece.strip_suffix(b"\n").unwrap_or(piece);
    for line in lines.split(|byte| *byte == b'\n') {
        parsed.lines += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match write(line, line_bytes, value_bytes) {
            Ok(write) => parsed.writes.push(write),
            Err(why) => {
                parsed.bad = Some(why);
                break;
            }
        }
    }
    parsed
}

fn write(line: &[u8], line_bytes: usize, value_bytes: usize) -> Result<Op, InvalidLine> {
    if line.len() > line_bytes {
        return Err(over(line_bytes));
    }
    let line: EntryLine =
        serde_json::from_slice(line).map_err(|e| InvalidLine::Other(e.to_string()))?;
    line.write(value_bytes)
}

/// The error of a line over the limit, which is derived from that of values.
fn over(limit: usize) -> InvalidLine {
    InvalidLine::TooLarge(format!("over the limit of {limit} bytes"))
}

/// The result of parsing lines.
#[cfg(feature = "fuzzing")]
#[derive(Debug)]
pub struct Lines {
    /// Entries to write.
    pub writes: Vec<Op>,
    /// Number of entries that have expired.
    pub expired: u64,
    /// Number of lines read.
    pub lines: u64,
    /// Why the last line is invalid.
    pub bad: Option<String>,
}

/// Parses whole lines as an import does.
#[cfg(feature = "fuzzing")]
pub fn fuzz_lines(piece: &[u8], line_bytes: usize, value_bytes: usize) -> Lines {
    let parsed = parse(piece, line_bytes, value_bytes);
    let all = parsed.writes.len();
    let writes = alive(parsed.writes, Timestamp::now());
    Lines {
        expired: (all - writes.len()) as u64,
        writes,
        lines: parsed.lines,
        bad: parsed.bad.map(InvalidLine::why),
    }
}

/// The line that an export writes for an entry.
#[cfg(feature = "fuzzing")]
pub fn fuzz_line(op: &Op) -> Result<Vec<u8>, serde_json::Error> {
    let now = Timestamp::now();
    let (collection, key) = op.address();
    let entry = match op {
        Op::Set {
            value, expires_at, ..
        } => Some(kvasm_core::Entry {
            value: value.clone(),
            version: kvasm_core::Version(1),
            created_at: now,
            updated_at: now,
            expires_at: *expires_at,
        }),
        Op::Delete { .. } | Op::Increment { .. } => None,
    };
    let line = EntryLine::new(Some(collection), key, entry.as_ref())?;
    serde_json::to_vec(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerOptions;
    use crate::router::{Routes, build};
    use axum::http::Request;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use kvasm_core::AppName;
    use kvasm_host::Host;
    use std::convert::Infallible;

    /// An import holds in memory only what it has not committed, even if the whole is large.
    #[tokio::test]
    async fn import_can_exceed_the_in_flight_budget() {
        let value = "x".repeat(50_000);
        let line = format!("{{\"collection\":\"c\",\"key\":\"k\",\"json\":\"{value}\"}}\n");
        let parts = (0..320).map(move |_| Ok::<_, Infallible>(line.clone()));
        let done = imported(Body::from_stream(stream::iter(parts))).await;
        assert_eq!(done, r#"{"imported":320,"expired":0}"#);
    }

    /// The response to an import by a server that holds at most 4 MiB.
    async fn imported(body: Body) -> String {
        let host = Host::builder().instances(4).build().unwrap();
        let app = host.create_app(AppName::parse("shop").unwrap()).await;
        app.unwrap();
        let options = ServerOptions {
            bytes_in_flight: 4 << 20,
            ..ServerOptions::default()
        };
        let trust = Authority::Operator("test".into());
        let shared = SharedServer::new(host, options, trust, Default::default());
        let request = Request::post("/v1/apps/shop/kv/import");
        let request = request.header("content-type", JSON_LINES).body(body);
        let router = build(shared, Routes::All);
        let answer = tower::ServiceExt::oneshot(router, request.unwrap()).await;
        let body = answer.unwrap().into_body().collect().await;
        String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// Regardless of how long the sender pauses after it.
    #[tokio::test]
    async fn imported_entry_keeps_its_expiry() {
        let at = Timestamp::now().plus_ms(500);
        let line = format!(
            r#"{{"collection":"c","key":"k","json":1,"expires_at":{}}}"#,
            at.0
        );
        let parts = stream::unfold(Some(line), move |line| async move {
            let Some(line) = line else {
                // The line is read, and parsed while this loop waits.
                while Timestamp::now() <= at {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                return None;
            };
            Some((Ok::<_, Infallible>(line + "\n"), None))
        });
        let done = imported(Body::from_stream(parts)).await;
        assert_eq!(done, r#"{"imported":0,"expired":1}"#);
    }

    /// The number of writes does not depend on how the stream is split.
    #[test]
    fn imported_lines_count_as_writes() {
        let writes = |parts: &[(usize, usize)]| {
            let mut bill = WriteMeter::default();
            let writes = parts
                .iter()
                .map(|(lines, bytes)| bill.writes(*lines, *bytes));
            writes.sum::<usize>()
        };
        assert_eq!(writes(&[]), 0);
        assert_eq!(writes(&[(1, 40)]), 1);
        assert_eq!(writes(&[(5_000, 5_000)]), 1 + 10);
        assert_eq!(writes(&[(1, 1); 5_000]), 1 + 10);
        assert_eq!(writes(&[(0, 64 * 1024); 160]), 1 + 10);
        assert_eq!(writes(&[(1, 3 << 20)]), 1 + 3);
    }

    #[test]
    fn import_stops_at_the_first_rejected_line() {
        let good = r#"{"collection":"c","key":"k","json":1}"#;
        let old = r#"{"collection":"c","key":"k","json":1,"expires_at":1}"#;
        let parsed = parse(format!("\n{good}\n{old}\n \n").as_bytes(), 100, 10);
        assert_eq!((parsed.lines, parsed.writes.len()), (4, 2));
        let expiry = |op: &Op| match op {
            Op::Set { expires_at, .. } => *expires_at,
            Op::Delete { .. } | Op::Increment { .. } => panic!("{op:?}"),
        };
        let expire: Vec<_> = parsed.writes.iter().map(expiry).collect();
        assert_eq!((expire, parsed.bad), (vec![None, Some(Timestamp(1))], None));
        let parsed = parse(format!("{good}\nx\n{good}").as_bytes(), 100, 10);
        assert_eq!((parsed.lines, parsed.writes.len()), (2, 1));
        assert!(parsed.bad.is_some());
        let parsed = parse(good.as_bytes(), 20, 10);
        assert_eq!(parsed.bad, Some(over(20)));
    }
}
