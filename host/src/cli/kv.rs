//! `kvasm kv`: the operator's own calls, made as public calls of the app.

use super::failure::{Failure, Outcome};
use super::run::argument;
use super::{Global, open, output, transfer};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};
use kvasm::Host;
use kvasm::model::{
    App, AppName, Collection, Cursor, Entry, Expect, Key, KeyRange, Limits, Timestamp, Value,
    Version,
};
use kvasm::service::{Caller, List, Write as KvWrite};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print an entry's value
    Get {
        #[command(flatten)]
        at: At,
    },
    /// Write an entry
    Set {
        #[command(flatten)]
        at: At,
        /// The value: JSON text, @FILE, or - for standard input
        value: String,
        /// The value is bytes, not JSON
        #[arg(long)]
        bytes: bool,
        /// The entry is absent after this time, such as 90s or 2h
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<std::time::Duration>,
        /// Write only if the entry has this version; 0: only if there is none
        #[arg(long)]
        if_version: Option<u64>,
    },
    /// Say whether there is an entry: true, or false and exit code 1
    Has {
        #[command(flatten)]
        at: At,
    },
    /// Delete an entry; exit code 1 if there was none
    Delete {
        #[command(flatten)]
        at: At,
        /// Delete only if the entry has this version
        #[arg(long)]
        if_version: Option<u64>,
    },
    /// List a collection, a page at a time
    List(ListArgs),
    /// List an app's collections
    Collections {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Write an app's entries to standard output as JSON Lines
    Export {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// Of this collection alone
        #[arg(value_parser = collection)]
        collection: Option<Collection>,
    },
    /// Read entries as JSON Lines, as `export` writes them, from standard input
    Import {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
}

/// Where an entry is.
#[derive(Args)]
pub(super) struct At {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    #[arg(value_parser = collection)]
    collection: Collection,
    #[arg(value_parser = key)]
    key: Key,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    #[arg(value_parser = collection)]
    collection: Collection,
    /// Only keys that start with this
    #[arg(long)]
    prefix: Option<String>,
    /// Only keys at or after this
    #[arg(long)]
    start: Option<String>,
    /// Only keys before this
    #[arg(long)]
    end: Option<String>,
    /// Descending keys
    #[arg(long)]
    reverse: bool,
    /// The most entries in the page
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Print the values too
    #[arg(long)]
    values: bool,
    /// Go on where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

fn collection(text: &str) -> Result<Collection, kvasm::model::Invalid> {
    Collection::parse(text)
}

fn key(text: &str) -> Result<Key, kvasm::model::Invalid> {
    Key::parse(text)
}

pub(super) async fn run(global: &Global, command: Command) -> Result<Outcome, Failure> {
    let host = open::host(global).await?;
    match command {
        Command::Get { at } => get(global, &host, at).await,
        Command::Set {
            at,
            value,
            bytes,
            ttl,
            if_version,
        } => {
            let limit = Limits::default().value_bytes;
            let text = argument(&value, limit)?;
            let value = if bytes {
                Value::bytes(text, limit)?
            } else {
                Value::json(text, limit)?
            };
            let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let app = open::app(&host, &at.app).await?;
            let write = KvWrite {
                collection: at.collection,
                key: at.key,
                value,
                ttl_ms,
                expect: expect(if_version),
            };
            let version = host.kv().set(&Caller::new(&app, None), write).await?;
            output::object(global.json, &json!({ "version": version }), || {
                format!("Version {}.", version.0)
            })?;
            Ok(Outcome::Done)
        }
        Command::Has { at } => {
            let app = open::app(&host, &at.app).await?;
            let caller = Caller::new(&app, None);
            let has = host.kv().has(&caller, &at.collection, &at.key).await?;
            output::object(global.json, &json!({ "has": has }), || has.to_string())?;
            Ok(if has { Outcome::Done } else { Outcome::Absent })
        }
        Command::Delete { at, if_version } => {
            let app = open::app(&host, &at.app).await?;
            let caller = Caller::new(&app, None);
            let deleted = host
                .kv()
                .delete(&caller, at.collection, at.key, expect(if_version))
                .await?;
            output::object(global.json, &json!({ "deleted": deleted }), || {
                let text = if deleted {
                    "Deleted."
                } else {
                    "There was no such entry."
                };
                text.to_owned()
            })?;
            Ok(if deleted {
                Outcome::Done
            } else {
                Outcome::Absent
            })
        }
        Command::List(list) => list_page(global, &host, list).await,
        Command::Collections { app } => {
            let app = open::app(&host, &app).await?;
            let names = transfer::collections(&host, &app).await?;
            let names: Vec<_> = names.iter().map(Collection::to_string).collect();
            if global.json {
                output::object(true, &json!(names), String::new)?;
            } else {
                output::table(["COLLECTION"], names.into_iter().map(|name| [name]))?;
            }
            Ok(Outcome::Done)
        }
        Command::Export { app, collection } => {
            let app = open::app(&host, &app).await?;
            transfer::export(&host, &app, collection).await
        }
        Command::Import { app } => {
            let app = open::app(&host, &app).await?;
            transfer::import(global, &host, &app).await
        }
    }
}

fn expect(if_version: Option<u64>) -> Option<Expect> {
    if_version.map(|version| match version {
        0 => Expect::Absent,
        version => Expect::Version(Version(version)),
    })
}

async fn get(global: &Global, host: &Host, at: At) -> Result<Outcome, Failure> {
    let app: App = open::app(host, &at.app).await?;
    let caller = Caller::new(&app, None);
    let Some(entry) = host.kv().get(&caller, &at.collection, &at.key).await? else {
        if global.json {
            output::object(true, &serde_json::Value::Null, String::new)?;
        } else {
            eprintln!("There is no such entry.");
        }
        return Ok(Outcome::Absent);
    };
    if global.json {
        output::json(&object(None, Some(&entry))?)?;
        return Ok(Outcome::Done);
    }
    let mut bytes = entry.value.as_bytes().to_vec();
    if matches!(entry.value, Value::Json(_)) {
        bytes.push(b'\n');
    }
    output::raw(&bytes)?;
    Ok(Outcome::Done)
}

/// An entry as JSON. Its own JSON is passed on to the letter, so that no digit
/// of a number is lost.
#[derive(Serialize)]
struct EntryObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(flatten)]
    times: Option<Times>,
}

#[derive(Serialize)]
struct Times {
    version: Version,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Option<Timestamp>,
}

fn object<'a>(key: Option<&'a Key>, entry: Option<&'a Entry>) -> Result<EntryObject<'a>, Failure> {
    let (json, bytes) = match entry.map(|entry| &entry.value) {
        None => (None, None),
        Some(Value::Bytes(bytes)) => (None, Some(STANDARD.encode(bytes))),
        Some(Value::Json(text)) => {
            let json = serde_json::from_str(text.as_str())
                .map_err(|e| Failure::host(format!("a stored value is damaged: {e}")))?;
            (Some(json), None)
        }
    };
    Ok(EntryObject {
        key: key.map(Key::as_str),
        json,
        bytes,
        times: entry.map(|entry| Times {
            version: entry.version,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
            expires_at: entry.expires_at,
        }),
    })
}

#[derive(Serialize)]
struct PageObject<'a> {
    entries: Vec<EntryObject<'a>>,
    cursor: Option<&'a str>,
}

async fn list_page(global: &Global, host: &Host, args: ListArgs) -> Result<Outcome, Failure> {
    let app = open::app(host, &args.app).await?;
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let range = KeyRange::parse(bytes(args.prefix), bytes(args.start), bytes(args.end))?;
    let list = List {
        collection: args.collection,
        range,
        cursor: args.cursor.map(parse_cursor).transpose()?,
        limit: Some(args.limit),
        reverse: args.reverse,
        with_values: args.values,
    };
    let listing = host.kv().list(&Caller::new(&app, None), list).await?;
    let cursor = listing.cursor.map(|c| URL_SAFE_NO_PAD.encode(c.as_bytes()));
    if global.json {
        let objects = listing
            .entries
            .iter()
            .map(|(k, e)| object(Some(k), e.as_ref()));
        let entries = objects.collect::<Result<_, Failure>>()?;
        output::json(&PageObject {
            entries,
            cursor: cursor.as_deref(),
        })?;
        return Ok(Outcome::Done);
    }
    if args.values {
        let rows = listing.entries.iter().filter_map(|(key, entry)| {
            let entry = entry.as_ref()?;
            let version = entry.version.0.to_string();
            let updated = output::time(entry.updated_at);
            Some([key.to_string(), version, updated, shown(&entry.value)])
        });
        output::table(["KEY", "VERSION", "UPDATED", "VALUE"], rows)?;
    } else {
        let rows = listing.entries.iter().map(|(key, _)| [key.to_string()]);
        output::table(["KEY"], rows)?;
    }
    if let Some(cursor) = cursor {
        eprintln!("More: --cursor {cursor}");
    }
    Ok(Outcome::Done)
}

fn parse_cursor(text: String) -> Result<Cursor, Failure> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Failure::user("the cursor is damaged; copy it whole"))?;
    Ok(Cursor::parse(bytes)?)
}

/// A value as far as a table has room for it.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    match value {
        Value::Bytes(bytes) => format!("({} bytes)", bytes.len()),
        Value::Json(text) => {
            let mut shown: String = text.as_str().chars().take(CHARS_MAX).collect();
            if shown.len() < text.as_str().len() {
                shown.push_str("...");
            }
            shown
        }
    }
}
