//! What a plugin version needs from its app, beyond entries.

use super::{
    ConfigValue, Grant, Invalid, OriginPattern, SettingKind, SettingName, SettingValue, Settings,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The maximum number of needs of a plugin version.
pub const NEEDS_MAX: usize = 128;
/// The maximum [size](Needs::bytes) of the needs of a plugin version, in bytes: they are part of
/// each list of versions.
pub const NEEDS_BYTES_MAX: usize = 32 * 1024;
/// The maximum size of the description of a need, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 512;

/// What a plugin version declares that it needs. Each list is in the order of its members, without
/// duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Needs {
    /// The origins to which it sends requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<OriginPattern>,
    /// The configuration values that it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigNeed>,
    /// The secrets that it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretNeed>,
    /// Whether it sets timers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timers: bool,
}

/// A configuration value that a plugin version reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigNeed {
    /// Its name.
    pub name: SettingName,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ConfigType,
    /// Whether a version is only activated once it is set. Not with a default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Its value while it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ConfigValue>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A secret that a plugin version reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretNeed {
    /// Its name.
    pub name: SettingName,
    /// Whether a version is only activated once it is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The type of a configuration value, which is stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigType {
    /// Any text.
    String,
    /// A decimal integer of 64 bits, with or without a sign.
    Integer,
    /// A JSON number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Any JSON.
    Json,
}

impl ConfigType {
    /// Returns whether a value is of this type.
    pub fn accepts(self, value: &str) -> bool {
        match self {
            ConfigType::String => true,
            ConfigType::Integer => json_number(value).is_some_and(|n| n.is_i64() || n.is_u64()),
            ConfigType::Number => json_number(value).is_some(),
            ConfigType::Boolean => matches!(value, "true" | "false"),
            ConfigType::Json => serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok(),
        }
    }

    /// Returns its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConfigType::String => "string",
            ConfigType::Integer => "integer",
            ConfigType::Number => "number",
            ConfigType::Boolean => "boolean",
            ConfigType::Json => "json",
        }
    }

    /// Returns which values it accepts, for a message.
    pub(crate) const fn values(self) -> &'static str {
        match self {
            ConfigType::String => "any text",
            ConfigType::Integer => "a decimal integer of 64 bits, such as 3",
            ConfigType::Number => "a JSON number, such as 1.5",
            ConfigType::Boolean => "true or false",
            ConfigType::Json => "valid JSON; a text is in quotes there",
        }
    }
}

/// Parses a JSON number without white space around it, which parsers of other languages refuse.
fn json_number(text: &str) -> Option<serde_json::Number> {
    let number = serde_json::from_str(text).ok();
    number.filter(|_| text.trim() == text)
}

impl fmt::Display for ConfigType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Needs {
    /// Returns whether it needs nothing.
    pub fn is_empty(&self) -> bool {
        *self == Needs::default()
    }

    /// Returns the number of needs.
    pub fn len(&self) -> usize {
        let lists = self.http.len() + self.config.len() + self.secrets.len();
        lists + usize::from(self.timers)
    }

    /// Returns the number of bytes of their texts.
    pub fn bytes(&self) -> usize {
        let described = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let config = self.config.iter().map(|need| {
            let default = need
                .default
                .as_ref()
                .map_or(0, |value| value.as_str().len());
            need.name.as_str().len() + default + described(&need.description)
        });
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|need| need.name.as_str().len() + described(&need.description));
        let origins = self.http.iter().map(|origin| origin.to_string().len());
        origins.chain(config).chain(secrets).sum()
    }

    /// Returns the declared configuration value of a name.
    pub fn config(&self, name: &str) -> Option<&ConfigNeed> {
        self.config.iter().find(|need| need.name.as_str() == name)
    }

    /// Checks that a configuration value is of the type that is declared for its name, if any.
    ///
    /// # Errors
    /// [`Invalid::ConfigType`].
    pub fn check_config(&self, name: &SettingName, value: &ConfigValue) -> Result<(), Invalid> {
        match self.config(name.as_str()) {
            Some(need) if !need.kind.accepts(value.as_str()) => Err(Invalid::ConfigType {
                name: name.clone(),
                expected: need.kind,
            }),
            _ => Ok(()),
        }
    }

    /// Returns the grants that it needs. Configuration values need none, as an administrator sets
    /// each of them.
    pub fn grants(&self) -> Vec<Grant> {
        let origins = self.http.iter().cloned();
        let origins = origins.map(|origin| Grant::HttpOrigin { origin });
        let names = self.secrets.iter().map(|need| need.name.clone());
        let secrets = names.map(|name| Grant::Secret { name });
        let timers = self.timers.then_some(Grant::Timers);
        origins.chain(secrets).chain(timers).collect()
    }

    /// Returns what an app with these settings lacks.
    pub fn unmet(&self, settings: &Settings) -> Vec<Unmet> {
        let is_granted = |need: &Grant| {
            let mut grants = settings.grants.iter();
            grants.any(|granted| granted.grant.covers(need))
        };
        let grants = self.grants().into_iter().filter(|need| !is_granted(need));
        let config = self.config.iter().filter_map(|need| need.unmet(settings));
        let secrets = self.secrets.iter().filter(|need| {
            need.required
                && settings
                    .find(SettingKind::Secret, need.name.as_str())
                    .is_none()
        });
        let secrets = secrets.map(|need| Unmet::Secret {
            name: need.name.clone(),
        });
        let grants = grants.map(|grant| Unmet::Grant { grant });
        grants.chain(config).chain(secrets).collect()
    }

    /// Checks that an app with these settings lacks nothing.
    ///
    /// # Errors
    /// What it lacks.
    pub fn check(&self, settings: &Settings) -> Result<(), Vec<Unmet>> {
        let unmet = self.unmet(settings);
        match unmet.is_empty() {
            true => Ok(()),
            false => Err(unmet),
        }
    }

    /// Returns what this version needs and `before` does not, and the opposite.
    pub fn changes_from(&self, before: &Needs) -> NeedChanges {
        let (now, then) = (self.grants(), before.grants());
        let not_in = |all: &[Grant], other: &[Grant]| {
            let missing = all.iter().filter(|grant| !other.contains(grant));
            missing.cloned().collect()
        };
        NeedChanges {
            added: not_in(&now, &then),
            removed: not_in(&then, &now),
        }
    }
}

impl ConfigNeed {
    fn unmet(&self, settings: &Settings) -> Option<Unmet> {
        let found = settings.find(SettingKind::Config, self.name.as_str());
        let name = self.name.clone();
        match found.map(|found| &found.value) {
            Some(SettingValue::Config(value)) if self.kind.accepts(value.as_str()) => None,
            None if !self.required => None,
            None => Some(Unmet::Config {
                name,
                expected: self.kind,
            }),
            Some(_) => Some(Unmet::ConfigType {
                name,
                expected: self.kind,
            }),
        }
    }
}

/// The difference of the grants that two versions need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NeedChanges {
    /// What the new version needs in addition.
    pub added: Vec<Grant>,
    /// What it no longer needs.
    pub removed: Vec<Grant>,
}

/// A need that an app does not meet, so that the version cannot be activated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// It is not granted.
    Grant {
        /// What to grant.
        grant: Grant,
    },
    /// A required configuration value is not set.
    Config {
        /// Its name.
        name: SettingName,
        /// Its type.
        expected: ConfigType,
    },
    /// A configuration value is set, but not of the declared type.
    ConfigType {
        /// Its name.
        name: SettingName,
        /// The declared type.
        expected: ConfigType,
    },
    /// A required secret is not set.
    Secret {
        /// Its name.
        name: SettingName,
    },
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::Grant { grant } => write!(f, "the grant {grant}"),
            Unmet::Config { name, expected } => {
                write!(f, "the configuration value {name} ({expected})")
            }
            Unmet::ConfigType { name, expected } => {
                write!(
                    f,
                    "a configuration value {name} of type {expected}, which it is not"
                )
            }
            Unmet::Secret { name } => write!(f, "a value of the secret {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_types_accept_what_plugins_can_parse() {
        for (kind, good, bad) in [
            (
                ConfigType::Integer,
                &["0", "-7", "18446744073709551615"] as &[_],
                &[
                    "",
                    "1.0",
                    "1e3",
                    "+1",
                    " 1",
                    "1\n",
                    "0x1",
                    "18446744073709551616",
                ] as &[_],
            ),
            (
                ConfigType::Number,
                &["1", "-1.5", "1e3"],
                &["", "NaN", ".5", "1 ", "1e999"],
            ),
            (
                ConfigType::Boolean,
                &["true", "false"],
                &["", "1", "True", "true "],
            ),
            (
                ConfigType::Json,
                &["{\"a\":[1]}", "null"],
                &["", "{", "nil"],
            ),
            (ConfigType::String, &["", "anything\n"], &[]),
        ] {
            assert!(good.iter().all(|text| kind.accepts(text)), "{kind}");
            for text in bad {
                assert!(!kind.accepts(text), "{kind}: {text:?}");
            }
        }
    }
}
