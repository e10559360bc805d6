//! `kvasm delivery`.

use super::batch::parse;
use super::client::{RequestPath, bytes, connect};
use super::dead_letter::parse_time;
use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use axum::body::Body;
use clap::{Args, Subcommand};
use kvasm::api::{DeliveriesDone, DeliveriesRequest, DeliveryPage, EventView};
use kvasm::model::{AppName, Timestamp, TriggerName};
use serde_json::json;
use uuid::Uuid;

const DISCARD_HELP: &str = "\
Examples:
  kvasm delivery discard shop --trigger index --dry-run
  kvasm delivery discard shop --event 0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c02";

#[derive(Subcommand)]
pub(super) enum DeliveryCommand {
    /// List outstanding deliveries
    #[command(after_help = "Example:\n  kvasm delivery list shop --trigger index")]
    List(DeliveryListArgs),
    /// Permanently discard outstanding deliveries
    #[command(after_help = DISCARD_HELP)]
    Discard(DeliverySelection),
}

#[derive(Args)]
pub(super) struct DeliveryListArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Only those of this trigger
    #[arg(long, value_parser = TriggerName::parse)]
    trigger: Option<TriggerName>,
    /// Only those queued at or after this time: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Timestamp>,
    /// Only those queued before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Maximum number of deliveries, up to 100
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Resume from this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// A selection of deliveries. At least one of the options is required, since an empty selection
/// means all.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("choice").required(true).multiple(true))]
pub(super) struct DeliverySelection {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Select those of this event (repeatable)
    #[arg(long = "event", value_name = "ID", group = "choice")]
    events: Vec<Uuid>,
    /// Select those of this trigger
    #[arg(long, value_parser = TriggerName::parse, group = "choice")]
    trigger: Option<TriggerName>,
    /// Select those queued at or after this time: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "choice")]
    from: Option<Timestamp>,
    /// Select those queued before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "choice")]
    until: Option<Timestamp>,
    /// Select all deliveries of the app
    #[arg(
        long,
        group = "choice",
        conflicts_with_all = ["events", "trigger", "from", "until"]
    )]
    all: bool,
    /// Maximum number of deliveries, up to 1,000
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
    /// Only count the deliveries
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(
    global: &Global,
    command: DeliveryCommand,
) -> Result<CommandOutcome, Failure> {
    match command {
        DeliveryCommand::List(arguments) => list(global, arguments).await,
        DeliveryCommand::Discard(choice) => discard(global, choice).await,
    }
}

async fn list(global: &Global, list: DeliveryListArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(&list.app, &["deliveries"])
        .with("trigger", list.trigger)
        .with("from", list.from.map(|at| at.0))
        .with("until", list.until.map(|at| at.0))
        .with("after", list.after)
        .with("limit", Some(list.limit));
    let answer = client.send(path.request("GET", Body::empty())?).await?;
    let answer = bytes(answer).await?;
    if global.json {
        // Unchanged, so that numbers keep all their digits.
        output::json_line(&answer)?;
        return Ok(CommandOutcome::Done);
    }
    let page: DeliveryPage = parse(&answer)?;
    let rows = page.deliveries.iter().map(|delivery| {
        [
            delivery.event.id.clone(),
            delivery.trigger.clone(),
            describe_event(&delivery.event),
            delivery.state.clone(),
            format!("{} of {}", delivery.attempts, delivery.attempts_max),
            delivery.due_at.map(output::time).unwrap_or_default(),
            shorten(delivery.error.as_deref().unwrap_or_default()),
        ]
    });
    let head = [
        "EVENT ID", "TRIGGER", "EVENT", "STATE", "ATTEMPTS", "DUE", "ERROR",
    ];
    output::table(head, rows)?;
    if let Some(next) = page.next {
        output::note(&format!("More: --after {next}"));
    }
    Ok(CommandOutcome::Done)
}

async fn discard(global: &Global, choice: DeliverySelection) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let events: Vec<_> = choice.events.iter().map(ToString::to_string).collect();
    let request = DeliveriesRequest {
        all: choice.all,
        events: (!events.is_empty()).then_some(events),
        trigger: choice.trigger.as_ref().map(ToString::to_string),
        from: choice.from.map(|at| at.0),
        until: choice.until.map(|at| at.0),
        limit: Some(choice.limit),
        dry_run: choice.dry_run,
    };
    let path = RequestPath::app(&choice.app, &["deliveries", "discard"]);
    let done: DeliveriesDone = client.post("POST", &path, &request).await?;
    let (count, app) = (done.deliveries, &choice.app);
    output::object(global.json, &json!(done), || {
        let deliveries = match count {
            1 => "1 delivery".to_owned(),
            count => format!("{count} deliveries"),
        };
        match (count, choice.dry_run) {
            (0, _) => {
                format!("No matching deliveries; `kvasm delivery list {app}` lists all.")
            }
            (_, true) => format!("{deliveries} would be discarded."),
            (_, false) => format!("Discarded {deliveries}."),
        }
    })?;
    if count == u64::from(choice.limit) && !global.json {
        eprintln!("Stopped at the limit; there may be more.");
    }
    Ok(match count {
        0 => CommandOutcome::NotFound,
        _ => CommandOutcome::Done,
    })
}

/// A short description of an event.
pub(super) fn describe_event(event: &EventView) -> String {
    if let Some(timer) = &event.timer {
        return format!("{} {timer}", event.kind);
    }
    match (&event.collection, &event.key) {
        (Some(collection), Some(key)) => format!("{} {collection} {key}", event.kind),
        _ => format!("{} {}", event.kind, output::time(event.at)),
    }
}

/// An error, shortened for a table.
pub(super) fn shorten(error: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown: String = error.chars().take(CHARS_MAX).collect();
    if shown.len() < error.len() {
        shown.push_str("...");
    }
    shown
}
