//! Administration of what an app grants to its plugins.

use super::{Actor, Admin, ServiceError};
use kvasm_core::{App, Capability, Grant, Granted, NeedChanges, Needs, Timestamp};
use serde_json::json;

impl Admin {
    /// Returns the grants of an app, in order.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn grants(&self, actor: &Actor, app: &App) -> Result<Vec<Granted>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.settings(app.id).await?.grants)
    }

    /// Grants permissions to the plugins of an app. Returns the number of new ones.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app; [`ServiceError::Quota`] if the app
    /// has too many grants; [`ServiceError::AppNotFound`].
    pub async fn add_grants(
        &self,
        actor: &Actor,
        app: &App,
        grants: Vec<Grant>,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let detail = json!({ "grants": shown(&grants) });
        let audit = actor.audit("grant.add", Some(app), Timestamp::now(), detail);
        Ok(self.store.add_grants(app.id, grants, audit).await?)
    }

    /// Revokes grants. The active version stays active, and its next use is refused. Returns the
    /// number of grants revoked.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app; [`ServiceError::GrantNotFound`] if
    /// the app has none of them; [`ServiceError::AppNotFound`].
    pub async fn revoke_grants(
        &self,
        actor: &Actor,
        app: &App,
        grants: Vec<Grant>,
    ) -> Result<u64, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let detail = json!({ "grants": shown(&grants) });
        let audit = actor.audit("grant.revoke", Some(app), Timestamp::now(), detail);
        match self.store.remove_grants(app.id, grants, audit).await? {
            0 => Err(ServiceError::GrantNotFound),
            revoked => Ok(revoked),
        }
    }

    /// Returns how the grants that a new version needs differ from those that the active one needs.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app.
    pub async fn need_changes(
        &self,
        actor: &Actor,
        app: &App,
        needs: &Needs,
    ) -> Result<NeedChanges, ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let active = match app.active {
            Some(active) => self.store.plugin(app.id, active.version).await?,
            None => None,
        };
        let before = active.map(|plugin| plugin.exports.needs);
        Ok(needs.changes_from(&before.unwrap_or_default()))
    }
}

/// Formats grants for the audit log.
fn shown(grants: &[Grant]) -> Vec<String> {
    grants.iter().map(Grant::to_string).collect()
}
