//! `kvasm plugin`.

use super::client::{Pages, RequestPath, bytes, connect};
use super::deploy::{DeployArgs, deploy};
use super::failure::{CommandOutcome, Failure};
use super::grant::show_needs;
use super::trigger::describe_declared;
use super::{Global, output};
use axum::body::Body;
use clap::Subcommand;
use kvasm::api::{Activated, Functions, PluginPage};
use kvasm::model::AppName;
use serde_json::json;

#[derive(Subcommand)]
pub(super) enum PluginCommand {
    /// Deploy a plugin, as `kvasm deploy` does
    Deploy(DeployArgs),
    /// Show what a version needs: origins, configuration values, secrets and timers
    Needs {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// By default the active one
        version: Option<u32>,
    },
    /// List versions, newest first
    Versions {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// List the functions and handlers of the active version
    Functions {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Activate a version
    Activate {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        version: u32,
    },
    /// Activate the version that the active one replaced
    Rollback {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Delete an inactive version
    Delete {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        version: u32,
    },
}

pub(super) async fn run(
    global: &Global,
    command: PluginCommand,
) -> Result<CommandOutcome, Failure> {
    match command {
        PluginCommand::Deploy(args) => return deploy(global, args).await,
        PluginCommand::Needs { app, version } => show_needs(global, &app, version).await?,
        PluginCommand::Versions { app } => versions(global, &app).await?,
        PluginCommand::Functions { app } => functions(global, &app).await?,
        PluginCommand::Activate { app, version } => {
            let version = version.to_string();
            let path = RequestPath::app(&app, &["plugins", &version, "activate"]);
            activated(global, &app, &path).await?;
        }
        PluginCommand::Rollback { app } => {
            activated(global, &app, &RequestPath::app(&app, &["rollback"])).await?;
        }
        PluginCommand::Delete { app, version } => {
            let client = connect(global).await?;
            let number = version.to_string();
            client
                .delete(&RequestPath::app(&app, &["plugins", &number]))
                .await?;
            output::object(global.json, &json!({ "deleted": version }), || {
                format!("Deleted version {version} of {app}.")
            })?;
        }
    }
    Ok(CommandOutcome::Done)
}

async fn versions(global: &Global, app: &AppName) -> Result<(), Failure> {
    let client = connect(global).await?;
    let mut plugins = Vec::new();
    let mut before = None;
    let mut pages = Pages::default();
    loop {
        let path = RequestPath::app(app, &["plugins"]).with("before", before);
        let page: PluginPage = client.get(&path).await?;
        plugins.extend(page.plugins);
        before = pages.next(page.next)?;
        if before.is_none() {
            break;
        }
    }
    if global.json {
        return output::json(&plugins);
    }
    let rows = plugins.iter().map(|plugin| {
        [
            plugin.version.to_string(),
            if plugin.active { "active" } else { "" }.to_owned(),
            plugin.size.to_string(),
            output::time(plugin.created_at),
            plugin.created_by.clone(),
            plugin.digest.chars().take(12).collect(),
        ]
    });
    output::table(["VERSION", "", "BYTES", "UPLOADED", "BY", "SHA-256"], rows)
}

async fn functions(global: &Global, app: &AppName) -> Result<(), Failure> {
    let client = connect(global).await?;
    let offered: Functions = client.get(&RequestPath::app(app, &["functions"])).await?;
    if global.json {
        return output::json(&offered);
    }
    let mut rows: Vec<_> = offered
        .functions
        .into_iter()
        .map(|name| [name, "function".to_owned()])
        .collect();
    rows.extend(offered.http.map(|name| [name, "HTTP handler".to_owned()]));
    rows.extend(offered.triggers.into_iter().map(|trigger| {
        let what = describe_declared(&trigger);
        [trigger.name, format!("handler: {what}")]
    }));
    output::table(["NAME", "KIND"], rows)
}

async fn activated(global: &Global, app: &AppName, path: &RequestPath) -> Result<(), Failure> {
    let client = connect(global).await?;
    let request = path.request("POST", Body::empty())?;
    let answer = bytes(client.send(request).await?).await?;
    let activated: Activated =
        serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))?;
    output::object(global.json, &json!(activated), || {
        format!("Version {} of {app} is active.", activated.version)
    })
}
