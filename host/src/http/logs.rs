//! An app's log on this host, as JSON Lines.

use super::Shared;
use super::api::LogView;
use super::apps::find;
use super::auth::{self, Known};
use super::layer::RequestId;
use super::params::{Params, Segments};
use super::problem::{Kind, Problem};
use crate::model::{App, Capability};
use crate::service::{FOLLOWERS_OF_APP_MAX, Following, LogRecord};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use utoipa::IntoParams;
use uuid::Uuid;

/// How often a blank line shows whether somebody still follows, and how often the
/// token is checked again.
const HEARTBEAT: Duration = Duration::from_secs(5);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogParams {
    /// Only lines with larger numbers.
    after: Option<u64>,
    /// The last so many lines; by default 100.
    limit: Option<u32>,
    /// Do not end, but go on with new lines as they come. Blank lines mean nothing.
    #[serde(default)]
    follow: bool,
}

/// Shows an app's newest log lines, oldest first, as this host has them.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "logs",
    params(("app" = String, Path), LogParams),
    responses((status = 200, body = LogView, content_type = "application/jsonl")),
    security(("token" = ["log:read"])))]
pub(super) async fn show(
    State(shared): State<Shared>,
    Known(actor): Known,
    Segments(name): Segments<String>,
    Params(params): Params<LogParams>,
    Extension(RequestId(id)): Extension<RequestId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = find(&shared, &actor, &name, Capability::LogRead).await?;
    let limit = params.limit.map_or(100, |limit| limit as usize);
    let after = params.after.unwrap_or(0);
    let body = if params.follow {
        let following = shared.host.logs().follow(app.id);
        let following = following.ok_or_else(too_many)?;
        let follower = Follower {
            shared,
            app,
            headers: headers
                .into_iter()
                .filter_map(|(name, value)| name.map(|name| (name, value)))
                .filter(|(name, _)| name == AUTHORIZATION)
                .collect(),
            id,
            after,
            limit,
            checked: Instant::now(),
            following,
        };
        Body::from_stream(futures_util::stream::unfold(follower, Follower::next))
    } else {
        Body::from(lines(&shared.host.logs().read(app.id, after, limit)))
    };
    Ok(([(CONTENT_TYPE, "application/jsonl")], body).into_response())
}

fn too_many() -> Problem {
    let detail = format!(
        "too many requests follow logs; at most {FOLLOWERS_OF_APP_MAX} may follow that of one app"
    );
    Problem::new(Kind::RateLimited, detail).retry_after(HEARTBEAT)
}

fn lines(records: &[LogRecord]) -> Bytes {
    let mut out = Vec::new();
    for record in records {
        // A struct of numbers and text is written without fail.
        if serde_json::to_writer(&mut out, &LogView::from(record)).is_ok() {
            out.push(b'\n');
        }
    }
    out.into()
}

/// Who follows an app's log, and where it stands.
struct Follower {
    shared: Shared,
    app: App,
    /// The token that is shown again and again.
    headers: HeaderMap,
    id: Uuid,
    after: u64,
    limit: usize,
    checked: Instant,
    following: Following,
}

impl Follower {
    /// The next lines, or a blank one; none at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Follower)> {
        let mut woken = false;
        loop {
            // A token can be revoked and an app deleted while its log is followed.
            if self.checked.elapsed() >= HEARTBEAT && !self.check().await {
                return None;
            }
            let logs = self.shared.host.logs();
            let grown = self.following.grown();
            let grown = grown.notified();
            tokio::pin!(grown);
            // From here on no line is missed.
            grown.as_mut().enable();
            let records = logs.read(self.app.id, self.after, self.limit);
            if let Some(last) = records.last() {
                self.after = last.seq;
                self.limit = usize::MAX;
                return Some((Ok(lines(&records)), self));
            }
            // Woken for nothing: the app may be gone.
            if std::mem::take(&mut woken) && !self.check().await {
                return None;
            }
            tokio::select! {
                () = &mut grown => woken = true,
                () = tokio::time::sleep(HEARTBEAT) => {
                    return Some((Ok(Bytes::from_static(b"\n")), self));
                }
                () = self.shared.stop.cancelled() => return None,
            }
        }
    }

    /// Whether the log may still be read. A store that cannot say is asked later.
    async fn check(&mut self) -> bool {
        self.checked = Instant::now();
        let sender = auth::sender(&self.shared, &self.headers, self.id).await;
        let found = match sender {
            Ok(Some(actor)) => {
                let name = self.app.name.as_str();
                find(&self.shared, &actor, name, Capability::LogRead).await
            }
            Ok(None) => return false,
            Err(problem) => Err(problem),
        };
        match found {
            Ok(app) if app.id == self.app.id => true,
            Err(problem) if problem.is_of_the_host() => true,
            Ok(_) => self.forget(),
            Err(problem) if problem.is_app_gone() => self.forget(),
            Err(_) => false,
        }
    }

    /// The app is gone, and its log with it.
    fn forget(&self) -> bool {
        self.shared.host.logs().remove(self.app.id);
        false
    }
}
