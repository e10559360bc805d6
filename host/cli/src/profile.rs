//! Selects the server: by arguments, the environment or a profile.

use super::client::{Client, RequestPath, ServerTarget};
use super::config::Config;
use super::environment::{similar, trimmed};
use super::failure::{CommandOutcome, Failure};
use super::global::{Destination, Global};
use super::input::text;
use super::{open, output};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The profile that is used if none is specified.
const DEFAULT: &str = "default";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    server: String,
    token: Option<String>,
}

type Profiles = BTreeMap<String, Profile>;

/// The server that commands go to; `None` if they go to a store.
pub(super) fn target(global: &Global, config: &Config) -> Result<Option<ServerTarget>, Failure> {
    let name = match global.place() {
        Destination::Server(server) => {
            return Ok(Some(ServerTarget {
                server: server.to_owned(),
                token: global.token(None),
            }));
        }
        Destination::Store(_) => return Ok(None),
        Destination::Unsaid if config.store.is_some() => return Ok(None),
        Destination::Profile(name) => Some(name),
        Destination::Unsaid => None,
    };
    let path = match (path(), name) {
        (Ok(path), _) => path,
        // Without a home directory there are no profiles.
        (Err(_), None) => return Ok(None),
        (Err(failure), Some(_)) => return Err(failure),
    };
    let profiles = read(&path)?;
    match (profiles.get(name.unwrap_or(DEFAULT)), name) {
        (Some(profile), _) => Ok(Some(ServerTarget {
            server: trimmed(&profile.server).to_owned(),
            token: global.token(profile.token.as_deref().map(trimmed)),
        })),
        (None, None) => Ok(None),
        (None, Some(name)) => Err(Failure::user(format!(
            "{} has no profile {name:?}{}; create it with `kvasm login --profile {name} --server URL --token TOKEN`",
            path.display(),
            similar(name, profiles.keys().cloned())
        ))),
    }
}

fn path() -> Result<PathBuf, Failure> {
    Ok(open::config_dir()?.join("profiles.toml"))
}

fn read(path: &Path) -> Result<Profiles, Failure> {
    let bad = |why: String| Failure::user(format!("{}: {why}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => {
            toml::from_str(&text(bytes).map_err(bad)?).map_err(|e| bad(e.message().to_owned()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Profiles::new()),
        Err(e) => Err(bad(e.to_string())),
    }
}

#[derive(Args)]
pub(super) struct Login {
    /// Do not check that the server is reachable and accepts the token
    #[arg(long)]
    no_check: bool,
}

/// Saves a server and a token in the profiles file, readable only by its owner.
pub(super) async fn login(global: &Global, login: Login) -> Result<CommandOutcome, Failure> {
    let Some(server) = global.server() else {
        return Err(Failure::user("specify the server with --server URL"));
    };
    let target = ServerTarget {
        server: server.to_owned(),
        token: global.token(None),
    };
    let profile = Profile {
        server: target.server.clone(),
        token: target.token.clone(),
    };
    let client = Client::server(target, global.timeout()?)?;
    if !login.no_check {
        check(&client, profile.token.is_some()).await?;
    }
    let name = global.profile().unwrap_or(DEFAULT).to_owned();
    let path = path()?;
    let mut profiles = read(&path)?;
    profiles.insert(name.clone(), profile);
    let text = toml::to_string(&profiles).map_err(|e| Failure::host(e.to_string()))?;
    write_private(&path, &text)?;
    let value = serde_json::json!({ "profile": name, "file": path });
    output::object(global.json, &value, || {
        format!("Saved as profile {name} in {}.", path.display())
    })?;
    Ok(CommandOutcome::Done)
}

/// Checks that the server is reachable, and that it accepts the token if there is one.
async fn check(client: &Client, has_token: bool) -> Result<(), Failure> {
    let get = |path: RequestPath| path.request("GET", axum::body::Body::empty());
    client.send(get(RequestPath::new(&["healthz"]))?).await?;
    if !has_token {
        return Ok(());
    }
    let own = RequestPath::new(&["v1", "token"]);
    client.send(get(own)?).await.map(drop)
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        open::make_private(folder)?;
    }
    // Written to a temporary file and renamed, so that the token is never in a file that others can
    // read, and an interrupted write leaves no partial file.
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
