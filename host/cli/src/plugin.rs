//! `kvasm plugin`.

use super::client::{Client, Pages, RequestPath, bytes, connect, connect_to_load, set};
use super::failure::{CommandOutcome, Failure};
use super::grant::{describe_changes, grant_all, show_needs};
use super::trigger::describe_watch;
use super::{Global, input, output};
use axum::body::Body;
use clap::Subcommand;
use kvasm::api::{Activated, Deployed, Functions, PluginPage};
use kvasm::model::AppName;
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(super) enum PluginCommand {
    /// Upload a module as a new version and activate it
    #[command(after_help = "Example:\n  kvasm plugin deploy shop target/guests/shortener.wasm")]
    Deploy {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
        /// The plugin, a wasm module
        module: PathBuf,
        /// Keep the current version active
        #[arg(long)]
        no_activate: bool,
        /// Grant all that the plugin needs, which takes app:admin; see `kvasm plugin needs`
        #[arg(long)]
        grant_all: bool,
    },
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
        PluginCommand::Deploy {
            app,
            module,
            no_activate,
            grant_all,
        } => deploy(global, &app, module, !no_activate, grant_all).await?,
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

async fn deploy(
    global: &Global,
    app: &AppName,
    module: PathBuf,
    activate: bool,
    grants: bool,
) -> Result<(), Failure> {
    let wasm = input::file(&module)?;
    let client = connect_to_load(global).await?;
    let place = module.display().to_string();
    let deployed = match grants {
        true => {
            let uploaded = upload(&client, app, &place, wasm, false).await?;
            granted(&client, app, uploaded, activate).await?
        }
        false => match upload(&client, app, &place, wasm.clone(), activate).await {
            Err(refused) if refused.is_kind("needs-unmet") => {
                let uploaded = upload(&client, app, &place, wasm, false).await?;
                return Err(not_active(app, uploaded.version, refused));
            }
            deployed => deployed?,
        },
    };
    output::object(global.json, &json!(deployed), || {
        let state = if deployed.active {
            "is active"
        } else {
            "is uploaded"
        };
        // A name with a line break must not look like a line of this program.
        let names = deployed.functions.iter();
        let mut offers: Vec<_> = names.map(|name| output::escape_line(name)).collect();
        offers.extend(deployed.http.as_ref().map(|_| "HTTP".to_owned()));
        let offers = offers.join(", ");
        let changes = describe_changes(&deployed.changes);
        format!(
            "Version {} of {app} {state}: {offers}.{changes}",
            deployed.version
        )
    })
}

async fn upload(
    client: &Client,
    app: &AppName,
    place: &str,
    wasm: Vec<u8>,
    activate: bool,
) -> Result<Deployed, Failure> {
    let path = RequestPath::app(app, &["plugins"]).with("activate", Some(activate));
    let mut request = path.request("POST", Body::from(wasm))?;
    set(&mut request, "content-type", "application/wasm");
    let answer = client.send(request).await;
    let answer = bytes(answer.map_err(|e| e.at(place))?).await?;
    serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))
}

/// Grants all that an uploaded version needs, then activates it if wished.
async fn granted(
    client: &Client,
    app: &AppName,
    mut deployed: Deployed,
    activate: bool,
) -> Result<Deployed, Failure> {
    let version = deployed.version;
    let refused = |failure| not_active(app, version, failure);
    let grants = deployed.needs.grants();
    grant_all(client, app, grants).await.map_err(refused)?;
    if activate {
        let number = version.to_string();
        let path = RequestPath::app(app, &["plugins", &number, "activate"]);
        let request = path.request("POST", Body::empty())?;
        client.send(request).await.map_err(refused)?;
        deployed.active = true;
    }
    Ok(deployed)
}

/// The failure of a deployment that has uploaded a version and not activated it.
fn not_active(app: &AppName, version: u32, refused: Failure) -> Failure {
    let place = format!("version {version} of {app} is uploaded, but not active");
    refused.at(&place).with_advice(&format!(
        "`kvasm plugin needs {app} {version}` shows what it needs; \
         once it has that, run `kvasm plugin activate {app} {version}`"
    ))
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
        let on = trigger.on.map(|on| on.join(", "));
        let what = describe_watch(
            trigger.collection.as_deref(),
            trigger.prefix.as_deref(),
            on.as_deref(),
            trigger.schedule.as_deref(),
        );
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
