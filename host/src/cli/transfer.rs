//! `kvasm kv export` and `import`: an app's entries as JSON Lines.

use super::failure::{Failure, Outcome};
use super::{Global, output};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indicatif::{ProgressBar, ProgressDrawTarget};
use kvasm::Host;
use kvasm::model::{App, Collection, Entry, Key, Limits, Timestamp, Value};
use kvasm::service::{Caller, Kv, List, ServiceError, Write as KvWrite};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The longest line that `import` reads: a value at its limit and its key, with
/// every character escaped.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Writes under way at once, so that the store can commit them in groups.
const WRITES_MAX: usize = 64;

/// One line. `import` heeds `expires_at`; versions and the other times are for
/// whoever reads the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    collection: String,
    key: String,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    json: Option<Box<RawValue>>,
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

/// `"json": null` is a value, not a field that is missing.
fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(json).map(Some)
}

/// All collections of an app.
pub(super) async fn collections(host: &Host, app: &App) -> Result<Vec<Collection>, Failure> {
    const PAGE: u32 = 1000;
    let mut all: Vec<Collection> = Vec::new();
    loop {
        let page = host.store().collections(app.id, all.last(), PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

pub(super) async fn export(
    host: &Host,
    app: &App,
    only: Option<Collection>,
) -> Result<Outcome, Failure> {
    let collections = match only {
        Some(collection) => vec![collection],
        None => collections(host, app).await?,
    };
    let caller = Caller::new(app, None);
    let progress = Progress::new("exported");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for collection in collections {
        let mut list = List {
            with_values: true,
            ..List::all(collection.clone())
        };
        loop {
            let page = host.kv().list(&caller, list.clone()).await?;
            for (key, entry) in &page.entries {
                let Some(entry) = entry else { continue };
                serde_json::to_writer(&mut out, &line(&collection, key, entry)?)
                    .map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
            progress.add(page.entries.len());
            list.cursor = page.cursor;
            if list.cursor.is_none() {
                break;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn line(collection: &Collection, key: &Key, entry: &Entry) -> Result<Line, Failure> {
    let (json, bytes) = match &entry.value {
        Value::Json(text) => {
            // A line break in JSON can only stand between its tokens.
            let text = text.as_str().replace(['\n', '\r'], " ");
            let raw = RawValue::from_string(text)
                .map_err(|e| Failure::host(format!("a stored value is damaged: {e}")))?;
            (Some(raw), None)
        }
        Value::Bytes(bytes) => (None, Some(STANDARD.encode(bytes))),
    };
    Ok(Line {
        collection: collection.to_string(),
        key: key.to_string(),
        json,
        bytes,
        version: Some(entry.version.0),
        created_at: Some(entry.created_at.0),
        updated_at: Some(entry.updated_at.0),
        expires_at: entry.expires_at.map(|at| at.0),
    })
}

/// Reads lines and writes their entries, in groups of distinct keys, so that two
/// lines of one key are written in their order.
pub(super) async fn import(global: &Global, host: &Host, app: &App) -> Result<Outcome, Failure> {
    let mut import = Import {
        kv: Arc::clone(host.kv()),
        caller: Arc::new(Caller::new(app, None)),
        writes: JoinSet::new(),
        keys: HashSet::new(),
        imported: 0,
        expired: 0,
        progress: Progress::new("imported"),
    };
    let read = import.lines(std::io::stdin().lock()).await;
    // What was read before a bad line is written all the same, and counted.
    let written = import.settle().await;
    let (imported, expired) = (import.imported, import.expired);
    read.and(written)
        .map_err(|e| e.at(&format!("{imported} entries were imported, then")))?;
    output::object(
        global.json,
        &json!({ "imported": imported, "expired": expired }),
        || format!("Imported {imported} entries; {expired} had expired and were left out."),
    )?;
    Ok(Outcome::Done)
}

struct Import {
    kv: Arc<dyn Kv>,
    caller: Arc<Caller>,
    writes: JoinSet<Result<(), ServiceError>>,
    keys: HashSet<(Collection, Key)>,
    imported: u64,
    expired: u64,
    progress: Progress,
}

impl Import {
    async fn lines(&mut self, mut input: impl BufRead) -> Result<(), Failure> {
        let mut number: u64 = 0;
        loop {
            number += 1;
            let mut text = Vec::new();
            let read = input
                .by_ref()
                .take(LINE_BYTES_MAX + 1)
                .read_until(b'\n', &mut text)?;
            if read == 0 {
                return Ok(());
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            match parse(&text) {
                Ok(Some(write)) => self.write(write).await?,
                Ok(None) => self.expired += 1,
                Err(failure) => return Err(failure.at(&format!("line {number}"))),
            }
        }
    }

    async fn write(&mut self, write: KvWrite) -> Result<(), Failure> {
        let at = (write.collection.clone(), write.key.clone());
        if self.writes.len() >= WRITES_MAX || self.keys.contains(&at) {
            self.settle().await?;
        }
        self.keys.insert(at);
        let (kv, caller) = (Arc::clone(&self.kv), Arc::clone(&self.caller));
        self.writes
            .spawn(async move { kv.set(&caller, write).await.map(drop) });
        Ok(())
    }

    /// Waits for the writes that are under way.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.keys.clear();
        let mut failed = None;
        while let Some(joined) = self.writes.join_next().await {
            match joined {
                Ok(Ok(())) => {
                    self.imported += 1;
                    self.progress.add(1);
                }
                Ok(Err(error)) => failed = Some(Failure::from(error)),
                Err(error) => failed = Some(Failure::host(error.to_string())),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// One line as a write; none if its entry has expired.
fn parse(text: &[u8]) -> Result<Option<KvWrite>, Failure> {
    if text.len() as u64 > LINE_BYTES_MAX {
        return Err(Failure::user(format!(
            "it is longer than {LINE_BYTES_MAX} bytes, which is the limit"
        )));
    }
    let line: Line = serde_json::from_slice(text).map_err(|e| Failure::user(e.to_string()))?;
    let limit = Limits::default().value_bytes;
    let value = match (line.json, line.bytes) {
        (Some(json), None) => Value::json(json.get(), limit)?,
        (None, Some(bytes)) => {
            let bytes = STANDARD
                .decode(bytes)
                .map_err(|e| Failure::user(format!("its bytes are not base64: {e}")))?;
            Value::bytes(bytes, limit)?
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(Failure::user("it needs either \"json\" or \"bytes\""));
        }
    };
    let ttl_ms = match line.expires_at {
        None => None,
        Some(at) => match u64::try_from(at.saturating_sub(Timestamp::now().0)) {
            Ok(0) | Err(_) => return Ok(None),
            Ok(ttl) => Some(ttl),
        },
    };
    Ok(Some(KvWrite {
        collection: Collection::parse(line.collection)?,
        key: Key::parse(line.key)?,
        value,
        ttl_ms,
        expect: None,
    }))
}

/// A running count on a terminal; nothing elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new(verb: &'static str) -> Progress {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) =
            indicatif::ProgressStyle::with_template("{spinner} {human_pos} {msg} ({per_sec})")
        {
            bar.set_style(style);
        }
        bar.set_message(verb);
        Progress(bar)
    }

    fn add(&self, entries: usize) {
        self.0.inc(entries as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
