//! Dead letters.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Params, Segments, check_range, page_limit, refused};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use kvasm_api::{DeadLetterPage, DeadLetterView, LettersDone, LettersRequest};
use kvasm_core::{
    Capability, DeadLetter, DeadLetterFilter, DeadReason, EventKind, Timestamp, TriggerName,
};
use kvasm_service::DEAD_LETTERS_MAX;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LetterParams {
    /// Only those of this trigger.
    trigger: Option<String>,
    /// Only those with this reason: `attempts`, `age`, `deterministic` or `depth`.
    reason: Option<String>,
    /// Only those that became dead letters at or after this time.
    from: Option<i64>,
    /// Only those that became dead letters before this time.
    until: Option<i64>,
    /// Cursor of the page.
    before: Option<String>,
    /// Maximum number of dead letters, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Builds a selection of dead letters, and validates each field.
fn dead_letter_filter(
    trigger: Option<&str>,
    reason: Option<&str>,
    from: Option<i64>,
    until: Option<i64>,
) -> Result<DeadLetterFilter, Problem> {
    let reason = reason.map(|word| {
        let refuse = |()| refused("`reason` must be attempts, age, deterministic or depth");
        word.parse::<DeadReason>().map_err(refuse)
    });
    check_range("from", from, until)?;
    Ok(DeadLetterFilter {
        ids: Vec::new(),
        trigger: trigger.map(TriggerName::parse).transpose()?,
        reason: reason.transpose()?,
        from: from.map(Timestamp),
        until: until.map(Timestamp),
    })
}

/// Approximate size of a dead letter as JSON.
fn letter_bytes(letter: &DeadLetter) -> usize {
    const FRAME: usize = 500;
    let value = match &letter.event.kind {
        EventKind::Set { value, .. } => value.as_bytes().len(),
        EventKind::Timer { payload, .. } => payload.as_bytes().len(),
        EventKind::Deleted { .. } | EventKind::Due => 0,
    };
    let trace = letter.trace.as_ref().map_or(0, String::len);
    FRAME + value + letter.error.len() + trace
}

fn letter_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| refused("the id of a dead letter must be a UUID"))
}

/// Lists dead letters, newest first, with their events and values.
#[utoipa::path(get, path = "/v1/apps/{app}/dead-letters", tag = "triggers",
    params(("app" = String, Path), LetterParams), responses((status = 200, body = DeadLetterPage)),
    security(("token" = ["script:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<LetterParams>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let (trigger, reason) = (params.trigger.as_deref(), params.reason.as_deref());
    let letters = dead_letter_filter(trigger, reason, params.from, params.until)?;
    let before = params.before.as_deref().map(letter_id).transpose()?;
    let limit = page_limit(params.limit)?;
    let admin = shared.host.admin();
    let page = admin.dead_letters(&actor, &app, &letters, before, limit);
    let page = page.await?;
    let last = page.rows.last().filter(|_| page.more);
    let next = last.map(|letter| letter.id.to_string());
    let bytes = page.rows.iter().map(letter_bytes).sum();
    let page = move || {
        let dead_letters = page.rows.iter().map(DeadLetterView::new);
        let dead_letters = dead_letters.collect::<Result<_, _>>()?;
        Ok(DeadLetterPage { dead_letters, next })
    };
    body::large_answer(&shared, app.id, bytes, page).await
}

/// Returns a dead letter.
#[utoipa::path(get, path = "/v1/apps/{app}/dead-letters/{id}", tag = "triggers",
    params(("app" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = DeadLetterView)), security(("token" = ["script:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, id)): Segments<(String, String)>,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let id = letter_id(&id)?;
    let letter = shared.host.admin().dead_letter(&actor, &app, id).await?;
    let bytes = letter_bytes(&letter);
    let view = move || DeadLetterView::new(&letter);
    body::large_answer(&shared, app.id, bytes, view).await
}

/// The selection that a request means. An empty selection would mean all, so that must be explicit:
/// an empty list of ids or a missing name discards nothing.
fn parse_selection(request: &LettersRequest) -> Result<DeadLetterFilter, Problem> {
    let (trigger, reason) = (request.trigger.as_deref(), request.reason.as_deref());
    let mut letters = dead_letter_filter(trigger, reason, request.from, request.until)?;
    letters.ids = selection_ids("ids", request.ids.as_deref())?;
    let is_all = letters == DeadLetterFilter::default();
    check_selection(is_all, request.all, "ids, trigger, reason, from or until")?;
    Ok(letters)
}

/// The ids of a selection; at least one if the field is present.
pub(super) fn selection_ids(member: &str, ids: Option<&[String]>) -> Result<Vec<Uuid>, Problem> {
    let Some(ids) = ids else {
        return Ok(Vec::new());
    };
    if ids.is_empty() || ids.len() > DEAD_LETTERS_MAX as usize {
        let found = ids.len();
        let why = format!("`{member}` has {found} ids; it must have 1 to {DEAD_LETTERS_MAX}");
        return Err(refused(why));
    }
    let ids = ids.iter().map(|id| Uuid::try_parse(id));
    ids.collect::<Result<_, _>>()
        .map_err(|_| refused(format!("each id in `{member}` must be a UUID")))
}

/// Refuses a selection of everything without `all`, or of `all` together with other conditions.
pub(super) fn check_selection(is_all: bool, says_all: bool, members: &str) -> Result<(), Problem> {
    match (is_all, says_all) {
        (true, false) => Err(refused(format!(
            "the selection is empty; set {members}, or \"all\": true for all of the app"
        ))),
        (false, true) => Err(refused("`all` cannot be combined with other conditions")),
        (true, true) | (false, false) => Ok(()),
    }
}

/// Replays dead letters, oldest first, with the original ids of their events.
#[utoipa::path(post, path = "/v1/apps/{app}/dead-letters/replay", tag = "triggers",
    params(("app" = String, Path)), request_body = LettersRequest,
    responses((status = 200, body = LettersDone)), security(("token" = ["script:write"])))]
pub(super) async fn replay(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<LettersDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    let request: LettersRequest = body::json(&shared, &headers, body).await?;
    let letters = parse_selection(&request)?;
    let limit = request.limit.unwrap_or(DEAD_LETTERS_MAX);
    let dry_run = request.dry_run;
    let admin = shared.host.admin();
    let replay = admin.replay(&actor, &app, letters, limit, dry_run);
    let letters = replay.await?;
    // So that a dispatcher of this host need not wait for its next poll.
    shared.host.notifier().wake();
    Ok(JsonBody(LettersDone { letters, dry_run }))
}

/// Permanently discards dead letters, oldest first.
#[utoipa::path(post, path = "/v1/apps/{app}/dead-letters/discard", tag = "triggers",
    params(("app" = String, Path)), request_body = LettersRequest,
    responses((status = 200, body = LettersDone)), security(("token" = ["script:write"])))]
pub(super) async fn discard(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<LettersDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    let request: LettersRequest = body::json(&shared, &headers, body).await?;
    let letters = parse_selection(&request)?;
    let limit = request.limit.unwrap_or(DEAD_LETTERS_MAX);
    let dry_run = request.dry_run;
    let admin = shared.host.admin();
    let done = admin.discard(&actor, &app, letters, limit, dry_run);
    Ok(JsonBody(LettersDone {
        letters: done.await?,
        dry_run,
    }))
}
