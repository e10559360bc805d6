//! `kvasm kv commit`, `get-many` and `increment`.

use super::client::{RequestPath, bytes, connect, set};
use super::failure::{CommandOutcome, Failure};
use super::kv::{At, ListedEntry};
use super::{Global, input, output};
use axum::body::Body;
use clap::Args;
use kvasm::api::{CommitDone, Done, Incremented};
use kvasm::model::AppName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::path::PathBuf;

pub(super) const COMMIT_HELP: &str = r#"Example:
  kvasm kv commit shop <<'END'
  {"checks":[{"collection":"orders","key":"7","version":0}],
   "operations":[{"set":{"collection":"orders","key":"7","json":{"total":3},"ttl_ms":60000}},
                 {"delete":{"collection":"carts","key":"7"}},
                 {"increment":{"collection":"counters","key":"orders","by":1}}]}
  END

Version 0 requires that the entry does not exist. For bytes, use "bytes" (base64), not "json"."#;

pub(super) const GET_MANY_HELP: &str = r#"Example:
  echo '{"keys":[{"collection":"orders","key":"7"},{"collection":"orders","key":"8"}]}' |
    kvasm kv get-many shop"#;

#[derive(Args)]
pub(super) struct Input {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Read the JSON from this file [default: standard input]
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Sends the JSON unchanged, so that numbers keep all their digits.
async fn send(global: &Global, input: Input, route: &str) -> Result<Vec<u8>, Failure> {
    let body = match &input.file {
        Some(path) => input::file(path)?,
        None => input::stdin()?,
    };
    let body = input::json(body)?;
    let client = connect(global).await?;
    let path = RequestPath::app(&input.app, &["kv", route]);
    let mut request = path.request("POST", Body::from(body))?;
    set(&mut request, "content-type", "application/json");
    bytes(client.send(request).await?).await
}

pub(super) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer)
        .map_err(|e| Failure::host(format!("the server sent an invalid response: {e}")))
}

pub(super) async fn commit(global: &Global, input: Input) -> Result<CommandOutcome, Failure> {
    let answer = send(global, input, "commit").await?;
    if global.json {
        output::json_line(&answer)?;
        return Ok(CommandOutcome::Done);
    }
    let done: CommitDone = parse(&answer)?;
    if done.results.is_empty() {
        output::object(false, &json!({}), || "All checks passed.".to_owned())?;
        return Ok(CommandOutcome::Done);
    }
    let rows = done.results.iter().enumerate();
    output::table(
        ["OPERATION", "RESULT"],
        rows.map(|(at, done)| [at.to_string(), result(done)]),
    )?;
    Ok(CommandOutcome::Done)
}

fn result(done: &Done) -> String {
    match (done.version, done.value, done.existed) {
        (Some(version), Some(value), _) => format!("now {value}, version {version}"),
        (Some(version), None, _) => format!("version {version}"),
        (None, _, Some(true)) => "deleted".to_owned(),
        (None, _, _) => "no such entry".to_owned(),
    }
}

#[derive(Deserialize)]
struct ReadEntries {
    entries: Vec<Option<ListedEntry>>,
}

pub(super) async fn get_many(global: &Global, input: Input) -> Result<CommandOutcome, Failure> {
    let answer = send(global, input, "get-many").await?;
    if global.json {
        output::json_line(&answer)?;
        return Ok(CommandOutcome::Done);
    }
    let ReadEntries { entries } = parse(&answer)?;
    let rows = entries.iter().flatten().map(|entry| {
        let version = entry.version.map(|version| version.to_string());
        let updated = entry.updated_at.map(output::time);
        [
            entry.collection.clone().unwrap_or_default(),
            entry.key.clone(),
            version.unwrap_or_default(),
            updated.unwrap_or_default(),
            entry.shown(),
        ]
    });
    output::table(["COLLECTION", "KEY", "VERSION", "UPDATED", "VALUE"], rows)?;
    let absent = entries.iter().filter(|entry| entry.is_none()).count();
    if absent > 0 {
        output::note(&format!("{absent} of {} not found.", entries.len()));
    }
    Ok(CommandOutcome::Done)
}

pub(super) async fn increment(
    global: &Global,
    at: &At,
    by: i64,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(&at.app, &["kv", "increment"])
        .with("collection", Some(&at.collection))
        .with("key", Some(&at.key))
        .with("by", Some(by));
    let request = path.request("POST", Body::empty())?;
    let done: Incremented = parse(&bytes(client.send(request).await?).await?)?;
    output::object(global.json, &json!(done), || {
        format!("Now {}, version {}.", done.value, done.version)
    })?;
    Ok(CommandOutcome::Done)
}
