//! `kvasm app`.

use super::failure::{Failure, Outcome};
use super::{Global, open, output};
use clap::Subcommand;
use kvasm::model::{App, AppName};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create an app
    Create {
        /// 1 to 64 of a-z, 0-9, '-' and '_'
        #[arg(value_parser = AppName::parse)]
        name: AppName,
    },
    /// List the apps
    List,
    /// Show one app
    Show {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
    },
    /// Delete an app and everything it owns
    Delete {
        #[arg(value_parser = AppName::parse)]
        name: AppName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(super) async fn run(global: &Global, command: Command) -> Result<Outcome, Failure> {
    let host = open::host(global).await?;
    match command {
        Command::Create { name } => {
            let created = host.create_app(name.clone()).await;
            let app = created.map_err(|e| Failure::from(e).at(name.as_str()))?;
            output::object(global.json, &object(&app), || format!("Created {name}."))?;
        }
        Command::List => {
            let mut apps = Vec::new();
            loop {
                let page = host.store().apps(apps.last().map(|a: &App| &a.name), 1000);
                let page = page.await?;
                if page.is_empty() {
                    break;
                }
                apps.extend(page);
            }
            if global.json {
                let apps: Vec<_> = apps.iter().map(object).collect();
                output::object(true, &Value::Array(apps), String::new)?;
            } else {
                output::table(["NAME", "ID", "CREATED"], apps.iter().map(row))?;
            }
        }
        Command::Show { name } => {
            let app = open::app(&host, &name).await?;
            if global.json {
                output::object(true, &object(&app), String::new)?;
            } else {
                output::table(["NAME", "ID", "CREATED"], [row(&app)])?;
            }
        }
        Command::Delete { name, yes } => {
            let app = open::app(&host, &name).await?;
            if !yes {
                confirm(&name)?;
            }
            host.store().delete_app(app.id).await?;
            output::object(global.json, &json!({ "deleted": name }), || {
                format!("Deleted {name} and everything it owned.")
            })?;
        }
    }
    Ok(Outcome::Done)
}

fn object(app: &App) -> Value {
    json!({ "name": app.name, "id": app.id, "created_at": app.created_at })
}

fn row(app: &App) -> [String; 3] {
    [
        app.name.to_string(),
        app.id.to_string(),
        output::time(app.created_at),
    ]
}

/// Asks on a terminal; elsewhere nobody could answer.
fn confirm(name: &AppName) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    if !input.is_terminal() {
        return Err(Failure::user(format!(
            "deleting {name} deletes everything it owns; say --yes if you mean it"
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
