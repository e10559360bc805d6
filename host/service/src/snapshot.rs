//! The settings of an app as a run of its plugin sees them.

use super::{Caller, Keyring, OpenedSecret, ServiceError};
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    App, AppId, Capability, Generation, SettingKind, SettingName, SettingValue, Settings,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum size of the cached settings of all apps, in bytes; half for each half of the cache.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// An app's settings as of the start of a run, shared with other runs. Secrets are in sealed form:
/// each is opened when the guest reads it.
#[derive(Debug, Clone, Default)]
pub struct SettingsSnapshot {
    settings: Arc<Settings>,
    keyring: Arc<Keyring>,
}

impl SettingsSnapshot {
    /// Returns a configuration value, if it is set.
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
        Ok(found.and_then(|found| match &found.value {
            SettingValue::Config(value) => Some(value.as_str()),
            SettingValue::Secret(_) => None,
        }))
    }

    /// Opens a secret, if it is set.
    ///
    /// # Errors
    /// As [`config`](SettingsSnapshot::config); [`ServiceError::Internal`] if this host cannot open
    /// it. The reason is for the operator, not for the guest.
    pub fn secret(
        &self,
        caller: &Caller,
        name: &SettingName,
    ) -> Result<Option<OpenedSecret>, ServiceError> {
        caller.check_access(Capability::AppKvRead(caller.app()))?;
        let Some(found) = self.settings.find(SettingKind::Secret, name.as_str()) else {
            return Ok(None);
        };
        match &found.value {
            SettingValue::Config(_) => Ok(None),
            SettingValue::Secret(sealed) => match self.keyring.open(caller.app(), name, sealed) {
                Ok(secret) => Ok(Some(secret)),
                Err(error) => Err(ServiceError::Internal(StoreError::Failed(error.into()))),
            },
        }
    }
}

/// A bounded cache of the settings of apps.
pub struct SettingsCache {
    store: Arc<dyn Store>,
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
    /// Creates an empty cache over a store. Secrets are opened with the keys of `keyring`.
    pub fn new(store: Arc<dyn Store>, keyring: Arc<Keyring>) -> SettingsCache {
        SettingsCache {
            store,
            keyring,
            rows: Mutex::default(),
        }
    }

    /// Returns the settings of an app, as of its row or later. They are read only if they have
    /// changed since they were cached, and never for an app that has none.
    ///
    /// # Errors
    /// A store error.
    pub async fn of(&self, app: &App) -> Result<SettingsSnapshot, StoreError> {
        Ok(SettingsSnapshot {
            settings: self.settings(app).await?,
            keyring: Arc::clone(&self.keyring),
        })
    }

    async fn settings(&self, app: &App) -> Result<Arc<Settings>, StoreError> {
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
