//! The settings of apps.

use super::{AppData, MemoryState, MemoryStore};
use async_trait::async_trait;
use kvasm_core::store::{SettingsStore, StoreError};
use kvasm_core::{
    AppId, Audit, Generation, Grant, Granted, KeyId, Needs, Resealed, SealedSecret, Setting,
    SettingKind, SettingName, SettingValue, Settings, Timestamp, room_for_grants,
    room_for_settings,
};
use std::collections::{BTreeMap, BTreeSet};

/// By kind and name, as in the other stores.
pub(super) type SettingRows = BTreeMap<(SettingKind, SettingName), Setting>;
/// The grants, and when each was granted.
pub(super) type GrantRows = BTreeMap<Grant, Timestamp>;

impl MemoryState {
    fn set_setting(
        &mut self,
        app: AppId,
        name: SettingName,
        value: SettingValue,
        audit: &Audit,
    ) -> Result<(), StoreError> {
        if let SettingValue::Secret(sealed) = &value {
            self.check_secrets_key(sealed)?;
        }
        let key = match &value {
            SettingValue::Secret(sealed) => Some(sealed.key),
            SettingValue::Config(_) => None,
        };
        let tenant = self.tenant(app)?;
        let place = (value.kind(), name.clone());
        let others = tenant.settings.iter().filter(|(at, _)| **at != place);
        let (mut count, mut bytes) = (1, name.as_str().len() as u64 + value.size());
        for ((_, name), row) in others {
            count += 1;
            bytes += name.as_str().len() as u64 + row.value.size();
        }
        room_for_settings(count, bytes)
            .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
        let row = Setting {
            name,
            value,
            updated_at: audit.at,
        };
        tenant.settings.insert(place, row);
        tenant.app.settings = Some(Generation(audit.id));
        self.secrets_key = self.secrets_key.or(key);
        Ok(())
    }

    /// Refuses a secret that was not sealed with the current key.
    fn check_secrets_key(&self, sealed: &SealedSecret) -> Result<(), StoreError> {
        match self.secrets_key {
            Some(current) if current != sealed.key => Err(StoreError::OtherSecretsKey {
                given: sealed.key,
                current,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn unset_setting(
        &mut self,
        app: AppId,
        kind: SettingKind,
        name: SettingName,
        audit: &Audit,
    ) -> Result<bool, StoreError> {
        let tenant = self.tenant(app)?;
        let is_removed = tenant.settings.remove(&(kind, name)).is_some();
        if is_removed {
            tenant.app.settings = Some(Generation(audit.id));
        }
        Ok(is_removed)
    }

    fn add_grants(
        &mut self,
        app: AppId,
        grants: Vec<Grant>,
        audit: &Audit,
    ) -> Result<u64, StoreError> {
        let tenant = self.tenant(app)?;
        let mut added: BTreeSet<_> = grants.into_iter().collect();
        added.retain(|grant| !tenant.grants.contains_key(grant));
        let count = added.len() as u64;
        if count > 0 {
            room_for_grants(tenant.grants.len() as u64 + count)
                .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
            let rows = added.into_iter().map(|grant| (grant, audit.at));
            tenant.grants.extend(rows);
            tenant.app.settings = Some(Generation(audit.id));
        }
        Ok(count)
    }

    fn remove_grants(
        &mut self,
        app: AppId,
        grants: &[Grant],
        audit: &Audit,
    ) -> Result<u64, StoreError> {
        let tenant = self.tenant(app)?;
        let removed = grants
            .iter()
            .filter_map(|grant| tenant.grants.remove(grant));
        let count = removed.count() as u64;
        if count > 0 {
            tenant.app.settings = Some(Generation(audit.id));
        }
        Ok(count)
    }

    fn reseal(
        &mut self,
        app: AppId,
        secrets: Vec<Resealed>,
        audit: &Audit,
    ) -> Result<u64, StoreError> {
        for secret in &secrets {
            self.check_secrets_key(&secret.after)?;
        }
        let tenant = self.tenant(app)?;
        let mut replaced = 0;
        for Resealed {
            name,
            before,
            after,
        } in secrets
        {
            let row = tenant.settings.get_mut(&(SettingKind::Secret, name));
            if let Some(row) = row
                && let SettingValue::Secret(sealed) = &mut row.value
                && sealed.bytes == before
            {
                *sealed = after;
                replaced += 1;
            }
        }
        if replaced > 0 {
            tenant.app.settings = Some(Generation(audit.id));
        }
        Ok(replaced)
    }
}

impl AppData {
    fn settings(&self) -> Settings {
        let grants = self.grants.iter().map(|(grant, at)| Granted {
            grant: grant.clone(),
            granted_at: *at,
        });
        Settings {
            version: self.app.settings,
            rows: self.settings.values().cloned().collect(),
            grants: grants.collect(),
        }
    }

    /// Refuses the activation of a version whose needs the app does not meet.
    pub(super) fn check_needs(&self, needs: &Needs) -> Result<(), StoreError> {
        match needs.is_empty() {
            true => Ok(()),
            false => needs
                .check(&self.settings())
                .map_err(StoreError::NeedsUnmet),
        }
    }
}

#[async_trait]
impl SettingsStore for MemoryStore {
    async fn settings(&self, app: AppId) -> Result<Settings, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant.map_or_else(Settings::default, AppData::settings))
    }

    async fn set_setting(
        &self,
        app: AppId,
        name: SettingName,
        value: SettingValue,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.audited(audit, |state, audit| {
            state.set_setting(app, name, value, audit)
        })
    }

    async fn unset_setting(
        &self,
        app: AppId,
        kind: SettingKind,
        name: SettingName,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, |state, audit| {
            state.unset_setting(app, kind, name, audit)
        })
    }

    async fn add_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, audit| state.add_grants(app, grants, audit))
    }

    async fn remove_grants(
        &self,
        app: AppId,
        grants: Vec<Grant>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, audit| {
            state.remove_grants(app, &grants, audit)
        })
    }

    async fn reseal_secrets(
        &self,
        app: AppId,
        secrets: Vec<Resealed>,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, audit| state.reseal(app, secrets, audit))
    }

    async fn set_secrets_key(&self, key: KeyId, audit: Audit) -> Result<bool, StoreError> {
        self.audited(audit, |state, _| {
            Ok(state.secrets_key.replace(key) != Some(key))
        })
    }

    async fn secrets_key(&self) -> Result<Option<KeyId>, StoreError> {
        Ok(self.state.read().secrets_key)
    }
}
