//! Administration of an app's settings.

use super::{Actor, Admin, Keyring, ServiceError};
use kvasm_core::store::StoreError;
use kvasm_core::{
    App, AppId, Capability, ConfigValue, Invalid, SETTING_BYTES_MAX, Setting, SettingKind,
    SettingName, SettingValue, Subject, Timestamp,
};
use serde_json::json;
use std::sync::Arc;

/// How often a secret is sealed again because the store's key has changed meanwhile.
const SEALS_MAX: usize = 3;

impl Admin {
    /// Sets the keys with which secrets are sealed. By default there are none.
    #[must_use]
    pub fn with_keyring(mut self, keyring: Arc<Keyring>) -> Admin {
        self.keyring = keyring;
        self
    }

    /// Returns an app's configuration values, or its secrets in sealed form, by name.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn settings(
        &self,
        actor: &Actor,
        app: &App,
        kind: SettingKind,
    ) -> Result<Vec<Setting>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        let settings = self.store.settings(app.id).await?;
        Ok(settings.of_kind(kind).cloned().collect())
    }

    /// Sets a configuration value.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app; [`ServiceError::Invalid`] if the
    /// active plugin version declares another type for it; [`ServiceError::Quota`] if the app has
    /// too many settings; [`ServiceError::AppNotFound`].
    pub async fn set_config(
        &self,
        actor: &Actor,
        app: &App,
        name: SettingName,
        value: ConfigValue,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        self.check_config(app.id, &name, &value).await?;
        // Not its value: an administrator may mistake a configuration value for a secret.
        let detail = json!({ "name": name });
        let audit = actor.audit("config.set", Some(app), Timestamp::now(), detail);
        let value = SettingValue::Config(value);
        Ok(self.store.set_setting(app.id, name, value, audit).await?)
    }

    /// Refuses a value that the active version cannot read. It is not in the transaction that sets
    /// the value: a version that is activated meanwhile may declare another type. Then its reads of
    /// the value fail, as they do for a value that no version declares.
    async fn check_config(
        &self,
        app: AppId,
        name: &SettingName,
        value: &ConfigValue,
    ) -> Result<(), ServiceError> {
        // As of now: the caller's may be older.
        let app = self.store.app_by_id(app).await?;
        let app = app.ok_or(ServiceError::AppNotFound)?;
        let Some(active) = app.active else {
            return Ok(());
        };
        match self.store.plugin(app.id, active.version).await? {
            Some(plugin) => Ok(plugin.exports.needs.check_config(name, value)?),
            // It was replaced and deleted meanwhile.
            None => Ok(()),
        }
    }

    /// Seals a secret and sets it. No operation returns it.
    ///
    /// # Errors
    /// As [`set_config`](Admin::set_config); [`ServiceError::Secrets`] if this host cannot seal
    /// secrets of this store.
    pub async fn set_secret(
        &self,
        actor: &Actor,
        app: &App,
        name: SettingName,
        secret: &[u8],
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        if secret.len() > SETTING_BYTES_MAX {
            return Err(ServiceError::Invalid(Invalid::TooLarge {
                subject: Subject::Secret,
                len: secret.len() as u64,
                limit: SETTING_BYTES_MAX as u64,
            }));
        }
        let mut seals = 1;
        loop {
            let current = self.store.secrets_key().await?;
            let sealed = self.keyring.seal(app.id, &name, current, secret)?;
            let given = sealed.key;
            let detail = json!({ "name": name });
            let audit = actor.audit("secret.set", Some(app), Timestamp::now(), detail);
            let value = SettingValue::Secret(sealed);
            let set = self.store.set_setting(app.id, name.clone(), value, audit);
            match set.await {
                // The key has changed since it was read.
                Err(StoreError::OtherSecretsKey { .. })
                    if current.is_none_or(|current| current == given) && seals < SEALS_MAX =>
                {
                    seals += 1;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Removes a configuration value or a secret.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::SettingNotFound`], [`ServiceError::AppNotFound`].
    pub async fn unset_setting(
        &self,
        actor: &Actor,
        app: &App,
        kind: SettingKind,
        name: SettingName,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let action = match kind {
            SettingKind::Config => "config.unset",
            SettingKind::Secret => "secret.unset",
        };
        let detail = json!({ "name": name });
        let audit = actor.audit(action, Some(app), Timestamp::now(), detail);
        match self.store.unset_setting(app.id, kind, name, audit).await? {
            true => Ok(()),
            false => Err(ServiceError::SettingNotFound(kind)),
        }
    }
}
