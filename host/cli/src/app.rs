//! `kvasm app` and `kvasm usage`.

use super::client::{Client, Pages, RequestPath, connect};
use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use clap::{Args, Subcommand};
use kvasm::api::{AppPage, AppPatch, AppView, LimitsChange, NewApp, UsageView};
use kvasm::model::AppName;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};

#[derive(Subcommand)]
pub(super) enum AppCommand {
    /// Create an app
    #[command(after_help = "Example:\n  kvasm app create shop --public")]
    Create {
        /// 1 to 64 of a-z, 0-9, '-' and '_'
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        /// Accept calls without a token
        #[arg(long)]
        public: bool,
    },
    /// List apps
    List,
    /// Show one app
    Show {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
    },
    /// Set whether an app accepts calls without a token
    #[command(after_help = "Example:\n  kvasm app public shop false")]
    Public {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        #[arg(action = clap::ArgAction::Set)]
        public: bool,
    },
    /// Set the limits of an app; limits that are not given stay unchanged
    #[command(
        after_help = "Example:\n  kvasm app limits shop --bytes 104857600 --calls-per-second none"
    )]
    Limits {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Delete an app and everything it owns
    Delete {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct LimitArgs {
    /// Maximum number of entries, or none
    #[arg(long, value_parser = limit::<u64>)]
    entries: Option<Limit<u64>>,
    /// Maximum total bytes of entries (collections, keys and values), or none
    #[arg(long, value_parser = limit::<u64>)]
    bytes: Option<Limit<u64>>,
    /// Calls per second, on each host, or none
    #[arg(long, value_parser = limit::<u32>)]
    calls_per_second: Option<Limit<u32>>,
    /// Concurrent calls, on each host, or none
    #[arg(long, value_parser = limit::<u32>)]
    calls_at_once: Option<Limit<u32>>,
}

/// A limit, or none.
#[derive(Clone, Copy)]
struct Limit<T>(Option<T>);

fn limit<T: std::str::FromStr>(text: &str) -> Result<Limit<T>, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => match text.parse() {
            Ok(limit) => Ok(Limit(Some(limit))),
            Err(_) => Err("expected a number, or none".to_owned()),
        },
    }
}

#[derive(Args)]
pub(super) struct UsageArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
}

pub(super) async fn run(global: &Global, command: AppCommand) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    match command {
        AppCommand::Create { name, public } => {
            let new = NewApp {
                name: name.to_string(),
                public,
            };
            let path = RequestPath::new(&["v1", "apps"]);
            let app: AppView = client.post("POST", &path, &new).await?;
            output::object(global.json, &json!(app), || format!("Created {name}."))?;
        }
        AppCommand::List => list(global, &client).await?,
        AppCommand::Show { name } => {
            let app: AppView = client.get(&RequestPath::app(&name, &[])).await?;
            show(global, &app)?;
        }
        AppCommand::Public { name, public } => {
            let path = RequestPath::app(&name, &[]);
            let app: AppView = client.post("PATCH", &path, &AppPatch { public }).await?;
            show(global, &app)?;
        }
        AppCommand::Limits { name, limits } => {
            let path = RequestPath::app(&name, &["limits"]);
            let app: AppView = client.post("PATCH", &path, &limits.change()).await?;
            show(global, &app)?;
        }
        AppCommand::Delete { name, yes } => {
            // So that a misspelt name is reported before the confirmation is asked for.
            let path = RequestPath::app(&name, &[]);
            let _: AppView = client.get(&path).await?;
            if !yes {
                confirm(&name)?;
            }
            client.delete(&path).await?;
            output::object(global.json, &json!({ "deleted": name }), || {
                format!("Deleted {name} and everything it owned.")
            })?;
        }
    }
    Ok(CommandOutcome::Done)
}

impl LimitArgs {
    /// The limits that were given; the server leaves the others unchanged.
    fn change(&self) -> LimitsChange {
        LimitsChange {
            entries: self.entries.map(|limit| limit.0),
            bytes: self.bytes.map(|limit| limit.0),
            calls_per_second: self.calls_per_second.map(|limit| limit.0),
            calls_at_once: self.calls_at_once.map(|limit| limit.0),
        }
    }
}

pub(super) async fn usage(global: &Global, usage: UsageArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let usage: UsageView = client
        .get(&RequestPath::app(&usage.app, &["usage"]))
        .await?;
    if global.json {
        output::json(&usage)?;
        return Ok(CommandOutcome::Done);
    }
    let rows = [
        [
            "entries".to_owned(),
            usage.entries.to_string(),
            or_none(usage.limits.entries),
        ],
        [
            "bytes".to_owned(),
            usage.bytes.to_string(),
            or_none(usage.limits.bytes),
        ],
        [
            "deliveries".to_owned(),
            usage.deliveries.to_string(),
            usage.deliveries_max.to_string(),
        ],
    ];
    output::table(["", "USED", "LIMIT"], rows)?;
    Ok(CommandOutcome::Done)
}

async fn list(global: &Global, client: &Client) -> Result<(), Failure> {
    let mut apps = Vec::new();
    let mut pages = Pages::default();
    let mut after = None;
    loop {
        let path = RequestPath::new(&["v1", "apps"]).with("limit", Some(1000));
        let page: AppPage = client.get(&path.with("after", after)).await?;
        apps.extend(page.apps);
        after = pages.next(page.next)?;
        if after.is_none() {
            break;
        }
    }
    if global.json {
        return output::json(&apps);
    }
    output::table(HEAD, apps.iter().map(row))
}

const HEAD: [&str; 5] = ["NAME", "PUBLIC", "PLUGIN", "CREATED", "ID"];

fn row(app: &AppView) -> [String; 5] {
    [
        app.name.clone(),
        if app.public { "yes" } else { "no" }.to_owned(),
        or_none(app.plugin.as_ref().map(|plugin| plugin.version)),
        output::time(app.created_at),
        app.id.clone(),
    ]
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn show(global: &Global, app: &AppView) -> Result<(), Failure> {
    if global.json {
        return output::json(app);
    }
    let limits = app.limits;
    let rows = [
        ("name", app.name.clone()),
        ("id", app.id.clone()),
        ("created", output::time(app.created_at)),
        ("public", if app.public { "yes" } else { "no" }.to_owned()),
        (
            "plugin version",
            or_none(app.plugin.as_ref().map(|plugin| plugin.version)),
        ),
        ("max entries", or_none(limits.entries)),
        ("max bytes", or_none(limits.bytes)),
        ("calls per second", or_none(limits.calls_per_second)),
        ("concurrent calls", or_none(limits.calls_at_once)),
    ];
    let paused = app.paused_triggers.iter().flatten().map(|trigger| {
        let name = &trigger.name;
        let why = match (trigger.paused.as_str(), trigger.probe_at) {
            ("failures", Some(at)) => format!("after failures; next try {}", output::time(at)),
            ("failures", None) => "after failures".to_owned(),
            _ => "by an operator".to_owned(),
        };
        ("paused trigger", format!("{name}, {why}"))
    });
    let rows = rows.into_iter().chain(paused);
    let rows: Vec<_> = rows.map(|(name, value)| [name.to_owned(), value]).collect();
    output::rows(&rows)
}

/// Asks for confirmation on a terminal; fails elsewhere.
fn confirm(name: &AppName) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(Failure::user(format!(
            "deleting {name} deletes everything it owns; confirm with --yes"
        )));
    }
    let mut terminal = std::io::stderr();
    write!(
        terminal,
        "Delete {name} and everything it owns? Type its name: "
    )?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    if answer.trim() != name.as_str() {
        return Err(Failure::user("nothing was deleted"));
    }
    Ok(())
}
