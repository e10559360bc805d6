//! Rotation of the key: all secrets are sealed again with a new one.
//!
//! The order makes it safe to stop anywhere: the file has both keys before the store knows the new
//! one, from then on no secret is added under the old one, and the old one leaves the file once no
//! secret needs it. The next rotation completes one that was interrupted.

use super::key::SecretsKey;
use super::key_file;
use super::{Keyring, SecretsError};
use crate::{Actor, ServiceError};
use kvasm_core::store::Store;
use kvasm_core::{
    App, Capability, KeyId, Resealed, SettingKind, SettingValue, Settings, Timestamp,
};
use serde_json::json;

/// Number of apps that are read at once.
const APPS_AT_ONCE: u32 = 100;

/// Where the new key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKey {
    /// It is generated and written to the key file, and old keys are removed from the file at the
    /// end.
    Generated,
    /// It is the first key of the file, which is not changed.
    Prepared,
}

/// The result of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The new key.
    pub key: KeyId,
    /// The number of secrets that were sealed again.
    pub resealed: u64,
    /// The secrets that could not be opened, by app and name. They are unchanged, and the keys in
    /// the file too.
    pub unreadable: Vec<(String, String)>,
}

/// Makes a new key file with one key.
///
/// # Errors
/// [`SecretsError::KeyFile`] if it cannot be written. A file that exists is not changed.
pub fn create_key_file(path: &std::path::Path) -> Result<KeyId, SecretsError> {
    if path.exists() {
        return Err(SecretsError::KeyFile(super::KeyFileError {
            path: path.to_owned(),
            why: "it already exists".to_owned(),
        }));
    }
    key_file::create(path)?;
    let keys = Keyring::file(path);
    keys.load(None)?;
    let first = keys.keys().first().map(SecretsKey::id);
    first.ok_or(SecretsError::NotConfigured)
}

/// Seals all secrets of all apps with a new key.
///
/// # Errors
/// [`ServiceError::Denied`] without `instance:admin`; [`ServiceError::Secrets`] without a usable
/// key file; a store error. All secrets can still be opened, and the next rotation continues.
pub async fn rotate_secrets_key(
    store: &dyn Store,
    keyring: &Keyring,
    actor: &Actor,
    new: NewKey,
) -> Result<Rotated, ServiceError> {
    actor.require(Capability::InstanceAdmin)?;
    let path = keyring.path()?;
    keyring.load(store.secrets_key().await?)?;
    // More than one key: a rotation was interrupted, or prepared.
    if let (NewKey::Generated, [old]) = (new, &keyring.keys()[..]) {
        key_file::replace(path, &[SecretsKey::generate()?, old.clone()])?;
        keyring.load(None)?;
    }
    let keys = keyring.keys();
    let key = keys.first().ok_or(SecretsError::NotConfigured)?;
    let detail = json!({ "key": key.id().to_string() });
    let audit = actor.audit("secrets.key", None, Timestamp::now(), detail);
    store.set_secrets_key(key.id(), audit).await?;
    let mut rotated = Rotated {
        key: key.id(),
        resealed: 0,
        unreadable: Vec::new(),
    };
    let mut after = None;
    loop {
        let apps = store.apps(after.as_ref(), APPS_AT_ONCE).await?;
        let Some(last) = apps.last() else { break };
        after = Some(last.name.clone());
        for app in apps.iter().filter(|app| app.settings.is_some()) {
            reseal_app(store, keyring, actor, key, app, &mut rotated).await?;
        }
    }
    if new == NewKey::Generated && rotated.unreadable.is_empty() && keys.len() > 1 {
        key_file::replace(path, std::slice::from_ref(key))?;
        keyring.load(None)?;
    }
    Ok(rotated)
}

/// Seals the secrets of an app with the key. One that is set meanwhile has the key already.
async fn reseal_app(
    store: &dyn Store,
    keyring: &Keyring,
    actor: &Actor,
    key: &SecretsKey,
    app: &App,
    rotated: &mut Rotated,
) -> Result<(), ServiceError> {
    let settings = store.settings(app.id).await?;
    let secrets = resealed(keyring, key, app, &settings, &mut rotated.unreadable)?;
    if secrets.is_empty() {
        return Ok(());
    }
    let detail = json!({ "key": key.id().to_string(), "secrets": secrets.len() });
    let audit = actor.audit("secrets.reseal", Some(app), Timestamp::now(), detail);
    match store.reseal_secrets(app.id, secrets, audit).await {
        Ok(count) => rotated.resealed += count,
        // It was deleted meanwhile.
        Err(kvasm_core::store::StoreError::AppNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn resealed(
    keyring: &Keyring,
    key: &SecretsKey,
    app: &App,
    settings: &Settings,
    unreadable: &mut Vec<(String, String)>,
) -> Result<Vec<Resealed>, SecretsError> {
    let mut secrets = Vec::new();
    for row in settings.of_kind(SettingKind::Secret) {
        let SettingValue::Secret(sealed) = &row.value else {
            continue;
        };
        if sealed.key == key.id() {
            continue;
        }
        match keyring.open(app.id, &row.name, sealed) {
            Ok(secret) => secrets.push(Resealed {
                name: row.name.clone(),
                before: sealed.bytes.clone(),
                after: key.seal(app.id, &row.name, secret.bytes())?,
            }),
            Err(SecretsError::UnknownKey { .. } | SecretsError::Damaged { .. }) => {
                unreadable.push((app.name.to_string(), row.name.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(secrets)
}
