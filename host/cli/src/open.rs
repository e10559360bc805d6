//! Opens the store and finds the app.

use super::Global;
use super::config::Config;
use super::environment::trimmed;
use super::failure::Failure;
use directories::ProjectDirs;
use kvasm::egress::Egress;
use kvasm::metrics::Metrics;
use kvasm::service::Keyring;
use kvasm::store::{
    MemoryStore, Migrate, PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store,
};
use kvasm::{Compiler, Host, HostBuilder};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The name of the default store's file.
const DEFAULT_STORE: &str = "kvasm.db";

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreSpec {
    Sqlite(PathBuf),
    Postgres(String),
    Memory,
}

impl FromStr for StoreSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreSpec, String> {
        let text = trimmed(text);
        match text.split_once(':') {
            Some(("sqlite", path)) => sqlite(path),
            // Both `postgres:URL` and the bare URL are accepted.
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => postgres(text),
            Some(("postgres", url)) if url.contains("://") => postgres(url),
            None if text == "memory" => Ok(StoreSpec::Memory),
            _ => Err("expected sqlite:PATH, postgres:URL or memory".to_owned()),
        }
    }
}

fn sqlite(path: &str) -> Result<StoreSpec, String> {
    let why = match path {
        "" => "the path is empty",
        ":memory:" => "for a store in memory, use memory",
        path if path.starts_with("//") => "expected a path, not a URL: sqlite:PATH",
        path if trimmed(path) != path => "the path has leading or trailing blanks",
        path => return Ok(StoreSpec::Sqlite(path.into())),
    };
    Err(why.to_owned())
}

/// Parses a URL. The messages never repeat it, since it may contain a password.
fn postgres(url: &str) -> Result<StoreSpec, String> {
    const HINT: &str = "; in a password write % as %25, / as %2F, # as %23, ? as %3F and @ as %40";
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err("a Postgres URL begins with postgres://".to_owned());
    }
    let hint = if rest.contains('@') { HINT } else { "" };
    let parsed = url::Url::parse(url).map_err(|e| format!("invalid URL: {e}{hint}"))?;
    // An unescaped character of the password has then ended the part before the @.
    let in_query = parsed.query().is_some_and(|query| query.contains('@'));
    let is_cut = parsed.path().contains('@') || (in_query && parsed.path().is_empty());
    if is_cut || parsed.fragment().is_some() {
        return Err(format!("invalid URL{HINT}"));
    }
    Ok(StoreSpec::Postgres(url.to_owned()))
}

impl StoreSpec {
    /// The store without a password, for display.
    pub(super) fn shown(&self) -> String {
        match self {
            StoreSpec::Sqlite(path) => format!("sqlite:{}", path.display()),
            StoreSpec::Postgres(url) => match url::Url::parse(url) {
                Ok(mut url) => {
                    if url.password().is_some() {
                        let _ = url.set_password(Some("..."));
                    }
                    // Parameters can contain one too.
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

    /// The name by the semantic conventions of OpenTelemetry, which have none for a store in memory.
    pub(super) fn database(&self) -> &'static str {
        match self {
            StoreSpec::Sqlite(_) => "sqlite",
            StoreSpec::Postgres(_) => "postgresql",
            StoreSpec::Memory => "kvasm.memory",
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
        .ok_or_else(|| Failure::user("no home directory found; specify a store with --store"))
}

/// The folder where compiled plugins are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheDir {
    /// In the user's cache directory, if it exists.
    Default,
    /// No folder.
    None,
    Folder(PathBuf),
}

impl FromStr for CacheDir {
    type Err = String;

    fn from_str(text: &str) -> Result<CacheDir, String> {
        match trimmed(text) {
            "" => Err("the path is empty; use none for no folder".to_owned()),
            "none" => Ok(CacheDir::None),
            text if text.eq_ignore_ascii_case("none") => {
                Err("use none for no folder, or ./None for a folder of that name".to_owned())
            }
            folder => Ok(CacheDir::Folder(folder.into())),
        }
    }
}

impl CacheDir {
    /// Sets the folder. Logs a warning if there is no home directory.
    pub(super) fn apply(&self, builder: HostBuilder) -> HostBuilder {
        match self {
            CacheDir::None => builder,
            CacheDir::Folder(folder) => builder.cache_dir(folder),
            CacheDir::Default => match user_folders() {
                Ok(folders) => builder.cache_dir(folders.cache_dir().join("compiled")),
                Err(_) => {
                    tracing::warn!(
                        "no home directory found for the cache folder; plugins are compiled \
                         at each start. Specify a folder, or none, with --cache-dir"
                    );
                    builder
                }
            },
        }
    }
}

/// The folder of the profiles file.
pub(super) fn config_dir() -> Result<PathBuf, Failure> {
    Ok(user_folders()?.config_dir().to_owned())
}

/// The server's configuration: the file, if one is specified, overridden by the environment.
pub(super) fn config(global: &Global) -> Result<Config, Failure> {
    let environment = |name: &str| global.environment().get(name).map(str::to_owned);
    let config = Config::load(global.config().as_deref(), environment, &[]);
    config.map_err(|e| Failure::user(e.to_string()))
}

/// The store of the arguments, of the configuration, or the default.
pub(super) fn spec(global: &Global, config: &Config) -> Result<StoreSpec, Failure> {
    match (global.store(), &config.store) {
        (Some(text), _) => parse(text),
        (None, Some(store)) => Ok(store.clone()),
        (None, None) => default_store(),
    }
}

/// Parses `--store`. The argument parser does not, since its error messages repeat the text, which
/// may contain a password.
pub(super) fn parse(text: &str) -> Result<StoreSpec, Failure> {
    let why = |why| Failure::user(format!("--store or KVASM_STORE is not valid: {why}"));
    text.parse().map_err(why)
}

/// The default store, if its file exists.
pub(super) fn existing_default_store() -> Option<StoreSpec> {
    let path = user_folders().ok()?.data_dir().join(DEFAULT_STORE);
    path.exists().then_some(StoreSpec::Sqlite(path))
}

/// The store of the configuration, or the default one.
pub(super) fn configured_store(config: &Config) -> Result<StoreSpec, Failure> {
    match &config.store {
        Some(spec) => Ok(spec.clone()),
        None => default_store(),
    }
}

/// A SQLite file in the user's data directory.
fn default_store() -> Result<StoreSpec, Failure> {
    let folder = user_folders()?.data_dir().to_owned();
    make_private(&folder)?;
    Ok(StoreSpec::Sqlite(folder.join(DEFAULT_STORE)))
}

/// Creates a folder that only its owner can enter.
pub(super) fn make_private(folder: &std::path::Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|e| Failure::host(format!("{}: {e}", folder.display())))
}

/// Opens a store with the options of the configuration, and migrates its schema if allowed.
pub(super) async fn store(
    spec: &StoreSpec,
    metrics: Metrics,
    migrate: Migrate,
    config: &Config,
) -> Result<Arc<dyn Store>, Failure> {
    Ok(match spec {
        StoreSpec::Memory => Arc::new(MemoryStore::new()),
        StoreSpec::Postgres(url) => {
            let options = PostgresOptions {
                url: url.clone(),
                metrics,
                migrate,
                ..config.postgres.clone()
            };
            Arc::new(PostgresStore::connect(options).await?)
        }
        StoreSpec::Sqlite(path) => {
            let mut options = SqliteOptions::new(path);
            options.metrics = metrics;
            options.migrate = migrate;
            options.cache = config.sqlite_cache;
            let opened = SqliteStore::open(options).await;
            Arc::new(opened.map_err(|e| Failure::from(e).at(&path.display().to_string()))?)
        }
    })
}

/// The keys for secrets: those of the configured file; else, for a SQLite file, those of a file
/// beside it. Postgres has none without a file, as its hosts have to share one.
pub(super) fn keyring(spec: &StoreSpec, config: &Config) -> Result<Keyring, Failure> {
    Ok(match (&config.secrets_key_file, spec) {
        (Some(path), _) => Keyring::file(path),
        (None, StoreSpec::Sqlite(path)) => {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".secrets-key");
            Keyring::file_or_create(beside)
        }
        (None, StoreSpec::Memory) => Keyring::ephemeral()?,
        (None, StoreSpec::Postgres(_)) => Keyring::default(),
    })
}

/// Sets the client for plugins' HTTP requests, if they are enabled.
pub(super) fn outbound(
    builder: HostBuilder,
    config: &Config,
    metrics: Metrics,
) -> Result<HostBuilder, Failure> {
    let egress = &config.egress;
    if !egress.enabled {
        return Ok(builder);
    }
    let mut client = egress.client.clone();
    if let Some(path) = &egress.roots_file {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::user(format!("egress.roots_file: {}: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| failed(&error))?;
        client.roots_pem = Some(pem);
        let client = Egress::new(client, metrics).map_err(|error| failed(&error))?;
        return Ok(builder.outbound(client));
    }
    let client = Egress::new(client, metrics).map_err(|error| Failure::host(error.to_string()))?;
    Ok(builder.outbound(client))
}

/// A host builder with the selected store and the configuration's limits.
pub(super) async fn builder(global: &Global, config: &Config) -> Result<HostBuilder, Failure> {
    on_store(&spec(global, config)?, config).await
}

/// A host builder with this store and the configuration's limits.
pub(super) async fn on_store(spec: &StoreSpec, config: &Config) -> Result<HostBuilder, Failure> {
    let metrics = Metrics::default();
    let store = store(spec, metrics.clone(), Migrate::Alone, config).await?;
    let builder = limited(config, compiler())
        .shared_store(store)
        .metrics(metrics.clone())
        .secrets(keyring(spec, config)?);
    outbound(builder, config, metrics)
}

/// A host builder with the configuration's limits and an empty store in memory.
pub(super) fn limited(config: &Config, compiler: Compiler) -> HostBuilder {
    Host::builder()
        .limits(config.limits.clone())
        .memory(config.memory)
        .modules_bytes(config.modules_bytes)
        .compiler(compiler)
        .compile_time(config.compile_time)
        .compile_memory(config.compile_memory as u64)
        .new_apps(config.new_apps)
        .watch(config.watch)
}

/// Compiles modules in processes of this program.
pub(super) fn compiler() -> Compiler {
    Compiler::this_program([COMPILE_WORKER]).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot find this program; compiling in this process");
        Compiler::InProcess
    })
}

/// The argument that runs this program as a compiler process.
pub(super) const COMPILE_WORKER: &str = "compile-worker";
