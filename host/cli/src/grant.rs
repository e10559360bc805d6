//! `kvasm grant`, `kvasm revoke`, `kvasm grants` and `kvasm plugin needs`.

use super::client::{Client, RequestPath, connect};
use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use clap::{Args, ValueEnum};
use kvasm::api::{
    Functions, GrantList, GrantPage, GrantView, GrantsChanged, NeedChangesView, NeedsView,
    PluginView,
};
use kvasm::model::AppName;
use serde_json::json;

/// A kind of grant.
#[derive(Clone, Copy, ValueEnum)]
enum GrantKind {
    /// Requests to an origin, such as https://api.example.com or https://*.example.com
    Http,
    /// Reads of a secret
    Secret,
    /// Timers
    Timers,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        kvasm grant shop http https://api.example.com\n  \
        kvasm grant shop secret stripe-key\n  \
        kvasm grant shop timers\n  \
        kvasm grant shop --all-of 3")]
pub(super) struct GrantArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    #[arg(required_unless_present = "all_of", conflicts_with = "all_of")]
    kind: Option<GrantKind>,
    /// The origin, or the name of the secret
    #[arg(value_name = "ORIGIN|NAME", conflicts_with = "all_of")]
    subject: Option<String>,
    /// Grant all that this version of the plugin needs; `kvasm plugin needs` shows it
    #[arg(long, value_name = "VERSION")]
    all_of: Option<u32>,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    kind: GrantKind,
    /// The origin, or the name of the secret
    #[arg(value_name = "ORIGIN|NAME")]
    subject: Option<String>,
}

#[derive(Args)]
pub(super) struct GrantsArgs {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
}

fn view(kind: GrantKind, subject: Option<String>) -> Result<GrantView, Failure> {
    match (kind, subject) {
        (GrantKind::Http, Some(origin)) => Ok(GrantView::HttpOrigin { origin }),
        (GrantKind::Secret, Some(name)) => Ok(GrantView::Secret { name }),
        (GrantKind::Timers, None) => Ok(GrantView::Timers {}),
        (GrantKind::Http, None) => Err(Failure::user(
            "an origin is missing, such as https://api.example.com",
        )),
        (GrantKind::Secret, None) => Err(Failure::user("the name of the secret is missing")),
        (GrantKind::Timers, Some(_)) => Err(Failure::user("`timers` takes no further argument")),
    }
}

/// A grant as in the arguments of `kvasm grant`.
fn shown(grant: &GrantView) -> String {
    match grant {
        GrantView::HttpOrigin { origin } => format!("http {origin}"),
        GrantView::Secret { name } => format!("secret {name}"),
        GrantView::Timers {} => "timers".to_owned(),
    }
}

fn all_shown(grants: &[GrantView]) -> String {
    let shown: Vec<_> = grants.iter().map(shown).collect();
    shown.join(", ")
}

/// The difference of permissions to the version that was active, as sentences.
pub(super) fn describe_changes(changes: &NeedChangesView) -> String {
    let mut text = String::new();
    if !changes.added.is_empty() {
        text.push_str(&format!(" New permissions: {}.", all_shown(&changes.added)));
    }
    if !changes.removed.is_empty() {
        let removed = all_shown(&changes.removed);
        text.push_str(&format!(" No longer needed: {removed}."));
    }
    text
}

/// Grants all of `grants`, of which there may be none.
pub(super) async fn grant_all(
    client: &Client,
    app: &AppName,
    grants: Vec<GrantView>,
) -> Result<u64, Failure> {
    if grants.is_empty() {
        return Ok(0);
    }
    let path = RequestPath::app(app, &["grants"]);
    let changed: GrantsChanged = client.post("POST", &path, &GrantList { grants }).await?;
    Ok(changed.changed)
}

pub(super) async fn grant(global: &Global, args: GrantArgs) -> Result<CommandOutcome, Failure> {
    let GrantArgs {
        app,
        kind,
        subject,
        all_of,
    } = args;
    let given = kind.map(|kind| view(kind, subject)).transpose()?;
    let client = connect(global).await?;
    let grants = match (given, all_of) {
        (Some(grant), _) => vec![grant],
        (None, Some(version)) => needs_of(&client, &app, Some(version)).await?.1.grants(),
        (None, None) => Vec::new(),
    };
    let changed = grant_all(&client, &app, grants.clone()).await?;
    output::object(global.json, &json!({ "granted": changed }), || {
        match (grants.is_empty(), changed) {
            (true, _) => "The version needs no grants.".to_owned(),
            (false, 0) => format!("{app} had granted it before: {}.", all_shown(&grants)),
            (false, _) => format!("Granted to plugins of {app}: {}.", all_shown(&grants)),
        }
    })?;
    Ok(CommandOutcome::Done)
}

pub(super) async fn revoke(global: &Global, args: RevokeArgs) -> Result<CommandOutcome, Failure> {
    let RevokeArgs { app, kind, subject } = args;
    let grant = view(kind, subject)?;
    let client = connect(global).await?;
    let path = RequestPath::app(&app, &["grants", "revoke"]);
    let list = GrantList {
        grants: vec![grant.clone()],
    };
    let revoked = client.post::<GrantsChanged>("POST", &path, &list);
    let revoked = revoked
        .await
        .map_err(|failure| match failure.is_kind("grant-not-found") {
            true => Failure::user(format!(
                "{app} does not grant {}; `kvasm grants {app}` lists what it grants",
                shown(&grant)
            )),
            false => failure,
        })?;
    output::object(global.json, &json!({ "revoked": revoked.changed }), || {
        format!("Revoked from plugins of {app}: {}.", shown(&grant))
    })?;
    Ok(CommandOutcome::Done)
}

pub(super) async fn grants(global: &Global, args: GrantsArgs) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let page: GrantPage = client
        .get(&RequestPath::app(&args.app, &["grants"]))
        .await?;
    if global.json {
        output::json(&page.grants)?;
    } else {
        let rows = page.grants.iter();
        let rows = rows.map(|row| [shown(&row.grant), output::time(row.granted_at)]);
        output::table(["GRANT", "GRANTED"], rows)?;
    }
    Ok(CommandOutcome::Done)
}

/// The number and the needs of a version, or of the active one.
async fn needs_of(
    client: &Client,
    app: &AppName,
    version: Option<u32>,
) -> Result<(u32, NeedsView), Failure> {
    match version {
        Some(version) => {
            let path = RequestPath::app(app, &["plugins", &version.to_string()]);
            let plugin: PluginView = client.get(&path).await?;
            Ok((version, plugin.needs))
        }
        None => {
            let path = RequestPath::app(app, &["functions"]);
            let active: Functions = client.get(&path).await?;
            Ok((active.version, active.needs))
        }
    }
}

/// Prints what a version needs, or the active one.
pub(super) async fn show_needs(
    global: &Global,
    app: &AppName,
    version: Option<u32>,
) -> Result<(), Failure> {
    let client = connect(global).await?;
    let (version, needs) = needs_of(&client, app, version).await?;
    if global.json {
        return output::json(&json!({ "version": version, "needs": needs }));
    }
    print_needs(&needs)
}

/// Prints what a plugin needs, as a table.
pub(super) fn print_needs(needs: &NeedsView) -> Result<(), Failure> {
    let grants = needs.http.iter().map(|origin| {
        let need = format!("http {origin}");
        [need, String::new(), String::new()]
    });
    let required = |required: bool| if required { "required" } else { "" }.to_owned();
    let config = needs.config.iter().map(|need| {
        let value = match &need.default {
            Some(default) => format!("default {default}"),
            None => required(need.required),
        };
        let description = need.description.clone().unwrap_or_default();
        [
            format!("config {} ({})", need.name, need.kind),
            value,
            description,
        ]
    });
    let secrets = needs.secrets.iter().map(|need| {
        let description = need.description.clone().unwrap_or_default();
        [
            format!("secret {}", need.name),
            required(need.required),
            description,
        ]
    });
    let timers = needs
        .timers
        .then(|| ["timers".to_owned(), String::new(), String::new()]);
    let rows = grants.chain(config).chain(secrets).chain(timers);
    output::table(["NEED", "VALUE", "DESCRIPTION"], rows)
}
