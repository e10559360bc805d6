//! Administration: apps and plugins. Every change goes to the store with its
//! audit row, in one transaction.

use super::{Actor, ServiceError};
use crate::model::{
    App, AppId, AppName, AppSettings, Audit, Capability, Change, Changed, CursorKey, Digest,
    Exports, NewPlugin, Plugin, PluginVersion, Quota, Timestamp, Usage,
};
use crate::store::{Store, StoreError};
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

/// What administrators do, whoever they are: each call names its [`Actor`], and
/// is refused unless that one holds the capability that it needs.
pub struct Admin {
    pub(super) store: Arc<dyn Store>,
    new_apps: AppSettings,
}

impl Admin {
    /// Over a store. New apps get the limits of `new_apps`.
    pub fn new(store: Arc<dyn Store>, new_apps: AppSettings) -> Admin {
        Admin { store, new_apps }
    }

    /// The app of a name, for an actor who holds `needs` of it.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] for an actor who does not, which tells nothing of
    /// whether there is such an app; [`ServiceError::AppNotFound`] for one who
    /// would, if there were one.
    pub async fn find(
        &self,
        actor: &Actor,
        name: &AppName,
        needs: impl Fn(AppId) -> Capability,
    ) -> Result<App, ServiceError> {
        match self.store.app(name).await? {
            Some(app) => actor.require(needs(app.id)).map(|()| app),
            None => {
                // Nobody is bound to this app, so only the unbound get further.
                actor.require(needs(AppId::from(Uuid::nil())))?;
                Err(ServiceError::AppNotFound)
            }
        }
    }

    /// Up to `limit` apps in the order of their names, after one if given. An
    /// actor that is bound to an app sees that one.
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
                actor.require(Capability::AppRead(AppId::from(Uuid::nil())))?;
                Ok(self.store.apps(after, limit).await?)
            }
            Some(bound) => {
                actor.require(Capability::AppRead(bound))?;
                let mut after = after.cloned();
                loop {
                    // The store finds apps by their names alone.
                    let page = self.store.apps(after.as_ref(), 1_000).await?;
                    if let Some(own) = page.iter().find(|app| app.id == bound) {
                        return Ok(vec![own.clone()]);
                    }
                    match page.last() {
                        Some(last) => after = Some(last.name.clone()),
                        None => return Ok(Vec::new()),
                    }
                }
            }
        }
    }

    /// Makes an app with the limits of new apps.
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
        let settings = AppSettings {
            public,
            ..self.new_apps
        };
        let app = new_app(name, settings)?;
        let detail = json!({ "public": public });
        let audit = actor.audit("app.create", Some(&app), app.created_at, detail);
        match self
            .store
            .change(Change::CreateApp(app.clone()), audit)
            .await
        {
            Ok(_) => Ok(app),
            Err(StoreError::AppExists) => Err(ServiceError::AppExists(app.name)),
            Err(error) => Err(error.into()),
        }
    }

    /// Says whether an app takes calls without a token.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app.
    pub async fn set_public(
        &self,
        actor: &Actor,
        app: App,
        public: bool,
    ) -> Result<App, ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let settings = AppSettings {
            public,
            ..app.settings
        };
        let detail = json!({ "public": public });
        self.update(actor, app, settings, "app.update", detail)
            .await
    }

    /// Sets what an app may use. `public` of the settings is not looked at.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `instance:admin`: who administers an app
    /// does not set its limits.
    pub async fn set_limits(
        &self,
        actor: &Actor,
        app: App,
        limits: AppSettings,
    ) -> Result<App, ServiceError> {
        actor.require(Capability::InstanceAdmin)?;
        let settings = AppSettings {
            public: app.settings.public,
            ..limits
        };
        let Quota { entries, bytes } = settings.quota;
        let detail = json!({
            "entries": entries,
            "bytes": bytes,
            "calls_per_second": settings.calls_per_second,
            "calls_at_once": settings.calls_at_once,
        });
        self.update(actor, app, settings, "app.limits", detail)
            .await
    }

    async fn update(
        &self,
        actor: &Actor,
        mut app: App,
        settings: AppSettings,
        action: &'static str,
        detail: serde_json::Value,
    ) -> Result<App, ServiceError> {
        let audit = actor.audit(action, Some(&app), Timestamp::now(), detail);
        let change = Change::UpdateApp {
            app: app.id,
            settings,
        };
        self.store.change(change, audit).await?;
        app.settings = settings;
        Ok(app)
    }

    /// Deletes an app and everything it owns.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app,
    /// [`ServiceError::AppNotFound`] if it is gone already.
    pub async fn delete_app(&self, actor: &Actor, app: &App) -> Result<(), ServiceError> {
        actor.require(Capability::AppAdmin(app.id))?;
        let audit = actor.audit("app.delete", Some(app), Timestamp::now(), json!({}));
        match self.store.change(Change::DeleteApp(app.id), audit).await? {
            Changed::Nothing => Err(ServiceError::AppNotFound),
            Changed::Done | Changed::Plugin(_) | Changed::Letters(_) => Ok(()),
        }
    }

    /// What an app's entries take.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn usage(&self, actor: &Actor, app: &App) -> Result<Usage, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.usage(app.id).await?)
    }

    /// Adds a plugin version, whose module is known to be good, and makes it the
    /// active one if so asked.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app.
    pub async fn add_plugin(
        &self,
        actor: &Actor,
        app: &App,
        wasm: Arc<[u8]>,
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
        self.plugin_change(Change::AddPlugin(plugin), audit).await
    }

    /// Makes a version the active one. Calls that run go on with theirs.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `plugin:deploy` of the app,
    /// [`ServiceError::PluginNotFound`].
    pub async fn activate_plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<PluginVersion, ServiceError> {
        actor.require(Capability::PluginDeploy(app.id))?;
        let detail = json!({ "version": version });
        let audit = actor.audit("plugin.activate", Some(app), Timestamp::now(), detail);
        let change = Change::ActivatePlugin {
            app: app.id,
            version,
        };
        self.plugin_change(change, audit).await
    }

    /// Makes the version active that the active one replaced.
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
        self.plugin_change(Change::RollBackPlugin(app.id), audit)
            .await
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
        let change = Change::DeletePlugin {
            app: app.id,
            version,
        };
        match self.store.change(change, audit).await? {
            Changed::Nothing => Err(ServiceError::PluginNotFound(version)),
            Changed::Done | Changed::Plugin(_) | Changed::Letters(_) => Ok(()),
        }
    }

    async fn plugin_change(
        &self,
        change: Change,
        audit: Audit,
    ) -> Result<PluginVersion, ServiceError> {
        match self.store.change(change, audit).await? {
            Changed::Plugin(version) => Ok(version),
            Changed::Done | Changed::Nothing | Changed::Letters(_) => Err(ServiceError::Internal(
                StoreError::Failed("the store did not say which plugin version it changed".into()),
            )),
        }
    }

    /// An app's plugin versions, newest first, below a number if given.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app.
    pub async fn plugins(
        &self,
        actor: &Actor,
        app: &App,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<Plugin>, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        Ok(self.store.plugins(app.id, before, limit).await?)
    }

    /// One plugin version.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:read` of the app,
    /// [`ServiceError::PluginNotFound`].
    pub async fn plugin(
        &self,
        actor: &Actor,
        app: &App,
        version: PluginVersion,
    ) -> Result<Plugin, ServiceError> {
        actor.require(Capability::AppRead(app.id))?;
        let plugin = self.store.plugin(app.id, version).await?;
        plugin.ok_or(ServiceError::PluginNotFound(version))
    }

    /// The audit rows of an app, or all, newest first, below one if given.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `app:admin` of the app, or without
    /// `instance:admin` for all.
    pub async fn audit(
        &self,
        actor: &Actor,
        app: Option<&App>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, ServiceError> {
        actor.require(match app {
            Some(app) => Capability::AppAdmin(app.id),
            None => Capability::InstanceAdmin,
        })?;
        let app = app.map(|app| app.id);
        Ok(self.store.audit(app, before, limit).await?)
    }
}

/// An app that is not in the store yet.
pub(crate) fn new_app(name: AppName, settings: AppSettings) -> Result<App, StoreError> {
    let mut cursor_key = [0; CursorKey::BYTES];
    getrandom::fill(&mut cursor_key).map_err(|e| StoreError::Failed(e.into()))?;
    Ok(App {
        id: AppId::generate(),
        name,
        created_at: Timestamp::now(),
        cursor_key: CursorKey::new(cursor_key),
        settings,
        active: None,
    })
}
