//! `kvasm trigger`.

use super::client::{Client, RequestPath, connect};
use super::failure::{CommandOutcome, Failure};
use super::kv::collection;
use super::{Global, output};
use axum::body::Body;
use clap::{Args, Subcommand, ValueEnum};
use kvasm::api::{DeclaredView, TriggerPage, TriggerPut, TriggerView};
use kvasm::model::{AppName, Collection, TriggerName};
use serde_json::json;
use std::time::Duration;

#[derive(Subcommand)]
pub(super) enum TriggerCommand {
    /// List an app's triggers, including those of its plugin
    List {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Create or replace a trigger; it is not paused afterwards
    #[command(
        after_help = "Examples:\n  kvasm trigger set shop index --collection orders --prefix eu/ --on set\n  \
        kvasm trigger set shop nightly --function tidy --schedule '0 3 * * *'\n  \
        kvasm trigger set shop hook --collection orders --url https://example.com/hook --secret hook-key"
    )]
    Set(Set),
    /// Delete a trigger. One that the plugin declares is created again at the next activation:
    /// pause it instead
    Delete(Delete),
    /// Pause a trigger; its deliveries are queued
    Pause(TriggerArgs),
    /// Resume a paused trigger
    Resume(TriggerArgs),
}

#[derive(Args)]
pub(super) struct TriggerArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// Name of the trigger
    #[arg(value_parser = TriggerName::parse)]
    name: TriggerName,
}

#[derive(Args)]
pub(super) struct Delete {
    #[command(flatten)]
    named: TriggerArgs,
    /// What to do with its outstanding deliveries; if omitted, a trigger that has any is not
    /// deleted
    #[arg(long, value_enum)]
    deliveries: Option<OnDelete>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnDelete {
    /// Deliver them
    Keep,
    /// Permanently discard them
    Discard,
}

impl OnDelete {
    fn as_str(self) -> &'static str {
        match self {
            OnDelete::Keep => "keep",
            OnDelete::Discard => "discard",
        }
    }
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    named: TriggerArgs,
    /// The plugin's function to call [default: the trigger's name]
    #[arg(long, conflicts_with = "url")]
    function: Option<String>,
    /// Send the events to this URL instead, as CloudEvents, signed as Standard Webhooks say
    #[arg(long, requires = "secret")]
    url: Option<String>,
    /// Name of the app's secret that signs the requests to the URL: whsec_ and 24 to 64 bytes in
    /// base64
    #[arg(long, value_name = "NAME", requires = "url")]
    secret: Option<String>,
    #[command(flatten)]
    watch: WatchArgs,
    /// Only keys with this prefix
    #[arg(long, conflicts_with = "schedule")]
    prefix: Option<String>,
    /// Only these kinds of change
    #[arg(long, conflicts_with = "schedule", value_delimiter = ',')]
    on: Vec<ChangeKind>,
    /// Maximum number of attempts, 1 to 100 [default: 12]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// Maximum age of a delivery, such as 30m or 7d [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WatchArgs {
    /// Watch this collection
    #[arg(long, value_parser = collection)]
    collection: Option<Collection>,
    /// Run on this schedule: five cron fields, in UTC, such as '*/5 * * * *'
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ChangeKind {
    Set,
    Delete,
}

impl ChangeKind {
    fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Set => "set",
            ChangeKind::Delete => "delete",
        }
    }
}

pub(super) async fn run(
    global: &Global,
    command: TriggerCommand,
) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    match command {
        TriggerCommand::List { app } => list(global, &client, &app).await?,
        TriggerCommand::Set(arguments) => set(global, &client, arguments).await?,
        TriggerCommand::Delete(arguments) => delete(global, &client, &arguments).await?,
        TriggerCommand::Pause(named) => {
            named.send(&client, "pause").await?;
            let TriggerArgs { app, name } = &named;
            output::object(global.json, &json!({ "paused": name }), || {
                format!("Paused {name}; `kvasm trigger resume {app} {name}` resumes it.")
            })?;
        }
        TriggerCommand::Resume(named) => {
            named.send(&client, "resume").await?;
            let TriggerArgs { app, name } = &named;
            output::object(global.json, &json!({ "resumed": name }), || {
                format!("Resumed {name}; `kvasm delivery list {app}` shows its deliveries.")
            })?;
            note_delivery(global, &client);
        }
    }
    Ok(CommandOutcome::Done)
}

async fn delete(global: &Global, client: &Client, arguments: &Delete) -> Result<(), Failure> {
    let Delete { named, deliveries } = arguments;
    let TriggerArgs { app, name } = named;
    let path = named.path(&[]).with(
        "deliveries",
        Some(deliveries.map_or("refuse", OnDelete::as_str)),
    );
    if let Err(failure) = client.delete(&path).await {
        return Err(match failure.is_kind("trigger-has-deliveries") {
            true => Failure::user(format!(
                "trigger {name} of {app} has outstanding deliveries and was not deleted: use \
                 --deliveries keep to let them be delivered, or --deliveries discard; \
                 `kvasm delivery list {app} --trigger {name}` shows them"
            )),
            false => named.map_not_found(failure),
        });
    }
    output::object(global.json, &json!({ "deleted": name }), || {
        let deleted = format!("Deleted trigger {name} of {app}");
        match deliveries {
            None => format!("{deleted}."),
            Some(OnDelete::Discard) => format!("{deleted}, and its outstanding deliveries."),
            Some(OnDelete::Keep) => format!(
                "{deleted}. Its outstanding deliveries are kept: \
                 `kvasm delivery list {app} --trigger {name}` shows them."
            ),
        }
    })
}

/// A command on a store delivers nothing itself.
pub(super) fn note_delivery(global: &Global, client: &Client) {
    if !client.is_server() && !global.json {
        output::note("Only a running server on this store makes deliveries: `kvasm serve`.");
    }
}

impl TriggerArgs {
    fn path(&self, rest: &[&str]) -> RequestPath {
        let mut segments = vec!["triggers", self.name.as_str()];
        segments.extend(rest);
        RequestPath::app(&self.app, &segments)
    }

    async fn send(&self, client: &Client, verb: &str) -> Result<(), Failure> {
        let request = self.path(&[verb]).request("POST", Body::empty())?;
        let sent = client.send(request).await;
        sent.map(drop).map_err(|e| self.map_not_found(e))
    }

    /// Replaces a failure for an unknown trigger by one that names it.
    fn map_not_found(&self, failure: Failure) -> Failure {
        let TriggerArgs { app, name } = self;
        match failure.is_kind("trigger-not-found") {
            true => Failure::user(format!(
                "{app} has no trigger {name}; `kvasm trigger list {app}` lists its triggers"
            )),
            false => failure,
        }
    }
}

async fn set(global: &Global, client: &Client, arguments: Set) -> Result<(), Failure> {
    let on = arguments.on.iter().map(|kind| kind.as_str().to_owned());
    let on: Vec<_> = on.collect();
    let age_max = arguments.max_age.map(|age| age.as_millis());
    let put = TriggerPut {
        function: arguments.function,
        url: arguments.url,
        secret: arguments.secret,
        collection: arguments.watch.collection.map(String::from),
        prefix: arguments.prefix,
        on: (!on.is_empty()).then_some(on),
        schedule: arguments.watch.schedule,
        attempts_max: arguments.attempts,
        age_max_ms: age_max.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
    };
    let path = arguments.named.path(&[]);
    let trigger: TriggerView = client.post("PUT", &path, &put).await?;
    output::object(global.json, &json!(trigger), || {
        let (name, app) = (&trigger.name, &arguments.named.app);
        let (target, on) = (target(&trigger), watches(&trigger));
        format!(
            "Trigger {name} of {app} calls {}: {}.",
            output::escape_line(target),
            output::escape_line(&on)
        )
    })?;
    note_delivery(global, client);
    Ok(())
}

/// The function or the URL that a trigger calls.
fn target(trigger: &TriggerView) -> &str {
    let target = trigger.function.as_ref().or(trigger.url.as_ref());
    target.map_or("", String::as_str)
}

/// What a trigger watches.
fn watches(trigger: &TriggerView) -> String {
    let on = trigger.on.as_ref().map(|on| on.join(", "));
    describe_watch(
        trigger.collection.as_deref(),
        trigger.prefix.as_deref(),
        on.as_deref(),
        trigger.schedule.as_deref(),
    )
}

/// What a declared trigger watches, and how it is retried if it says so.
pub(super) fn describe_declared(trigger: &DeclaredView) -> String {
    let on = trigger.on.as_ref().map(|on| on.join(", "));
    let mut text = describe_watch(
        trigger.collection.as_deref(),
        trigger.prefix.as_deref(),
        on.as_deref(),
        trigger.schedule.as_deref(),
    );
    if let Some(attempts) = trigger.attempts_max {
        text.push_str(&format!("; at most {attempts} attempts"));
    }
    if let Some(ms) = trigger.age_max_ms {
        let age = humantime::format_duration(Duration::from_millis(ms));
        text.push_str(&format!("; at most {age} old"));
    }
    text
}

/// What a trigger watches, for a table.
fn describe_watch(
    collection: Option<&str>,
    prefix: Option<&str>,
    on: Option<&str>,
    schedule: Option<&str>,
) -> String {
    match (collection, schedule) {
        (Some(collection), _) => {
            let on = on.unwrap_or_default();
            match prefix.unwrap_or_default() {
                "" => format!("{on} of {collection}"),
                prefix => format!("{on} of {collection}, keys {prefix}*"),
            }
        }
        (None, schedule) => schedule.unwrap_or("timers").to_owned(),
    }
}

async fn list(global: &Global, client: &Client, app: &AppName) -> Result<(), Failure> {
    let page: TriggerPage = client.get(&RequestPath::app(app, &["triggers"])).await?;
    if global.json {
        return output::json(&page.triggers);
    }
    let rows = page.triggers.iter().map(|trigger| {
        [
            trigger.name.clone(),
            target(trigger).to_owned(),
            watches(trigger),
            state(trigger),
            trigger.failures.to_string(),
            trigger.next_at.map(output::time).unwrap_or_default(),
            trigger.origin.clone(),
        ]
    });
    output::table(
        ["NAME", "CALLS", "ON", "STATE", "FAILURES", "NEXT", "BY"],
        rows,
    )
}

fn state(trigger: &TriggerView) -> String {
    match trigger.paused.as_deref() {
        None => "on".to_owned(),
        Some("failures") => match trigger.probe_at {
            Some(at) => format!("paused after failures, next try {}", output::time(at)),
            None => "paused after failures".to_owned(),
        },
        Some(_) => "paused".to_owned(),
    }
}
