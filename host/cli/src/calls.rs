//! `kvasm calls`.

use super::Global;
use super::client::{RequestPath, connect};
use super::dead_letter::parse_time;
use super::failure::{CommandOutcome, Failure};
use super::logs::read_pages;
use super::output;
use clap::Args;
use kvasm::api::CallView;
use kvasm::model::{AppName, Timestamp, display_truncated};
use std::time::Duration;
use uuid::Uuid;

#[derive(Args)]
pub(super) struct CallsArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Number of calls to show
    #[arg(long, short = 'n', default_value_t = 100)]
    limit: u32,
    /// Only calls that ended at or after this time: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only calls that ended before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Only calls of this function
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Only attempts of deliveries of this trigger
    #[arg(long, value_name = "NAME")]
    trigger: Option<String>,
    /// Only calls that failed
    #[arg(long)]
    failed: bool,
    /// Only calls with this outcome, such as trap or deadline
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Only calls that took at least this long: 100ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    slower: Option<Duration>,
    /// Only the call of this request
    #[arg(long, value_name = "ID")]
    request: Option<Uuid>,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "a duration is like 100ms or 2s".to_owned())
}

pub(super) async fn run(global: &Global, calls: CallsArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let slower = calls.slower.map(|slower| slower.as_micros());
    let path = RequestPath::app(&calls.app, &["calls"])
        .with("since", calls.since.map(|at| at.0))
        .with("until", calls.until.map(|at| at.0))
        .with("function", calls.function)
        .with("trigger", calls.trigger)
        .with("failed", calls.failed.then_some(true))
        .with("outcome", calls.outcome)
        .with("slower_us", slower)
        .with("request", calls.request);
    let found = read_pages(&client, &path, calls.limit).await?;
    if found.left_out > 0 {
        output::note(&format!(
            "{} more calls of this time were not recorded: the app made too many, or the store \
             failed (kvasm logs {} --function log)",
            found.left_out, calls.app
        ));
    }
    if global.json {
        for line in &found.lines {
            output::json_line(line)?;
        }
        return Ok(CommandOutcome::Done);
    }
    let views = found.lines.iter().map(|line| {
        serde_json::from_slice::<CallView>(line)
            .map_err(|e| Failure::host(format!("the server sent an invalid response: {e}")))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    if views.is_empty() {
        return Ok(CommandOutcome::Done);
    }
    let head = [
        "TIME", "FUNCTION", "CAUSE", "OUTCOME", "TOOK", "WAITED", "CPU", "REQUEST", "ERROR",
    ];
    output::table(head, views.iter().map(cells))?;
    let shown = views.iter().rev().find(|call| call.outcome != "ok");
    if let Some(call) = shown.or(views.last()) {
        let (app, id) = (&calls.app, &call.request_id);
        output::note(&format!("Log of one call: kvasm logs {app} --request {id}"));
    }
    Ok(CommandOutcome::Done)
}

/// The cells of a call's row.
fn cells(call: &CallView) -> [String; 9] {
    let function = match call.version {
        Some(version) => format!("{}@{version}", call.function),
        None => call.function.clone(),
    };
    let cause = match &call.delivery {
        Some(delivery) => {
            let webhook = if delivery.webhook { " webhook" } else { "" };
            let (trigger, attempt) = (&delivery.trigger, delivery.attempt);
            format!("{} {trigger} #{attempt}{webhook}", call.cause)
        }
        None if call.replayed => format!("{} replayed", call.cause),
        None => call.cause.clone(),
    };
    let outcome = match &call.blame {
        Some(blame) => format!("{} ({blame})", call.outcome),
        None => call.outcome.clone(),
    };
    let runs = call.cost.as_ref().map_or(1, |cost| cost.runs);
    let runs = if runs > 1 {
        format!(" x{runs}")
    } else {
        String::new()
    };
    let cpu = call.cost.as_ref().map(|cost| ms(cost.cpu_us));
    [
        output::time(call.at),
        function,
        cause,
        outcome + &runs,
        ms(call.duration_us),
        ms(call.waited_us),
        cpu.unwrap_or_default(),
        call.request_id.clone(),
        short(call.error.as_deref().unwrap_or_default()),
    ]
}

/// The beginning of an error. It is the last cell, so it may be long.
fn short(error: &str) -> String {
    display_truncated(&error, 120)
}

/// Formats microseconds as milliseconds.
fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_of_a_call_has_its_trigger_attempt_and_blame() {
        let call: CallView = serde_json::from_value(serde_json::json!({
            "seq": 1, "at": 0, "request_id": "r", "function": "f", "version": 3, "cause": "set",
            "delivery": { "trigger": "t", "event_id": "e", "attempt": 2 },
            "outcome": "trap", "blame": "plugin", "error": "x".repeat(200),
            "duration_us": 12_345, "waited_us": 7,
            "cost": { "runs": 2, "cpu_us": 1_000, "memory_bytes": 0, "entries_read": 0,
                "entries_written": 0, "bytes_read": 0, "bytes_written": 0, "host_calls": 0 },
        }))
        .unwrap();
        let cells = cells(&call);
        assert_eq!(
            cells[..8],
            [
                "1970-01-01T00:00:00.000Z",
                "f@3",
                "set t #2",
                "trap (plugin) x2",
                "12.345 ms",
                "0.007 ms",
                "1.000 ms",
                "r"
            ]
        );
        assert_eq!(cells[8].len(), 123);
    }
}
