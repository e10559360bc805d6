//! Settings of apps.

use kvasm_core::{Setting, SettingValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A configuration value.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// When it was last set.
    pub updated_at: i64,
}

impl ConfigView {
    /// The view of a setting, if it is a configuration value.
    pub fn of(setting: &Setting) -> Option<ConfigView> {
        match &setting.value {
            SettingValue::Config(value) => Some(ConfigView {
                name: setting.name.to_string(),
                value: value.as_str().to_owned(),
                updated_at: setting.updated_at.0,
            }),
            SettingValue::Secret(_) => None,
        }
    }
}

/// All configuration values of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigPage {
    /// Ordered by name.
    pub config: Vec<ConfigView>,
}

/// A secret, without its value: no route returns that.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// Name.
    pub name: String,
    /// When it was last set.
    pub updated_at: i64,
}

impl From<&Setting> for SecretView {
    fn from(setting: &Setting) -> SecretView {
        SecretView {
            name: setting.name.to_string(),
            updated_at: setting.updated_at.0,
        }
    }
}

/// All secrets of an app.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecretPage {
    /// Ordered by name.
    pub secrets: Vec<SecretView>,
}
