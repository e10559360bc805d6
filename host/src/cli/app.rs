//! `kvasm app`: the tenants.

use super::Common;
use super::error::{Exit, Machine, Refused};
use super::output::{self, Output};
use super::store::Opened;
use anyhow::Result;
use clap::Subcommand;
use kvasm::model::{App, AppName};
use kvasm::store::StoreError;
use serde::Serialize;
use std::io::{self, BufRead, IsTerminal, Read, Write};

/// Apps that are read at once.
const PAGE: u32 = 1_000;

#[derive(Subcommand)]
pub(super) enum AppCommand {
    /// Create an app
    #[command(after_help = "Example:\n  kvasm app create shop")]
    Create {
        /// 1 to 64 characters of a-z, 0-9, '-' and '_'
        #[arg(value_parser = AppName::parse)]
        name: AppName,
    },
    /// List all apps by name
    List,
    /// Show an app and its collections
    Show {
        /// The app's name
        #[arg(value_parser = AppName::parse)]
        name: AppName,
    },
    /// Delete an app and all its entries
    #[command(after_help = "Example:\n  kvasm app delete shop --yes")]
    Delete {
        /// The app's name
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a AppName,
    id: String,
    created_at: i64,
}

impl<'a> Shown<'a> {
    fn new(app: &'a App) -> Shown<'a> {
        Shown { name: &app.name, id: app.id.to_string(), created_at: app.created_at.0 }
    }
}

fn row(app: &App) -> Vec<String> {
    vec![app.name.to_string(), app.id.to_string(), output::time(app.created_at)]
}

const HEAD: [&str; 3] = ["NAME", "ID", "CREATED"];

impl AppCommand {
    pub(super) async fn execute(&self, common: &Common, output: &mut Output) -> Result<Exit> {
        let opened = common.open().await?;
        match self {
            AppCommand::Create { name } => create(&opened, name, output).await,
            AppCommand::List => list(&opened, output).await,
            AppCommand::Show { name } => show(&opened, name, output).await,
            AppCommand::Delete { name, yes } => delete(&opened, name, *yes, output).await,
        }
    }
}

async fn create(opened: &Opened, name: &AppName, output: &mut Output) -> Result<Exit> {
    let app = opened.host.create_app(name.clone()).await.map_err(|error| match error {
        StoreError::AppExists => Refused(format!("there is an app {name} already")).into(),
        other => anyhow::Error::from(other),
    })?;
    if output.is_json() {
        output.json(&Shown::new(&app))?;
    } else {
        output.line(&format!("created the app {name}"))?;
    }
    Ok(Exit::Done)
}

async fn list(opened: &Opened, output: &mut Output) -> Result<Exit> {
    let mut after: Option<AppName> = None;
    loop {
        let apps = opened.host.store().apps(after.as_ref(), PAGE).await?;
        if output.is_json() {
            let shown: Vec<_> = apps.iter().map(Shown::new).collect();
            output.json(&serde_json::json!({ "apps": shown }))?;
        } else if !apps.is_empty() {
            output.table(&HEAD, apps.iter().map(row))?;
        }
        match apps.last() {
            Some(last) if apps.len() >= PAGE as usize => after = Some(last.name.clone()),
            _ => return Ok(Exit::Done),
        }
    }
}

async fn show(opened: &Opened, name: &AppName, output: &mut Output) -> Result<Exit> {
    let app = opened.host.app(name).await?.ok_or_else(|| opened.unknown(name))?;
    if output.is_json() {
        output.json(&Shown::new(&app))?;
    } else {
        output.table(&HEAD, [row(&app)])?;
    }
    Ok(Exit::Done)
}

async fn delete(opened: &Opened, name: &AppName, yes: bool, output: &mut Output) -> Result<Exit> {
    let app = opened.host.app(name).await?.ok_or_else(|| opened.unknown(name))?;
    if !yes && !confirmed(name)? {
        return Err(Refused(format!("the app {name} was not deleted")).into());
    }
    if !opened.host.store().delete_app(app.id).await? {
        // Somebody else has deleted it since.
        return Err(opened.unknown(name));
    }
    if output.is_json() {
        output.json(&Shown::new(&app))?;
    } else {
        output.line(&format!("deleted the app {name} and all its entries"))?;
    }
    Ok(Exit::Done)
}

/// Asks whoever sits at the terminal.
fn confirmed(name: &AppName) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Refused(format!(
            "this deletes the app {name} and all its entries; say --yes if you mean it"
        ))
        .into());
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "This deletes the app {name} and all its entries. Type its name to go on: ")
        .and_then(|()| stderr.flush())
        .map_err(Machine::of("the terminal cannot be written to"))?;
    let mut answer = String::new();
    let limit = AppName::BYTES_MAX as u64 + 2;
    io::stdin()
        .lock()
        .take(limit)
        .read_line(&mut answer)
        .map_err(Machine::of("the answer cannot be read"))?;
    Ok(answer.trim() == name.as_str())
}
