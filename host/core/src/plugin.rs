//! Versions of an app's plugin.

use super::{DeclaredTrigger, Needs, Resource, Timestamp};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The number of a plugin version within its app: 1, 2, 3, ... Numbers are never reused, not even
/// after the version is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct PluginVersion(pub u32);

impl fmt::Display for PluginVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The maximum number of plugin versions of an app.
pub const VERSIONS_MAX: u64 = 100;
/// The maximum total size of the modules of an app's plugin versions, in bytes. A module counts for
/// each version that has it.
pub const VERSION_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Checks that an app with `versions` versions of `bytes` bytes can add one of `added` bytes. The
/// error has the resource that is exhausted, and its limit.
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

impl Digest {
    /// The digest of a module.
    pub fn of(module: &[u8]) -> Digest {
        Digest(Sha256::digest(module).into())
    }
}

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

/// The plugin version that serves an app's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivePlugin {
    /// Its number.
    pub version: PluginVersion,
    /// The digest of its module.
    pub digest: Digest,
}

/// What a plugin exports.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Exports {
    /// The functions that can be called by name, in order.
    pub functions: Vec<String>,
    /// The export that handles HTTP requests, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The triggers that it declares, in effect while it is the active version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<DeclaredTrigger>,
    /// What it needs from its app.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
}

/// A stored version of an app's plugin, without its module's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRecord {
    /// Its number.
    pub version: PluginVersion,
    /// The digest of its module.
    pub digest: Digest,
    /// The size of its module, in bytes.
    pub size: u64,
    /// What it exports.
    pub exports: Exports,
    /// The version that it replaced when it was activated, for rollback.
    pub replaced: Option<PluginVersion>,
    /// When it was uploaded.
    pub created_at: Timestamp,
    /// The name of the token, or of the command, that uploaded it.
    pub created_by: String,
}
