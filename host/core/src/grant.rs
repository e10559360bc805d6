//! What an app grants to its plugins, and the check of a use.

use super::{HttpOrigin, Needs, OriginPattern, Resource, SettingName, Settings, Timestamp};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The maximum number of grants of an app.
pub const GRANTS_MAX: u64 = 256;

/// Refuses more grants of an app than allowed.
///
/// # Errors
/// The exhausted resource and its limit.
pub fn room_for_grants(count: u64) -> Result<(), (Resource, u64)> {
    match count > GRANTS_MAX {
        true => Err((Resource::Grants, GRANTS_MAX)),
        false => Ok(()),
    }
}

/// A permission that an app's administrator grants to the app's plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Requests to the origins of a pattern.
    HttpOrigin {
        /// The pattern.
        origin: OriginPattern,
    },
    /// Reads of one secret.
    Secret {
        /// Its name.
        name: SettingName,
    },
    /// Timers.
    Timers,
}

impl Grant {
    /// Returns its kind as it is stored and written.
    pub fn kind(&self) -> &'static str {
        match self {
            Grant::HttpOrigin { .. } => "http_origin",
            Grant::Secret { .. } => "secret",
            Grant::Timers => "timers",
        }
    }

    /// Returns what it is for, within its kind: an origin, a name, or nothing.
    pub fn subject(&self) -> String {
        match self {
            Grant::HttpOrigin { origin } => origin.to_string(),
            Grant::Secret { name } => name.to_string(),
            Grant::Timers => String::new(),
        }
    }

    /// Returns the grant of a [`kind`](Grant::kind) and [`subject`](Grant::subject).
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_stored(kind: &str, subject: &str) -> Result<Grant, String> {
        match (kind, subject) {
            ("http_origin", _) => match OriginPattern::parse(subject) {
                Ok(origin) => Ok(Grant::HttpOrigin { origin }),
                Err(error) => Err(error.to_string()),
            },
            ("secret", _) => match SettingName::parse(subject) {
                Ok(name) => Ok(Grant::Secret { name }),
                Err(error) => Err(error.to_string()),
            },
            ("timers", "") => Ok(Grant::Timers),
            _ => Err(format!("{kind:?} is no kind of grant")),
        }
    }

    /// Returns whether this grant includes another one.
    pub fn covers(&self, other: &Grant) -> bool {
        match (self, other) {
            (Grant::HttpOrigin { origin }, Grant::HttpOrigin { origin: other }) => {
                origin.covers(other)
            }
            _ => self == other,
        }
    }
}

/// By kind and subject, as in the stores.
impl Ord for Grant {
    fn cmp(&self, other: &Grant) -> Ordering {
        let kinds = self.kind().cmp(other.kind());
        kinds.then_with(|| self.subject().cmp(&other.subject()))
    }
}

impl PartialOrd for Grant {
    fn partial_cmp(&self, other: &Grant) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As in the arguments of `kvasm grant`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::HttpOrigin { origin } => write!(f, "http {origin}"),
            Grant::Secret { name } => write!(f, "secret {name}"),
            Grant::Timers => f.write_str("timers"),
        }
    }
}

/// A stored grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// What is granted.
    pub grant: Grant,
    /// When it was granted.
    pub granted_at: Timestamp,
}

/// What a run may do: what its version declares and the app has granted. Both are checked at each
/// use.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    needs: Arc<Needs>,
    settings: Arc<Settings>,
}

impl Permissions {
    /// Returns the permissions of a version with these needs in an app with these settings.
    pub fn new(needs: Arc<Needs>, settings: Arc<Settings>) -> Permissions {
        Permissions { needs, settings }
    }

    /// Returns what the running version declares.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Checks that the plugin may send requests to an origin.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn allows_http(&self, origin: &HttpOrigin) -> Result<(), NotPermitted> {
        let declared = self.needs.http.iter().any(|need| need.matches(origin));
        let granted = self.any_grant(
            |grant| matches!(grant, Grant::HttpOrigin { origin: granted } if granted.matches(origin)),
        );
        check(declared, granted, || Use::Http(origin.to_string()))
    }

    /// Checks that the plugin may read a secret.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn allows_secret(&self, name: &str) -> Result<(), NotPermitted> {
        let mut declared = self.needs.secrets.iter();
        let declared = declared.any(|need| need.name.as_str() == name);
        let granted = self.any_grant(
            |grant| matches!(grant, Grant::Secret { name: granted } if granted.as_str() == name),
        );
        check(declared, granted, || Use::Secret(name.to_owned()))
    }

    /// Checks that the plugin may set timers.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn allows_timers(&self) -> Result<(), NotPermitted> {
        let granted = self.any_grant(|grant| *grant == Grant::Timers);
        check(self.needs.timers, granted, || Use::Timers)
    }

    fn any_grant(&self, matches: impl Fn(&Grant) -> bool) -> bool {
        let mut grants = self.settings.grants.iter();
        grants.any(|granted| matches(&granted.grant))
    }
}

fn check(declared: bool, granted: bool, what: impl Fn() -> Use) -> Result<(), NotPermitted> {
    match (declared, granted) {
        (true, true) => Ok(()),
        (true, false) => Err(NotPermitted::Ungranted(what())),
        (false, _) => Err(NotPermitted::Undeclared(what())),
    }
}

/// A use that is not permitted. The text is for the plugin's author.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotPermitted {
    /// The running version does not declare it.
    #[error(
        "not permitted: the plugin does not declare that it needs {}; declare it and deploy the \
         plugin again", .0.described()
    )]
    Undeclared(Use),
    /// The app has not granted it, or has revoked it.
    #[error(
        "not permitted: the app does not grant {}; someone with app:admin can grant it with \
         `kvasm grant APP {}`", .0.described(), .0.arguments()
    )]
    Ungranted(Use),
}

/// What a plugin uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Requests to this origin.
    Http(String),
    /// The secret of this name.
    Secret(String),
    /// Timers.
    Timers,
}

impl Use {
    fn described(&self) -> String {
        match self {
            Use::Http(origin) => format!("HTTP requests to {origin}"),
            Use::Secret(name) => format!("the secret {name:?}"),
            Use::Timers => "timers".to_owned(),
        }
    }

    fn arguments(&self) -> String {
        match self {
            Use::Http(origin) => format!("http {origin}"),
            Use::Secret(name) => format!("secret {name}"),
            Use::Timers => "timers".to_owned(),
        }
    }
}
