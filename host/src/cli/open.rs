//! Opening the store and finding the app.

use super::Global;
use super::config::Config;
use super::failure::Failure;
use directories::ProjectDirs;
use kvasm::metrics::Metrics;
use kvasm::model::{App, AppName};
use kvasm::store::{
    MemoryStore, Migrate, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store,
};
use kvasm::{Compiler, Host, HostBuilder};
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
    /// The store as it may be shown: without a password.
    pub(super) fn shown(&self) -> String {
        match self {
            StoreSpec::Sqlite(path) => format!("sqlite:{}", path.display()),
            StoreSpec::Postgres(url) => match url::Url::parse(url) {
                Ok(mut url) => {
                    if url.password().is_some() {
                        let _ = url.set_password(Some("..."));
                    }
                    // Parameters can hold one too.
                    if url.query().is_some() {
                        url.set_query(Some("..."));
                    }
                    url.to_string()
                }
                Err(_) => "postgres:...".to_owned(),
            },
            StoreSpec::Memory => "memory".to_owned(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            StoreSpec::Sqlite(_) => "SQLite",
            StoreSpec::Postgres(_) => "Postgres",
            StoreSpec::Memory => "memory",
        }
    }
}

fn user_folders() -> Result<ProjectDirs, Failure> {
    ProjectDirs::from("", "", "kvasm")
        .ok_or_else(|| Failure::user("you have no home directory; name a store with --store"))
}

/// Where compiled plugins are kept between processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheDir {
    /// In the user's cache directory, if there is one.
    Default,
    /// Nowhere.
    None,
    Folder(PathBuf),
}

impl FromStr for CacheDir {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<CacheDir, Self::Err> {
        Ok(match text {
            "none" => CacheDir::None,
            folder => CacheDir::Folder(folder.into()),
        })
    }
}

impl CacheDir {
    /// The same host with this folder. Without a home directory there is a warning.
    pub(super) fn apply(&self, builder: HostBuilder) -> HostBuilder {
        match self {
            CacheDir::None => builder,
            CacheDir::Folder(folder) => builder.cache_dir(folder),
            CacheDir::Default => match user_folders() {
                Ok(folders) => builder.cache_dir(folders.cache_dir().join("compiled")),
                Err(_) => {
                    tracing::warn!(
                        "there is no home directory for a cache folder; plugins are compiled \
                         at each start. Name a folder, or none, with --cache-dir"
                    );
                    builder
                }
            },
        }
    }
}

/// The folder of the file of profiles.
pub(super) fn config_dir() -> Result<PathBuf, Failure> {
    Ok(user_folders()?.config_dir().to_owned())
}

/// The store that was asked for, or the default.
pub(super) fn spec(global: &Global) -> Result<StoreSpec, Failure> {
    match &global.store {
        Some(text) => parse(text),
        None => default_store(),
    }
}

/// Reads what `--store` says. Not the parser of arguments, which would repeat it
/// in its message: it can hold a password.
pub(super) fn parse(text: &str) -> Result<StoreSpec, Failure> {
    let why = |why| Failure::user(format!("--store or KVASM_STORE is not valid: {why}"));
    text.parse().map_err(why)
}

/// A SQLite file in the user's data directory.
pub(super) fn default_store() -> Result<StoreSpec, Failure> {
    let folder = user_folders()?.data_dir().to_owned();
    make_private(&folder)?;
    Ok(StoreSpec::Sqlite(folder.join("kvasm.db")))
}

/// Makes a folder that its owner alone can enter.
pub(super) fn make_private(folder: &std::path::Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|e| Failure::host(format!("{}: {e}", folder.display())))
}

/// Opens a store, and brings its schema up to date if it may be.
pub(super) async fn store(
    spec: &StoreSpec,
    metrics: Metrics,
    migrate: Migrate,
) -> Result<Arc<dyn Store>, Failure> {
    Ok(match spec {
        StoreSpec::Memory => Arc::new(MemoryStore::new()),
        StoreSpec::Postgres(url) => {
            let mut options = PostgresOptions::new(url.as_str());
            options.migrate = migrate;
            Arc::new(PostgresStore::connect(options).await?)
        }
        StoreSpec::Sqlite(path) => {
            let mut options = SqliteOptions::new(path);
            options.metrics = metrics;
            options.migrate = migrate;
            let opened = SqliteStore::open(options).await;
            Arc::new(opened.map_err(|e| Failure::from(e).at(&path.display().to_string()))?)
        }
    })
}

/// A host over the store that was asked for.
pub(super) async fn builder(global: &Global) -> Result<HostBuilder, Failure> {
    let metrics = Metrics::default();
    let store = store(&spec(global)?, metrics.clone(), Migrate::Alone).await?;
    let new_apps = Config::default().new_apps;
    Ok(Host::builder()
        .shared_store(store)
        .metrics(metrics)
        .compiler(compiler())
        .new_apps(new_apps))
}

/// Modules are compiled in processes of this program.
pub(super) fn compiler() -> Compiler {
    Compiler::this_program([COMPILE_WORKER]).unwrap_or_else(|error| {
        tracing::warn!(%error, "this program cannot be found; plugins are compiled in this process");
        Compiler::InProcess
    })
}

/// The argument that makes a process of this program a compiler.
pub(super) const COMPILE_WORKER: &str = "compile-worker";

/// The app of that name.
pub(super) async fn app(host: &Host, name: &AppName) -> Result<App, Failure> {
    host.app(name).await?.ok_or_else(|| Failure::no_app(name))
}
