//! An app's log on this host, as JSON Lines.

use super::Shared;
use super::api::LogView;
use super::apps::find;
use super::auth::Known;
use super::params::{Params, Segments};
use super::problem::Problem;
use crate::model::{AppId, Capability};
use crate::service::LogRecord;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;

/// A blank line this often tells whether somebody still follows.
const HEARTBEAT: Duration = Duration::from_secs(15);

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
) -> Result<Response, Problem> {
    let app = find(&shared, &actor, &name, Capability::LogRead).await?;
    let limit = params.limit.map_or(100, |limit| limit as usize);
    let after = params.after.unwrap_or(0);
    let body = if params.follow {
        follow(shared, app.id, after, limit)
    } else {
        Body::from(lines(&shared.host.logs().read(app.id, after, limit)))
    };
    Ok(([(CONTENT_TYPE, "application/jsonl")], body).into_response())
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

fn follow(shared: Shared, app: AppId, after: u64, limit: usize) -> Body {
    let stream = futures_util::stream::unfold(
        (shared, after, limit),
        move |(shared, after, limit)| async move {
            loop {
                let grown = shared.host.logs().grown(app);
                let grown = grown.notified();
                tokio::pin!(grown);
                // From here on no line is missed.
                grown.as_mut().enable();
                let records = shared.host.logs().read(app, after, limit);
                if let Some(last) = records.last() {
                    let next = (shared.clone(), last.seq, usize::MAX);
                    return Some((Ok::<_, Infallible>(lines(&records)), next));
                }
                tokio::select! {
                    () = &mut grown => {}
                    () = tokio::time::sleep(HEARTBEAT) => {
                        let blank = Bytes::from_static(b"\n");
                        return Some((Ok(blank), (shared.clone(), after, limit)));
                    }
                    () = shared.stop.cancelled() => return None,
                }
            }
        },
    );
    Body::from_stream(stream)
}
