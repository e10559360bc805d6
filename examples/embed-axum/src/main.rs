//! An axum service that customers can extend: each customer is an app, and the service calls
//! its plugin.
//!
//! ```text
//! embed-axum STORE.db [ADDRESS]
//! curl -X PUT --data-binary @target/guests/counter.wasm http://127.0.0.1:8080/customers/acme/plugin
//! curl --data '{"name":"visits","by":1}' http://127.0.0.1:8080/customers/acme/hooks/add
//! ```
//!
//! Anyone may deploy here. A real service authenticates its customers before its routes reach
//! the host.

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{App, AppName};
use kvasm::service::{Span, SpanArrival, SpanSink, Spans};
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm::{Blame, Call, DeployError, Host, InvokeError};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const MODULE_BYTES_MAX: usize = 16 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("missing STORE.db")?;
    let address = arguments.next();
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let store = SqliteStore::open(SqliteOptions::new(path)).await?;
    let (sender, finished) = mpsc::channel(1_024);
    let spans = Spans::into_sink(Arc::new(SpanChannel(sender)), "sqlite");
    let host = Host::builder().store(store).instances(32).spans(spans);
    let host = host.build()?;
    tokio::spawn(print_spans(finished));

    // Handlers of changes and schedules run only while a dispatcher does.
    let stop = CancellationToken::new();
    let dispatcher = Dispatcher::new(host.clone(), DispatchOptions::default());
    let dispatching = tokio::spawn(dispatcher.run(stop.clone().cancelled_owned()));

    let listener = TcpListener::bind(&address).await?;
    println!("Listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes(host))
        .with_graceful_shutdown(ctrl_c())
        .await?;
    stop.cancel();
    dispatching.await?;
    Ok(())
}

async fn ctrl_c() {
    // If signals are unavailable, the service runs until it is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Passes finished spans on to a task that exports them.
struct SpanChannel(mpsc::Sender<Span>);

impl SpanSink for SpanChannel {
    fn samples(&self, arrival: &SpanArrival<'_>) -> bool {
        // A trace that began elsewhere has a flag with the decision.
        !arrival.is_continued || arrival.trace.is_sampled()
    }

    fn record(&self, span: Span) {
        // A call must not wait for an exporter: what does not fit is dropped.
        let _ = self.0.try_send(span);
    }
}

/// Prints spans. A real service converts them for its exporter.
async fn print_spans(mut finished: mpsc::Receiver<Span>) {
    while let Some(span) = finished.recv().await {
        let trace = span.context.trace_id();
        let parent = span.parent.map_or(0, |parent| parent.get());
        let (name, took, error) = (&span.name, span.took, span.error.as_deref());
        eprintln!(
            "{trace} {parent:016x} {:016x} {name} {took:?} {error:?}",
            span.id
        );
    }
}

/// The service's own routes, next to those that reach a plugin.
fn routes(host: Host) -> Router {
    let plugin = put(deploy).layer(DefaultBodyLimit::max(MODULE_BYTES_MAX));
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route("/customers/{customer}/plugin", plugin)
        .route("/customers/{customer}/hooks/{function}", post(hook))
        .with_state(host)
}

/// Returns the app of a customer, creating it if needed.
async fn app_of(host: &Host, customer: &str) -> Result<App, Failure> {
    let name = AppName::parse(customer);
    let name = name.map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
    match host.app(&name).await.map_err(host_failed)? {
        Some(app) => Ok(app),
        None => host.create_app(name).await.map_err(host_failed),
    }
}

async fn deploy(
    State(host): State<Host>,
    Path(customer): Path<String>,
    module: Bytes,
) -> Result<String, Failure> {
    let app = app_of(&host, &customer).await?;
    let actor = host.operator("embed-axum");
    let (version, _, _) = host.deploy(&actor, &app, module.to_vec(), true).await?;
    Ok(format!("version {} is active\n", version.0))
}

/// Calls a function of the customer's active plugin, within the customer's limits.
async fn hook(
    State(host): State<Host>,
    Path((customer, function)): Path<(String, String)>,
    input: Bytes,
) -> Result<Vec<u8>, Failure> {
    let app = app_of(&host, &customer).await?;
    let response = host.invoke(&app, Call::function(function).input(input));
    Ok(response.await?.output)
}

/// The answer to the client on a failure.
struct Failure(StatusCode, String);

fn host_failed(error: impl std::fmt::Display) -> Failure {
    // The cause is for the operator, not for the client.
    eprintln!("the host failed: {error}");
    let text = "try again later".to_owned();
    Failure(StatusCode::SERVICE_UNAVAILABLE, text)
}

impl From<InvokeError> for Failure {
    fn from(error: InvokeError) -> Failure {
        match error {
            InvokeError::Refused(error) => {
                Failure(StatusCode::TOO_MANY_REQUESTS, error.to_string())
            }
            InvokeError::Call(failure) => match failure.error.blame() {
                Blame::Caller => Failure(StatusCode::BAD_REQUEST, failure.error.to_string()),
                Blame::Guest => Failure(StatusCode::BAD_GATEWAY, failure.error.to_string()),
                Blame::Host => host_failed(failure.error),
            },
            InvokeError::Service(kvasm::service::ServiceError::NoActivePlugin) => {
                Failure(StatusCode::NOT_FOUND, "there is no plugin".to_owned())
            }
            error => host_failed(error),
        }
    }
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Failure {
        match error {
            DeployError::Load(error) if error.blame() == Blame::Host => host_failed(error),
            error => Failure(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(status, text) = self;
        let body = std::collections::BTreeMap::from([("error", text)]);
        (status, Json(body)).into_response()
    }
}
