//! Outstanding deliveries.

use super::SharedServer;
use super::apps::find;
use super::auth::Authenticated;
use super::body::{self, JsonBody};
use super::dead_letters::{check_selection, selection_ids};
use super::param_types;
use super::params::{Params, Segments, check_range};
use super::problem::Problem;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kvasm_api::{DeliveriesDone, DeliveriesRequest, DeliveryPage, DeliveryView};
use kvasm_core::{Capability, DeliveryFilter, DeliveryKey, Timestamp, TriggerName};
use kvasm_service::{DEAD_LETTERS_MAX, DELIVERIES_MAX};
use serde::Deserialize;
use utoipa::IntoParams;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeliveryParams {
    /// Only those of this trigger.
    trigger: Option<String>,
    /// Only those queued at or after this time.
    from: Option<i64>,
    /// Only those queued before this time.
    until: Option<i64>,
    /// Cursor of the page.
    after: Option<String>,
    /// Maximum number of deliveries, 1 to 100; 100 by default.
    limit: Option<u32>,
}

/// Lists outstanding deliveries, with their events and values.
#[utoipa::path(get, path = "/v1/apps/{app}/deliveries", tag = "triggers",
    params(("app" = String, Path), DeliveryParams), responses((status = 200, body = DeliveryPage)),
    security(("token" = ["script:read"])))]
pub(super) async fn list(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<DeliveryParams>,
) -> Result<JsonBody<DeliveryPage>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let which = parse_filter(params.trigger.as_deref(), params.from, params.until)?;
    let after = params.after.as_deref().map(place).transpose()?;
    let limit = params.limit.unwrap_or(DELIVERIES_MAX);
    let admin = shared.host.admin();
    let page = admin.deliveries(&actor, &app, &which, after.as_ref(), limit);
    let page = page.await?;
    let last = page.rows.last().filter(|_| page.more);
    let next = last.map(|delivery| cursor(&delivery.place));
    let deliveries = page.rows.iter().map(DeliveryView::new);
    Ok(JsonBody(DeliveryPage {
        deliveries: deliveries
            .collect::<Result<_, _>>()
            .map_err(|e| Problem::internal(&e))?,
        more: page.more,
        next,
    }))
}

fn parse_filter(
    trigger: Option<&str>,
    from: Option<i64>,
    until: Option<i64>,
) -> Result<DeliveryFilter, Problem> {
    check_range("from", from, until)?;
    Ok(DeliveryFilter {
        events: Vec::new(),
        trigger: trigger.map(TriggerName::parse).transpose()?,
        from: from.map(Timestamp),
        until: until.map(Timestamp),
    })
}

/// The cursor for a delivery key, as in `next`. Trigger names contain no comma.
fn cursor(place: &DeliveryKey) -> String {
    format!("{},{},{}", place.seq, place.ordering_key, place.trigger)
}

fn place(cursor: &str) -> Result<DeliveryKey, Problem> {
    let refuse =
        || param_types::invalid_parameter("after", cursor, "the `next` of the previous page");
    let mut parts = cursor.splitn(3, ',');
    let mut number = || parts.next().and_then(|part| part.parse().ok());
    let (seq, chain) = number().zip(number()).ok_or_else(refuse)?;
    let trigger = parts.next().ok_or_else(refuse)?;
    let trigger = TriggerName::parse(trigger).map_err(|_| refuse())?;
    Ok(DeliveryKey {
        trigger,
        ordering_key: chain,
        seq,
    })
}

/// The selection that a request means. As with dead letters, selecting all requires `all`.
fn parse_selection(request: &DeliveriesRequest) -> Result<DeliveryFilter, Problem> {
    let mut which = parse_filter(request.trigger.as_deref(), request.from, request.until)?;
    which.events = selection_ids("events", request.events.as_deref())?;
    let is_all = which == DeliveryFilter::default();
    check_selection(is_all, request.all, "events, trigger, from or until")?;
    Ok(which)
}

/// Permanently discards outstanding deliveries.
#[utoipa::path(post, path = "/v1/apps/{app}/deliveries/discard", tag = "triggers",
    params(("app" = String, Path)), request_body = DeliveriesRequest,
    responses((status = 200, body = DeliveriesDone)), security(("token" = ["script:write"])))]
pub(super) async fn discard(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<JsonBody<DeliveriesDone>, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvWrite).await?;
    let request: DeliveriesRequest = body::json(&shared, &headers, body).await?;
    let which = parse_selection(&request)?;
    let limit = request.limit.unwrap_or(DEAD_LETTERS_MAX);
    let dry_run = request.dry_run;
    let admin = shared.host.admin();
    let done = admin.discard_deliveries(&actor, &app, which, limit, dry_run);
    let deliveries = done.await?;
    // Deliveries that waited behind the discarded ones may be due now.
    shared.host.notifier().wake();
    Ok(JsonBody(DeliveriesDone {
        deliveries,
        dry_run,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_cursor_round_trips() {
        let there = DeliveryKey {
            trigger: TriggerName::parse("a.b-c_d").unwrap(),
            ordering_key: i64::MIN,
            seq: 7,
        };
        assert_eq!(place(&cursor(&there)).unwrap(), there);
        for bad in ["", "1", "1,2", "1,2,", "x,2,t", "1,2,a b"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
