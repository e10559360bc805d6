//! `kvasm deploy`, and its longer name `kvasm plugin deploy`.

use super::build::{ModuleFile, PluginSource, PluginSourceOrHere};
use super::client::{Client, RequestPath, bytes, connect_to_load, set};
use super::failure::{CommandOutcome, Failure};
use super::grant::{self, describe_changes};
use super::{Global, input, output};
use axum::body::Body;
use clap::Args;
use kvasm::api::{Deployed, PluginPage, PluginView};
use kvasm::model::{AppName, Digest};
use serde_json::json;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        kvasm deploy shop\n  \
        kvasm deploy shop my-plugin\n  \
        kvasm deploy shop target/guests/shortener.wasm")]
pub(super) struct DeployArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    #[command(flatten)]
    plugin: PluginSourceOrHere,
    /// Keep the current version active
    #[arg(long)]
    no_activate: bool,
    /// Grant all that the plugin needs, which takes app:admin; see `kvasm plugin needs`
    #[arg(long)]
    grant_all: bool,
}

/// Uploads a plugin as a new version, and activates it.
pub(super) async fn deploy(global: &Global, args: DeployArgs) -> Result<CommandOutcome, Failure> {
    let DeployArgs {
        app,
        plugin,
        no_activate,
        grant_all,
    } = args;
    let module = PluginSource::from(plugin).module(global, input::BYTES_MAX)?;
    let client = connect_to_load(global).await?;
    let (app, activate) = (&app, !no_activate);
    let deployed = match grant_all {
        true => {
            let uploaded = upload(&client, app, &module, false).await?;
            granted(&client, app, uploaded, activate).await?
        }
        false => match upload(&client, app, &module, activate).await {
            Err(refused) if refused.is_kind("needs-unmet") => {
                return Err(match uploaded_before(&client, app, &module).await {
                    Some(before) if before.active => stays_active(app, before.version, refused),
                    Some(before) => not_active(app, before.version, refused),
                    None => {
                        let uploaded = upload(&client, app, &module, false).await?;
                        not_active(app, uploaded.version, refused)
                    }
                });
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
    })?;
    Ok(CommandOutcome::Done)
}

async fn upload(
    client: &Client,
    app: &AppName,
    module: &ModuleFile,
    activate: bool,
) -> Result<Deployed, Failure> {
    let path = RequestPath::app(app, &["plugins"]).with("activate", Some(activate));
    let mut request = path.request("POST", Body::from(module.wasm.clone()))?;
    set(&mut request, "content-type", "application/wasm");
    let answer = client.send(request).await;
    let answer = answer.map_err(|e| e.at(&module.place).of_plugin_if(&["body-too-large"]))?;
    let answer = bytes(answer).await?;
    serde_json::from_slice(&answer).map_err(|e| Failure::host(e.to_string()))
}

/// Returns the newest version if it is this module, so that trying again does not add a version
/// each time. A token may deploy and not list versions; then there is none.
async fn uploaded_before(
    client: &Client,
    app: &AppName,
    module: &ModuleFile,
) -> Option<PluginView> {
    let path = RequestPath::app(app, &["plugins"]).with("limit", Some(1));
    let page: PluginPage = client.get(&path).await.ok()?;
    let newest = page.plugins.into_iter().next()?;
    (newest.digest == Digest::of(&module.wasm).to_string()).then_some(newest)
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
    grant::grant_all(client, app, grants)
        .await
        .map_err(refused)?;
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

/// The failure of a deployment of the module that is active, whose app no longer has what it needs.
fn stays_active(app: &AppName, version: u32, refused: Failure) -> Failure {
    let place = format!(
        "nothing was uploaded: version {version} of {app} is this module and stays active, but it \
         could not be activated again"
    );
    refused
        .at(&place)
        .with_advice(&format!("`kvasm plugin needs {app}` shows what it needs"))
}
