//! The settings of an app as a run of its plugin sees them.

use super::{AppTokenCache, Caller, Keyring, OpenedSecret, SecretsError, ServiceError};
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    App, AppId, Capability, ConfigValue, Generation, Needs, SettingKind, SettingName, SettingValue,
    Settings,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Maximum size of the cached settings of all apps, in bytes; half for each half of the cache.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// An app's settings as of the start of a run, shared with other runs, and what the running version
/// declares. Secrets are in sealed form: each is opened when the guest reads it.
#[derive(Clone, Default)]
pub struct SettingsSnapshot {
    pub(super) settings: Arc<Settings>,
    pub(super) needs: Arc<Needs>,
    /// The app, and where its settings are from.
    pub(super) source: Option<(AppId, Arc<SettingsSource>)>,
}

impl fmt::Debug for SettingsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsSnapshot")
            .field("settings", &self.settings)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

impl SettingsSnapshot {
    /// Returns a configuration value, or the default that the plugin declares, if there is one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] for a principal without `script:read` of the app.
    pub fn config(
        &self,
        caller: &Caller,
        name: &SettingName,
    ) -> Result<Option<&str>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let found = self.settings.find(SettingKind::Config, name.as_str());
        let found = found.and_then(|found| match &found.value {
            SettingValue::Config(value) => Some(value.as_str()),
            SettingValue::Secret(_) => None,
        });
        let default = || self.needs.config(name.as_str())?.default.as_ref();
        Ok(found.or_else(|| default().map(ConfigValue::as_str)))
    }

    /// Opens a secret, if it is set. Its value is that of the start of the run; whether the plugin
    /// may read it is decided now.
    ///
    /// # Errors
    /// As [`config`](SettingsSnapshot::config); [`ServiceError::NotPermitted`] if the plugin does
    /// not declare it or the app does not grant it; [`ServiceError::Internal`] if this host cannot
    /// open it, with a reason for the operator and not for the guest; a store error.
    pub async fn secret(
        &self,
        caller: &Caller,
        name: &SettingName,
    ) -> Result<Option<OpenedSecret>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let permissions = self.current_permissions().await?;
        permissions.allows_secret(name.as_str())?;
        match &self.source {
            Some((app, source)) => {
                open(&source.keyring, *app, &self.settings, name).map_err(unopened)
            }
            None => Ok(None),
        }
    }
}

/// Opens a secret of an app, if it is set.
pub(super) fn open(
    keyring: &Keyring,
    app: AppId,
    settings: &Settings,
    name: &SettingName,
) -> Result<Option<OpenedSecret>, SecretsError> {
    let found = settings.find(SettingKind::Secret, name.as_str());
    match found.map(|found| &found.value) {
        None | Some(SettingValue::Config(_)) => Ok(None),
        Some(SettingValue::Secret(sealed)) => keyring.open(app, name, sealed).map(Some),
    }
}

/// The reason is for the operator, not for the guest.
fn unopened(error: SecretsError) -> ServiceError {
    ServiceError::Internal(StoreError::Failed(error.into()))
}

/// A bounded cache of the settings of apps.
pub struct SettingsCache(Arc<SettingsSource>);

/// Where the settings of apps are from.
pub(super) struct SettingsSource {
    store: Arc<dyn Store>,
    pub(super) access: Arc<AppTokenCache>,
    keyring: Arc<Keyring>,
    rows: Mutex<SettingsRows>,
}

#[derive(Default)]
struct SettingsRows {
    young: HashMap<AppId, Arc<Settings>>,
    young_bytes: usize,
    /// Not used since the last rotation.
    old: HashMap<AppId, Arc<Settings>>,
}

impl SettingsCache {
    /// Creates an empty cache over a store and its cache of apps. Secrets are opened with the keys
    /// of `keyring`.
    pub fn new(
        store: Arc<dyn Store>,
        access: Arc<AppTokenCache>,
        keyring: Arc<Keyring>,
    ) -> SettingsCache {
        SettingsCache(Arc::new(SettingsSource {
            store,
            access,
            keyring,
            rows: Mutex::default(),
        }))
    }

    /// Returns the settings of an app for a run of a version with these needs, as of the app's row
    /// or later. They are read only if they have
    /// changed since they were cached, and never for an app that has none.
    ///
    /// # Errors
    /// A store error.
    pub async fn of(&self, app: &App, needs: &Arc<Needs>) -> Result<SettingsSnapshot, StoreError> {
        Ok(SettingsSnapshot {
            settings: self.0.settings(app).await?,
            needs: Arc::clone(needs),
            source: Some((app.id, Arc::clone(&self.0))),
        })
    }

    /// Opens a secret of an app for the host itself, if it is set, as of the app's row or later.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] if this host cannot open it; a store error.
    pub async fn secret(
        &self,
        app: &App,
        name: &SettingName,
    ) -> Result<Option<OpenedSecret>, ServiceError> {
        let settings = self.0.settings(app).await?;
        open(&self.0.keyring, app.id, &settings, name).map_err(unopened)
    }
}

impl SettingsSource {
    /// Returns the settings of an app, as of its row or later.
    pub(super) async fn settings(&self, app: &App) -> Result<Arc<Settings>, StoreError> {
        let Some(version) = app.settings else {
            return Ok(Arc::default());
        };
        let cached = self.rows.lock().get(app.id, version);
        if let Some(settings) = cached {
            return Ok(settings);
        }
        let settings = Arc::new(self.store.settings(app.id).await?);
        self.rows.lock().put(app.id, Arc::clone(&settings));
        Ok(settings)
    }
}

impl SettingsRows {
    fn get(&mut self, app: AppId, version: Generation) -> Option<Arc<Settings>> {
        if let Some(row) = self.old.remove(&app) {
            self.put(app, row);
        }
        let row = self.young.get(&app)?;
        (row.version == Some(version)).then(|| Arc::clone(row))
    }

    fn put(&mut self, app: AppId, row: Arc<Settings>) {
        self.old.remove(&app);
        if let Some(replaced) = self.young.remove(&app) {
            self.young_bytes -= replaced.weight();
        }
        if self.young_bytes + row.weight() > BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += row.weight();
        self.young.insert(app, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{ConfigValue, Setting, Timestamp};
    use uuid::Uuid;

    #[test]
    fn settings_cache_is_bounded_in_bytes_and_keeps_settings_in_use() {
        let settings = |number: u128| {
            let value = ConfigValue::parse(&[b'x'; 16 * 1024]).unwrap();
            let row = Setting {
                name: SettingName::parse("n").unwrap(),
                value: SettingValue::Config(value),
                updated_at: Timestamp(0),
            };
            Arc::new(Settings {
                version: Some(Generation(Uuid::from_u128(number))),
                rows: vec![row],
                grants: Vec::new(),
            })
        };
        let app = |number: u128| AppId::from(Uuid::from_u128(number));
        let version = |number: u128| Generation(Uuid::from_u128(number));
        let mut rows = SettingsRows::default();
        rows.put(app(0), settings(0));
        for number in 1..20_000 {
            rows.put(app(number), settings(number));
            assert!(rows.get(app(0), version(0)).is_some(), "{number}");
            let kept = rows.young.len() + rows.old.len();
            assert!(kept * 16 * 1024 <= BYTES_MAX, "{kept} of {number}");
        }
        assert!(rows.get(app(19_999), version(19_999)).is_some());
        assert!(rows.get(app(1), version(1)).is_none());
        // Of another version than the app's row names.
        assert!(rows.get(app(0), version(1)).is_none());
    }
}
