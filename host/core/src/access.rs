//! Access control: principals, scopes and capabilities.

use super::AppId;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A permission that a token can grant. The set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `script:read`: read entries.
    ScriptRead,
    /// `script:write`: write entries.
    ScriptWrite,
    /// `app:read`: see apps.
    AppRead,
    /// `app:admin`: create, change and delete apps.
    AppAdmin,
    /// `plugin:deploy`: upload and activate plugins.
    PluginDeploy,
    /// `log:read`: read logs.
    LogRead,
    /// `instance:admin`: administer the host itself.
    InstanceAdmin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 7] = [
        Scope::ScriptRead,
        Scope::ScriptWrite,
        Scope::AppRead,
        Scope::AppAdmin,
        Scope::PluginDeploy,
        Scope::LogRead,
        Scope::InstanceAdmin,
    ];

    /// Returns the scope as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::ScriptRead => "script:read",
            Scope::ScriptWrite => "script:write",
            Scope::AppRead => "app:read",
            Scope::AppAdmin => "app:admin",
            Scope::PluginDeploy => "plugin:deploy",
            Scope::LogRead => "log:read",
            Scope::InstanceAdmin => "instance:admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An unknown scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown scope {0:?}; expected one of script:read, script:write, app:read, app:admin, \
     plugin:deploy, log:read, instance:admin"
)]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Scope, UnknownScope> {
        Scope::ALL
            .into_iter()
            .find(|scope| scope.as_str() == word)
            .ok_or_else(|| UnknownScope(word.to_owned()))
    }
}

/// A permission that an action requires, for one app or for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Read the entries of an app.
    AppKvRead(AppId),
    /// Write the entries of an app.
    AppKvWrite(AppId),
    /// Create an app, which a principal bound to one app cannot.
    AppCreate,
    /// See an app's settings.
    AppRead(AppId),
    /// Change or delete an app.
    AppAdmin(AppId),
    /// Upload and activate an app's plugins.
    PluginDeploy(AppId),
    /// Read an app's logs.
    LogRead(AppId),
    /// Administer the host itself.
    InstanceAdmin,
}

impl Capability {
    /// Returns the scope that grants this capability.
    pub const fn scope(self) -> Scope {
        match self {
            Capability::AppKvRead(_) => Scope::ScriptRead,
            Capability::AppKvWrite(_) => Scope::ScriptWrite,
            Capability::AppRead(_) => Scope::AppRead,
            Capability::AppCreate | Capability::AppAdmin(_) => Scope::AppAdmin,
            Capability::PluginDeploy(_) => Scope::PluginDeploy,
            Capability::LogRead(_) => Scope::LogRead,
            Capability::InstanceAdmin => Scope::InstanceAdmin,
        }
    }

    /// Returns the app that it concerns; `None` for the host itself.
    pub const fn app(self) -> Option<AppId> {
        match self {
            Capability::AppKvRead(app)
            | Capability::AppKvWrite(app)
            | Capability::AppRead(app)
            | Capability::AppAdmin(app)
            | Capability::PluginDeploy(app)
            | Capability::LogRead(app) => Some(app),
            Capability::AppCreate | Capability::InstanceAdmin => None,
        }
    }
}

/// An authenticated caller: a set of scopes, for one app or for all apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    scopes: Vec<Scope>,
    app: Option<AppId>,
}

impl Principal {
    /// Creates a principal with these scopes for one app only.
    pub fn for_app(app: AppId, scopes: impl Into<Vec<Scope>>) -> Principal {
        Principal {
            scopes: scopes.into(),
            app: Some(app),
        }
    }

    /// Creates a principal with these scopes for every app.
    pub fn for_all_apps(scopes: impl Into<Vec<Scope>>) -> Principal {
        Principal {
            scopes: scopes.into(),
            app: None,
        }
    }

    /// Returns the granted scopes.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Returns the app that the principal is bound to, if any.
    pub fn app(&self) -> Option<AppId> {
        self.app
    }

    /// Returns whether the principal has the scope of `capability` and is not bound to another app.
    /// Access is denied by default.
    pub fn holds(&self, capability: Capability) -> bool {
        let in_reach = match (self.app, capability.app()) {
            (None, Some(_) | None) => true,
            (Some(own), Some(asked)) => own == asked,
            (Some(_), None) => false,
        };
        in_reach && self.scopes.contains(&capability.scope())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(app: AppId) -> [Capability; 8] {
        [
            Capability::AppKvRead(app),
            Capability::AppKvWrite(app),
            Capability::AppRead(app),
            Capability::AppAdmin(app),
            Capability::PluginDeploy(app),
            Capability::LogRead(app),
            Capability::InstanceAdmin,
            Capability::AppCreate,
        ]
    }

    #[test]
    fn each_scope_grants_only_its_capability() {
        let app = AppId::generate();
        for scope in Scope::ALL {
            let principal = Principal::for_all_apps([scope]);
            let held: Vec<_> = capabilities(app)
                .into_iter()
                .filter(|c| principal.holds(*c))
                .collect();
            let count = if scope == Scope::AppAdmin { 2 } else { 1 };
            assert_eq!(held.len(), count, "{scope} grants {held:?}");
            assert!(held.iter().all(|capability| capability.scope() == scope));
        }
    }

    #[test]
    fn app_principal_has_no_access_to_other_apps() {
        let (own, other) = (AppId::generate(), AppId::generate());
        let principal = Principal::for_app(own, Scope::ALL);
        assert!(capabilities(own)[..6].iter().all(|c| principal.holds(*c)));
        assert!(!capabilities(other).iter().any(|c| principal.holds(*c)));
    }

    #[test]
    fn scopes_round_trip_through_text() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("script:*".parse::<Scope>().is_err());
    }
}
