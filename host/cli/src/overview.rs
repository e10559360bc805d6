//! `kvasm overview`.

use super::client::{RequestPath, connect};
use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use clap::Args;
use kvasm::api::{AttentionView, ConcernList, ConcernView, OverviewNumbers, OverviewView};
use std::time::Duration;

#[derive(Args)]
pub(super) struct OverviewArgs {
    /// Sum up the last day instead of the last hour
    #[arg(long)]
    day: bool,
}

pub(super) async fn run(global: &Global, args: OverviewArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let window = if args.day { "1d" } else { "1h" };
    let path = RequestPath::new(&["v1", "overview"]).with("window", Some(window));
    let overview: OverviewView = client.get(&path).await?;
    if global.json {
        output::json(&overview)?;
        return Ok(CommandOutcome::Done);
    }
    for line in attention(&overview, client.is_server()) {
        output::text(&line)?;
    }
    hosts(&overview)?;
    output::text("")?;
    let name = if args.day { "day" } else { "hour" };
    output::rows(&numbers(&overview, name))?;
    Ok(CommandOutcome::Done)
}

/// What needs a person: a line for each kind, and one for each of the worst.
fn attention(overview: &OverviewView, is_server: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if overview.hosts.gone > 0 {
        lines.push(format!(
            "Hosts gone without a goodbye: {}",
            overview.hosts.gone
        ));
    }
    if !overview.failing_tasks.is_empty() {
        let tasks = overview.failing_tasks.join(", ");
        lines.push(format!(
            "Background tasks failing on the host that answered: {tasks}"
        ));
    }
    let Some(view) = &overview.attention else {
        let why = match is_server {
            true => "The server has not looked at the apps yet; try again in a moment",
            false => {
                "Only a running server knows which apps need a person; specify it with --server"
            }
        };
        lines.extend([why.to_owned(), String::new()]);
        return lines;
    };
    for (title, list, shown) in kinds(view) {
        if list.total > 0 {
            lines.push(format!("{title}: {}", list.total));
            lines.extend(list.worst.iter().map(|one| format!("  {}", shown(one))));
            let left = list.total - (list.worst.len() as u64).min(list.total);
            if left > 0 {
                lines.push(format!("  and {left} more"));
            }
        }
    }
    let sampled = output::time(view.sampled_at);
    match lines.is_empty() {
        true => lines.push(format!("Nothing needs a person, as of {sampled}")),
        false => lines.push(format!("Apps as of {sampled}")),
    }
    lines.push(String::new());
    lines
}

type Kind<'v> = (&'static str, &'v ConcernList, fn(&ConcernView) -> String);

/// The kinds of concerns, the most urgent first.
fn kinds(view: &AttentionView) -> [Kind<'_>; 5] {
    [
        ("Apps with paused triggers", &view.paused_triggers, |one| {
            format!("{}  {} paused", one.app, one.amount)
        }),
        ("Schedules that are late", &view.late_schedules, |one| {
            let name = one.name.as_deref().unwrap_or_default();
            format!("{}  {name}  late by {}", one.app, duration(one.amount))
        }),
        ("Apps with overdue deliveries", &view.overdue, |one| {
            format!("{}  for {}", one.app, duration(one.amount))
        }),
        ("Quotas that are nearly used", &view.quotas, |one| {
            let name = one.name.as_deref().unwrap_or_default();
            format!("{}  {name}  {} %", one.app, one.amount)
        }),
        ("Apps with dead letters", &view.dead_letters, |one| {
            format!("{}  {}", one.app, one.amount)
        }),
    ]
}

/// A duration in whole seconds.
fn duration(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string()
}

fn hosts(overview: &OverviewView) -> Result<(), Failure> {
    let rows = overview.hosts.list.iter().map(|host| {
        let ago = overview
            .now
            .saturating_sub(host.seen_at)
            .max(0)
            .unsigned_abs();
        [
            host.name.clone(),
            host.state.clone(),
            format!("{} ago", duration(ago)),
            output::time(host.started_at),
            host.version.clone(),
            host.id.clone(),
        ]
    });
    output::table(["HOST", "STATE", "SEEN", "STARTED", "VERSION", "ID"], rows)?;
    let all = overview.hosts.alive + overview.hosts.gone + overview.hosts.stopped;
    let left = all.saturating_sub(overview.hosts.list.len() as u64);
    if left > 0 {
        output::text(&format!("and {left} more"))?;
    }
    Ok(())
}

/// The last hour or day in numbers, and the state of the store.
fn numbers(overview: &OverviewView, window: &str) -> Vec<[String; 2]> {
    let OverviewNumbers {
        calls,
        failed,
        delivered,
        undelivered,
        lag_ms,
        ..
    } = overview.total;
    let ms = |us: Option<u64>| {
        us.map_or_else(
            || "-".to_owned(),
            |us| format!("{} ms", us as f64 / 1_000.0),
        )
    };
    let share = match calls {
        0 => String::new(),
        _ => format!(" ({:.2} %)", failed as f64 * 100.0 / calls as f64),
    };
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row(
            &format!("runs of functions in the last {window}"),
            calls.to_string(),
        ),
        row("of these failed", format!("{failed}{share}")),
        row("duration, p50 (estimated)", ms(overview.total.p50_us)),
        row("duration, p99 (estimated)", ms(overview.total.p99_us)),
        row(
            "deliveries",
            format!("{delivered} done, {undelivered} failed attempts"),
        ),
        row("longest lag of a delivery", format!("{} ms", lag_ms)),
    ];
    let last = overview
        .series
        .iter()
        .rev()
        .find(|part| part.apps.is_some());
    if let Some(last) = last {
        let number = |value: Option<u64>| value.unwrap_or(0).to_string();
        rows.push(row("apps", number(last.apps)));
        rows.push(row("outstanding deliveries", number(last.pending)));
        rows.push(row("dead letters", number(last.dead_letters)));
        rows.push(row("paused triggers", number(last.paused_triggers)));
        if let Some(bytes) = last.store_bytes {
            rows.push(row(
                "database",
                format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
            ));
        }
    }
    rows
}
