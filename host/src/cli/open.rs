//! Opening the store and finding the app.

use super::Global;
use super::failure::Failure;
use directories::ProjectDirs;
use kvasm::model::{App, AppName};
use kvasm::store::{
    MemoryStore, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store,
};
use kvasm::{Host, HostBuilder};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreSpec {
    Sqlite(PathBuf),
    Postgres(String),
    Memory,
}

impl FromStr for StoreSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreSpec, String> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(StoreSpec::Sqlite(path.into())),
            // Both `postgres:URL` and the bare URL are understood.
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                Ok(StoreSpec::Postgres(text.to_owned()))
            }
            Some(("postgres", url)) if url.contains("://") => {
                Ok(StoreSpec::Postgres(url.to_owned()))
            }
            None if text == "memory" => Ok(StoreSpec::Memory),
            _ => Err("a store is sqlite:PATH, postgres:URL or memory".to_owned()),
        }
    }
}

impl StoreSpec {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            StoreSpec::Sqlite(_) => "SQLite",
            StoreSpec::Postgres(_) => "Postgres",
            StoreSpec::Memory => "memory",
        }
    }
}

fn user_folders() -> Result<ProjectDirs, Failure> {
    ProjectDirs::from("", "", "kvasm").ok_or_else(|| {
        Failure::user("you have no home directory; name a store with --store, and use --no-cache")
    })
}

/// The folder where compiled plugins are kept by default.
pub(super) fn cache_dir() -> Result<PathBuf, Failure> {
    Ok(user_folders()?.cache_dir().join("compiled"))
}

/// The store that was asked for, or the default.
pub(super) fn spec(global: &Global) -> Result<StoreSpec, Failure> {
    match &global.store {
        Some(spec) => Ok(spec.clone()),
        None => {
            let folder = user_folders()?.data_dir().to_owned();
            make_private(&folder)
                .map_err(|e| Failure::host(format!("{}: {e}", folder.display())))?;
            Ok(StoreSpec::Sqlite(folder.join("kvasm.db")))
        }
    }
}

/// Makes a folder that its owner alone can enter.
fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a store.
pub(super) async fn store(spec: &StoreSpec) -> Result<Arc<dyn Store>, Failure> {
    Ok(match spec {
        StoreSpec::Memory => Arc::new(MemoryStore::new()),
        StoreSpec::Postgres(url) => {
            Arc::new(PostgresStore::connect(PostgresOptions::new(url.as_str())).await?)
        }
        StoreSpec::Sqlite(path) => {
            let opened = SqliteStore::open(SqliteOptions::new(path)).await;
            Arc::new(opened.map_err(|e| Failure::from(e).at(&path.display().to_string()))?)
        }
    })
}

/// A host over the store, for commands that run no plugin: its engine keeps
/// room for one instance.
pub(super) async fn host(global: &Global) -> Result<Host, Failure> {
    Ok(builder(global).await?.instances(1).build()?)
}

pub(super) async fn builder(global: &Global) -> Result<HostBuilder, Failure> {
    Ok(Host::builder().shared_store(store(&spec(global)?).await?))
}

/// The app of that name.
pub(super) async fn app(host: &Host, name: &AppName) -> Result<App, Failure> {
    host.app(name).await?.ok_or_else(|| {
        Failure::user(format!(
            "there is no app {name}; `kvasm app create {name}` makes it"
        ))
    })
}
