//! Environment variables that begin with `KVASM_` or `OTEL_`.

use super::failure::Failure;
use super::{config, output};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// The prefix of the program's variables.
const PREFIX: &str = "KVASM_";
/// The prefix of the variables of OpenTelemetry, of which the program heeds some.
const OTEL: &str = "OTEL_";
/// Variables that are not configuration keys, or have another purpose too.
const NOT_CONFIG_KEYS: [&str; 8] = [
    "KVASM_SERVER",
    "KVASM_TOKEN",
    "KVASM_PROFILE",
    "KVASM_STORE",
    "KVASM_CONFIG",
    "KVASM_CACHE_DIR",
    "KVASM_TIMEOUT",
    "KVASM_LOG",
];
/// Variables that others set: Kubernetes for a service named `kvasm`, and this project's tests and
/// builds.
const FOREIGN: [&str; 8] = [
    "KVASM_PORT",
    "KVASM_SERVICE_",
    "KVASM_TEST_",
    "KVASM_BENCH_",
    "KVASM_BIN",
    "KVASM_GUESTS",
    "KVASM_PG_BIN",
    "KVASM_WASMTIME",
];

/// The variables that are set, with surrounding blanks removed. An empty variable counts as unset.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    set: BTreeMap<String, String>,
    unknown: Vec<String>,
}

impl Environment {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// A user error: one of the program's variables is not UTF-8.
    pub(super) fn read() -> Result<Environment, Failure> {
        Environment::of(std::env::vars_os())
    }

    fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Environment, Failure> {
        let mut environment = Environment::default();
        for (name, value) in variables {
            let is_ours = |name: &&str| name.starts_with(PREFIX) || name.starts_with(OTEL);
            let Some(name) = name.to_str().filter(is_ours) else {
                continue;
            };
            let is_otel = name.starts_with(OTEL);
            if !is_otel && !NOT_CONFIG_KEYS.contains(&name) && !config::is_variable(name) {
                if !FOREIGN.iter().any(|other| name.starts_with(other)) {
                    environment.unknown.push(name.to_owned());
                }
                continue;
            }
            let Some(value) = value.to_str() else {
                return Err(Failure::user(format!("{name} is not UTF-8 text")));
            };
            let value = trimmed(value);
            if !value.is_empty() {
                environment.set.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(environment)
    }

    /// Returns a variable, if it is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str)
    }

    /// Returns the names of the variables of OpenTelemetry that are set.
    pub(super) fn otel_names(&self) -> impl Iterator<Item = &str> {
        let names = self.set.keys().map(String::as_str);
        names.filter(|name| name.starts_with(OTEL))
    }

    /// Warns of variables that begin with the prefix but are unknown.
    pub(super) fn warn_of_unknown(&self) {
        for name in &self.unknown {
            let names = NOT_CONFIG_KEYS.into_iter().map(str::to_owned);
            let like = similar(name, names.chain(config::variables()));
            let name = output::escape_line(name);
            tracing::warn!("unknown environment variable {name}{like}");
        }
    }
}

/// Removes surrounding blanks, line breaks and byte order marks, which come from files and
/// clipboards.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// A suggestion of the most similar name; empty if none is similar.
pub(super) fn similar(name: &str, names: impl Iterator<Item = String>) -> String {
    let distance = |other: &String| strsim::damerau_levenshtein(name, other);
    let nearest = names.map(|other| (distance(&other), other)).min();
    match nearest {
        Some((distance, other)) if distance <= 3 && distance * 3 <= name.len() => {
            format!("; did you mean {other}?")
        }
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(k, v)| (k.into(), v.into()));
        Environment::of(variables).ok().unwrap()
    }

    #[test]
    fn empty_variable_is_treated_as_unset() {
        let environment = environment(&[
            ("KVASM_STORE", ""),
            ("KVASM_SERVER", " \n"),
            ("KVASM_TOKEN", "\u{feff} kvasm_1\r\n"),
            ("OTHER", "x"),
        ]);
        assert_eq!(environment.get("KVASM_STORE"), None);
        assert_eq!(environment.get("KVASM_SERVER"), None);
        assert_eq!(environment.get("KVASM_TOKEN"), Some("kvasm_1"));
        assert_eq!(environment.get("OTHER"), None);
        assert!(environment.unknown.is_empty());
    }

    #[test]
    fn unknown_variables_are_detected() {
        let environment = environment(&[
            ("KVASM_STOER", ""),
            ("KVASM_LIMITS_VALUE", "1"),
            ("KVASM_PORT_7180_TCP", "tcp://x"),
            ("KVASM_SERVICE_HOST", "x"),
            ("KVASM_TEST_SEED", "1"),
        ]);
        assert_eq!(environment.unknown, ["KVASM_STOER"]);
        let names = || {
            ["KVASM_STORE", "KVASM_TOKEN"]
                .map(str::to_owned)
                .into_iter()
        };
        let like = similar("KVASM_STOER", names());
        assert_eq!(like, "; did you mean KVASM_STORE?");
        assert_eq!(similar("KVASM_COLOUR", names()), "");
    }

    #[cfg(unix)]
    #[test]
    fn non_utf8_variable_is_rejected() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![0xff]);
        let of = |name: &str| Environment::of([(name.into(), bad.clone())].into_iter());
        assert!(of("KVASM_TOKEN").is_err());
        assert!(of("OTHER").is_ok());
    }

    /// A configuration key must not use a variable that has another meaning.
    #[test]
    fn config_keys_do_not_collide_with_other_variables() {
        for name in NOT_CONFIG_KEYS {
            let both = ["KVASM_STORE", "KVASM_CACHE_DIR"].contains(&name);
            assert_eq!(config::is_variable(name), both, "{name}");
        }
    }
}
