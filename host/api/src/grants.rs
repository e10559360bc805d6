//! What plugins need, and what apps grant.

use kvasm_core::{
    ConfigNeed, Grant, Granted, Invalid, NeedChanges, Needs, OriginPattern, SecretNeed,
    SettingName, Unmet,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A permission that an app grants to its plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GrantView {
    /// Requests to the origins of a pattern.
    HttpOrigin {
        /// Scheme, host and port; the host may begin with `*.`, for all subdomains.
        #[schema(example = "https://api.example.com")]
        origin: String,
    },
    /// Reads of one secret.
    Secret {
        /// Name of the secret.
        #[schema(example = "stripe-key")]
        name: String,
    },
    /// Timers.
    Timers {},
}

impl From<&Grant> for GrantView {
    fn from(grant: &Grant) -> GrantView {
        match grant {
            Grant::HttpOrigin { origin } => GrantView::HttpOrigin {
                origin: origin.to_string(),
            },
            Grant::Secret { name } => GrantView::Secret {
                name: name.to_string(),
            },
            Grant::Timers => GrantView::Timers {},
        }
    }
}

impl TryFrom<&GrantView> for Grant {
    type Error = Invalid;

    fn try_from(view: &GrantView) -> Result<Grant, Invalid> {
        match view {
            GrantView::HttpOrigin { origin } => {
                let origin = OriginPattern::parse(origin)?;
                Ok(Grant::HttpOrigin { origin })
            }
            GrantView::Secret { name } => {
                let name = SettingName::parse(name)?;
                Ok(Grant::Secret { name })
            }
            GrantView::Timers {} => Ok(Grant::Timers),
        }
    }
}

/// Grants to add or to revoke.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantList {
    /// At least one, at most 256.
    #[schema(min_items = 1, max_items = 256)]
    pub grants: Vec<GrantView>,
}

/// A stored grant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantedView {
    /// What is granted.
    pub grant: GrantView,
    /// When it was granted.
    pub granted_at: i64,
}

impl From<&Granted> for GrantedView {
    fn from(granted: &Granted) -> GrantedView {
        GrantedView {
            grant: GrantView::from(&granted.grant),
            granted_at: granted.granted_at.0,
        }
    }
}

/// All grants of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantPage {
    /// Ordered by kind, then by origin or name.
    pub grants: Vec<GrantedView>,
}

/// The number of grants that were added or revoked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantsChanged {
    /// Grants that the app had before, or had not, do not count.
    pub changed: u64,
}

/// What a plugin version needs from its app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeedsView {
    /// Origins to which it sends requests.
    #[serde(default)]
    pub http: Vec<String>,
    /// Configuration values that it reads.
    #[serde(default)]
    pub config: Vec<ConfigNeedView>,
    /// Secrets that it reads.
    #[serde(default)]
    pub secrets: Vec<SecretNeedView>,
    /// Whether it sets timers.
    #[serde(default)]
    pub timers: bool,
}

impl From<&Needs> for NeedsView {
    fn from(needs: &Needs) -> NeedsView {
        NeedsView {
            http: needs.http.iter().map(ToString::to_string).collect(),
            config: needs.config.iter().map(ConfigNeedView::from).collect(),
            secrets: needs.secrets.iter().map(SecretNeedView::from).collect(),
            timers: needs.timers,
        }
    }
}

impl NeedsView {
    /// Returns the grants that it needs.
    pub fn grants(&self) -> Vec<GrantView> {
        let origins = self.http.iter().cloned();
        let origins = origins.map(|origin| GrantView::HttpOrigin { origin });
        let names = self.secrets.iter().map(|need| need.name.clone());
        let secrets = names.map(|name| GrantView::Secret { name });
        let timers = self.timers.then_some(GrantView::Timers {});
        origins.chain(secrets).chain(timers).collect()
    }
}

/// A configuration value that a plugin version reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigNeedView {
    /// Name.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `json`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the version is only activated once it is set.
    pub required: bool,
    /// Value while it is not set, as text.
    pub default: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

impl From<&ConfigNeed> for ConfigNeedView {
    fn from(need: &ConfigNeed) -> ConfigNeedView {
        ConfigNeedView {
            name: need.name.to_string(),
            kind: need.kind.to_string(),
            required: need.required,
            default: need.default.as_ref().map(|value| value.as_str().to_owned()),
            description: need.description.clone(),
        }
    }
}

/// A secret that a plugin version reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretNeedView {
    /// Name.
    pub name: String,
    /// Whether the version is only activated once it is set.
    pub required: bool,
    /// What it is for.
    pub description: Option<String>,
}

impl From<&SecretNeed> for SecretNeedView {
    fn from(need: &SecretNeed) -> SecretNeedView {
        SecretNeedView {
            name: need.name.to_string(),
            required: need.required,
            description: need.description.clone(),
        }
    }
}

/// How the grants that a version needs differ from those of the version that was active.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct NeedChangesView {
    /// What it needs in addition.
    pub added: Vec<GrantView>,
    /// What it no longer needs.
    pub removed: Vec<GrantView>,
}

impl From<&NeedChanges> for NeedChangesView {
    fn from(changes: &NeedChanges) -> NeedChangesView {
        NeedChangesView {
            added: changes.added.iter().map(GrantView::from).collect(),
            removed: changes.removed.iter().map(GrantView::from).collect(),
        }
    }
}

/// A need that an app does not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "missing", rename_all = "snake_case")]
pub enum UnmetView {
    /// A grant.
    Grant {
        /// What to grant.
        grant: GrantView,
    },
    /// A required configuration value that is not set.
    Config {
        /// Name.
        name: String,
        /// Its type.
        #[serde(rename = "type")]
        expected: String,
    },
    /// A configuration value that is set, but not of the declared type.
    ConfigType {
        /// Name.
        name: String,
        /// The declared type.
        #[serde(rename = "type")]
        expected: String,
    },
    /// A required secret that is not set.
    Secret {
        /// Name.
        name: String,
    },
}

impl From<&Unmet> for UnmetView {
    fn from(unmet: &Unmet) -> UnmetView {
        match unmet {
            Unmet::Grant { grant } => UnmetView::Grant {
                grant: GrantView::from(grant),
            },
            Unmet::Config { name, expected } => UnmetView::Config {
                name: name.to_string(),
                expected: expected.to_string(),
            },
            Unmet::ConfigType { name, expected } => UnmetView::ConfigType {
                name: name.to_string(),
                expected: expected.to_string(),
            },
            Unmet::Secret { name } => UnmetView::Secret {
                name: name.to_string(),
            },
        }
    }
}
