//! Apps, plugins, tokens and the audit log.

use super::{MemoryStore, State, Tenant};
use crate::model::{
    ActivePlugin, App, AppId, AppSettings, Audit, Change, Changed, Digest, NewPlugin, Plugin,
    PluginVersion, Timestamp, Token, TokenId, Usage,
};
use crate::store::{Registry, StoreError};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use uuid::Uuid;

/// Makes a change, and its audit row if there is one. Each change first looks
/// whether it can be made, so there is nothing to roll back.
pub(super) fn change(
    state: &mut State,
    change: Change,
    audit: Option<Audit>,
) -> Result<Changed, StoreError> {
    let at = audit.as_ref().map_or_else(Timestamp::now, |audit| audit.at);
    let by = audit.as_ref().map_or("", |audit| &audit.actor);
    let changed = match change {
        Change::CreateApp(app) => state.create_app(app),
        Change::UpdateApp { app, settings } => state.update_app(app, settings),
        Change::DeleteApp(app) => Ok(state.delete_app(app)),
        Change::AddPlugin(plugin) => state.add_plugin(plugin, at, by),
        Change::ActivatePlugin { app, version } => state.activate(app, version, at),
        Change::RollBackPlugin(app) => state.roll_back(app, at),
        Change::DeletePlugin { app, version } => state.delete_plugin(app, version),
        Change::CreateToken(token) => state.create_token(token),
        Change::RevokeToken { app, token } => Ok(state.revoke_token(app, token, at)),
        Change::SetTrigger { app, trigger } => state.set_trigger(app, trigger),
        Change::DeleteTrigger { app, trigger } => state.delete_trigger(app, &trigger),
        Change::PauseTrigger {
            app,
            trigger,
            paused,
        } => state.pause_trigger(app, &trigger, paused),
        Change::Replay {
            app,
            letters,
            limit,
        } => state.replay(app, &letters, limit, at),
        Change::Discard {
            app,
            letters,
            limit,
        } => state.discard(app, &letters, limit),
    }?;
    if let (Some(audit), false) = (audit, changed == Changed::Nothing) {
        state.audit.insert(audit.id, audit);
    }
    Ok(changed)
}

impl State {
    pub(super) fn tenant(&mut self, app: AppId) -> Result<&mut Tenant, StoreError> {
        self.apps.get_mut(&app).ok_or(StoreError::AppNotFound)
    }

    fn create_app(&mut self, app: App) -> Result<Changed, StoreError> {
        if self.names.contains_key(&app.name) || self.apps.contains_key(&app.id) {
            return Err(StoreError::AppExists);
        }
        self.names.insert(app.name.clone(), app.id);
        let tenant = Tenant {
            entries: BTreeMap::new(),
            usage: Usage::default(),
            plugins: BTreeMap::new(),
            last_plugin: 0,
            triggers: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            app,
        };
        self.apps.insert(tenant.app.id, tenant);
        Ok(Changed::Done)
    }

    fn update_app(&mut self, app: AppId, settings: AppSettings) -> Result<Changed, StoreError> {
        self.tenant(app)?.app.settings = settings;
        Ok(Changed::Done)
    }

    fn delete_app(&mut self, app: AppId) -> Changed {
        let Some(tenant) = self.apps.remove(&app) else {
            return Changed::Nothing;
        };
        self.names.remove(&tenant.app.name);
        self.tokens.retain(|_, token| token.app != Some(app));
        self.forget_modules();
        Changed::Done
    }

    /// Removes the modules that no version refers to any more.
    fn forget_modules(&mut self) {
        let State { apps, modules, .. } = self;
        let used = |digest: &Digest| {
            let mut plugins = apps.values().flat_map(|tenant| tenant.plugins.values());
            plugins.any(|plugin| plugin.digest == *digest)
        };
        modules.retain(|digest, _| used(digest));
    }

    fn add_plugin(
        &mut self,
        plugin: NewPlugin,
        at: Timestamp,
        by: &str,
    ) -> Result<Changed, StoreError> {
        let tenant = self.tenant(plugin.app)?;
        tenant.last_plugin += 1;
        let version = PluginVersion(tenant.last_plugin);
        let row = Plugin {
            version,
            digest: plugin.digest,
            size: plugin.wasm.len() as u64,
            exports: plugin.exports,
            replaced: None,
            created_at: at,
            created_by: by.to_owned(),
        };
        tenant.plugins.insert(version, row);
        self.modules.insert(plugin.digest, plugin.wasm);
        if plugin.activate {
            self.activate(plugin.app, version, at)?;
        }
        Ok(Changed::Plugin(version))
    }

    fn activate(
        &mut self,
        app: AppId,
        version: PluginVersion,
        at: Timestamp,
    ) -> Result<Changed, StoreError> {
        let tenant = self.tenant(app)?;
        let before = tenant.app.active.map(|active| active.version);
        let plugin = tenant
            .plugins
            .get_mut(&version)
            .ok_or(StoreError::PluginNotFound(version))?;
        // What is active already replaced what it replaced.
        if before != Some(version) {
            plugin.replaced = before;
        }
        let (digest, exports) = (plugin.digest, plugin.exports.clone());
        tenant.app.active = Some(ActivePlugin { version, digest });
        tenant.declare(&exports, at);
        Ok(Changed::Plugin(version))
    }

    fn roll_back(&mut self, app: AppId, at: Timestamp) -> Result<Changed, StoreError> {
        let tenant = self.tenant(app)?;
        let active = tenant.app.active.map(|active| active.version);
        let before = active
            .and_then(|version| tenant.plugins.get(&version)?.replaced)
            .and_then(|version| tenant.plugins.get(&version))
            .ok_or(StoreError::NothingToRollBackTo)?;
        let (version, digest) = (before.version, before.digest);
        let exports = before.exports.clone();
        tenant.app.active = Some(ActivePlugin { version, digest });
        tenant.declare(&exports, at);
        Ok(Changed::Plugin(version))
    }

    fn delete_plugin(&mut self, app: AppId, version: PluginVersion) -> Result<Changed, StoreError> {
        let tenant = self.tenant(app)?;
        if tenant
            .app
            .active
            .is_some_and(|active| active.version == version)
        {
            return Err(StoreError::PluginActive(version));
        }
        if tenant.plugins.remove(&version).is_none() {
            return Ok(Changed::Nothing);
        }
        self.forget_modules();
        Ok(Changed::Done)
    }

    fn create_token(&mut self, token: Token) -> Result<Changed, StoreError> {
        if let Some(app) = token.app {
            self.tenant(app)?;
        }
        if self.tokens.contains_key(&token.id) {
            return Ok(Changed::Nothing);
        }
        self.tokens.insert(token.id, token);
        Ok(Changed::Done)
    }

    fn revoke_token(&mut self, app: Option<AppId>, token: TokenId, at: Timestamp) -> Changed {
        let token = self.tokens.get_mut(&token);
        let token = token.filter(|token| app.is_none() || token.app == app);
        match token {
            Some(token) if token.revoked_at.is_none() => {
                token.revoked_at = Some(at);
                Changed::Done
            }
            Some(_) | None => Changed::Nothing,
        }
    }
}

#[async_trait]
impl Registry for MemoryStore {
    async fn change(&self, change: Change, audit: Audit) -> Result<Changed, StoreError> {
        self::change(&mut self.state.write(), change, Some(audit))
    }

    async fn usage(&self, app: AppId) -> Result<Usage, StoreError> {
        let state = self.state.read();
        Ok(state
            .apps
            .get(&app)
            .map(|tenant| tenant.usage)
            .unwrap_or_default())
    }

    async fn plugins(
        &self,
        app: AppId,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<Plugin>, StoreError> {
        let state = self.state.read();
        let Some(tenant) = state.apps.get(&app) else {
            return Ok(Vec::new());
        };
        let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = tenant.plugins.range((Bound::Unbounded, upper)).rev();
        Ok(rows
            .take(limit as usize)
            .map(|(_, row)| row.clone())
            .collect())
    }

    async fn plugin(
        &self,
        app: AppId,
        version: PluginVersion,
    ) -> Result<Option<Plugin>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant
            .and_then(|tenant| tenant.plugins.get(&version))
            .cloned())
    }

    async fn module(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let module = self.state.read().modules.get(&digest).map(Arc::clone);
        Ok(module.map(|wasm| wasm.to_vec()))
    }

    async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        Ok(self.state.read().tokens.get(&id).cloned())
    }

    async fn tokens(
        &self,
        app: Option<AppId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError> {
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let rows = state.tokens.range((lower, Bound::Unbounded));
        let rows = rows.filter(|(_, token)| app.is_none() || token.app == app);
        Ok(rows
            .take(limit as usize)
            .map(|(_, row)| row.clone())
            .collect())
    }

    async fn audit(
        &self,
        app: Option<AppId>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError> {
        let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.read();
        let rows = state.audit.range((Bound::Unbounded, upper)).rev();
        let of_app = |row: &Audit| row.app.as_ref().map(|(id, _)| *id);
        let rows = rows.filter(|(_, row)| app.is_none() || of_app(row) == app);
        Ok(rows
            .take(limit as usize)
            .map(|(_, row)| row.clone())
            .collect())
    }
}
