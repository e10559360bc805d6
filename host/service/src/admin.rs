//! Administration of apps and plugins. Every change goes to the store with its audit row, in one
//! transaction.

use super::{Actor, AppTokenCache, Keyring, SeenGeneration, ServiceError};
use bytes::Bytes;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{
    App, AppId, AppLimits, AppName, Capability, CursorKey, Digest, Exports, LimitsPatch, NewPlugin,
    PluginRecord, PluginVersion, Timestamp, Usage,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Administrative operations. Each one takes an [`Actor`], and is denied unless that actor holds
/// the required capability.
pub struct Admin {
    pub(super) store: Arc<dyn Store>,
    pub(super) access: Arc<AppTokenCache>,
    pub(super) keyring: Arc<Keyring>,
    new_apps: AppLimits,
}

impl Admin {
    /// Creates the operations over a store and its cache. New apps get the limits of `new_apps`.
    pub fn new(store: Arc<dyn Store>, access: Arc<AppTokenCache>, new_apps: AppLimits) -> Admin {
        Admin {
            store,
            access,
            keyring: Arc::default(),
            new_apps,
        }
    }

    /// Returns the app of a name, for an actor who holds `needs` of it. With the `seen` of the
    /// same request's token, the generation is not checked again.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] for an actor without the capability, which does not reveal
    /// whether the app exists; [`ServiceError::AppNotFound`] for an actor who would hold it.
    pub async fn find(
        &self,
        seen: &mut SeenGeneration,
        actor: &Actor,
        name: &AppName,
        needs: impl Fn(AppId) -> Capability,
    ) -> Result<App, ServiceError> {
        match self.access.app(seen, name).await? {
            Some(app) => actor.require(needs(app.id)).map(|()| App::clone(&app)),
            None => {
                actor.require(needs(AppId::NONE))?;
                Err(ServiceError::AppNotFound)
            }
        }
    }

    /// Returns up to `limit` apps in the order of their names, starting after `after`. An actor
    /// that is bound to an app sees only that one.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read`.
    pub async fn apps(
        &self,
        actor: &Actor,
        after: Option<&AppName>,
        limit: u32,
    ) -> Result<Vec<App>, ServiceError> {
        match actor.principal().app() {
            None => {
                actor.require(Capability::AppRead(AppId::NONE))?;
                Ok(self.store.apps(after, limit).await?)
            }
            Some(bound) => {
                actor.require(Capability::AppRead(bound))?;
                let own = self.store.app_by_id(bound).await?;
                let is_after = |app: &App| after.is_none_or(|after| app.name > *after);
                Ok(own
                    .filter(is_after)
                    .into_iter()
                    .take(limit as usize)
                    .collect())
            }
        }
    }

    /// Creates an app with the limits of new apps.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` for all apps,
    /// [`ServiceError::AppExists`].
    pub async fn create_app(
        &self,
        actor: &Actor,
        name: AppName,
        public: bool,
    ) -> Result<App, ServiceError> {
        actor.require(Capability::AppCreate)?;
        let app = new_app(name, public, self.new_apps)?;
        let detail = json!({ "public": public });
        let audit = actor.audit("app.create", Some(&app), app.created_at, detail);
        match self.store.create_app(app.clone(), audit).await {
            Ok(()) => Ok(app),
            Err(StoreError::AppExists) => Err(ServiceError::AppExists(app.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets whether an app accepts calls without a token. Returns the updated app.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::AppNotFound`].
    pub async fn set_public(
        &self,
        actor: &Actor,
        app: &App,
        public: bool,
    ) -> Result<App, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let detail = json!({ "public": public });
        let audit = actor.audit("app.update", Some(app), Timestamp::now(), detail);
        Ok(self.store.set_public(app.id, public, audit).await?)
    }

    /// Changes limits of an app, if its current limits are as expected. Returns the updated app.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `instance:admin`: an app's administrators cannot change
    /// its limits. [`ServiceError::LimitsChanged`] if `expected` is given and the app has other
    /// limits; [`ServiceError::AppNotFound`].
    pub async fn set_limits(
        &self,
        actor: &Actor,
        app: &App,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
    ) -> Result<App, ServiceError> {
        actor.require(Capability::InstanceAdmin)?;
        let audit = actor.audit(
            "app.limits",
            Some(app),
            Timestamp::now(),
            audit_detail(patch),
        );
        let set = self.store.set_limits(app.id, patch, expected, audit);
        Ok(set.await?)
    }

    /// Deletes an app and everything it owns.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::AppNotFound`] if it is already deleted.
    pub async fn delete_app(&self, actor: &Actor, app: &App) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let audit = actor.audit("app.delete", Some(app), Timestamp::now(), json!({}));
        match self.store.delete_app(app.id, audit).await? {
            true => Ok(()),
            false => Err(ServiceError::AppNotFound),
        }
    }

    /// Returns the resources that an app uses.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn usage(&self, actor: &Actor, app: &App) -> Result<Usage, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.usage(app.id).await?)
    }

    /// Adds a plugin version, whose module was checked before. Activates it if `activate`.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app.
    pub async fn add_plugin(
        &self,
        actor: &Actor,
        app: &App,
        wasm: Bytes,
        digest: Digest,
        exports: Exports,
        activate: bool,
    ) -> Result<PluginVersion, ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let detail = json!({ "digest": digest, "size": wasm.len(), "activate": activate });
        let audit = actor.audit("plugin.upload", Some(app), Timestamp::now(), detail);
        let plugin = NewPlugin {
            app: app.id,
            digest,
            wasm,
            exports,
            activate,
        };
        Ok(self.store.add_plugin(plugin, audit).await?)
    }

    /// Activates a version. Calls in progress continue with theirs.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app,
    /// [`ServiceError::PluginNotFound`].
    pub async fn activate_plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let detail = json!({ "version": version });
        let audit = actor.audit("plugin.activate", Some(app), Timestamp::now(), detail);
        Ok(self.store.activate_plugin(app.id, version, audit).await?)
    }

    /// Activates the version that the active one replaced.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app,
    /// [`ServiceError::NothingToRollBackTo`].
    pub async fn roll_back_plugin(
        &self,
        actor: &Actor,
        app: &App,
    ) -> Result<PluginVersion, ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let from = app.active.map(|active| active.version);
        let detail = json!({ "from": from });
        let audit = actor.audit("plugin.rollback", Some(app), Timestamp::now(), detail);
        Ok(self.store.roll_back_plugin(app.id, audit).await?)
    }

    /// Deletes a version that is not active.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app,
    /// [`ServiceError::PluginActive`], [`ServiceError::PluginNotFound`].
    pub async fn delete_plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<(), ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let detail = json!({ "version": version });
        let audit = actor.audit("plugin.delete", Some(app), Timestamp::now(), detail);
        match self.store.delete_plugin(app.id, version, audit).await? {
            true => Ok(()),
            false => Err(ServiceError::PluginNotFound(version)),
        }
    }

    /// Returns an app's plugin versions, newest first, starting below `before`.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn plugins(
        &self,
        actor: &Actor,
        app: &App,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<PluginRecord>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.plugins(app.id, before, limit).await?)
    }

    /// Returns one plugin version.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app,
    /// [`ServiceError::PluginNotFound`].
    pub async fn plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<PluginRecord, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        let plugin = self.store.plugin(app.id, version).await?;
        plugin.ok_or(ServiceError::PluginNotFound(version))
    }
}

/// Formats a change of limits for the audit log: only the limits that it names.
fn audit_detail(patch: LimitsPatch) -> Value {
    let LimitsPatch {
        entries,
        bytes,
        calls_per_second,
        calls_at_once,
    } = patch;
    let limits = [
        ("entries", entries.map(|limit| json!(limit))),
        ("bytes", bytes.map(|limit| json!(limit))),
        (
            "calls_per_second",
            calls_per_second.map(|limit| json!(limit)),
        ),
        ("calls_at_once", calls_at_once.map(|limit| json!(limit))),
    ];
    let named = limits.into_iter();
    let named = named.filter_map(|(name, limit)| Some((name.to_owned(), limit?)));
    Value::Object(named.collect())
}

/// Creates an app that is not yet in the store.
fn new_app(name: AppName, public: bool, limits: AppLimits) -> Result<App, StoreError> {
    let mut cursor_key = [0; CursorKey::BYTES];
    getrandom::fill(&mut cursor_key).map_err(|e| StoreError::Failed(e.into()))?;
    Ok(App {
        id: AppId::generate(),
        name,
        created_at: Timestamp::now(),
        cursor_key: CursorKey::new(cursor_key),
        public,
        limits,
        active: None,
        settings: None,
    })
}
