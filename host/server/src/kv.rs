//! An app's entries, for administrators.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody, content_type};
use super::export::{EntryLine, line_bytes};
use super::param_types;
use super::params::{Params, Segments, page_limit};
use super::preconditions::{Preconditions, set_etag};
use super::problem::{Kind, Problem};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kvasm_api::{CollectionPage, Written};
use kvasm_core::{Capability, Collection, Cursor, Entry, Key, KeyRange, Timestamp, Value};
use kvasm_service::{Caller, List};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const CREATED_AT: HeaderName = HeaderName::from_static("kvasm-created-at");
const UPDATED_AT: HeaderName = HeaderName::from_static("kvasm-updated-at");
const EXPIRES_AT: HeaderName = HeaderName::from_static("kvasm-expires-at");

/// The address of an entry. It is not in the path: a key may be any text, such as `..`, which
/// clients and proxies would normalise in a path.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryParams {
    /// Collection of the entry.
    collection: String,
    /// Key of the entry.
    key: String,
}

impl EntryParams {
    fn parse(self) -> Result<(Collection, Key), Problem> {
        Ok((Collection::parse(self.collection)?, Key::parse(self.key)?))
    }
}

fn entry_not_found() -> Problem {
    Problem::new(
        Kind::EntryNotFound,
        "the collection has no entry with this key",
    )
}

/// Reads an entry: its value as the body, its version as the ETag, its times in headers.
///
/// With `If-None-Match: "version"` the response is 304 if it still has that version.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/entry", tag = "kv",
    params(("app" = String, Path), EntryParams),
    responses((status = 200, content((serde_json::Value = "application/json"),
        (Vec<u8> = "application/octet-stream"))), (status = 304, description = "It has that version")),
    security(("token" = ["script:read"])))]
pub(super) async fn get(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<EntryParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let (collection, key) = params.parse()?;
    let preconditions = Preconditions::of(&headers)?;
    let caller = Caller::administrator(&app, &actor);
    let entry = shared.host.kv().get(&caller, &collection, &key).await?;
    let entry = entry.ok_or_else(entry_not_found)?;
    match preconditions.check_read(&entry.version.0.to_string())? {
        Some(answer) => Ok(answer),
        None => Ok(entry_response(entry)),
    }
}

fn entry_response(entry: Entry) -> Response {
    let mut headers = HeaderMap::new();
    let (content_type, bytes) = match entry.value {
        Value::Json(text) => ("application/json", text.into_string().into_bytes()),
        Value::Bytes(bytes) => ("application/octet-stream", bytes),
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut time = |name, at: Timestamp| headers.insert(name, HeaderValue::from(at.0));
    time(CREATED_AT, entry.created_at);
    time(UPDATED_AT, entry.updated_at);
    if let Some(at) = entry.expires_at {
        time(EXPIRES_AT, at);
    }
    let mut response = (headers, bytes).into_response();
    set_etag(&mut response, &entry.version.0.to_string());
    response
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PutParams {
    /// Collection of the entry.
    collection: String,
    /// Key of the entry.
    key: String,
    /// Expire the entry after this many milliseconds.
    ttl_ms: Option<u64>,
}

/// Writes an entry: JSON if that is the body's content type, else bytes.
///
/// With `If-Match: "version"`, only if the entry has that version; with `If-Match: *`, only if it
/// exists; with `If-None-Match: *`, only if it does not exist.
#[utoipa::path(put, path = "/v1/apps/{app}/kv/entry", tag = "kv",
    params(("app" = String, Path), PutParams),
    request_body(content((serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, body = Written)), security(("token" = ["script:write"])))]
pub(super) async fn put(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<PutParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    shared.host.admit_write(&app)?;
    let PutParams {
        collection,
        key,
        ttl_ms,
    } = params;
    let (collection, key) = EntryParams { collection, key }.parse()?;
    let preconditions = Preconditions::of(&headers)?;
    body::require_type(&headers, &["application/json", "application/octet-stream"])?;
    let limit = shared.host.limits().value_bytes;
    let bytes = body::read(&shared, body, limit).await?;
    let value = match content_type(&headers).as_str() {
        "application/json" => {
            let len = bytes.len();
            let parse = move || Value::json(bytes, limit);
            shared.aside.by_size(app.id, len, parse).await?
        }
        _ => Value::bytes(bytes, limit)?,
    };
    let caller = Caller::administrator(&app, &actor);
    let expires_at = Timestamp::now().expiry(ttl_ms)?;
    let set = |expect| {
        let at = (collection.clone(), key.clone());
        let (kv, caller) = (shared.host.kv(), &caller);
        kv.set(caller, at, value.clone(), expires_at, expect)
    };
    let place = (&collection, &key);
    let version = preconditions.guard(&shared, &app, place, set).await?;
    let mut response = JsonBody(Written { version: version.0 }).into_response();
    set_etag(&mut response, &version.0.to_string());
    Ok(response)
}

/// Deletes an entry; with `If-Match: "version"`, only if it has that version.
#[utoipa::path(delete, path = "/v1/apps/{app}/kv/entry", tag = "kv",
    params(("app" = String, Path), EntryParams), responses((status = 204)),
    security(("token" = ["script:write"])))]
pub(super) async fn delete(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<EntryParams>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    shared.host.admit_write(&app)?;
    let (collection, key) = params.parse()?;
    let preconditions = Preconditions::of(&headers)?;
    let caller = Caller::administrator(&app, &actor);
    let delete = |expect| {
        let at = (collection.clone(), key.clone());
        shared.host.kv().delete(&caller, at, expect)
    };
    let place = (&collection, &key);
    match preconditions.guard(&shared, &app, place, delete).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(entry_not_found()),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryListParams {
    /// The collection to list.
    collection: String,
    /// Only keys with this prefix.
    prefix: Option<String>,
    /// Only keys greater than or equal to this one.
    start: Option<String>,
    /// Only keys less than this one.
    end: Option<String>,
    /// Cursor of the page.
    cursor: Option<String>,
    /// Maximum number of entries, 1 to 1,000; 100 by default.
    limit: Option<u32>,
    /// List keys in descending order.
    #[serde(default)]
    reverse: bool,
    /// Include values.
    #[serde(default)]
    values: bool,
}

/// A page of a collection.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryPage {
    /// In the order of their keys; with values if requested.
    entries: Vec<EntryLine>,
    /// Cursor of the next page, to pass as `cursor` with the same parameters; absent on the last
    /// page.
    cursor: Option<String>,
}

/// Lists a collection.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/list", tag = "kv",
    params(("app" = String, Path), EntryListParams), responses((status = 200, body = EntryPage)),
    security(("token" = ["script:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<EntryListParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let range = KeyRange::parse(bytes(params.prefix), bytes(params.start), bytes(params.end))?;
    let cursor = params.cursor.map(|text| {
        let bytes = URL_SAFE_NO_PAD.decode(&text);
        let refuse = |_| {
            param_types::invalid_parameter("cursor", &text, "the `cursor` of the previous page")
        };
        let bytes = bytes.map_err(refuse)?;
        Ok::<_, Problem>(Cursor::parse(bytes)?)
    });
    let list = List {
        collection: Collection::parse(params.collection)?,
        range,
        cursor: cursor.transpose()?,
        limit: Some(params.limit.unwrap_or(100)),
        reverse: params.reverse,
        with_values: params.values,
    };
    let caller = Caller::administrator(&app, &actor);
    let listing = shared.host.kv().list(&caller, list).await?;
    let sizes = listing.entries.iter();
    let sizes = sizes.map(|(key, entry)| line_bytes(key, entry.as_ref()));
    let bytes = sizes.sum();
    let page = move || {
        let entries = listing.entries.iter();
        let entries = entries.map(|(key, entry)| EntryLine::new(None, key, entry.as_ref()));
        let cursor = listing.cursor;
        Ok(EntryPage {
            entries: entries.collect::<Result<_, _>>()?,
            cursor: cursor.map(|cursor| URL_SAFE_NO_PAD.encode(cursor.as_bytes())),
        })
    };
    body::large_answer(&shared, app.id, bytes, page).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CollectionParams {
    /// Cursor of the page.
    after: Option<String>,
    /// Maximum number of collections, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Lists an app's collections.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/collections", tag = "kv",
    params(("app" = String, Path), CollectionParams),
    responses((status = 200, body = CollectionPage)), security(("token" = ["script:read"])))]
pub(super) async fn collections(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<CollectionParams>,
) -> Result<JsonBody<CollectionPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let limit = page_limit(params.limit)?;
    let after = params.after.map(|name| {
        let refuse =
            |_| param_types::invalid_parameter("after", &name, "the `next` of the previous page");
        Collection::parse(name.as_str()).map_err(refuse)
    });
    let after = after.transpose()?;
    let caller = Caller::administrator(&app, &actor);
    let kv = shared.host.kv();
    let names = kv.collections(&caller, after.as_ref(), limit).await?;
    let full = names.len() == limit as usize;
    Ok(JsonBody(CollectionPage {
        next: names.last().filter(|_| full).map(ToString::to_string),
        collections: names.iter().map(ToString::to_string).collect(),
    }))
}
