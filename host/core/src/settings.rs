//! An app's settings: configuration values, and secrets in sealed form.

use super::{Generation, Granted, Invalid, Resource, Subject, Timestamp};
use bytes::Bytes;
use kvasm_abi::names;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The maximum number of settings of an app: configuration values and secrets together.
pub const SETTINGS_MAX: u64 = 256;
/// The maximum size of an app's settings together, in bytes: of their names, configuration values
/// and sealed secrets.
pub const SETTINGS_BYTES_MAX: u64 = 256 * 1024;
/// The maximum size of a configuration value, and of a secret before it is sealed, in bytes.
pub const SETTING_BYTES_MAX: usize = kvasm_abi::limits::SETTING_BYTES;

/// The name of a setting within its app and kind: 1 to 64 bytes of `a-z`, `A-Z`, `0-9`, `_`, `-`
/// and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SettingName(String);

impl SettingName {
    /// The maximum length of a name, in bytes.
    pub const BYTES_MAX: usize = names::SETTING_BYTES_MAX;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or too long, or contains another character.
    pub fn parse(name: &str) -> Result<SettingName, Invalid> {
        match names::setting(name.as_bytes()) {
            Ok(name) => Ok(SettingName(name.to_owned())),
            Err(names::SettingNameError::Text(error)) => {
                Err(Invalid::text(Subject::SettingName, error))
            }
            Err(names::SettingNameError::Character(found)) => Err(Invalid::Character {
                subject: Subject::SettingName,
                found,
                allowed: names::SETTING_CHARACTERS,
            }),
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SettingName> for String {
    fn from(name: SettingName) -> String {
        name.0
    }
}

impl TryFrom<String> for SettingName {
    type Error = Invalid;

    fn try_from(name: String) -> Result<SettingName, Invalid> {
        SettingName::parse(&name)
    }
}

impl fmt::Display for SettingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a setting is a configuration value or a secret. A name may be used for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettingKind {
    /// A configuration value.
    Config,
    /// A secret.
    Secret,
}

/// A configuration value: at most [`SETTING_BYTES_MAX`] bytes of UTF-8 without NUL. It may be
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ConfigValue(String);

impl ConfigValue {
    /// Parses a value.
    ///
    /// # Errors
    /// [`Invalid`], which does not contain the value.
    pub fn parse(bytes: &[u8]) -> Result<ConfigValue, Invalid> {
        match names::text(bytes, SETTING_BYTES_MAX) {
            Ok(text) => Ok(ConfigValue(text.to_owned())),
            Err(error) => Err(Invalid::text(Subject::ConfigValue, error)),
        }
    }

    /// Returns the value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<ConfigValue> for String {
    fn from(value: ConfigValue) -> String {
        value.0
    }
}

impl TryFrom<String> for ConfigValue {
    type Error = Invalid;

    fn try_from(value: String) -> Result<ConfigValue, Invalid> {
        ConfigValue::parse(value.as_bytes())
    }
}

/// Identifies a key that seals secrets, without revealing it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; KeyId::BYTES]);

impl KeyId {
    /// Its length in bytes.
    pub const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A secret as it is stored: encrypted and authenticated. Debug output does not show its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The key that sealed it.
    pub key: KeyId,
    /// The sealed bytes.
    pub bytes: Bytes,
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SealedSecret({} bytes, key {})",
            self.bytes.len(),
            self.key
        )
    }
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// A configuration value.
    Config(ConfigValue),
    /// A secret.
    Secret(SealedSecret),
}

impl SettingValue {
    /// Returns the kind of the setting.
    pub fn kind(&self) -> SettingKind {
        match self {
            SettingValue::Config(_) => SettingKind::Config,
            SettingValue::Secret(_) => SettingKind::Secret,
        }
    }

    /// Returns the number of its bytes that count against [`SETTINGS_BYTES_MAX`].
    pub fn size(&self) -> u64 {
        match self {
            SettingValue::Config(value) => value.as_str().len() as u64,
            SettingValue::Secret(sealed) => sealed.bytes.len() as u64,
        }
    }
}

/// A stored setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: SettingName,
    /// Its value.
    pub value: SettingValue,
    /// When it was last set.
    pub updated_at: Timestamp,
}

/// All settings and grants of an app, from one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The operation that last changed a setting or a grant, as in [`App::settings`](crate::App::settings);
    /// `None` if none was ever set.
    pub version: Option<Generation>,
    /// The settings by kind, each kind by name in bytewise order.
    pub rows: Vec<Setting>,
    /// The grants, in their order.
    pub grants: Vec<Granted>,
}

impl Settings {
    /// Returns the setting of a kind and name, if it is set.
    pub fn find(&self, kind: SettingKind, name: &str) -> Option<&Setting> {
        let place = |row: &Setting| (row.value.kind(), row.name.as_str()).cmp(&(kind, name));
        let at = self.rows.binary_search_by(place).ok()?;
        self.rows.get(at)
    }

    /// Returns the settings of a kind, by name.
    pub fn of_kind(&self, kind: SettingKind) -> impl Iterator<Item = &Setting> {
        self.rows.iter().filter(move |row| row.value.kind() == kind)
    }

    /// Returns their approximate size in memory, in bytes.
    pub fn weight(&self) -> usize {
        let of = |row: &Setting| row.name.as_str().len() + row.value.size() as usize;
        let rows = self.rows.len() * size_of::<Setting>();
        let rows = rows + self.rows.iter().map(of).sum::<usize>();
        let subjects = self.grants.iter().map(|row| row.grant.subject().len());
        let grants = self.grants.len() * size_of::<Granted>() + subjects.sum::<usize>();
        size_of::<Settings>() + rows + grants
    }
}

/// A secret that is sealed again, with another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Its name.
    pub name: SettingName,
    /// The sealed bytes that are replaced.
    pub before: Bytes,
    /// What replaces them.
    pub after: SealedSecret,
}

/// Refuses a setting that would give an app more settings, or more bytes of them, than allowed.
///
/// # Errors
/// The exhausted resource and its limit.
pub fn room_for_settings(count: u64, bytes: u64) -> Result<(), (Resource, u64)> {
    if count > SETTINGS_MAX {
        return Err((Resource::Settings, SETTINGS_MAX));
    }
    if bytes > SETTINGS_BYTES_MAX {
        return Err((Resource::SettingBytes, SETTINGS_BYTES_MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_name_rejects_other_characters_and_lengths() {
        for good in ["A", "api.key-1_x", &"n".repeat(64)] {
            assert_eq!(SettingName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "é", "a\0", &"n".repeat(65)] {
            assert!(SettingName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn invalid_config_value_is_not_repeated_in_the_error() {
        let long = "hunter2".repeat(SETTING_BYTES_MAX);
        for bad in [b"hunter2\xff".as_slice(), b"hunter2\0", long.as_bytes()] {
            let error = ConfigValue::parse(bad).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
        assert_eq!(ConfigValue::parse(b"").unwrap().as_str(), "");
    }

    #[test]
    fn debug_output_of_a_sealed_secret_hides_its_bytes() {
        let sealed = SealedSecret {
            key: KeyId([0xab; 8]),
            bytes: Bytes::from_static(b"ciphertext"),
        };
        let shown = format!("{sealed:?}");
        assert_eq!(shown, "SealedSecret(10 bytes, key abababababababab)");
    }
}
