//! `kvasm delivery`.

use super::batch::parse;
use super::client::{Path, bytes, connect};
use super::failure::{Failure, Outcome};
use super::{Global, output};
use clap::Subcommand;
use kvasm::http::Body;
use kvasm::http::api::{DeliveryPage, EventView};
use kvasm::model::{AppName, TriggerName};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List deliveries that are not done yet
    #[command(after_help = "Example:\n  kvasm delivery list shop --trigger index")]
    List {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// Of this trigger alone
        #[arg(long, value_parser = TriggerName::parse)]
        trigger: Option<TriggerName>,
        /// The most deliveries, up to 100
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

pub(super) async fn run(global: &Global, command: Command) -> Result<Outcome, Failure> {
    let Command::List {
        app,
        trigger,
        limit,
    } = command;
    let client = connect(global).await?;
    let path = Path::app(&app, &["deliveries"])
        .with("trigger", trigger)
        .with("limit", Some(limit));
    let answer = client.send(path.request("GET", Body::empty())?).await?;
    let answer = bytes(answer).await?;
    if global.json {
        // To the letter, so that no digit of a value is lost.
        output::json_line(&answer)?;
        return Ok(Outcome::Done);
    }
    let page: DeliveryPage = parse(&answer)?;
    let rows = page.deliveries.iter().map(|delivery| {
        [
            delivery.trigger.clone(),
            happened(&delivery.event),
            delivery.state.clone(),
            format!("{} of {}", delivery.attempts, delivery.attempts_max),
            delivery.due_at.map(output::time).unwrap_or_default(),
            brief(delivery.error.as_deref().unwrap_or_default()),
        ]
    });
    output::table(
        ["TRIGGER", "EVENT", "STATE", "ATTEMPTS", "DUE", "ERROR"],
        rows,
    )?;
    if page.more {
        output::note("There are more; narrow them with --trigger.");
    }
    Ok(Outcome::Done)
}

/// An event in a few words.
pub(super) fn happened(event: &EventView) -> String {
    match (&event.collection, &event.key) {
        (Some(collection), Some(key)) => format!("{} {collection} {key}", event.kind),
        _ => format!("{} {}", event.kind, output::time(event.at)),
    }
}

/// An error as far as a table has room for it.
pub(super) fn brief(error: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown: String = error.chars().take(CHARS_MAX).collect();
    if shown.len() < error.len() {
        shown.push_str("...");
    }
    shown
}
