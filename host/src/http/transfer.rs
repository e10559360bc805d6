//! Export and import: an app's entries as streams of JSON Lines.

use super::Shared;
use super::api::{Imported, present};
use super::apps::find;
use super::auth::Known;
use super::body::{self, Json};
use super::params::{Params, Segments};
use super::problem::{Kind, Problem};
use super::stream::Pace;
use crate::model::{App, Capability, Collection, Entry, Key, Timestamp, Value};
use crate::service::{Caller, List, Write};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

/// The media type of JSON Lines.
const JSON_LINES: &str = "application/jsonl";
/// An import commits when it has so many entries, or bytes of them.
const BATCH_ENTRIES: usize = 500;
const BATCH_BYTES: usize = 1024 * 1024;
/// The longest that an import waits for its app's rate before it is refused.
const IMPORT_REST_MAX: Duration = Duration::from_secs(10);

/// An entry as a line. An import uses `expires_at`; versions and the other times are
/// informative.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collection: Option<String>,
    key: String,
    /// The value, if it is JSON. To the letter, so that no digit of a number is lost.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    #[schema(value_type = serde_json::Value)]
    json: Option<Box<RawValue>>,
    /// The value in base64, if it is bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    updated_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

/// A value that is given as JSON or as base64.
pub(super) fn value(
    json: Option<Box<RawValue>>,
    bytes: Option<String>,
    limit: usize,
) -> Result<Value, String> {
    let value = match (json, bytes) {
        (Some(json), None) => Value::json(json.get(), limit),
        (None, Some(bytes)) => {
            let bytes = STANDARD.decode(bytes);
            let bytes = bytes.map_err(|e| format!("its bytes are not base64: {e}"))?;
            Value::bytes(bytes, limit)
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err("it needs either \"json\" or \"bytes\"".to_owned());
        }
    };
    value.map_err(|e| e.to_string())
}

impl EntryLine {
    pub(super) fn new(
        collection: Option<&Collection>,
        key: &Key,
        entry: Option<&Entry>,
    ) -> Result<EntryLine, serde_json::Error> {
        let (json, bytes) = match entry.map(|entry| &entry.value) {
            None => (None, None),
            Some(Value::Json(text)) => {
                // A line break in JSON can only stand between its tokens.
                let text = text.as_str().replace(['\n', '\r'], " ");
                (Some(RawValue::from_string(text)?), None)
            }
            Some(Value::Bytes(bytes)) => (None, Some(STANDARD.encode(bytes))),
        };
        Ok(EntryLine {
            collection: collection.map(ToString::to_string),
            key: key.to_string(),
            json,
            bytes,
            version: entry.map(|entry| entry.version.0),
            created_at: entry.map(|entry| entry.created_at.0),
            updated_at: entry.map(|entry| entry.updated_at.0),
            expires_at: entry.and_then(|entry| entry.expires_at).map(|at| at.0),
        })
    }

    /// The line as a write; none if its entry has expired.
    fn write(self, value_bytes: usize, now: Timestamp) -> Result<Option<Write>, String> {
        let value = value(self.json, self.bytes, value_bytes)?;
        let collection = self.collection.ok_or("it needs \"collection\"")?;
        let ttl_ms = match self.expires_at {
            None => None,
            Some(at) => match u64::try_from(at.saturating_sub(now.0)) {
                Ok(0) | Err(_) => return Ok(None),
                Ok(ttl) => Some(ttl),
            },
        };
        Ok(Some(Write {
            collection: Collection::parse(collection).map_err(|e| e.to_string())?,
            key: Key::parse(self.key).map_err(|e| e.to_string())?,
            value,
            ttl_ms,
            expect: None,
        }))
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// This collection alone; by default all.
    collection: Option<String>,
}

/// Streams an app's entries, page by page: each page is of one moment, the whole
/// is not. If the store fails on the way, the stream breaks off without its end.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/export", tag = "kv",
    params(("app" = String, Path), ExportParams),
    responses((status = 200, body = EntryLine, content_type = "application/jsonl")),
    security(("token" = ["script:read"])))]
pub(super) async fn export(
    State(shared): State<Shared>,
    Known(actor): Known,
    Segments(name): Segments<String>,
    Params(params): Params<ExportParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &actor, &name, Capability::AppKvRead).await?;
    let only = params.collection.map(Collection::parse).transpose()?;
    let export = Export {
        caller: Caller::administrator(&app, &actor),
        rest: only.is_none(),
        list: only.map(list_of),
        last: None,
        shared,
    };
    let pages = futures_util::stream::try_unfold(export, Export::next);
    Ok(([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(pages)).into_response())
}

fn list_of(collection: Collection) -> List {
    List {
        with_values: true,
        ..List::all(collection)
    }
}

struct Export {
    shared: Shared,
    caller: Caller,
    /// The collection that is being read.
    list: Option<List>,
    /// Whether others come after it.
    rest: bool,
    /// The last collection that was read.
    last: Option<Collection>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Export {
    /// The next page that is not empty.
    async fn next(mut self) -> Result<Option<(Bytes, Export)>, BoxError> {
        loop {
            let Some(mut list) = self.list.take() else {
                if !self.rest {
                    return Ok(None);
                }
                let kv = self.shared.host.kv();
                let next = kv.collections(&self.caller, self.last.as_ref(), 1).await?;
                match next.into_iter().next() {
                    Some(collection) => self.list = Some(list_of(collection)),
                    None => return Ok(None),
                }
                continue;
            };
            let page = self
                .shared
                .host
                .kv()
                .list(&self.caller, list.clone())
                .await?;
            let cursor = page.cursor.clone();
            let collection = list.collection.clone();
            // A page is megabytes of text, which the threads that serve leave to others.
            let lines = move || lines(&collection, &page.entries);
            let out = tokio::task::spawn_blocking(lines).await??;
            match cursor {
                Some(cursor) => {
                    list.cursor = Some(cursor);
                    self.list = Some(list);
                }
                None => self.last = Some(list.collection),
            }
            if !out.is_empty() {
                return Ok(Some((out.into(), self)));
            }
        }
    }
}

/// The lines of a page.
fn lines(
    collection: &Collection,
    entries: &[(Key, Option<Entry>)],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    for (key, entry) in entries {
        let line = EntryLine::new(Some(collection), key, entry.as_ref())?;
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Writes the entries of a stream, in batches of some hundred. What came before a
/// bad line is written all the same; the problem says how many that were.
#[utoipa::path(post, path = "/v1/apps/{app}/kv/import", tag = "kv",
    params(("app" = String, Path)),
    request_body(content = EntryLine, content_type = "application/jsonl"),
    responses((status = 200, body = Imported)), security(("token" = ["script:write"])))]
pub(super) async fn import(
    State(shared): State<Shared>,
    Known(actor): Known,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Imported>, Problem> {
    let app = find(&shared, &actor, &name, Capability::AppKvWrite).await?;
    body::require_type(&headers, &[JSON_LINES, "application/x-ndjson"])?;
    let mut import = Import {
        caller: Caller::administrator(&app, &actor),
        app,
        shared,
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
        Ok(()) => Ok(Json(import.done)),
        Err(problem) => Err(problem.after(import.done.imported)),
    }
}

struct Import {
    shared: Shared,
    app: App,
    caller: Caller,
    batch: Vec<Write>,
    bytes: usize,
    line: u64,
    done: Imported,
}

impl Import {
    async fn read(&mut self, mut body: Body) -> Result<(), Problem> {
        let mut rest: Vec<u8> = Vec::new();
        let options = &self.shared.options;
        let mut pace = Pace::new(options.body_timeout, options.min_rate, Instant::now());
        loop {
            let deadline = pace.wait(Instant::now());
            let Some(part) = body::next(&self.shared, &mut body, deadline).await? else {
                return self.take(&rest).await;
            };
            pace.moved(part.len(), Instant::now());
            let mut lines = part.split(|byte| *byte == b'\n');
            // What stands after the last line break is the start of a line.
            let last = lines.next_back().unwrap_or_default();
            for line in lines {
                rest.extend_from_slice(line);
                self.take(&rest).await?;
                rest.clear();
            }
            rest.extend_from_slice(last);
            let limit = self.shared.host.limits().line_bytes();
            if rest.len() > limit {
                self.line += 1;
                return Err(self.bad(format!("it is over the limit of {limit} bytes")));
            }
        }
    }

    async fn take(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let parsed: EntryLine =
            serde_json::from_slice(line).map_err(|e| self.bad(e.to_string()))?;
        let limit = self.shared.host.limits().value_bytes;
        let write = parsed.write(limit, Timestamp::now());
        let Some(write) = write.map_err(|why| self.bad(why))? else {
            self.done.expired += 1;
            return Ok(());
        };
        self.bytes += write.value.as_bytes().len();
        self.batch.push(write);
        if self.batch.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES {
            self.commit().await?;
        }
        Ok(())
    }

    fn bad(&self, why: String) -> Problem {
        Problem::new(Kind::MalformedLine, format!("line {}: {why}", self.line))
    }

    async fn commit(&mut self) -> Result<(), Problem> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        // An import does not fail for its own pace: it takes that of the app.
        while let Err(refusal) = self.shared.host.admit_write(&self.app) {
            let rest = refusal.retry_after();
            if rest > IMPORT_REST_MAX {
                return Err(refusal.into());
            }
            tokio::time::sleep(rest).await;
        }
        let entries = batch.len() as u64;
        self.shared.host.kv().set_many(&self.caller, batch).await?;
        self.done.imported += entries;
        Ok(())
    }
}
