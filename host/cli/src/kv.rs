//! `kvasm kv`.

use super::client::{Client, Pages, RequestPath, bytes, connect, is_absent, set};
use super::failure::{CommandOutcome, Failure};
use super::{Global, batch, input, kv_watch, output, transfer};
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use kvasm::api::{CollectionPage, Written};
use kvasm::model::{AppName, Collection, Key};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(super) enum KvCommand {
    /// Print an entry's value
    Get {
        #[command(flatten)]
        at: At,
    },
    /// Write an entry
    Set {
        #[command(flatten)]
        at: At,
        /// The value: JSON text, @FILE, or - for stdin
        value: String,
        /// The value is bytes, not JSON
        #[arg(long)]
        bytes: bool,
        /// Expire the entry after this time, such as 90s or 2h
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<std::time::Duration>,
        /// Write only if the entry has this version; 0 means that it must not exist
        #[arg(long)]
        if_version: Option<u64>,
    },
    /// Check whether an entry exists: prints true, or false with exit code 1
    Has {
        #[command(flatten)]
        at: At,
    },
    /// Delete an entry; exit code 1 if it did not exist
    Delete {
        #[command(flatten)]
        at: At,
        /// Delete only if the entry has this version
        #[arg(long)]
        if_version: Option<u64>,
    },
    /// Add to an entry whose value is a JSON integer; an absent entry counts as 0
    #[command(after_help = "Example:\n  kvasm kv increment shop counters visits --by 2")]
    Increment {
        #[command(flatten)]
        at: At,
        /// The amount to add, such as -1
        #[arg(long, default_value_t = 1, allow_hyphen_values = true)]
        by: i64,
    },
    /// Apply checks and operations atomically, from JSON
    #[command(after_help = batch::COMMIT_HELP)]
    Commit(batch::Input),
    /// Print several entries from one snapshot, given a JSON list of keys
    #[command(after_help = batch::GET_MANY_HELP)]
    GetMany(batch::Input),
    /// List a collection, one page at a time
    List(ListArgs),
    /// List an app's collections
    Collections {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Print the changes of an app's entries as they are committed
    #[command(after_help = "Example:\n  kvasm kv watch shop orders --prefix eu/")]
    Watch(kv_watch::KvWatchArgs),
    /// Write an app's entries to stdout as JSON Lines
    Export {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// Only this collection
        #[arg(value_parser = collection)]
        collection: Option<Collection>,
    },
    /// Import entries from JSON Lines, as written by `export`
    #[command(after_help = "Example:\n  kvasm kv export shop | kvasm kv import copy")]
    Import {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// Read from this file [default: standard input]
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// The address of an entry.
#[derive(Args)]
pub(super) struct At {
    #[arg(value_parser = AppName::parse)]
    pub(super) app: AppName,
    #[arg(value_parser = collection)]
    pub(super) collection: Collection,
    #[arg(value_parser = key)]
    pub(super) key: Key,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    #[arg(value_parser = collection)]
    collection: Collection,
    /// Only keys with this prefix
    #[arg(long)]
    prefix: Option<String>,
    /// Only keys greater than or equal to this one
    #[arg(long)]
    start: Option<String>,
    /// Only keys less than this one
    #[arg(long)]
    end: Option<String>,
    /// List keys in descending order
    #[arg(long)]
    reverse: bool,
    /// Maximum number of entries per page
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Print values too
    #[arg(long)]
    values: bool,
    /// Resume from this cursor
    #[arg(long, conflicts_with = "all")]
    cursor: Option<String>,
    /// Print all pages, each of --limit entries
    #[arg(long)]
    all: bool,
}

pub(super) fn collection(text: &str) -> Result<Collection, kvasm::model::Invalid> {
    Collection::parse(text)
}

fn key(text: &str) -> Result<Key, kvasm::model::Invalid> {
    Key::parse(text)
}

impl At {
    fn path(&self) -> RequestPath {
        RequestPath::app(&self.app, &["kv", "entry"])
            .with("collection", Some(&self.collection))
            .with("key", Some(&self.key))
    }
}

pub(super) async fn run(global: &Global, command: KvCommand) -> Result<CommandOutcome, Failure> {
    match command {
        KvCommand::Get { at } => get(global, at).await,
        KvCommand::Set {
            at,
            value,
            bytes,
            ttl,
            if_version,
        } => {
            let value = input::argument(&value)?;
            let value = if bytes { value } else { input::json(value)? };
            write(global, at, value, bytes, ttl, if_version).await
        }
        KvCommand::Has { at } => {
            let client = connect(global).await?;
            let request = at.path().request("GET", Body::empty())?;
            let has = present(client.send(request).await)?.is_some();
            output::object(global.json, &json!({ "has": has }), || has.to_string())?;
            Ok(if has {
                CommandOutcome::Done
            } else {
                CommandOutcome::NotFound
            })
        }
        KvCommand::Delete { at, if_version } => delete(global, at, if_version).await,
        KvCommand::Increment { at, by } => batch::increment(global, &at, by).await,
        KvCommand::Commit(input) => batch::commit(global, input).await,
        KvCommand::GetMany(input) => batch::get_many(global, input).await,
        KvCommand::List(list) => list_pages(global, list).await,
        KvCommand::Collections { app } => collections(global, &app).await,
        KvCommand::Watch(args) => kv_watch::run(global, args).await,
        KvCommand::Export { app, collection } => transfer::export(global, &app, collection).await,
        KvCommand::Import { app, file } => transfer::import(global, &app, file).await,
    }
}

/// The response, or `None` if the entry does not exist.
fn present<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if is_absent(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn guard(request: &mut Request<Body>, if_version: Option<u64>) {
    match if_version {
        None => {}
        Some(0) => set(request, "if-none-match", "*"),
        Some(version) => set(request, "if-match", &format!("\"{version}\"")),
    }
}

async fn write(
    global: &Global,
    at: At,
    value: Vec<u8>,
    is_bytes: bool,
    ttl: Option<std::time::Duration>,
    if_version: Option<u64>,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = at.path().with("ttl_ms", ttl.map(|ttl| ttl.as_millis()));
    let mut request = path.request("PUT", Body::from(value))?;
    let content_type = match is_bytes {
        true => "application/octet-stream",
        false => "application/json",
    };
    set(&mut request, "content-type", content_type);
    guard(&mut request, if_version);
    let answer = bytes(client.send(request).await?).await?;
    let written: Written =
        serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))?;
    output::object(global.json, &json!(written), || {
        format!("Version {}.", written.version)
    })?;
    Ok(CommandOutcome::Done)
}

async fn delete(
    global: &Global,
    at: At,
    if_version: Option<u64>,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let mut request = at.path().request("DELETE", Body::empty())?;
    guard(&mut request, if_version);
    let deleted = present(client.send(request).await)?.is_some();
    output::object(global.json, &json!({ "deleted": deleted }), || {
        let text = match deleted {
            true => "Deleted.",
            false => "No such entry.",
        };
        text.to_owned()
    })?;
    Ok(if deleted {
        CommandOutcome::Done
    } else {
        CommandOutcome::NotFound
    })
}

async fn get(global: &Global, at: At) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let request = at.path().request("GET", Body::empty())?;
    let Some(answer) = present(client.send(request).await)? else {
        if global.json {
            output::object(true, &serde_json::Value::Null, String::new)?;
        } else {
            output::note("No such entry.");
        }
        return Ok(CommandOutcome::NotFound);
    };
    let headers = answer.headers().clone();
    let is_json = headers
        .get("content-type")
        .is_some_and(|kind| kind == "application/json");
    if global.json {
        let value = bytes(answer).await?;
        output::json(&EntryObject::new(&headers, is_json, &value)?)?;
        return Ok(CommandOutcome::Done);
    }
    let end = if is_json { &b"\n"[..] } else { b"" };
    output::stream(answer, end).await?;
    Ok(CommandOutcome::Done)
}

/// An entry as JSON. Its value is passed on unchanged, so that numbers keep all their digits.
#[derive(Serialize)]
struct EntryObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    version: Option<u64>,
    created_at: Option<i64>,
    updated_at: Option<i64>,
    expires_at: Option<i64>,
}

impl<'a> EntryObject<'a> {
    fn new(
        headers: &HeaderMap,
        is_json: bool,
        value: &'a [u8],
    ) -> Result<EntryObject<'a>, Failure> {
        let damaged = |e| Failure::host(format!("a stored value is damaged: {e}"));
        let json = is_json.then(|| serde_json::from_slice(value).map_err(damaged));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let time = |name: &str| text(name).and_then(|text| text.parse().ok());
        let version = text("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
        Ok(EntryObject {
            json: json.transpose()?,
            bytes: (!is_json).then(|| STANDARD.encode(value)),
            version,
            created_at: time("kvasm-created-at"),
            updated_at: time("kvasm-updated-at"),
            expires_at: time("kvasm-expires-at"),
        })
    }
}

/// A page, for printing as a table.
#[derive(Deserialize)]
struct ListedPage {
    entries: Vec<ListedEntry>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ListedEntry {
    #[serde(default)]
    pub(super) collection: Option<String>,
    pub(super) key: String,
    #[serde(default)]
    json: Option<Box<RawValue>>,
    #[serde(default)]
    bytes: Option<String>,
    #[serde(default)]
    pub(super) version: Option<u64>,
    #[serde(default)]
    pub(super) updated_at: Option<i64>,
}

impl ListedEntry {
    /// The value, shortened for a table.
    pub(super) fn shown(&self) -> String {
        shown(self.json.as_deref(), self.bytes.as_deref())
    }
}

async fn list_pages(global: &Global, args: ListArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let mut cursor = args.cursor.clone();
    let mut pages = Pages::default();
    pages.next(cursor.clone())?;
    loop {
        let page = list_page(&client, &args, cursor).await?;
        let parsed: ListedPage =
            serde_json::from_slice(&page).map_err(|e| Failure::host(e.to_string()))?;
        if global.json {
            // Unchanged, so that numbers keep all their digits.
            output::json_line(&page)?;
        } else {
            print_page(&args, &parsed)?;
        }
        cursor = pages.next(parsed.cursor)?;
        match &cursor {
            None => break,
            Some(cursor) if !args.all => {
                if !global.json {
                    output::note(&format!("More: --cursor {cursor}"));
                }
                break;
            }
            Some(_) => {}
        }
    }
    Ok(CommandOutcome::Done)
}

async fn list_page(
    client: &Client,
    args: &ListArgs,
    cursor: Option<String>,
) -> Result<Vec<u8>, Failure> {
    let path = RequestPath::app(&args.app, &["kv", "list"])
        .with("collection", Some(&args.collection))
        .with("prefix", args.prefix.as_ref())
        .with("start", args.start.as_ref())
        .with("end", args.end.as_ref())
        .with("limit", Some(args.limit))
        .with("reverse", args.reverse.then_some(true))
        .with("values", args.values.then_some(true))
        .with("cursor", cursor);
    bytes(client.send(path.request("GET", Body::empty())?).await?).await
}

fn print_page(args: &ListArgs, page: &ListedPage) -> Result<(), Failure> {
    if !args.values {
        let rows = page.entries.iter().map(|entry| [entry.key.clone()]);
        return output::table(["KEY"], rows);
    }
    let rows = page.entries.iter().map(|entry| {
        let version = entry.version.map(|version| version.to_string());
        let updated = entry.updated_at.map(output::time);
        [
            entry.key.clone(),
            version.unwrap_or_default(),
            updated.unwrap_or_default(),
            entry.shown(),
        ]
    });
    output::table(["KEY", "VERSION", "UPDATED", "VALUE"], rows)
}

/// A value, shortened for a table.
pub(super) fn shown(json: Option<&RawValue>, bytes: Option<&str>) -> String {
    const CHARS_MAX: usize = 60;
    match (json, bytes) {
        (Some(json), _) => {
            let mut shown: String = json.get().chars().take(CHARS_MAX).collect();
            if shown.len() < json.get().len() {
                shown.push_str("...");
            }
            shown
        }
        (None, Some(base64)) => {
            let bytes = STANDARD.decode(base64).map_or(0, |bytes| bytes.len());
            format!("({bytes} bytes)")
        }
        (None, None) => String::new(),
    }
}

async fn collections(global: &Global, app: &AppName) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let mut names = Vec::new();
    let mut pages = Pages::default();
    let mut after = None;
    loop {
        let path = RequestPath::app(app, &["kv", "collections"]).with("after", after);
        let page: CollectionPage = client.get(&path).await?;
        names.extend(page.collections);
        after = pages.next(page.next)?;
        if after.is_none() {
            break;
        }
    }
    if global.json {
        output::json(&names)?;
    } else {
        output::table(["COLLECTION"], names.into_iter().map(|name| [name]))?;
    }
    Ok(CommandOutcome::Done)
}
