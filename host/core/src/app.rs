//! Apps: the tenants.

use super::{ActivePlugin, CursorKey, Generation, Invalid, Subject, Timestamp};
use std::fmt;
use uuid::Uuid;

/// The identity of an app. It leads the primary key of every row of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct AppId(Uuid);

impl AppId {
    /// The identity of no app. No token is bound to it, so a capability for it is held only by those
    /// who hold it for all apps.
    pub const NONE: AppId = AppId(Uuid::nil());

    /// Generates an identity: a version 7 UUID, so that rows of new apps are adjacent.
    pub fn generate() -> AppId {
        AppId(Uuid::now_v7())
    }

    /// Returns the identity as a UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for AppId {
    fn from(uuid: Uuid) -> AppId {
        AppId(uuid)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The unique name of an app: 1 to 64 bytes of `a-z`, `0-9`, `-` and `_`.
///
/// Names appear in paths, URLs and log lines, so characters that would need quoting there are not
/// allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct AppName(String);

impl AppName {
    /// The maximum length of a name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or too long, or contains another character.
    pub fn parse(name: &str) -> Result<AppName, Invalid> {
        if name.is_empty() {
            return Err(Invalid::Empty(Subject::AppName));
        }
        if name.len() > Self::BYTES_MAX {
            return Err(Invalid::TooLarge {
                subject: Subject::AppName,
                len: name.len() as u64,
                limit: Self::BYTES_MAX as u64,
            });
        }
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c);
        if let Some(found) = name.chars().find(|c| !allowed(c)) {
            return Err(Invalid::Character {
                subject: Subject::AppName,
                found,
                allowed: "a-z, 0-9, '-' and '_'",
            });
        }
        Ok(AppName(name.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An app, as stored.
#[derive(Debug, Clone)]
pub struct App {
    /// Its identity.
    pub id: AppId,
    /// Its unique name.
    pub name: AppName,
    /// When it was created.
    pub created_at: Timestamp,
    /// The secret that signs its list cursors. It is stored in the row, so that hosts on the same
    /// database accept each other's cursors.
    pub cursor_key: CursorKey,
    /// Whether it accepts calls without a token. Set by its administrators.
    pub public: bool,
    /// Its limits. Set by the operator.
    pub limits: AppLimits,
    /// The plugin version that serves its calls, if any.
    pub active: Option<ActivePlugin>,
    /// The operation that last changed one of its settings or grants; `None` before the first.
    pub settings: Option<Generation>,
}

/// The limits of an app. `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppLimits {
    /// The quota of its entries.
    pub quota: Quota,
    /// Calls per second, on each host. A burst may use one second's worth.
    pub calls_per_second: Option<u32>,
    /// Concurrent calls, on each host.
    pub calls_at_once: Option<u32>,
}

/// A change to some of an app's limits. The outer `None` leaves a limit unchanged; the inner `None`
/// removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsPatch {
    /// Of [`Quota::entries`].
    pub entries: Option<Option<u64>>,
    /// Of [`Quota::bytes`].
    pub bytes: Option<Option<u64>>,
    /// Of [`AppLimits::calls_per_second`].
    pub calls_per_second: Option<Option<u32>>,
    /// Of [`AppLimits::calls_at_once`].
    pub calls_at_once: Option<Option<u32>>,
}

impl LimitsPatch {
    /// Returns the limits with this change applied.
    pub fn apply(self, limits: AppLimits) -> AppLimits {
        let quota = limits.quota;
        AppLimits {
            quota: Quota {
                entries: self.entries.unwrap_or(quota.entries),
                bytes: self.bytes.unwrap_or(quota.bytes),
            },
            calls_per_second: self.calls_per_second.unwrap_or(limits.calls_per_second),
            calls_at_once: self.calls_at_once.unwrap_or(limits.calls_at_once),
        }
    }
}

impl From<AppLimits> for LimitsPatch {
    /// Creates a change that replaces all limits.
    fn from(limits: AppLimits) -> LimitsPatch {
        LimitsPatch {
            entries: Some(limits.quota.entries),
            bytes: Some(limits.quota.bytes),
            calls_per_second: Some(limits.calls_per_second),
            calls_at_once: Some(limits.calls_at_once),
        }
    }
}

/// The maximum that an app may store. Expired entries count until they are overwritten, deleted or
/// swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Number of entries.
    pub entries: Option<u64>,
    /// Bytes of entries, deliveries and dead letters: collections, keys and values as written, and
    /// a fixed cost for each row ([`ENTRY_BYTES`](super::ENTRY_BYTES),
    /// [`DELIVERY_BYTES`](super::DELIVERY_BYTES)).
    pub bytes: Option<u64>,
}

/// What an app stores, counted as its [`Quota`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of entries, deliveries and dead letters.
    pub bytes: u64,
    /// Number of outstanding deliveries, without runs of schedules.
    pub deliveries: u64,
}

/// A resource that a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The number of entries.
    Entries,
    /// The bytes of entries, deliveries, dead letters and kept answers.
    Bytes,
    /// The number of outstanding deliveries.
    Deliveries,
    /// The number of kept answers of idempotent calls.
    Answers,
    /// The number of plugin versions.
    Versions,
    /// The bytes of the modules of plugin versions.
    ModuleBytes,
    /// The number of tokens that are bound to the app.
    Tokens,
    /// The number of configuration values and secrets.
    Settings,
    /// The bytes of configuration values and sealed secrets, with their names.
    SettingBytes,
    /// The number of grants.
    Grants,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Entries => "entries",
            Resource::Bytes => "bytes",
            Resource::Deliveries => "outstanding deliveries",
            Resource::Answers => "kept answers",
            Resource::Versions => "plugin versions",
            Resource::ModuleBytes => "bytes of plugin modules",
            Resource::Tokens => "tokens",
            Resource::Settings => "settings",
            Resource::SettingBytes => "bytes of settings",
            Resource::Grants => "grants",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_patch_changes_only_its_fields() {
        let limits = AppLimits {
            quota: Quota {
                entries: Some(1),
                bytes: Some(2),
            },
            calls_per_second: Some(3),
            calls_at_once: None,
        };
        assert_eq!(LimitsPatch::default().apply(limits), limits);
        assert_eq!(
            LimitsPatch::from(limits).apply(AppLimits::default()),
            limits
        );
        let patch = LimitsPatch {
            bytes: Some(None),
            calls_at_once: Some(Some(4)),
            ..LimitsPatch::default()
        };
        let expected = AppLimits {
            quota: Quota {
                entries: Some(1),
                bytes: None,
            },
            calls_per_second: Some(3),
            calls_at_once: Some(4),
        };
        assert_eq!(patch.apply(limits), expected);
    }

    #[test]
    fn invalid_app_names_are_rejected() {
        assert!(AppName::parse("shop-7_b").is_ok());
        assert!(AppName::parse(&"a".repeat(64)).is_ok());
        for bad in ["", "Shop", "a b", "../x", "ä", "a\0", &"a".repeat(65)] {
            assert!(AppName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
