//! The server's configuration. Arguments take precedence over the environment, and that over the
//! file. Each key has one name, one default and one parser.

mod egress_keys;
mod egress_text;
mod keys;
mod limit_keys;
mod listen;
mod otel_keys;
mod text;

pub(super) use listen::Listen;

use super::environment::{similar, trimmed};
use super::input;
use super::open::{CacheDir, StoreSpec};
use super::otel::OtelSettings;
use kvasm::CacheLimits;
use kvasm::dispatch::DispatchOptions;
use kvasm::egress::EgressConfig;
use kvasm::model::{AppLimits, Limits, LimitsError, Quota};
use kvasm::server::{AdminAddress, ServerOptions};
use kvasm::service::{HealthLimits, WatchLimits};
use kvasm::store::{Migrate, PostgresOptions, SqliteOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;
use text::toml_value;
use thiserror::Error;

/// An invalid value: its source, its key and the reason.
#[derive(Debug, Error)]
pub(super) enum ConfigError {
    #[error("{0}: {1}")]
    File(PathBuf, String),
    #[error("{source_name}: {key} is {value:?}: {why}")]
    Value {
        source_name: String,
        key: String,
        value: String,
        why: String,
    },
    #[error("{source_name}: unknown key {key:?}{like}; `kvasm serve --print-config` lists all")]
    UnknownKey {
        source_name: String,
        key: String,
        /// A suggestion of a similar key, or empty.
        like: String,
    },
}

impl ConfigError {
    fn misfit(misfit: LimitsError) -> ConfigError {
        let least = text::show_size(&misfit.min);
        ConfigError::Value {
            source_name: "the configuration".to_owned(),
            key: format!("limits.{}", misfit.limit),
            value: text::show_size(&misfit.bytes),
            why: format!("it must be at least {least}: {}", misfit.why),
        }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// The whole configuration, validated.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) listen: Listen,
    pub(super) admin_listen: Option<Listen>,
    pub(super) admin: AdminAddress,
    pub(super) shutdown_delay: Duration,
    pub(super) store: Option<StoreSpec>,
    pub(super) migrate: Migrate,
    /// Without the URL, which is in `store`.
    pub(super) postgres: PostgresOptions,
    pub(super) sqlite_cache: usize,
    pub(super) secrets_key_file: Option<PathBuf>,
    pub(super) cache_dir: CacheDir,
    pub(super) cache: CacheLimits,
    pub(super) log_format: LogFormat,
    pub(super) log_filter: String,
    pub(super) instances: u32,
    pub(super) memory: u64,
    pub(super) modules: usize,
    pub(super) modules_bytes: usize,
    pub(super) compilers: Option<usize>,
    pub(super) compile_time: Duration,
    pub(super) compile_memory: usize,
    pub(super) queue: usize,
    pub(super) health: HealthLimits,
    pub(super) watch: WatchLimits,
    pub(super) server: ServerOptions,
    pub(super) dispatch: DispatchOptions,
    pub(super) limits: Limits,
    pub(super) new_apps: AppLimits,
    pub(super) egress: EgressSettings,
    pub(super) otel: OtelSettings,
}

/// Outbound HTTP.
#[derive(Debug, Clone, Default)]
pub(super) struct EgressSettings {
    pub(super) enabled: bool,
    pub(super) roots_file: Option<PathBuf>,
    /// Without the certificates, which are in `roots_file`.
    pub(super) client: EgressConfig,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Listen::public(),
            admin_listen: Some(Listen::admin()),
            admin: AdminAddress {
                api: true,
                console: true,
                ..AdminAddress::default()
            },
            shutdown_delay: Duration::ZERO,
            store: None,
            migrate: Migrate::Alone,
            postgres: PostgresOptions::new(""),
            sqlite_cache: SqliteOptions::CACHE,
            secrets_key_file: None,
            cache_dir: CacheDir::Default,
            cache: CacheLimits::default(),
            log_format: LogFormat::Text,
            log_filter: "error,kvasm=info,kvasm::requests=warn".to_owned(),
            instances: 256,
            memory: 4 << 30,
            modules: 1_000,
            modules_bytes: 512 << 20,
            compilers: None,
            compile_time: Duration::from_secs(30),
            compile_memory: 1 << 30,
            queue: 64,
            health: HealthLimits::default(),
            watch: WatchLimits::default(),
            server: ServerOptions::default(),
            dispatch: DispatchOptions::default(),
            limits: Limits::default(),
            new_apps: AppLimits {
                quota: Quota {
                    entries: Some(1_000_000),
                    bytes: Some(1 << 30),
                },
                calls_per_second: Some(1_000),
                calls_at_once: Some(32),
            },
            egress: EgressSettings::default(),
            otel: OtelSettings::default(),
        }
    }
}

/// Whether an environment variable sets a key.
pub(super) fn is_variable(name: &str) -> bool {
    variables().any(|variable| variable == name)
}

/// The variables of the environment that set keys.
pub(super) fn variables() -> impl Iterator<Item = String> {
    keys::all().map(|key| variable(key.name))
}

/// The environment variable that sets a key.
fn variable(key: &str) -> String {
    format!("KVASM_{}", key.replace('.', "_").to_uppercase())
}

impl Config {
    /// Reads the file, if any, then the environment, then `arguments`, which are pairs of a key and
    /// a value.
    pub(super) fn load(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
        arguments: &[(String, String)],
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(path) = file {
            config.read_file(path)?;
        }
        for key in keys::all() {
            let variable = variable(key.name);
            if let Some(text) = environment(&variable) {
                config.set(&variable, key.name, &text)?;
            }
        }
        for (key, text) in arguments {
            config.set("the arguments", key, text)?;
        }
        config.check_bytes()?;
        config.limits.check().map_err(ConfigError::misfit)?;
        config.check_memory()?;
        Ok(config)
    }

    /// Checks that one plugin instance fits into the memory of all.
    fn check_memory(&self) -> Result<(), ConfigError> {
        let least = self.limits.memory_bytes;
        if self.memory >= least as u64 {
            return Ok(());
        }
        Err(ConfigError::Value {
            source_name: "the configuration".to_owned(),
            key: "engine.memory".to_owned(),
            value: self.memory.to_string(),
            why: format!(
                "it must be at least limits.memory, {}",
                text::show_size(&least)
            ),
        })
    }

    /// Checks that each body and response fits into the bytes in flight; otherwise it would never
    /// be admitted.
    fn check_bytes(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let bodies = [
            ("limits.input", limits.input_bytes),
            ("limits.output", limits.output_bytes),
            ("limits.module", limits.module_bytes),
            ("limits.value and its frame", limits.line_bytes()),
            ("limits.page", limits.page_bytes),
        ];
        let bytes = self.server.bytes_in_flight;
        match bodies.into_iter().find(|(_, limit)| *limit > bytes) {
            None => Ok(()),
            Some((name, limit)) => Err(ConfigError::Value {
                source_name: "the configuration".to_owned(),
                key: "server.bytes_in_flight".to_owned(),
                value: text::show_size(&bytes),
                why: format!("it must be at least {name}, {}", text::show_size(&limit)),
            }),
        }
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let bad = |why: String| ConfigError::File(path.to_owned(), why);
        let bytes = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let text = input::text(bytes).map_err(bad)?;
        let table: toml::Table = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let source = path.display().to_string();
        self.read_table(&source, "", &table)
    }

    fn read_table(
        &mut self,
        source: &str,
        prefix: &str,
        table: &toml::Table,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value {
                toml::Value::Table(table) => {
                    self.read_table(source, &format!("{key}."), table)?;
                }
                toml::Value::String(text) => self.set(source, &key, text)?,
                // Only lists of strings; for anything else, the key's parser reports the error.
                toml::Value::Array(items) => {
                    let text = |item: &toml::Value| match item {
                        toml::Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    let texts: Vec<_> = items.iter().map(text).collect();
                    self.set(source, &key, &texts.join(","))?;
                }
                other => self.set(source, &key, &other.to_string())?,
            }
        }
        Ok(())
    }

    fn set(&mut self, source: &str, name: &str, text: &str) -> Result<(), ConfigError> {
        let (name, text) = (trimmed(name), trimmed(text));
        let key = keys::all().find(|key| key.name == name);
        let key = key.ok_or_else(|| ConfigError::UnknownKey {
            source_name: source.to_owned(),
            key: name.to_owned(),
            like: similar(name, keys::all().map(|key| key.name.to_owned())),
        })?;
        (key.set)(self, text).map_err(|why| ConfigError::Value {
            source_name: source.to_owned(),
            key: name.to_owned(),
            // These URLs can hold a password.
            value: match name {
                "store" | "otel.endpoint" => "...".to_owned(),
                _ => text.to_owned(),
            },
            why,
        })
    }

    /// Prints the configuration as a file.
    pub(super) fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in keys::all() {
            let (head, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if head != section {
                out.push_str(&format!("\n[{head}]\n"));
                section = head;
            }
            let value = (key.show)(self);
            let comment = if value.is_empty() { "# " } else { "" };
            out.push_str(&format!(
                "# {}\n{comment}{name} = {}\n",
                key.help,
                toml_value(&value)
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        variable: Option<(&str, &str)>,
        arguments: &[(&str, &str)],
    ) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvasm.toml");
        std::fs::write(&path, file).unwrap();
        let environment = |name: &str| {
            variable
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let arguments: Vec<_> = arguments
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Config::load(Some(&path), environment, &arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_override_environment_overrides_file() {
        let file = "listen = \"0.0.0.0:1\"\n[limits]\nvalue = \"2MiB\"\nlog_lines = 7\n";
        let config = load(file, None, &[]).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:1");
        assert_eq!(config.limits.value_bytes, 2 * 1024 * 1024);
        assert_eq!(config.limits.log_lines, 7);
        let variable = Some(("KVASM_LIMITS_VALUE", "65536"));
        assert_eq!(load(file, variable, &[]).unwrap().limits.value_bytes, 65536);
        let config = load(file, variable, &[("limits.value", "1KiB")]).unwrap();
        assert_eq!(config.limits.value_bytes, 1024);
    }

    #[test]
    fn config_error_names_source_and_key() {
        let error = load("[limits]\nvalu = 1\n", None, &[]).unwrap_err();
        assert!(
            error.contains("kvasm.toml") && error.contains("limits.valu"),
            "{error}"
        );
        let error = load("", Some(("KVASM_SERVER_CONNECTIONS", "0")), &[]).unwrap_err();
        assert!(
            error.contains("KVASM_SERVER_CONNECTIONS: server.connections is \"0\""),
            "{error}"
        );
        for (key, value) in [
            ("postgres.connections", "0"),
            ("postgres.statement_timeout", "900us"),
            ("postgres.acquire_timeout", "25days"),
        ] {
            let error = load("", None, &[(key, value)]).unwrap_err();
            assert!(
                error.contains(&format!("{key} is {value:?}: it must be")),
                "{error}"
            );
        }
        let error = load("", None, &[("limits.wall_time", "soon")]).unwrap_err();
        assert!(
            error.contains("the arguments: limits.wall_time is \"soon\""),
            "{error}"
        );
        let error = load("", None, &[("store", "redis://user:secret@x")]).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(load("listen = [", None, &[]).is_err());
        let error = load("", None, &[("server.bytes_in_flight", "15MiB")]).unwrap_err();
        assert!(error.contains("at least limits.module, 16MiB"), "{error}");
        let error = load("", None, &[("limits.value", "8MiB")]).unwrap_err();
        assert!(error.contains("limits.input is \"8MiB\""), "{error}");
        let error = load("", None, &[("engine.memory", "1KiB")]).unwrap_err();
        assert!(error.contains("at least limits.memory, 64MiB"), "{error}");
        let error = load("", None, &[("server.trusted_proxies", "10.0.0.1/8")]).unwrap_err();
        assert!(error.contains("write 10.0.0.0/8"), "{error}");
        let both = [("limits.value", "8MiB"), ("limits.input", "9MiB")];
        assert!(load("", None, &both).is_ok());
    }

    #[test]
    fn list_can_be_an_array_or_comma_separated() {
        let array = "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n";
        let text = "[server]\ntrusted_proxies = \"10.0.0.0/8, ::1\"\n";
        for file in [array, text] {
            let config = load(file, None, &[]).unwrap();
            assert_eq!(config.server.trusted_proxies.len(), 2);
            let again = load(&config.to_toml(), None, &[]).unwrap();
            assert_eq!(again.server, config.server);
        }
        let none = [("server.trusted_proxies", "none")];
        let config = load(array, None, &none).unwrap();
        assert!(config.server.trusted_proxies.is_empty());
        assert!(load("listen = [1]", None, &[]).is_err());
    }

    #[test]
    fn printed_config_can_be_loaded() {
        let config = Config::default();
        let again = load(&config.to_toml(), None, &[]).unwrap();
        for key in keys::all() {
            assert_eq!((key.show)(&config), (key.show)(&again), "{}", key.name);
        }
    }

    #[test]
    fn every_config_key_is_documented_with_its_default() {
        let docs = include_str!("../../../../docs/operating.md");
        let config = Config::default();
        for key in keys::all() {
            let row = format!(
                "| `{}` | {} | {} |",
                key.name,
                (key.show)(&config),
                key.help
            );
            assert!(docs.contains(&row), "docs/operating.md lacks:\n{row}");
        }
    }
}
