//! An app's log, as JSON Lines.

use super::SharedServer;
use super::access_again::{LostAccess, lost_access};
use super::apps::find;
use super::auth::Authenticated;
use super::body;
use super::params::{Params, Segments, refused};
use super::problem::{Kind, Problem};
use super::request_ids::RequestIds;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kvasm_api::LogView;
use kvasm_core::{App, AppId, Capability, Level, Timestamp, TraceId};
use kvasm_service::{
    FOLLOWERS_OF_APP_MAX, Following, LogCursor, LogFilter, LogQuery, LogRecord, LogTail,
    ServiceError,
};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::IntoParams;
use uuid::Uuid;

/// The cursor of the next page of lines, or of calls.
pub(super) const KVASM_NEXT: HeaderName = HeaderName::from_static("kvasm-next");
/// Maximum number of lines of a response that does not follow.
const PAGE_LINES_MAX: usize = 10_000;

/// Interval of looking for lines of other hosts, and of trying again to read the store.
const LOOK: Duration = Duration::from_secs(2);
/// Interval of the blank lines that detect a disconnected follower, and of checking its token
/// again.
const HEARTBEAT: Duration = Duration::from_secs(5);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogParams {
    /// Only lines with a larger `seq`.
    after: Option<u64>,
    /// Number of lines, the newest ones; 100 by default. A response has at most 10,000, whatever is
    /// asked for.
    limit: Option<u32>,
    /// Only lines of the request with this id.
    request: Option<String>,
    /// Only lines of the trace with this id: 32 hexadecimal digits, or a UUID.
    trace: Option<String>,
    /// Only lines at least as severe as this: `error`, `warn`, `info`, `debug` or `trace`.
    level: Option<String>,
    /// Only lines written at or after this time.
    since: Option<i64>,
    /// Only lines of calls of this function.
    function: Option<String>,
    /// Only lines that contain this text.
    grep: Option<String>,
    /// Only lines before this place: the `Kvasm-Next` of the previous page.
    before: Option<String>,
    /// Keep the response open and send new lines as they arrive. Ignore blank lines.
    #[serde(default)]
    follow: bool,
}

/// Returns the newest log lines of an app, oldest first.
///
/// If there may be older ones, the header `Kvasm-Next` has the cursor of the next page, to pass as
/// `before`.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "logs",
    params(("app" = String, Path), LogParams),
    responses((status = 200, body = LogView, content_type = "application/jsonl")),
    security(("token" = ["log:read"])))]
pub(super) async fn show(
    State(shared): State<SharedServer>,
    Authenticated(actor, mut seen): Authenticated,
    Segments(name): Segments<String>,
    Params(params): Params<LogParams>,
    Extension(ids): Extension<RequestIds>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = find(&shared, &mut seen, &actor, &name, Capability::LogRead).await?;
    let limit = params.limit.map_or(100, |limit| limit as usize);
    let before = params.before.as_deref().map(str::parse::<LogCursor>);
    let before = before
        .transpose()
        .map_err(|()| refused("`before` must be the `Kvasm-Next` of a page"))?;
    let query = LogQuery {
        filter: filter(&params)?,
        after: params.after.unwrap_or(0),
        before,
        limit: limit.min(PAGE_LINES_MAX),
    };
    let mut older = None;
    let body = if params.follow {
        if query.before.is_some() {
            return Err(refused("`before` and `follow` exclude each other"));
        }
        let permit = shared.endless.begin()?;
        let following = shared.host.logs().follow(app.id);
        let following = following.ok_or_else(too_many)?;
        let follower = Follower {
            shared,
            _permit: permit,
            app,
            headers: headers
                .into_iter()
                .filter_map(|(name, value)| name.map(|name| (name, value)))
                .filter(|(name, _)| name == AUTHORIZATION)
                .collect(),
            id: ids.request,
            query,
            tail: None,
            checked: Instant::now(),
            sent: Instant::now(),
            looked: Instant::now(),
            following,
        };
        Body::from_stream(futures_util::stream::unfold(follower, Follower::next))
    } else {
        let page = shared.host.log_keeper().page(app.id, &query).await;
        let page = page.map_err(ServiceError::from)?;
        older = page.older;
        Body::from(lines(&shared, app.id, page.records).await?)
    };
    let mut response = ([(CONTENT_TYPE, "application/jsonl")], body).into_response();
    if let Some(older) = older {
        let cursor = HeaderValue::try_from(older.to_string());
        cursor
            .map(|cursor| response.headers_mut().insert(KVASM_NEXT, cursor))
            .ok();
    }
    Ok(response)
}

fn filter(params: &LogParams) -> Result<LogFilter, Problem> {
    let request = params.request.as_deref().map(Uuid::try_parse);
    let trace = params.trace.as_deref().map(str::parse::<TraceId>);
    let level = params.level.as_deref().map(str::parse::<Level>);
    Ok(LogFilter {
        request: request
            .transpose()
            .map_err(|_| refused("`request` must be the UUID of a request"))?,
        trace: trace
            .transpose()
            .map_err(|()| refused("`trace` must be 32 hexadecimal digits, or a UUID"))?,
        level: level
            .transpose()
            .map_err(|()| refused("`level` must be error, warn, info, debug or trace"))?,
        since: params.since.map(Timestamp),
        function: params.function.clone(),
        text: params.grep.clone(),
    })
}

fn too_many() -> Problem {
    let detail = format!(
        "too many followers; at most {FOLLOWERS_OF_APP_MAX} requests may follow the log of an app"
    );
    Problem::new(Kind::RateLimited, detail).retry_after(HEARTBEAT)
}

async fn lines(
    shared: &SharedServer,
    app: AppId,
    records: Vec<LogRecord>,
) -> Result<Bytes, Problem> {
    /// Approximate size of a line without its message.
    const FRAME: usize = 200;
    let sizes = records.iter().map(|record| FRAME + record.message.len());
    let bytes = sizes.sum();
    body::json_lines(shared, app, bytes, records, |record| LogView::from(record)).await
}

/// A request that follows an app's log, and its position.
struct Follower {
    shared: SharedServer,
    _permit: OwnedSemaphorePermit,
    app: App,
    /// The headers with the token, which is checked repeatedly.
    headers: HeaderMap,
    id: Uuid,
    query: LogQuery,
    /// How far it has read; `None` before its first lines.
    tail: Option<LogTail>,
    checked: Instant,
    /// When a line, blank or not, was last sent.
    sent: Instant,
    /// When it last looked for lines of other hosts.
    looked: Instant,
    following: Following,
}

impl Follower {
    /// The next lines, or a blank one; `None` at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Follower)> {
        let mut woken = false;
        loop {
            // The token can be revoked, or the app deleted, while its log is followed.
            if self.checked.elapsed() >= HEARTBEAT && !self.check().await {
                return None;
            }
            let grown = self.following.grown();
            let grown = grown.notified();
            tokio::pin!(grown);
            // From here on no line is missed.
            grown.as_mut().enable();
            let (records, has_grown) = self.read().await;
            if !records.is_empty() {
                self.sent = Instant::now();
                let lines = lines(&self.shared, self.app.id, records).await.ok()?;
                return Some((Ok(lines), self));
            }
            // Notified without new lines, not even filtered ones: the app may have been deleted.
            if std::mem::take(&mut woken) && !has_grown && !self.check().await {
                return None;
            }
            tokio::select! {
                () = &mut grown => woken = true,
                () = tokio::time::sleep(LOOK.saturating_sub(self.looked.elapsed())) => {}
                // However many filtered lines arrive.
                () = tokio::time::sleep(HEARTBEAT.saturating_sub(self.sent.elapsed())) => {
                    self.sent = Instant::now();
                    return Some((Ok(Bytes::from_static(b"\n")), self));
                }
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }

    /// Reads what is new, and whether this host has new lines, filtered or not. A store that
    /// fails is read again later.
    async fn read(&mut self) -> (Vec<LogRecord>, bool) {
        let (keeper, app) = (self.shared.host.log_keeper(), self.app.id);
        let Some(tail) = &mut self.tail else {
            return match keeper.page_to_follow(app, &self.query).await {
                Ok((page, tail)) => {
                    self.tail = Some(tail);
                    (page.records, true)
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read the stored log");
                    self.looked = Instant::now();
                    (Vec::new(), true)
                }
            };
        };
        let (mut records, has_grown) = keeper.next_own(app, tail, &self.query.filter);
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            match keeper.next_of_others(app, tail, &self.query.filter).await {
                Ok(others) => records.extend(others),
                Err(error) => tracing::debug!(%error, "cannot read the lines of other hosts"),
            }
        }
        (records, has_grown)
    }

    /// Whether the log may still be read. That of a deleted app is removed.
    async fn check(&mut self) -> bool {
        self.checked = Instant::now();
        let needed = Capability::LogRead;
        match lost_access(&self.shared, &self.headers, self.id, &self.app, needed).await {
            None => true,
            Some(LostAccess::AppDeleted) => {
                self.shared.host.forget_log(self.app.id);
                false
            }
            Some(LostAccess::Token) => false,
        }
    }
}
