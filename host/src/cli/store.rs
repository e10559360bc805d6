//! `--store`: which store, and the host over it.

use super::Common;
use super::error::{Exit, Machine, Refused};
use super::output::Output;
use anyhow::Result;
use kvasm::model::{App, AppName};
use kvasm::service::Caller;
use kvasm::store::{MemoryStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store, StoreError};
use kvasm::{Host, HostBuilder};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// A command runs one call, but a module may have several memories, which take
/// a slot each.
const INSTANCES: u32 = 8;

/// The value of `--store`.
#[derive(Debug, Clone)]
pub(super) enum StoreSpec {
    /// Gone at the end of the command.
    Memory,
    /// A file.
    Sqlite(PathBuf),
    /// A URL, which can hold a password: it is never shown.
    Postgres(String),
}

#[derive(Debug, Error)]
#[error("a store is sqlite:PATH, postgres://USER@HOST/DATABASE or memory")]
pub(super) struct BadStore;

impl FromStr for StoreSpec {
    type Err = BadStore;

    fn from_str(text: &str) -> Result<StoreSpec, BadStore> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("memory", "") => Ok(StoreSpec::Memory),
            ("sqlite", path) if !path.is_empty() => Ok(StoreSpec::Sqlite(path.into())),
            ("postgres" | "postgresql", rest) if rest.starts_with("//") => {
                Ok(StoreSpec::Postgres(text.to_owned()))
            }
            // The kind in front of a whole URL.
            ("postgres", url) if url.starts_with("postgres") && url.contains("://") => {
                Ok(StoreSpec::Postgres(url.to_owned()))
            }
            _ => Err(BadStore),
        }
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreSpec::Memory => f.write_str("memory"),
            StoreSpec::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StoreSpec::Postgres(_) => f.write_str("the Postgres database"),
        }
    }
}

/// An open store behind a host.
pub(super) struct Opened {
    pub(super) host: Host,
    spec: StoreSpec,
    /// As typed before a command that works on the same store.
    hint: String,
}

impl Common {
    /// Opens the store, and builds a host over it.
    pub(super) async fn open(&self) -> Result<Opened> {
        self.open_with(|builder| builder).await
    }

    /// As [`open`](Common::open), with the host set up further.
    pub(super) async fn open_with(
        &self,
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Result<Opened> {
        let spec = self.spec()?;
        let store = spec.open().await?;
        let builder = Host::builder().shared_store(store).instances(INSTANCES);
        let hint = match (&self.store, &spec) {
            (Some(StoreSpec::Sqlite(path)), _) => format!("--store sqlite:{} ", path.display()),
            (Some(StoreSpec::Postgres(_)), _) => "--store ... ".to_owned(),
            (Some(StoreSpec::Memory) | None, _) => String::new(),
        };
        Ok(Opened { host: set_up(builder).build()?, spec, hint })
    }

    fn spec(&self) -> Result<StoreSpec> {
        match &self.store {
            Some(spec) => Ok(spec.clone()),
            None => Ok(StoreSpec::Sqlite(default_file()?)),
        }
    }
}

impl Opened {
    /// The app of that name.
    pub(super) async fn app(&self, name: &AppName) -> Result<App> {
        if let Some(app) = self.host.app(name).await? {
            return Ok(app);
        }
        if matches!(self.spec, StoreSpec::Memory) {
            // A store that starts empty would otherwise be of no use: nobody
            // could have created the app.
            return Ok(self.host.create_app(name.clone()).await?);
        }
        Err(self.unknown(name))
    }

    /// The app of that name, and the operator's own way to its entries: a
    /// public call.
    pub(super) async fn caller(&self, name: &AppName) -> Result<Caller> {
        Ok(Caller::new(&self.app(name).await?, None))
    }

    /// There is no such app.
    pub(super) fn unknown(&self, name: &AppName) -> anyhow::Error {
        let Opened { spec, hint, .. } = self;
        Refused(format!(
            "there is no app {name} in {spec}; create it with: kvasm {hint}app create {name}"
        ))
        .into()
    }
}

impl StoreSpec {
    async fn open(&self) -> Result<Arc<dyn Store>> {
        Ok(match self {
            StoreSpec::Memory => Arc::new(MemoryStore::new()),
            StoreSpec::Sqlite(path) => {
                check_folder(path)?;
                Arc::new(SqliteStore::open(SqliteOptions::new(path)).await?)
            }
            StoreSpec::Postgres(url) => {
                Arc::new(PostgresStore::connect(PostgresOptions::new(url)).await?)
            }
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            StoreSpec::Memory => "memory",
            StoreSpec::Sqlite(_) => "sqlite",
            StoreSpec::Postgres(_) => "postgres",
        }
    }
}

/// A mistyped path is the user's fault, and not worth an error of SQLite.
fn check_folder(path: &Path) -> Result<(), Refused> {
    if path.is_dir() {
        return Err(Refused(format!(
            "{} is a folder; --store sqlite:PATH takes the path of a file",
            path.display()
        )));
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Refused(format!(
            "the folder {} does not exist; create it, or name another file with --store sqlite:PATH",
            folder.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// The file in the user's data folder, which is made if it is not there.
fn default_file() -> Result<PathBuf> {
    let dirs = dirs().ok_or_else(|| {
        Refused("you have no home folder; name the store with --store sqlite:PATH".to_owned())
    })?;
    let folder = dirs.data_local_dir();
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(Machine::of("your data folder cannot be made; name the store with --store"))?;
    Ok(folder.join("kvasm.db"))
}

/// The user's own folders for this program.
pub(super) fn dirs() -> Option<directories::ProjectDirs> {
    directories::ProjectDirs::from("", "", "kvasm")
}

/// `kvasm migrate`.
pub(super) async fn migrate(common: &Common, output: &mut Output) -> Result<Exit> {
    let opened = common.open().await?;
    // Opening has migrated it; this says that it also answers.
    opened.host.store().ping().await.map_err(StoreError::from)?;
    let spec = &opened.spec;
    if output.is_json() {
        output.json(&serde_json::json!({ "store": spec.kind(), "up_to_date": true }))?;
    } else {
        output.line(&format!("the schema of {spec} is up to date"))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_kind() {
        let kind = |text: &str| text.parse::<StoreSpec>().map(|spec| spec.kind());
        assert_eq!(kind("memory").unwrap(), "memory");
        assert_eq!(kind("sqlite:a:b.db").unwrap(), "sqlite");
        for url in ["postgres://u@h/d", "postgresql://u@h/d", "postgres:postgres://u@h/d"] {
            assert_eq!(kind(url).unwrap(), "postgres");
        }
        for bad in ["", "sqlite", "sqlite:", "memory:x", "postgres:", "mysql://h", "/tmp/x.db"] {
            assert!(kind(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_url_is_never_shown() {
        let spec: StoreSpec = "postgres://u:secret@h/d".parse().unwrap();
        assert!(!spec.to_string().contains("secret"));
    }
}
