//! `kvasm timer`.

use super::batch::parse;
use super::client::{RequestPath, bytes, connect};
use super::delivery::shorten;
use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use axum::body::Body;
use clap::{Args, Subcommand};
use kvasm::api::{TimerDone, TimerPage, TimerRequest};
use kvasm::model::AppName;
use serde_json::json;

#[derive(Subcommand)]
pub(super) enum TimerCommand {
    /// List the timers that are set, by name
    #[command(after_help = "Example:\n  kvasm timer list shop")]
    List(TimerListArgs),
    /// Cancel a timer
    #[command(after_help = "Example:\n  kvasm timer cancel shop unpaid/o1")]
    Cancel(TimerArgs),
    /// Run a timer now
    #[command(after_help = "Example:\n  kvasm timer run shop unpaid/o1")]
    Run(TimerArgs),
}

#[derive(Args)]
pub(super) struct TimerListArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Maximum number of timers, up to 100
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Resume after this name
    #[arg(long, value_name = "TIMER")]
    after: Option<String>,
}

#[derive(Args)]
pub(super) struct TimerArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Name of the timer
    timer: String,
}

pub(super) async fn run(global: &Global, command: TimerCommand) -> Result<CommandOutcome, Failure> {
    match command {
        TimerCommand::List(arguments) => list(global, arguments).await,
        TimerCommand::Cancel(timer) => change(global, timer, "cancel").await,
        TimerCommand::Run(timer) => change(global, timer, "run").await,
    }
}

async fn list(global: &Global, list: TimerListArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(&list.app, &["timers"])
        .with("after", list.after)
        .with("limit", Some(list.limit));
    let answer = client.send(path.request("GET", Body::empty())?).await?;
    let answer = bytes(answer).await?;
    if global.json {
        output::json_line(&answer)?;
        return Ok(CommandOutcome::Done);
    }
    let page: TimerPage = parse(&answer)?;
    let rows = page.timers.iter().map(|timer| {
        [
            timer.timer.clone(),
            output::time(timer.at),
            timer.state.clone(),
            timer.attempts.to_string(),
            timer.due_at.map(output::time).unwrap_or_default(),
            shorten(timer.error.as_deref().unwrap_or_default()),
        ]
    });
    output::table(["TIMER", "AT", "STATE", "ATTEMPTS", "DUE", "ERROR"], rows)?;
    if let Some(next) = page.next {
        output::note(&format!("More: --after {next}"));
    }
    Ok(CommandOutcome::Done)
}

async fn change(
    global: &Global,
    timer: TimerArgs,
    action: &'static str,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let TimerArgs { app, timer } = timer;
    let path = RequestPath::app(&app, &["timers", action]);
    let request = TimerRequest {
        timer: timer.clone(),
    };
    let done: TimerDone = client.post("POST", &path, &request).await?;
    output::object(global.json, &json!(done), || match (done.done, action) {
        (true, "cancel") => format!("Cancelled timer {timer} of {app}"),
        (true, _) => format!("Timer {timer} of {app} is due now"),
        (false, "cancel") => format!("{app} has no timer {timer}"),
        (false, _) => format!("{app} has no timer {timer}, or its handler is running"),
    })?;
    Ok(match done.done {
        true => CommandOutcome::Done,
        false => CommandOutcome::NotFound,
    })
}
