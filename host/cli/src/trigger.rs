//! `kvasm trigger`.

use super::client::{Client, Path, connect};
use super::failure::{Failure, Outcome};
use super::kv::collection;
use super::{Global, output};
use axum::body::Body;
use clap::{Args, Subcommand, ValueEnum};
use kvasm::api::{TriggerPage, TriggerPut, TriggerView};
use kvasm::model::{AppName, Collection, TriggerName};
use serde_json::json;
use std::time::Duration;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List an app's triggers, those of its plugin too
    List {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Make a trigger, or replace the one of its name; it is not paused then
    #[command(
        after_help = "Examples:\n  kvasm trigger set shop index --collection orders --prefix eu/ --on set\n  \
        kvasm trigger set shop nightly --function tidy --schedule '0 3 * * *'"
    )]
    Set(Set),
    /// Delete a trigger. One that the plugin declares comes back with the next
    /// activation: pause it instead
    Delete(Delete),
    /// Let a trigger's deliveries wait; changes are recorded all the same
    Pause(Named),
    /// Let a trigger's deliveries go on
    Resume(Named),
}

#[derive(Args)]
pub(super) struct Named {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// The trigger
    #[arg(value_parser = TriggerName::parse)]
    name: TriggerName,
}

#[derive(Args)]
pub(super) struct Delete {
    #[command(flatten)]
    named: Named,
    /// What becomes of its outstanding deliveries; without it, a trigger that has some
    /// is not deleted
    #[arg(long, value_enum)]
    deliveries: Option<Fate>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fate {
    /// They go on
    Keep,
    /// They are permanently discarded
    Discard,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Fate::Keep => "keep",
            Fate::Discard => "discard",
        }
    }
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    named: Named,
    /// The plugin's function that it calls [default: that of the trigger's name]
    #[arg(long)]
    function: Option<String>,
    #[command(flatten)]
    watch: Watch,
    /// Of keys that start with this alone
    #[arg(long, conflicts_with = "schedule")]
    prefix: Option<String>,
    /// Of these changes alone
    #[arg(long, conflicts_with = "schedule", value_delimiter = ',')]
    on: Vec<Kind>,
    /// How often a delivery is tried, 1 to 100 [default: 12]
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// The age at which a delivery is given up, such as 30m or 7d [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Watch {
    /// It waits for changes of this collection
    #[arg(long, value_parser = collection)]
    collection: Option<Collection>,
    /// It waits for times: the five fields of cron, in UTC, such as '*/5 * * * *'
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Set,
    Delete,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Set => "set",
            Kind::Delete => "delete",
        }
    }
}

pub(super) async fn run(global: &Global, command: Command) -> Result<Outcome, Failure> {
    let client = connect(global).await?;
    match command {
        Command::List { app } => list(global, &client, &app).await?,
        Command::Set(arguments) => set(global, &client, arguments).await?,
        Command::Delete(arguments) => delete(global, &client, &arguments).await?,
        Command::Pause(named) => {
            named.send(&client, "pause").await?;
            let Named { app, name } = &named;
            output::object(global.json, &json!({ "paused": name }), || {
                format!("Paused {name}; `kvasm trigger resume {app} {name}` lets it go on.")
            })?;
        }
        Command::Resume(named) => {
            named.send(&client, "resume").await?;
            let Named { app, name } = &named;
            output::object(global.json, &json!({ "resumed": name }), || {
                format!("{name} goes on; `kvasm delivery list {app}` shows what it has to do.")
            })?;
            say_who_delivers(global, &client);
        }
    }
    Ok(Outcome::Done)
}

async fn delete(global: &Global, client: &Client, arguments: &Delete) -> Result<(), Failure> {
    let Delete { named, deliveries } = arguments;
    let Named { app, name } = named;
    let path = named.path(&[]).with(
        "deliveries",
        Some(deliveries.map_or("refuse", Fate::as_str)),
    );
    if let Err(failure) = client.delete(&path).await {
        return Err(match failure.is_kind("trigger-has-deliveries") {
            true => Failure::user(format!(
                "trigger {name} of {app} has outstanding deliveries and was not deleted: say \
                 --deliveries keep to let them be delivered, or --deliveries discard; \
                 `kvasm delivery list {app} --trigger {name}` shows them"
            )),
            false => named.absent(failure),
        });
    }
    output::object(global.json, &json!({ "deleted": name }), || {
        let deleted = format!("Deleted trigger {name} of {app}");
        match deliveries {
            None => format!("{deleted}."),
            Some(Fate::Discard) => format!("{deleted}, and its outstanding deliveries."),
            Some(Fate::Keep) => format!(
                "{deleted}. Its outstanding deliveries are kept: \
                 `kvasm delivery list {app} --trigger {name}` shows them."
            ),
        }
    })
}

/// On a store nothing comes of this command alone.
pub(super) fn say_who_delivers(global: &Global, client: &Client) {
    if !client.is_server() && !global.json {
        output::note("Deliveries are made by a running server on this store: `kvasm serve`.");
    }
}

impl Named {
    fn path(&self, rest: &[&str]) -> Path {
        let mut segments = vec!["triggers", self.name.as_str()];
        segments.extend(rest);
        Path::app(&self.app, &segments)
    }

    async fn send(&self, client: &Client, verb: &str) -> Result<(), Failure> {
        let request = self.path(&[verb]).request("POST", Body::empty())?;
        let sent = client.send(request).await;
        sent.map(drop).map_err(|e| self.absent(e))
    }

    /// A failure that names the trigger if it is not there.
    fn absent(&self, failure: Failure) -> Failure {
        let Named { app, name } = self;
        match failure.is_kind("trigger-not-found") {
            true => Failure::user(format!(
                "{app} has no trigger {name}; `kvasm trigger list {app}` shows them"
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
        let (name, function) = (&trigger.name, &trigger.function);
        let app = &arguments.named.app;
        format!(
            "Trigger {name} of {app} calls {function}: {}.",
            output::clean(&watches(&trigger))
        )
    })?;
    say_who_delivers(global, client);
    Ok(())
}

/// What a trigger waits for.
fn watches(trigger: &TriggerView) -> String {
    let on = trigger.on.as_ref().map(|on| on.join(", "));
    on_what(
        trigger.collection.as_deref(),
        trigger.prefix.as_deref(),
        on.as_deref(),
        trigger.schedule.as_deref(),
    )
}

/// What a trigger waits for, in the words of a table.
pub(super) fn on_what(
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
        (None, schedule) => schedule.unwrap_or_default().to_owned(),
    }
}

async fn list(global: &Global, client: &Client, app: &AppName) -> Result<(), Failure> {
    let page: TriggerPage = client.get(&Path::app(app, &["triggers"])).await?;
    if global.json {
        return output::json(&page.triggers);
    }
    let rows = page.triggers.iter().map(|trigger| {
        [
            trigger.name.clone(),
            trigger.function.clone(),
            watches(trigger),
            state(trigger),
            trigger.failures.to_string(),
            trigger.next_at.map(output::time).unwrap_or_default(),
            trigger.origin.clone(),
        ]
    });
    output::table(
        ["NAME", "FUNCTION", "ON", "STATE", "FAILURES", "NEXT", "BY"],
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
