//! Export, and the JSON Lines format of entries. Import is in `import`.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::params::{Params, Segments};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use kvasm_api::present;
use kvasm_core::{
    AppId, Capability, Collection, Entry, Invalid, Key, Op, Subject, Timestamp, Value,
};
use kvasm_service::{Caller, List};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

/// The media type of JSON Lines.
pub(super) const JSON_LINES: &str = "application/jsonl";

/// An entry as a line. Of the times and the version, an import uses only `expires_at`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collection: Option<String>,
    key: String,
    /// The value, if it is JSON, unchanged so that numbers keep all their digits.
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

/// Why a line of JSON is not a valid entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InvalidLine {
    /// The line or its value is over a limit of this host.
    TooLarge(String),
    Other(String),
}

impl InvalidLine {
    pub(super) fn why(self) -> String {
        match self {
            InvalidLine::TooLarge(why) | InvalidLine::Other(why) => why,
        }
    }
}

impl From<Invalid> for InvalidLine {
    fn from(invalid: Invalid) -> InvalidLine {
        match &invalid {
            Invalid::TooLarge {
                subject: Subject::Value,
                ..
            } => InvalidLine::TooLarge(invalid.to_string()),
            _ => InvalidLine::Other(invalid.to_string()),
        }
    }
}

/// Parses a value that is given as JSON or base64.
pub(super) fn value(
    json: Option<Box<RawValue>>,
    bytes: Option<String>,
    limit: usize,
) -> Result<Value, InvalidLine> {
    let value = match (json, bytes) {
        (Some(json), None) => Value::json(json.get(), limit),
        (None, Some(bytes)) => {
            let bytes = STANDARD.decode(bytes);
            let not_base64 = |e| InvalidLine::Other(format!("\"bytes\" is not valid base64: {e}"));
            let bytes = bytes.map_err(not_base64)?;
            Value::bytes(bytes, limit)
        }
        (Some(_), Some(_)) | (None, None) => {
            let why = "expected either \"json\" or \"bytes\"";
            return Err(InvalidLine::Other(why.to_owned()));
        }
    };
    Ok(value?)
}

/// Approximate size of the line of an entry.
pub(super) fn line_bytes(key: &Key, entry: Option<&Entry>) -> usize {
    const FRAME: usize = 100;
    let value = entry.map_or(0, |entry| entry.value.as_bytes().len());
    FRAME + key.as_str().len() + value
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
                // A line break in JSON can only be between tokens.
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

    /// Converts the line to the operation that writes its entry.
    pub(super) fn write(self, value_bytes: usize) -> Result<Op, InvalidLine> {
        let value = value(self.json, self.bytes, value_bytes)?;
        let lacks = || InvalidLine::Other("missing \"collection\"".to_owned());
        let collection = self.collection.ok_or_else(lacks)?;
        Ok(Op::Set {
            collection: Collection::parse(collection)?,
            key: Key::parse(self.key)?,
            value,
            expires_at: self.expires_at.map(Timestamp),
        })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportParams {
    /// Only this collection; all by default.
    collection: Option<String>,
}

/// Streams an app's entries, page by page.
///
/// Each page is a consistent snapshot, but the whole is not. If the store fails after the first
/// page, the response is aborted.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/export", tag = "kv",
    params(("app" = String, Path), ExportParams),
    responses((status = 200, body = EntryLine, content_type = "application/jsonl")),
    security(("token" = ["script:read"])))]
pub(super) async fn export(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<ExportParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let only = params.collection.map(Collection::parse).transpose()?;
    let export = Export {
        caller: Caller::administrator(&app, &actor),
        app: app.id,
        rest: only.is_none(),
        list: only.map(list_of),
        last: None,
        shared,
    };
    // Read before the response begins, so that the client learns why a store fails.
    let (first, rest) = export.next().await?.unzip();
    let first = stream::iter(first.map(Ok));
    let rest = stream::try_unfold(rest, async |export| match export {
        Some(export) => match export.next().await {
            Ok(page) => Ok(page.map(|(lines, rest)| (lines, Some(rest)))),
            Err(_) => Err(Aborted),
        },
        None => Ok(None),
    });
    let pages = Body::from_stream(first.chain(rest));
    Ok(([(CONTENT_TYPE, JSON_LINES)], pages).into_response())
}

/// The cause is in the host's log.
#[derive(Debug, thiserror::Error)]
#[error("the export was aborted")]
struct Aborted;

fn list_of(collection: Collection) -> List {
    List {
        with_values: true,
        ..List::all(collection)
    }
}

struct Export {
    shared: SharedServer,
    caller: Caller,
    app: AppId,
    /// The collection that is being read.
    list: Option<List>,
    /// Whether other collections follow.
    rest: bool,
    /// The last collection that was read.
    last: Option<Collection>,
}

impl Export {
    /// Returns the next page that is not empty.
    async fn next(mut self) -> Result<Option<(Bytes, Export)>, Problem> {
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
            // A page can be megabytes of text, which server threads leave to others.
            let lines = move || lines(&collection, &page.entries);
            let out = self.shared.aside.run(self.app, lines).await;
            let out = out.map_err(|error| Problem::internal(&error))?;
            let out = out.map_err(|error| Problem::internal(&error))?;
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

/// Formats the lines of a page.
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
