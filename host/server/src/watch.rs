//! Changes of an app's entries, as server-sent events.

use super::SharedServer;
use super::access_again::{LostAccess, lost_access};
use super::apps::find;
use super::auth::Authenticated;
use super::params::{Params, Segments, refused};
use super::problem::{Kind, Problem};
use super::request_ids::RequestIds;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kvasm_api::ServerSentEvent;
use kvasm_core::{App, Capability, Collection, Key};
use kvasm_service::{ChangeFilter, ChangeWatcher, ServiceError, WatchError, WatchStep};
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;
use uuid::Uuid;

/// The position of the last event that a client got, which browsers send when they connect again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx not to buffer the stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Interval of checking the token and the app again.
const CHECK: Duration = Duration::from_secs(5);
/// Interval of the comments that detect a disconnected watcher.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pause after an error of the store.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParams {
    /// Only changes of this collection.
    collection: Option<String>,
    /// Only changes of keys with this prefix.
    prefix: Option<String>,
    /// Only changes after this position: the id of the last event. The header `Last-Event-ID`
    /// takes precedence.
    after: Option<u64>,
    /// Whether to keep the response open and send changes as they are committed; true by default.
    follow: Option<bool>,
}

/// Sends the changes of an app's entries as they are committed, until the client disconnects.
///
/// Server-sent events. Those without a name have a change as a CloudEvent. The first event, `ready`,
/// has the position from which on they are complete. `gap`: changes before it are not kept any more,
/// so read the entries again. `end`: the reason why the stream ends. With `follow=false` it ends
/// after the changes that this host has read, without an `end`.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/watch", tag = "kv",
    params(("app" = String, Path), WatchParams,
        ("Last-Event-ID" = Option<u64>, Header, description = "The id of the last event that was received")),
    responses((status = 200, body = ServerSentEvent, content_type = "text/event-stream")),
    security(("token" = ["script:read"])))]
pub(super) async fn watch(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<WatchParams>,
    Extension(ids): Extension<RequestIds>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::AppKvRead).await?;
    let filter = ChangeFilter {
        collection: params.collection.map(Collection::parse).transpose()?,
        prefix: params.prefix.filter(|prefix| !prefix.is_empty()),
    };
    if let Some(prefix) = &filter.prefix {
        // A longer one, or one of other characters, is the prefix of no key.
        Key::parse(prefix.as_str())?;
    }
    let after = match headers.get(LAST_EVENT_ID) {
        None => params.after,
        Some(id) => Some(position(id.as_bytes())?),
    };
    let permit = shared.endless.begin()?;
    let watcher = shared.host.change_feeds().watch(&app, filter, after).await;
    let watcher = watcher.map_err(refusal)?;
    let now = Instant::now();
    let mut stream = WatchStream {
        token: headers
            .into_iter()
            .filter_map(|(name, value)| name.map(|name| (name, value)))
            .filter(|(name, _)| name == AUTHORIZATION)
            .collect(),
        shared,
        _permit: permit,
        app,
        id: ids.request,
        sent_position: watcher.position(),
        watcher,
        follow: params.follow.unwrap_or(true),
        waiting: VecDeque::new(),
        has_ended: false,
        checked: now,
        sent: now,
    };
    stream.push_named("ready", stream.sent_position, &serde_json::json!({}));
    let body = Body::from_stream(futures_util::stream::unfold(stream, WatchStream::next));
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_ACCEL_BUFFERING, "no"),
    ];
    Ok((headers, body).into_response())
}

fn position(id: &[u8]) -> Result<u64, Problem> {
    let text = std::str::from_utf8(id).ok().map(str::trim);
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| refused("`Last-Event-ID` must be the id of an event of this stream"))
}

fn refusal(error: WatchError) -> Problem {
    match error {
        WatchError::TooMany { .. } => {
            Problem::new(Kind::RateLimited, error.to_string()).retry_after(HEARTBEAT)
        }
        WatchError::Store(error) => ServiceError::from(error).into(),
    }
}

/// A request that watches an app.
struct WatchStream {
    shared: SharedServer,
    _permit: OwnedSemaphorePermit,
    app: App,
    /// The header with the token, which is checked repeatedly.
    token: HeaderMap,
    id: Uuid,
    watcher: ChangeWatcher,
    follow: bool,
    /// What is to be sent next.
    waiting: VecDeque<Bytes>,
    has_ended: bool,
    /// The position of the last id that was sent.
    sent_position: u64,
    checked: Instant,
    sent: Instant,
}

impl WatchStream {
    /// The next events, or a comment; `None` at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, WatchStream)> {
        loop {
            if let Some(bytes) = self.waiting.pop_front() {
                self.sent = Instant::now();
                return Some((Ok(bytes), self));
            }
            if self.has_ended || (!self.follow && self.watcher.is_current()) {
                return None;
            }
            if self.checked.elapsed() >= CHECK
                && let Some(reason) = self.check().await
            {
                self.end(reason);
                continue;
            }
            let stop = self.shared.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => self.end("draining"),
                step = self.watcher.next() => self.take(step).await,
                () = tokio::time::sleep(CHECK.saturating_sub(self.checked.elapsed())) => {}
                () = tokio::time::sleep(HEARTBEAT.saturating_sub(self.sent.elapsed())) => {
                    self.heartbeat();
                }
            }
        }
    }

    async fn take(&mut self, step: Result<WatchStep, kvasm_core::store::StoreError>) {
        match step {
            Ok(WatchStep::Changes(events)) => {
                self.waiting.extend(events);
                self.sent_position = self.watcher.position();
            }
            Ok(WatchStep::Gap { after }) => {
                let position = self.watcher.position();
                let missing = serde_json::json!({ "after": after.to_string(), "until": position.to_string() });
                self.push_named("gap", position, &missing);
            }
            Ok(WatchStep::TooSlow) => self.end("slow"),
            Err(error) => {
                tracing::debug!(%error, "cannot read the changes of an app");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// A comment. If the position has changed without an event for this watcher, with the new id,
    /// so that it can resume from there.
    fn heartbeat(&mut self) {
        let position = self.watcher.position();
        let text = match position == self.sent_position {
            true => ":\n\n".to_owned(),
            false => format!(":\nid: {position}\n\n"),
        };
        self.sent_position = position;
        self.waiting.push_back(text.into());
    }

    fn end(&mut self, reason: &'static str) {
        // The watcher counts its own slowness.
        if reason != "slow" {
            self.shared.host.metrics().watch_ended(reason);
        }
        let position = self.watcher.position();
        self.push_named("end", position, &serde_json::json!({ "reason": reason }));
        self.has_ended = true;
    }

    fn push_named(&mut self, name: &str, position: u64, data: &serde_json::Value) {
        let event = format!("event: {name}\nid: {position}\ndata: {data}\n\n");
        self.waiting.push_back(event.into());
        self.sent_position = position;
    }

    /// Returns the reason if the app may not be watched any more.
    async fn check(&mut self) -> Option<&'static str> {
        self.checked = Instant::now();
        let needed = Capability::AppKvRead;
        let lost = lost_access(&self.shared, &self.token, self.id, &self.app, needed).await?;
        Some(match lost {
            LostAccess::Token => "token",
            LostAccess::AppDeleted => "app-deleted",
        })
    }
}
