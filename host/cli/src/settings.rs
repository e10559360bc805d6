//! `kvasm config` and `kvasm secret`: the settings of an app.

use super::client::{RequestPath, connect, set};
use super::failure::{CommandOutcome, Failure};
use super::{Global, input, open, output};
use axum::body::Body;
use clap::{Args, Subcommand};
use kvasm::api::{ConfigPage, SecretPage};
use kvasm::metrics::Metrics;
use kvasm::model::AppName;
use kvasm::service::{Actor, NewKey, Rotated, create_key_file, rotate_secrets_key};
use kvasm::store::Migrate;
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Set a configuration value
    #[command(after_help = "Example:\n  kvasm config set shop currency EUR")]
    Set {
        #[command(flatten)]
        named: Named,
        /// The value: text, @FILE, or - for stdin
        value: String,
    },
    /// Print a configuration value; exit code 1 if it is not set
    Get {
        #[command(flatten)]
        named: Named,
    },
    /// List an app's configuration values
    List {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Remove a configuration value
    Unset {
        #[command(flatten)]
        named: Named,
    },
}

#[derive(Subcommand)]
pub(super) enum SecretCommand {
    /// Set a secret, from stdin or a file
    #[command(
        after_help = "Example:\n  kvasm secret set shop stripe-key < key.txt\n\nNo command prints a secret."
    )]
    Set {
        #[command(flatten)]
        named: Named,
        /// Read the secret from this file instead of stdin
        #[arg(long)]
        file: Option<PathBuf>,
        /// Keep the input as it is, including a final line break
        #[arg(long)]
        bytes: bool,
    },
    /// List the names of an app's secrets
    List {
        #[arg(value_parser = AppName::parse)]
        app: AppName,
    },
    /// Remove a secret
    Unset {
        #[command(flatten)]
        named: Named,
    },
    /// Seal all secrets of the store with a new key, on the host that has the key file
    #[command(
        after_help = "Works on the store and the key file of --store and --config, also while a \
                      server uses them. If it is interrupted, all secrets can still be read; run \
                      it again."
    )]
    RotateKey {
        /// Use the first key of the file, and do not change the file; for a file on several hosts
        #[arg(long)]
        prepared: bool,
    },
    /// Make a key file with a new key
    NewKey {
        /// The file, which must not exist
        file: PathBuf,
    },
}

#[derive(Args)]
pub(super) struct Named {
    #[arg(value_parser = AppName::parse)]
    app: AppName,
    /// 1 to 64 of a-z, A-Z, 0-9, '_', '-' and '.'
    name: String,
}

impl Named {
    fn path(&self, kind: &str) -> RequestPath {
        RequestPath::app(&self.app, &[kind, &self.name])
    }

    /// Replaces a failure for an absent setting by one that names it.
    fn map_not_found(&self, failure: Failure) -> Failure {
        let Named { app, name } = self;
        if failure.is_kind("config-not-found") {
            return Failure::user(format!(
                "{app} has no configuration value {name}; `kvasm config list {app}` lists them"
            ));
        }
        match failure.is_kind("secret-not-found") {
            true => Failure::user(format!(
                "{app} has no secret {name}; `kvasm secret list {app}` lists them"
            )),
            false => failure,
        }
    }

    async fn put(
        &self,
        global: &Global,
        kind: &str,
        content_type: &str,
        value: Vec<u8>,
    ) -> Result<CommandOutcome, Failure> {
        let client = connect(global).await?;
        let mut request = self.path(kind).request("PUT", Body::from(value))?;
        set(&mut request, "content-type", content_type);
        client.send(request).await?;
        let Named { app, name } = self;
        output::object(global.json, &json!({ "set": name }), || {
            format!("Set {name} of {app}.")
        })?;
        Ok(CommandOutcome::Done)
    }

    async fn unset(&self, global: &Global, kind: &str) -> Result<CommandOutcome, Failure> {
        let client = connect(global).await?;
        let unset = client.delete(&self.path(kind)).await;
        unset.map_err(|failure| self.map_not_found(failure))?;
        let Named { app, name } = self;
        output::object(global.json, &json!({ "unset": name }), || {
            format!("Removed {name} of {app}.")
        })?;
        Ok(CommandOutcome::Done)
    }
}

pub(super) async fn config(
    global: &Global,
    command: ConfigCommand,
) -> Result<CommandOutcome, Failure> {
    match command {
        ConfigCommand::Set { named, value } => {
            let value = input::argument(&value)?;
            named.put(global, "config", "text/plain", value).await
        }
        ConfigCommand::Get { named } => get(global, &named).await,
        ConfigCommand::List { app } => list(global, &app).await,
        ConfigCommand::Unset { named } => named.unset(global, "config").await,
    }
}

async fn page(global: &Global, app: &AppName) -> Result<ConfigPage, Failure> {
    let client = connect(global).await?;
    client.get(&RequestPath::app(app, &["config"])).await
}

async fn get(global: &Global, named: &Named) -> Result<CommandOutcome, Failure> {
    let all = page(global, &named.app).await?.config;
    let Some(found) = all.into_iter().find(|found| found.name == named.name) else {
        return Ok(CommandOutcome::NotFound);
    };
    output::object(global.json, &json!(found), || found.value.clone())?;
    Ok(CommandOutcome::Done)
}

async fn list(global: &Global, app: &AppName) -> Result<CommandOutcome, Failure> {
    let all = page(global, app).await?.config;
    if global.json {
        output::json(&all)?;
    } else {
        let rows = all.into_iter();
        let rows = rows.map(|row| [row.name, row.value, output::time(row.updated_at)]);
        output::table(["NAME", "VALUE", "UPDATED"], rows)?;
    }
    Ok(CommandOutcome::Done)
}

pub(super) async fn secret(
    global: &Global,
    command: SecretCommand,
) -> Result<CommandOutcome, Failure> {
    match command {
        SecretCommand::Set { named, file, bytes } => {
            let secret = read_secret(file, bytes)?;
            let content_type = "application/octet-stream";
            named.put(global, "secrets", content_type, secret).await
        }
        SecretCommand::List { app } => list_secrets(global, &app).await,
        SecretCommand::Unset { named } => named.unset(global, "secrets").await,
        SecretCommand::RotateKey { prepared } => rotate(global, prepared).await,
        SecretCommand::NewKey { file } => {
            let key = create_key_file(&file).map_err(Failure::from)?;
            let shown = json!({ "key": key.to_string() });
            output::object(global.json, &shown, || {
                format!("Made {} with key {key}. Keep a copy of it.", file.display())
            })?;
            Ok(CommandOutcome::Done)
        }
    }
}

/// Reads a secret, without the final line break that editors and `echo` add.
fn read_secret(file: Option<PathBuf>, keep: bool) -> Result<Vec<u8>, Failure> {
    let mut secret = match file {
        Some(file) => input::file(&file)?,
        None => {
            if std::io::stdin().is_terminal() {
                output::note("Type the secret, which is shown, and end with Ctrl-D on a new line.");
            }
            input::stdin()?
        }
    };
    if !keep && secret.ends_with(b"\n") {
        secret.pop();
        if secret.ends_with(b"\r") {
            secret.pop();
        }
    }
    match secret.is_empty() {
        true => Err(Failure::user("the secret is empty")),
        false => Ok(secret),
    }
}

async fn list_secrets(global: &Global, app: &AppName) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    let path = RequestPath::app(app, &["secrets"]);
    let all = client.get::<SecretPage>(&path).await?.secrets;
    if global.json {
        output::json(&all)?;
    } else {
        let rows = all.into_iter();
        let rows = rows.map(|row| [row.name, output::time(row.updated_at)]);
        output::table(["NAME", "UPDATED"], rows)?;
    }
    Ok(CommandOutcome::Done)
}

async fn rotate(global: &Global, prepared: bool) -> Result<CommandOutcome, Failure> {
    let config = open::config(global)?;
    let spec = open::spec(global, &config)?;
    let keyring = open::keyring(&spec, &config)?;
    let store = open::store(&spec, Metrics::default(), Migrate::Alone, &config).await?;
    let new = match prepared {
        true => NewKey::Prepared,
        false => NewKey::Generated,
    };
    let operator = Actor::operator("command line", uuid::Uuid::now_v7());
    let rotated = rotate_secrets_key(&*store, &keyring, &operator, new).await?;
    report(global, &rotated, prepared)
}

fn report(global: &Global, rotated: &Rotated, prepared: bool) -> Result<CommandOutcome, Failure> {
    let Rotated {
        key,
        resealed,
        unreadable,
    } = rotated;
    let unreadable: Vec<_> = unreadable
        .iter()
        .map(|(app, name)| format!("{app}/{name}"))
        .collect();
    let shown = json!({
        "key": key.to_string(),
        "resealed": resealed,
        "unreadable": unreadable,
    });
    output::object(global.json, &shown, || {
        let done = format!("Sealed {resealed} secrets again with key {key}.");
        match prepared && unreadable.is_empty() {
            true => format!("{done} Other keys can be removed from the file."),
            false => done,
        }
    })?;
    match unreadable.len() {
        0 => Ok(CommandOutcome::Done),
        count => Err(Failure::host(format!(
            "{count} secrets were sealed with keys that are not in the key file, and are \
             unchanged: {}; add the keys and run the command again, or set or unset the secrets",
            unreadable.join(", ")
        ))),
    }
}
