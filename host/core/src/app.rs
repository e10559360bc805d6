//! Apps: the tenants.

use super::{ActivePlugin, CursorKey, Invalid, Subject, Timestamp};
use std::fmt;
use uuid::Uuid;

/// An app's identity. It leads the primary key of every row the app owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct AppId(Uuid);

impl AppId {
    /// A new identity. Version 7, so that rows of new apps land side by side.
    pub fn generate() -> AppId {
        AppId(Uuid::now_v7())
    }

    /// The identity as a UUID.
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
/// Names appear in paths, URLs and log lines, so nothing that needs quoting
/// there is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct AppName(String);

impl AppName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// Parses a name.
    ///
    /// # Errors
    /// [`Invalid`] for an empty or over-long name, or another character.
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

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One app, as its row says.
#[derive(Debug, Clone)]
pub struct App {
    /// Its identity.
    pub id: AppId,
    /// Its unique name.
    pub name: AppName,
    /// When it was created.
    pub created_at: Timestamp,
    /// The secret that its list cursors are signed with. It lives in the row so
    /// that every host on the same database takes the others' cursors.
    pub cursor_key: CursorKey,
    /// Whether it takes calls without a token. Its administrators decide.
    pub public: bool,
    /// What it may use. The operator decides.
    pub limits: AppLimits,
    /// The plugin version that its calls go to, if it has one.
    pub active: Option<ActivePlugin>,
}

/// What an app may use. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppLimits {
    /// What its entries may take.
    pub quota: Quota,
    /// Calls a second, on each host; a second's worth may come at once.
    pub calls_per_second: Option<u32>,
    /// Calls that run at the same time, on each host.
    pub calls_at_once: Option<u32>,
}

/// A change of some of an app's limits. The outer `None` leaves a limit as it is,
/// the inner one removes it.
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
    /// Returns the limits with this change.
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
    /// The change that replaces all limits.
    fn from(limits: AppLimits) -> LimitsPatch {
        LimitsPatch {
            entries: Some(limits.quota.entries),
            bytes: Some(limits.quota.bytes),
            calls_per_second: Some(limits.calls_per_second),
            calls_at_once: Some(limits.calls_at_once),
        }
    }
}

/// The most that an app's entries may take. Expired entries count until they are
/// overwritten, deleted or swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Their number.
    pub entries: Option<u64>,
    /// Their bytes, and those of deliveries and dead letters: collections, keys and
    /// values as they were written, and a fixed part for each row
    /// ([`ENTRY_BYTES`](super::ENTRY_BYTES), [`DELIVERY_BYTES`](super::DELIVERY_BYTES)).
    pub bytes: Option<u64>,
}

/// What an app's entries take, counted as its [`Quota`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Their number.
    pub entries: u64,
    /// Their bytes, and those of deliveries and dead letters.
    pub bytes: u64,
    /// Outstanding deliveries, without runs of schedules.
    pub deliveries: u64,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// The number of entries.
    Entries,
    /// The bytes of entries, deliveries and dead letters.
    Bytes,
    /// The number of outstanding deliveries.
    Deliveries,
    /// The number of plugin versions.
    Versions,
    /// The bytes of the modules of plugin versions.
    ModuleBytes,
    /// The number of tokens that are bound to the app.
    Tokens,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Entries => "entries",
            Resource::Bytes => "bytes",
            Resource::Deliveries => "outstanding deliveries",
            Resource::Versions => "plugin versions",
            Resource::ModuleBytes => "bytes of plugin modules",
            Resource::Tokens => "tokens",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names() {
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
    fn names_are_narrow() {
        assert!(AppName::parse("shop-7_b").is_ok());
        assert!(AppName::parse(&"a".repeat(64)).is_ok());
        for bad in ["", "Shop", "a b", "../x", "ä", "a\0", &"a".repeat(65)] {
            assert!(AppName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
