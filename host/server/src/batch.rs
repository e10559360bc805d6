//! Operations on several entries: batches, reads of many, and increments.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::export::{EntryLine, InvalidLine, line_bytes, value};
use super::params::{Params, Segments, refused};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kvasm_api::{
    CommitDone, CommitRequest, Done, EntryRef, GetManyRequest, Incremented, Operation, Precondition,
};
use kvasm_core::{Batch, Capability, Check, Collection, Expect, Key, Op, Timestamp};
use kvasm_service::{Caller, ServiceError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

/// Parses the collection and key of an item.
fn place(collection: String, key: String) -> Result<(Collection, Key), String> {
    let collection = Collection::parse(collection).map_err(|e| e.to_string())?;
    let key = Key::parse(key).map_err(|e| e.to_string())?;
    Ok((collection, key))
}

/// Converts the items of a list for the service. An error names the item by its index from 0.
fn each<T, U>(
    name: &str,
    parts: Vec<T>,
    parse: impl Fn(T) -> Result<U, String>,
) -> Result<Vec<U>, Problem> {
    let parts = parts.into_iter().enumerate();
    let parts = parts.map(|(at, part)| {
        let parsed = parse(part);
        parsed.map_err(|why| refused(format!("{name}[{at}]: {why}")))
    });
    parts.collect()
}

fn check(part: Precondition) -> Result<Check, String> {
    let (collection, key) = place(part.collection, part.key)?;
    Ok(Check {
        collection,
        key,
        expect: Expect::of_version(part.version),
    })
}

fn operation(part: Operation, now: Timestamp, value_bytes: usize) -> Result<Op, String> {
    Ok(match part {
        Operation::Set {
            collection,
            key,
            json,
            bytes,
            ttl_ms,
        } => {
            let (collection, key) = place(collection, key)?;
            Op::Set {
                collection,
                key,
                value: value(json, bytes, value_bytes).map_err(InvalidLine::why)?,
                expires_at: now.expiry(ttl_ms).map_err(|invalid| invalid.to_string())?,
            }
        }
        Operation::Delete { collection, key } => {
            let (collection, key) = place(collection, key)?;
            Op::Delete { collection, key }
        }
        Operation::Increment {
            collection,
            key,
            by,
        } => {
            let (collection, key) = place(collection, key)?;
            Op::Increment {
                collection,
                key,
                delta: by,
            }
        }
    })
}

/// Applies checks and operations atomically.
///
/// If a check fails, the response is 412, and its `failed` lists the entries whose check failed.
#[utoipa::path(post, path = "/v1/apps/{app}/kv/commit", tag = "kv",
    params(("app" = String, Path)), request_body = CommitRequest,
    responses((status = 200, body = CommitDone)), security(("token" = ["script:write"])))]
pub(super) async fn commit(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<CommitDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    shared.host.admit_write(&app)?;
    let limit = shared.host.limits().body_bytes();
    let value_bytes = shared.host.limits().value_bytes;
    let batch = move |request| batch(request, value_bytes);
    let batch = body::large_json(&shared, app.id, &headers, body, limit, batch).await?;
    let checks = batch.checks.clone();
    let caller = Caller::administrator(&app, &actor);
    let applied = shared.host.kv().commit(&caller, batch).await;
    let applied = applied.map_err(|error| problem(error, &checks))?;
    Ok(JsonBody(CommitDone {
        results: applied.iter().map(Done::from).collect(),
    }))
}

fn batch(request: CommitRequest, value_bytes: usize) -> Result<Batch, Problem> {
    if request.checks.is_empty() && request.operations.is_empty() {
        return Err(refused("the batch has neither checks nor operations"));
    }
    let now = Timestamp::now();
    let op = |part| operation(part, now, value_bytes);
    Ok(Batch {
        checks: each("checks", request.checks, check)?,
        ..Batch::of(each("operations", request.operations, op)?)
    })
}

/// The problem of a failed batch, with the entries whose checks failed.
fn problem(error: ServiceError, checks: &[Check]) -> Problem {
    let ServiceError::Conflict { failed } = &error else {
        return error.into();
    };
    let failed = failed.iter().filter_map(|at| checks.get(*at));
    let failed = failed
        .map(|check| json!({ "collection": check.collection.as_str(), "key": check.key.as_str() }));
    let failed = failed.collect();
    Problem::from(error).with_failed_checks(failed)
}

/// Entries read from one snapshot.
#[derive(Serialize, ToSchema)]
pub(super) struct Entries {
    /// In the order of the keys, from one snapshot; `null` for an entry that does not exist.
    entries: Vec<Option<EntryLine>>,
}

/// Reads several entries from one snapshot; at most 4 MiB of values.
#[utoipa::path(post, path = "/v1/apps/{app}/kv/get-many", tag = "kv",
    params(("app" = String, Path)), request_body = GetManyRequest,
    responses((status = 200, body = Entries)), security(("token" = ["script:read"])))]
pub(super) async fn get_many(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let limit = shared.host.limits().body_bytes();
    let keys = |request: GetManyRequest| {
        each("keys", request.keys, |EntryRef { collection, key }| {
            place(collection, key)
        })
    };
    let keys = body::large_json(&shared, app.id, &headers, body, limit, keys).await?;
    let caller = Caller::administrator(&app, &actor);
    let found = shared.host.kv().get_many(&caller, &keys).await?;
    let sizes = keys.iter().zip(&found);
    let sizes = sizes.map(|((_, key), entry)| line_bytes(key, entry.as_ref()));
    let bytes = sizes.sum();
    let entries = move || {
        let entries = keys.iter().zip(&found).map(|((collection, key), entry)| {
            let line = |entry| EntryLine::new(Some(collection), key, Some(entry));
            entry.as_ref().map(line).transpose()
        });
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Entries { entries })
    };
    body::large_answer(&shared, app.id, bytes, entries).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct IncrementParams {
    /// Collection of the entry.
    collection: String,
    /// Key of the entry.
    key: String,
    /// The amount to add; 1 by default.
    by: Option<i64>,
}

/// Adds to an entry whose value is a JSON integer; an absent entry counts as 0.
#[utoipa::path(post, path = "/v1/apps/{app}/kv/increment", tag = "kv",
    params(("app" = String, Path), IncrementParams), responses((status = 200, body = Incremented)),
    security(("token" = ["script:write"])))]
pub(super) async fn increment(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<IncrementParams>,
) -> Result<JsonBody<Incremented>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    shared.host.admit_write(&app)?;
    let IncrementParams {
        collection,
        key,
        by,
    } = params;
    let (collection, key) = (Collection::parse(collection)?, Key::parse(key)?);
    let caller = Caller::administrator(&app, &actor);
    let kv = shared.host.kv();
    let added = kv.increment(&caller, (collection, key), by.unwrap_or(1));
    let (version, value) = added.await?;
    Ok(JsonBody(Incremented {
        version: version.0,
        value,
    }))
}
