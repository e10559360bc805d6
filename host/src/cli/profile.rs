//! Which server: by arguments, by the environment, or by a file of profiles.

use super::client::Target;
use super::failure::{Failure, Outcome};
use super::{Global, open, output};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The profile that is used if none is named.
const DEFAULT: &str = "default";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    server: String,
    token: Option<String>,
}

type Profiles = BTreeMap<String, Profile>;

/// The server that commands go to; none if they go to a store.
pub(super) fn target(global: &Global) -> Result<Option<Target>, Failure> {
    if let Some(server) = &global.server {
        if global.store.is_some() {
            return Err(Failure::user(
                "--server and --store (or KVASM_SERVER and KVASM_STORE) are both given; a command goes to one of them",
            ));
        }
        return Ok(Some(Target {
            server: server.clone(),
            token: global.token.clone(),
        }));
    }
    if global.store.is_some() && global.profile.is_none() {
        return Ok(None);
    }
    let path = path()?;
    let profiles = read(&path)?;
    let name = global.profile.as_deref().unwrap_or(DEFAULT);
    match profiles.get(name) {
        Some(profile) => Ok(Some(Target {
            server: profile.server.clone(),
            token: global.token.clone().or_else(|| profile.token.clone()),
        })),
        None if global.profile.is_none() => Ok(None),
        None => Err(Failure::user(format!(
            "{} has no profile {name:?}; `kvasm login --profile {name} --server URL --token TOKEN` makes it",
            path.display()
        ))),
    }
}

fn path() -> Result<PathBuf, Failure> {
    Ok(open::config_dir()?.join("profiles.toml"))
}

fn read(path: &Path) -> Result<Profiles, Failure> {
    let bad = |why: String| Failure::user(format!("{}: {why}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|e| bad(e.message().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Profiles::new()),
        Err(e) => Err(bad(e.to_string())),
    }
}

#[derive(Args)]
pub(super) struct Login {
    /// Do not ask the server whether it is there
    #[arg(long)]
    no_check: bool,
}

/// Keeps a server and a token in the file of profiles, for its owner alone.
pub(super) async fn login(global: &Global, login: Login) -> Result<Outcome, Failure> {
    let Some(server) = global.server.clone() else {
        return Err(Failure::user("say which server with --server URL"));
    };
    if !login.no_check {
        let client = super::client::connect(global).await?;
        let path = super::client::Path::new(&["healthz"]);
        let request = path.request("GET", kvasm::http::Body::empty())?;
        client.send(request).await?;
    }
    let path = path()?;
    let mut profiles = read(&path)?;
    let name = global.profile.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let profile = Profile {
        server,
        token: global.token.clone(),
    };
    profiles.insert(name.clone(), profile);
    let text = toml::to_string(&profiles).map_err(|e| Failure::host(e.to_string()))?;
    write_private(&path, &text)?;
    let value = serde_json::json!({ "profile": name, "file": path });
    output::object(global.json, &value, || {
        format!("Kept as the profile {name} in {}.", path.display())
    })?;
    Ok(Outcome::Done)
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        open::make_private(folder)?;
    }
    // Written aside and renamed, so that a token is never in a file that others
    // can read, and no half file is left.
    let aside = path.with_extension("toml.new");
    let _ = std::fs::remove_file(&aside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&aside)?.write_all(text.as_bytes())?;
    std::fs::rename(&aside, path)?;
    Ok(())
}
