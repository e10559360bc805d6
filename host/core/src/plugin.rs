//! Versions of an app's plugin.

use super::{DeclaredTrigger, Resource, Timestamp};
use std::fmt;

/// The number of a plugin version within its app: 1, 2, 3, ... A number is never
/// given twice, not even after its version is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct PluginVersion(pub u32);

impl fmt::Display for PluginVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Plugin versions that an app may have.
pub const VERSIONS_MAX: u64 = 100;
/// Bytes of modules that the plugin versions of an app may have together. A module
/// counts for each version that has it.
pub const VERSION_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Whether an app with so many versions of so many bytes has room for one more; what
/// it lacks if not, and the limit.
pub fn room_for_version(versions: u64, bytes: u64, added: u64) -> Result<(), (Resource, u64)> {
    if versions >= VERSIONS_MAX {
        return Err((Resource::Versions, VERSIONS_MAX));
    }
    if bytes.saturating_add(added) > VERSION_BYTES_MAX {
        return Err((Resource::ModuleBytes, VERSION_BYTES_MAX));
    }
    Ok(())
}

/// The SHA-256 of a module's bytes. Written as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The version of an app's plugin that its calls go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivePlugin {
    /// Its number.
    pub version: PluginVersion,
    /// Its module.
    pub digest: Digest,
}

/// What a plugin offers to callers.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Exports {
    /// The functions that can be called by name, in order.
    pub functions: Vec<String>,
    /// The export that answers HTTP requests, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// What calls its handlers, while it is the active version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<DeclaredTrigger>,
}

/// A stored version of an app's plugin, without its module's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its number.
    pub version: PluginVersion,
    /// Its module.
    pub digest: Digest,
    /// The module's size in bytes.
    pub size: u64,
    /// What it offers.
    pub exports: Exports,
    /// The version that it replaced when it was activated, for a roll back.
    pub replaced: Option<PluginVersion>,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// The name of the token, or of the command, that uploaded it.
    pub created_by: String,
}
