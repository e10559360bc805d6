//! The settings of apps: configuration values and sealed secrets; and what apps grant.

use super::StoreError;
use crate::{
    AppId, Audit, Grant, KeyId, Resealed, SettingKind, SettingName, SettingValue, Settings,
};
use async_trait::async_trait;

/// The settings and grants of apps. A method that takes an [`Audit`] is an operation, as in
/// [`Registry`](super::Registry).
///
/// The store never sees a secret, only what a key has sealed. It records the *current key*: a
/// secret that another key has sealed is refused, so that no host still adds secrets under the old
/// key once a rotation has begun.
#[async_trait]
pub trait SettingsStore: Send + Sync {
    /// Returns all settings and grants of an app, from one snapshot; none if it does not exist.
    async fn settings(&self, app: AppId) -> Result<Settings, StoreError>;

    /// Sets one setting. The operation becomes the [`version`](Settings::version) of the app's
    /// settings. The key of the first secret becomes the current one.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::Quota`] above
    /// [`SETTINGS_MAX`](crate::SETTINGS_MAX) or
    /// [`SETTINGS_BYTES_MAX`](crate::SETTINGS_BYTES_MAX); [`StoreError::OtherSecretsKey`] for a
    /// secret that was not sealed with the current key.
    async fn set_setting(
        &self,
        app: AppId,
        name: SettingName,
        value: SettingValue,
        audit: Audit,
    ) -> Result<(), StoreError>;

    /// Removes one setting. Returns whether it was set.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn unset_setting(
        &self,
        app: AppId,
        kind: SettingKind,
        name: SettingName,
        audit: Audit,
    ) -> Result<bool, StoreError>;

    /// Adds grants to an app; those that it has stay as they are. Returns the number added. The
    /// operation becomes the [`version`](Settings::version) of the app's settings.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::Quota`] above
    /// [`GRANTS_MAX`](crate::GRANTS_MAX).
    async fn add_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Removes grants from an app. Returns the number removed. The operation becomes the
    /// [`version`](Settings::version) of the app's settings. The active version stays active.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`].
    async fn remove_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Replaces those of the secrets that are still as they were. Their times stay. Returns the
    /// number replaced.
    ///
    /// # Errors
    /// [`StoreError::AppNotFound`]; [`StoreError::OtherSecretsKey`] if one was not sealed with the
    /// current key.
    async fn reseal_secrets(
        &self,
        app: AppId,
        secrets: Vec<Resealed>,
        audit: Audit,
    ) -> Result<u64, StoreError>;

    /// Makes a key the current one. Secrets that other keys have sealed stay as they are. Returns
    /// whether another key was current before.
    async fn set_secrets_key(&self, key: KeyId, audit: Audit) -> Result<bool, StoreError>;

    /// Returns the current key; `None` before the first secret.
    async fn secrets_key(&self) -> Result<Option<KeyId>, StoreError>;
}
