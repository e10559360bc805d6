//! Triggers of an app.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::params::{Params, Segments, refused};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use kvasm_api::{TriggerPage, TriggerPut, TriggerView};
use kvasm_core::{
    Capability, Changes, Collection, HttpUrl, NewTrigger, Policy, Schedule, SettingName, Target,
    TriggerName, Watch, Webhook,
};
use kvasm_service::{Actor, OnTriggerDelete, SeenGeneration};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Lists an app's triggers: those of its plugin and those of operators.
#[utoipa::path(get, path = "/v1/apps/{app}/triggers", tag = "triggers",
    params(("app" = String, Path)), responses((status = 200, body = TriggerPage)),
    security(("token" = ["app:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
) -> Result<JsonBody<TriggerPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppRead).await?;
    let triggers = shared.host.admin().triggers(&actor, &app).await?;
    Ok(JsonBody(TriggerPage {
        triggers: triggers.iter().map(TriggerView::from).collect(),
    }))
}

/// Creates a trigger, or replaces the existing one completely.
///
/// It is not paused afterwards, and one that the plugin declares becomes the operator's.
#[utoipa::path(put, path = "/v1/apps/{app}/triggers/{name}", tag = "triggers",
    params(("app" = String, Path), ("name" = String, Path)), request_body = TriggerPut,
    responses((status = 200, body = TriggerView)), security(("token" = ["app:admin"])))]
pub(super) async fn set(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, trigger)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<TriggerView>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let name = TriggerName::parse(&trigger)?;
    let put: TriggerPut = body::json(&shared, &headers, body).await?;
    let trigger = parse_trigger(name, put)?;
    let admin = shared.host.admin();
    let trigger = admin.set_trigger(&actor, &app, trigger).await?;
    Ok(JsonBody(TriggerView::from(&trigger)))
}

/// Validates an operator's trigger.
fn parse_trigger(name: TriggerName, put: TriggerPut) -> Result<NewTrigger, Problem> {
    let default = Policy::default();
    let policy = Policy {
        attempts_max: put.attempts_max.unwrap_or(default.attempts_max),
        age_max: put
            .age_max_ms
            .map_or(default.age_max, Duration::from_millis),
    };
    let target = target(&name, put.function, put.url, put.secret)?;
    let watch = match (put.collection, put.schedule) {
        (Some(collection), None) => changes(collection, put.prefix, put.on)?,
        (None, Some(schedule)) => {
            if put.prefix.is_some() || put.on.is_some() {
                return Err(refused(
                    "`prefix` and `on` cannot be combined with `schedule`",
                ));
            }
            Watch::Schedule(Schedule::parse(&schedule)?)
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(refused("a trigger needs either `collection` or `schedule`"));
        }
    };
    Ok(NewTrigger {
        name,
        watch,
        target,
        policy,
    })
}

/// Validates where the events of a trigger go.
fn target(
    name: &TriggerName,
    function: Option<String>,
    url: Option<String>,
    secret: Option<String>,
) -> Result<Target, Problem> {
    match (function, url, secret) {
        (function, None, None) => Ok(Target::Function(
            function.unwrap_or_else(|| name.to_string()),
        )),
        (None, Some(url), Some(secret)) => Ok(Target::Webhook(Webhook {
            url: HttpUrl::parse(&url)?,
            secret: SettingName::parse(&secret)?,
        })),
        (Some(_), _, _) => Err(refused("a trigger calls a `function` or a `url`, not both")),
        (None, Some(_), None) | (None, None, Some(_)) => Err(refused(
            "a webhook needs both `url` and `secret`, the name of the secret that signs its requests",
        )),
    }
}

fn changes(
    collection: String,
    prefix: Option<String>,
    on: Option<Vec<String>>,
) -> Result<Watch, Problem> {
    let mut changes = Changes {
        collection: Collection::parse(collection)?,
        prefix: prefix.unwrap_or_default(),
        set: on.is_none(),
        delete: on.is_none(),
    };
    for kind in on.unwrap_or_default() {
        match kind.as_str() {
            "set" => changes.set = true,
            "delete" => changes.delete = true,
            _ => return Err(refused("`on` must be set, delete or both")),
        }
    }
    Ok(Watch::Changes(changes))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteParams {
    /// What to do with its outstanding deliveries: `refuse`, the default, does not delete a trigger
    /// that has any; `keep` delivers them; `discard` discards them, which also requires
    /// `script:write`.
    deliveries: Option<String>,
}

/// Deletes a trigger.
///
/// One that the active plugin version declares is created again at the next activation.
#[utoipa::path(delete, path = "/v1/apps/{app}/triggers/{name}", tag = "triggers",
    params(("app" = String, Path), ("name" = String, Path), DeleteParams),
    responses((status = 204)), security(("token" = ["app:admin"])))]
pub(super) async fn delete(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments((name, trigger)): Segments<(String, String)>,
    Params(params): Params<DeleteParams>,
) -> Result<StatusCode, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppAdmin).await?;
    let trigger = TriggerName::parse(&trigger)?;
    let fate = params
        .deliveries
        .as_deref()
        .map(str::parse::<OnTriggerDelete>);
    let fate = fate
        .transpose()
        .map_err(|()| refused("`deliveries` must be refuse, keep or discard"))?;
    let admin = shared.host.admin();
    let fate = fate.unwrap_or_default();
    admin.delete_trigger(&actor, &app, trigger, fate).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_paused(
    shared: &SharedServer,
    seen: &mut SeenGeneration,
    actor: &Actor,
    (name, trigger): (String, String),
    paused: bool,
) -> Result<StatusCode, Problem> {
    let app = find(shared, seen, actor, &name, Capability::AppAdmin).await?;
    let trigger = TriggerName::parse(&trigger)?;
    let admin = shared.host.admin();
    admin.pause_trigger(actor, &app, trigger, paused).await?;
    // So that a dispatcher of this host need not wait for its next poll.
    shared.host.notifier().wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses a trigger. Its deliveries are queued.
#[utoipa::path(post, path = "/v1/apps/{app}/triggers/{name}/pause", tag = "triggers",
    params(("app" = String, Path), ("name" = String, Path)), responses((status = 204)),
    security(("token" = ["app:admin"])))]
pub(super) async fn pause(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(names): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    set_paused(&shared, &mut seen, &actor, names, true).await
}

/// Resumes a trigger, and resets its failure count.
#[utoipa::path(post, path = "/v1/apps/{app}/triggers/{name}/resume", tag = "triggers",
    params(("app" = String, Path), ("name" = String, Path)), responses((status = 204)),
    security(("token" = ["app:admin"])))]
pub(super) async fn resume(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(names): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    set_paused(&shared, &mut seen, &actor, names, false).await
}
