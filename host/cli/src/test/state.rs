//! What the app of a test holds, and when something is due.

use super::messages::{HarnessDelivery, HarnessEntry, HarnessState, HarnessTimer};
use crate::failure::Failure;
use kvasm::Host;
use kvasm::model::{
    App, Collection, DeadLetter, DeadLetterFilter, Delivery, EventKind, Pause, Timestamp, Trigger,
    TriggerName, Value, Watch,
};
use kvasm::service::{Caller, Kv, List};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// Number of collections, timers or dead letters read at once.
const CHUNK: u32 = 1_000;
/// Maximum number of deliveries read.
const DELIVERIES_MAX: u32 = 100_000;

/// Reads all that an app holds.
pub(super) async fn read(
    host: &Host,
    kv: &Arc<dyn Kv>,
    app: &App,
) -> Result<HarnessState, Failure> {
    let timers = timers(host, app).await?;
    let mut queue = deliveries(host, app).await?;
    let set: Vec<Uuid> = timers.iter().map(|timer| timer.event.id).collect();
    queue.retain(|delivery| !set.contains(&delivery.event.id));
    queue.sort_by(|a, b| {
        let of = |delivery: &Delivery| (delivery.event.id, delivery.place.seq);
        of(a).cmp(&of(b))
    });
    Ok(HarnessState {
        entries: entries(kv, app).await?,
        queue: queue.iter().map(queued).collect(),
        timers: timers.iter().filter_map(timer).collect(),
        dead: dead(host, app).await?,
    })
}

async fn entries(kv: &Arc<dyn Kv>, app: &App) -> Result<Vec<HarnessEntry>, Failure> {
    let caller = Caller::new(app, None);
    let mut entries = Vec::new();
    let mut after: Option<Collection> = None;
    loop {
        let names = kv.collections(&caller, after.as_ref(), CHUNK).await?;
        let Some(last) = names.last() else {
            return Ok(entries);
        };
        after = Some(last.clone());
        for name in names {
            let mut list = List {
                with_values: true,
                ..List::all(name.clone())
            };
            loop {
                let page = kv.list(&caller, list.clone()).await?;
                let found = page.entries.into_iter();
                entries.extend(found.filter_map(|(key, entry)| {
                    let entry = entry?;
                    Some(HarnessEntry {
                        collection: name.as_str().to_owned(),
                        key: key.as_str().to_owned(),
                        value: entry.value.as_bytes().to_vec(),
                        is_json: matches!(entry.value, Value::Json(_)),
                        version: entry.version.0,
                        expires_at_ms: entry.expires_at.map(|at| at.0),
                    })
                }));
                list.cursor = page.cursor;
                if list.cursor.is_none() {
                    break;
                }
            }
        }
    }
}

async fn deliveries(host: &Host, app: &App) -> Result<Vec<Delivery>, Failure> {
    Ok(host
        .store()
        .deliveries(app.id, None, DELIVERIES_MAX)
        .await?)
}

async fn timers(host: &Host, app: &App) -> Result<Vec<Delivery>, Failure> {
    Ok(host.store().timers(app.id, None, DELIVERIES_MAX).await?)
}

fn queued(delivery: &Delivery) -> HarnessDelivery {
    HarnessDelivery {
        handler: delivery.target.column().to_owned(),
        event_id: delivery.event.id.to_string(),
        changed: changed(&delivery.event.kind),
    }
}

fn changed(kind: &EventKind) -> Option<(String, String, u64)> {
    let (EventKind::Set { version, .. } | EventKind::Deleted { version, .. }) = kind else {
        return None;
    };
    let (collection, key) = kind.entry()?;
    Some((
        collection.as_str().to_owned(),
        key.as_str().to_owned(),
        version.0,
    ))
}

fn timer(delivery: &Delivery) -> Option<HarnessTimer> {
    let EventKind::Timer { name, payload } = &delivery.event.kind else {
        return None;
    };
    Some(HarnessTimer {
        name: name.as_str().to_owned(),
        at_ms: delivery.event.at.0,
        payload: payload.as_bytes().to_vec(),
        attempts: delivery.attempts,
    })
}

async fn dead(host: &Host, app: &App) -> Result<Vec<serde_json::Value>, Failure> {
    let (all, mut letters, mut before) = (DeadLetterFilter::default(), Vec::new(), None);
    loop {
        let page = host
            .store()
            .dead_letters(app.id, &all, before, CHUNK)
            .await?;
        let Some(last) = page.last() else {
            letters.reverse();
            return Ok(letters);
        };
        before = Some(last.id);
        letters.extend(page.iter().map(DeadLetter::to_plugin_json));
    }
}

/// Returns when something is due after now: a delivery, or the retry of a timer; and if `with_plans`
/// also a timer or a schedule.
pub(super) async fn next_due(
    host: &Host,
    app: &App,
    with_plans: bool,
) -> Result<Option<Timestamp>, Failure> {
    let triggers = host.store().triggers(app.id).await?;
    let of_schedule = |trigger: &Trigger| match &trigger.watch {
        Watch::Schedule(_) if with_plans => trigger.next_at,
        _ => None,
    };
    let schedules: Vec<Timestamp> = triggers.iter().filter_map(of_schedule).collect();
    let triggers: HashMap<&TriggerName, &Trigger> = triggers
        .iter()
        .map(|trigger| (&trigger.name, trigger))
        .collect();
    let all = deliveries(host, app).await?;
    let of_delivery = |delivery: &Delivery| {
        let is_timer = matches!(delivery.event.kind, EventKind::Timer { .. });
        if is_timer && delivery.attempts == 0 && !with_plans {
            return None;
        }
        let standing = triggers
            .get(&delivery.place.trigger)
            .map(|trigger| trigger.standing);
        let probe_at = standing.and_then(|standing| standing.probe_at);
        match standing.and_then(|standing| standing.paused) {
            None => delivery.due_at,
            Some(Pause::Failures) => delivery.due_at.max(probe_at),
            Some(Pause::Operator) => None,
        }
    };
    let now = Timestamp::now();
    let due = all.iter().filter_map(of_delivery).chain(schedules);
    Ok(due.filter(|at| *at > now).min())
}
