//! What a run of a plugin may use, checked at each use.

use super::snapshot::SettingsSource;
use super::{SeenGeneration, ServiceError, SettingsSnapshot};
use kvasm_core::{AppId, Permissions};
use std::sync::Arc;

impl SettingsSnapshot {
    /// Returns what the run may use, as of its start.
    pub fn permissions(&self) -> Permissions {
        Permissions::new(Arc::clone(&self.needs), Arc::clone(&self.settings))
    }

    /// Returns what the run may use now: a grant that was revoked since it started, on any host,
    /// no longer counts. It costs a check of the registry's generation, and a read only if
    /// something has changed. For uses that wait anyway.
    ///
    /// # Errors
    /// [`ServiceError::AppNotFound`] if the app was deleted; a store error. Then nothing is
    /// permitted.
    pub async fn current_permissions(&self) -> Result<Permissions, ServiceError> {
        let Some((app, source)) = &self.source else {
            return Ok(self.permissions());
        };
        // What no grant allows needs no look at the grants.
        if self.needs.is_empty() {
            return Ok(self.permissions());
        }
        source.permissions(*app, self).await
    }
}

impl SettingsSource {
    async fn permissions(
        &self,
        app: AppId,
        run: &SettingsSnapshot,
    ) -> Result<Permissions, ServiceError> {
        let mut seen = SeenGeneration::default();
        let app = self.access.app_by_id(&mut seen, app).await?;
        let app = app.ok_or(ServiceError::AppNotFound)?;
        let settings = match app.settings == run.settings.version {
            true => Arc::clone(&run.settings),
            false => self.settings(&app).await?,
        };
        Ok(Permissions::new(Arc::clone(&run.needs), settings))
    }
}
