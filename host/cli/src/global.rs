//! The options of every command, combined with the environment.

use super::environment::{Environment, trimmed};
use super::failure::Failure;
use super::shell::quoted;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The default of `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct Global {
    /// The URL of the server, such as http://127.0.0.1:7181 [env: KVASM_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// The token for the server [env: KVASM_TOKEN]
    #[arg(long, global = true)]
    token: Option<String>,
    /// The profile with the server and the token, as saved by `kvasm login` [env: KVASM_PROFILE]
    /// [default: the profile "default", if it exists]
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// The store to use without a server: sqlite:PATH, postgres:URL or memory [env: KVASM_STORE]
    /// [default: a SQLite file in your data directory]
    #[arg(long, global = true)]
    store: Option<String>,
    /// The server's configuration file, in TOML, for `serve` and for commands on a store [env:
    /// KVASM_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long to wait for data from the server, such as 5m, or none for no limit [env:
    /// KVASM_TIMEOUT] [default: 60s]
    #[arg(long, global = true, value_name = "TIME")]
    timeout: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[arg(skip)]
    environment: Environment,
}

/// The destination of a command, if it is specified.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination<'a> {
    Server(&'a str),
    Store(&'a str),
    Profile(&'a str),
    Unsaid,
}

impl Global {
    /// Adds the environment. Surrounding blanks are removed.
    ///
    /// # Errors
    /// A user error: an empty option, or both a server and a store.
    pub(super) fn with_environment(mut self, environment: Environment) -> Result<Global, Failure> {
        let texts = [
            ("--server", &mut self.server),
            ("--token", &mut self.token),
            ("--profile", &mut self.profile),
            ("--store", &mut self.store),
            ("--timeout", &mut self.timeout),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                *text = trimmed(text).to_owned();
                if text.is_empty() {
                    return Err(Failure::user(format!("{name} is empty")));
                }
            }
        }
        if self
            .config
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty())
        {
            return Err(Failure::user("--config is empty"));
        }
        if self.server.is_some() && self.store.is_some() {
            return Err(Failure::user("--server and --store cannot be combined"));
        }
        self.environment = environment;
        Ok(self)
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The destination of a command. Arguments take precedence over the environment; within each, a
    /// server comes first, then a store, then a profile.
    pub(super) fn place(&self) -> Destination<'_> {
        let environment = |name| self.environment.get(name);
        let said = [
            (
                self.server.as_deref(),
                self.store.as_deref(),
                self.profile.as_deref(),
            ),
            (
                environment("KVASM_SERVER"),
                environment("KVASM_STORE"),
                environment("KVASM_PROFILE"),
            ),
        ];
        let place = said.into_iter().find_map(|said| match said {
            (Some(server), _, _) => Some(Destination::Server(server)),
            (None, Some(store), _) => Some(Destination::Store(store)),
            (None, None, Some(profile)) => Some(Destination::Profile(profile)),
            (None, None, None) => None,
        });
        place.unwrap_or(Destination::Unsaid)
    }

    /// `--server`, or its variable.
    pub(super) fn server(&self) -> Option<&str> {
        let variable = || self.environment.get("KVASM_SERVER");
        self.server.as_deref().or_else(variable)
    }

    /// `--server`.
    pub(super) fn server_argument(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// `--profile`, or its variable.
    pub(super) fn profile(&self) -> Option<&str> {
        let variable = || self.environment.get("KVASM_PROFILE");
        self.profile.as_deref().or_else(variable)
    }

    /// `--store`, or its variable.
    pub(super) fn store(&self) -> Option<&str> {
        let variable = || self.environment.get("KVASM_STORE");
        self.store.as_deref().or_else(variable)
    }

    /// `--store`.
    pub(super) fn store_argument(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// The token for the server. `kept` is the token of the profile, which takes precedence over
    /// the environment if `--profile` names it.
    pub(super) fn token(&self, kept: Option<&str>) -> Option<String> {
        let variable = self.environment.get("KVASM_TOKEN");
        let rest = match self.profile {
            Some(_) => kept.or(variable),
            None => variable.or(kept),
        };
        self.token.as_deref().or(rest).map(str::to_owned)
    }

    /// A command to suggest, which reaches what this one reaches. A token is not repeated.
    pub(super) fn suggest(&self, arguments: &str) -> String {
        let options = [
            ("--server", self.server.as_deref()),
            ("--profile", self.profile.as_deref()),
        ];
        let given = options
            .into_iter()
            .filter_map(|(name, value)| Some(format!(" {name} {}", quoted(value?))));
        format!("kvasm{} {arguments}", given.collect::<String>())
    }

    /// The server's configuration file, if one is specified.
    pub(super) fn config(&self) -> Option<PathBuf> {
        let variable = || self.environment.get("KVASM_CONFIG").map(PathBuf::from);
        self.config.clone().or_else(variable)
    }

    /// The timeout for data from the server; `None` for no limit.
    ///
    /// # Errors
    /// A user error: an invalid time.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Failure> {
        let variable = self.environment.get("KVASM_TIMEOUT");
        let (name, text) = match (&self.timeout, variable) {
            (Some(text), _) => ("--timeout", text.as_str()),
            (None, Some(text)) => ("KVASM_TIMEOUT", text),
            (None, None) => return Ok(Some(TIMEOUT)),
        };
        if text == "none" {
            return Ok(None);
        }
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() => Ok(Some(time)),
            Ok(_) | Err(_) => Err(Failure::user(format!(
                "{name} is {text:?}; write it like 30s or 5m, or none"
            ))),
        }
    }
}
