//! `kvasm dead-letter`.

use super::batch::parse;
use super::client::{RequestPath, bytes, connect};
use super::delivery::{describe_event, shorten};
use super::failure::{CommandOutcome, Failure};
use super::trigger::note_delivery;
use super::{Global, output};
use axum::body::Body;
use clap::{Args, Subcommand};
use kvasm::api::{DeadLetterPage, DeadLetterView, EventView, LettersDone, LettersRequest};
use kvasm::model::{AppName, DeadReason, Timestamp, TriggerName};
use serde_json::json;
use uuid::Uuid;

const REPLAY_HELP: &str = "\
Examples:
  kvasm dead-letter replay shop --trigger index --dry-run
  kvasm dead-letter replay shop --reason deterministic --from 2h
  kvasm dead-letter replay shop --id 0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c02";

const DISCARD_HELP: &str = "\
Examples:
  kvasm dead-letter discard shop --until 2026-01-31T12:00:00Z --dry-run
  kvasm dead-letter discard shop --all";

#[derive(Subcommand)]
pub(super) enum DeadLetterCommand {
    /// List dead letters, newest first
    #[command(
        after_help = "Example:\n  kvasm dead-letter list shop --reason deterministic --from 2h"
    )]
    List(DeadLetterListArgs),
    /// Show a dead letter: its event, its value and its failure
    Show {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// Id of the dead letter
        id: Uuid,
    },
    /// Queue dead letters for delivery again, oldest first
    #[command(after_help = REPLAY_HELP)]
    Replay(DeadLetterSelection),
    /// Permanently discard dead letters, oldest first
    #[command(after_help = DISCARD_HELP)]
    Discard(DeadLetterSelection),
}

#[derive(Args)]
pub(super) struct DeadLetterListArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Only those of this trigger
    #[arg(long, value_parser = TriggerName::parse)]
    trigger: Option<TriggerName>,
    /// Only those with this reason: attempts, age, deterministic or depth
    #[arg(long, value_parser = reason)]
    reason: Option<DeadReason>,
    /// Only those that became dead letters at or after this time: 2026-01-31T12:00:00Z, or 2h for
    /// two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Timestamp>,
    /// Only those that became dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Maximum number of dead letters
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Resume from this cursor
    #[arg(long, value_name = "ID")]
    before: Option<Uuid>,
}

/// A selection of dead letters. At least one of the options is required, since an empty selection
/// means all.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("choice").required(true).multiple(true))]
pub(super) struct DeadLetterSelection {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Select this dead letter (repeatable)
    #[arg(long = "id", value_name = "ID", group = "choice")]
    ids: Vec<Uuid>,
    /// Select those of this trigger
    #[arg(long, value_parser = TriggerName::parse, group = "choice")]
    trigger: Option<TriggerName>,
    /// Select those with this reason: attempts, age, deterministic or depth
    #[arg(long, value_parser = reason, group = "choice")]
    reason: Option<DeadReason>,
    /// Select those that became dead letters at or after this time: 2026-01-31T12:00:00Z, or 2h for
    /// two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "choice")]
    from: Option<Timestamp>,
    /// Select those that became dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "choice")]
    until: Option<Timestamp>,
    /// Select all dead letters of the app
    #[arg(
        long,
        group = "choice",
        conflicts_with_all = ["ids", "trigger", "reason", "from", "until"]
    )]
    all: bool,
    /// Maximum number of dead letters, up to 1,000
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
    /// Only count the dead letters
    #[arg(long)]
    dry_run: bool,
}

fn reason(word: &str) -> Result<DeadReason, String> {
    let refuse = |()| "expected attempts, age, deterministic or depth".to_owned();
    word.parse().map_err(refuse)
}

/// A time, absolute or relative to now.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        let since = at.duration_since(std::time::UNIX_EPOCH);
        let ms = since.ok().and_then(|d| i64::try_from(d.as_millis()).ok());
        return Ok(Timestamp(ms.unwrap_or(0)));
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "a time is like 2026-01-31T12:00:00Z, or 2h for two hours ago".to_owned())?;
    let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
    Ok(Timestamp(Timestamp::now().0.saturating_sub(ago)))
}

pub(super) async fn run(
    global: &Global,
    command: DeadLetterCommand,
) -> Result<CommandOutcome, Failure> {
    match command {
        DeadLetterCommand::List(arguments) => list(global, arguments).await,
        DeadLetterCommand::Show { app, id } => show(global, &app, id).await,
        DeadLetterCommand::Replay(choice) => replay(global, choice).await,
        DeadLetterCommand::Discard(choice) => discard(global, choice).await,
    }
}

async fn list(global: &Global, list: DeadLetterListArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(&list.app, &["dead-letters"])
        .with("trigger", list.trigger)
        .with("reason", list.reason)
        .with("from", list.from.map(|at| at.0))
        .with("until", list.until.map(|at| at.0))
        .with("before", list.before)
        .with("limit", Some(list.limit));
    let answer = client.send(path.request("GET", Body::empty())?).await?;
    let answer = bytes(answer).await?;
    if global.json {
        // Unchanged, so that numbers keep all their digits.
        output::json_line(&answer)?;
        return Ok(CommandOutcome::Done);
    }
    let page: DeadLetterPage = parse(&answer)?;
    let rows = page.dead_letters.iter().map(|letter| {
        [
            letter.id.clone(),
            letter.trigger.clone(),
            describe_event(&letter.event),
            letter.reason.clone(),
            letter.attempts.to_string(),
            output::time(letter.dead_at),
            shorten(&letter.error),
        ]
    });
    let head = [
        "ID",
        "TRIGGER",
        "EVENT",
        "REASON",
        "ATTEMPTS",
        "DEAD SINCE",
        "ERROR",
    ];
    output::table(head, rows)?;
    if let Some(next) = page.next {
        output::note(&format!("More: --before {next}"));
    }
    Ok(CommandOutcome::Done)
}

async fn show(global: &Global, app: &AppName, id: Uuid) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(app, &["dead-letters", &id.to_string()]);
    let answer = match client.send(path.request("GET", Body::empty())?).await {
        Ok(answer) => bytes(answer).await?,
        Err(failure) if failure.is_kind("dead-letter-not-found") => {
            if global.json {
                output::object(true, &serde_json::Value::Null, String::new)?;
            } else {
                output::note(&format!(
                    "No such dead letter; `kvasm dead-letter list {app}` lists them."
                ));
            }
            return Ok(CommandOutcome::NotFound);
        }
        Err(failure) => return Err(failure),
    };
    if global.json {
        output::json_line(&answer)?;
    } else {
        print(&parse(&answer)?)?;
    }
    Ok(CommandOutcome::Done)
}

fn print(letter: &DeadLetterView) -> Result<(), Failure> {
    let event = &letter.event;
    let plugin = letter.plugin_version.map(|version| {
        let digest = letter.plugin_digest.as_deref().unwrap_or_default();
        format!("version {version}, SHA-256 {digest}")
    });
    let rows = [
        ("id", letter.id.clone()),
        ("trigger", letter.trigger.clone()),
        ("function", letter.function.clone().unwrap_or_default()),
        ("reason", letter.reason.clone()),
        ("error", letter.error.clone()),
        ("dead since", output::time(letter.dead_at)),
        ("attempts", letter.attempts.to_string()),
        ("replays", letter.replays.to_string()),
        (
            "plugin",
            plugin.unwrap_or_else(|| "no plugin was run".to_owned()),
        ),
        ("event", describe_event(event)),
        ("event id", event.id.clone()),
        ("happened", output::time(event.at)),
        ("depth", event.depth.to_string()),
        (
            "trace id",
            event
                .trace_id
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("value", value(event)),
    ];
    output::rows(&rows.map(|(name, value)| [name.to_owned(), value]))?;
    if let Some(trace) = &letter.trace {
        output::line(format!("\n{}", output::escape_lines(trace)).as_bytes())?;
    }
    Ok(())
}

fn value(event: &EventView) -> String {
    match (&event.json, &event.bytes) {
        (Some(json), _) => json.get().to_owned(),
        (None, Some(base64)) => format!("{base64} (base64)"),
        (None, None) => "none".to_owned(),
    }
}

impl DeadLetterSelection {
    async fn send(&self, client: &super::client::Client, verb: &str) -> Result<u64, Failure> {
        let ids: Vec<_> = self.ids.iter().map(ToString::to_string).collect();
        let request = LettersRequest {
            all: self.all,
            ids: (!ids.is_empty()).then_some(ids),
            trigger: self.trigger.as_ref().map(ToString::to_string),
            reason: self.reason.map(|reason| reason.to_string()),
            from: self.from.map(|at| at.0),
            until: self.until.map(|at| at.0),
            limit: Some(self.limit),
            dry_run: self.dry_run,
        };
        let path = RequestPath::app(&self.app, &["dead-letters", verb]);
        let done: LettersDone = client.post("POST", &path, &request).await?;
        Ok(done.letters)
    }

    /// Reports the result and suggests the next command.
    fn report(
        &self,
        global: &Global,
        count: u64,
        done: impl FnOnce(&str) -> String,
    ) -> Result<CommandOutcome, Failure> {
        let json = json!({ "letters": count, "dry_run": self.dry_run });
        let app = &self.app;
        output::object(global.json, &json, || match count {
            0 => format!("No matching dead letters; `kvasm dead-letter list {app}` lists all."),
            1 => done("1 dead letter"),
            count => done(&format!("{count} dead letters")),
        })?;
        if count == u64::from(self.limit) && !global.json && self.ids.is_empty() {
            output::note("Stopped at the limit; there may be more.");
        }
        Ok(match count {
            0 => CommandOutcome::NotFound,
            _ => CommandOutcome::Done,
        })
    }
}

async fn replay(global: &Global, choice: DeadLetterSelection) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let count = choice.send(&client, "replay").await?;
    let app = &choice.app;
    let outcome = choice.report(global, count, |letters| match choice.dry_run {
        true => format!("{letters} would be replayed."),
        false => format!(
            "Replayed {letters}. `kvasm delivery list {app}` shows outstanding deliveries, \
             `kvasm dead-letter list {app}` those that failed again."
        ),
    })?;
    if count > 0 && !choice.dry_run {
        note_delivery(global, &client);
    }
    Ok(outcome)
}

async fn discard(global: &Global, choice: DeadLetterSelection) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let count = choice.send(&client, "discard").await?;
    choice.report(global, count, |letters| match choice.dry_run {
        true => format!("{letters} would be discarded."),
        false => format!("Discarded {letters}."),
    })
}
