//! Apps, plugins, tokens and the audit log.

use super::{AppData, MemoryState, MemoryStore};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::store::backend::Effect;
use kvasm_core::store::{Registry, StoreError};
use kvasm_core::{
    ActivePlugin, App, AppId, AppLimits, Audit, DeadLetterFilter, DeliveryFilter, Digest,
    Generation, LimitsPatch, NewPlugin, NewTrigger, PluginRecord, PluginVersion, Quota, Resource,
    TOKENS_MAX, TimerName, Timestamp, Token, TokenId, Trigger, TriggerDeletion, TriggerName, Usage,
    room_for_version,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use uuid::Uuid;

impl MemoryStore {
    /// Runs an operation, and adds its audit row if it changes something. An operation checks first
    /// whether it can succeed, so there is nothing to roll back.
    pub(super) fn audited<T: Effect>(
        &self,
        audit: Audit,
        operation: impl FnOnce(&mut MemoryState, &Audit) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.write();
        if state.audit.contains_key(&audit.id) {
            return Err(StoreError::Failed("the audit row already exists".into()));
        }
        let done = operation(&mut state, &audit)?;
        if done.changed() {
            state.generation = audit.id;
            state.audit.insert(audit.id, audit);
        }
        Ok(done)
    }
}

impl MemoryState {
    pub(super) fn tenant(&mut self, app: AppId) -> Result<&mut AppData, StoreError> {
        self.apps.get_mut(&app).ok_or(StoreError::AppNotFound)
    }

    fn create_app(&mut self, mut app: App) -> Result<(), StoreError> {
        app.limits = stored(app.limits);
        if self.names.contains_key(&app.name) || self.apps.contains_key(&app.id) {
            return Err(StoreError::AppExists);
        }
        self.names.insert(app.name.clone(), app.id);
        let tenant = AppData {
            entries: BTreeMap::new(),
            usage: Usage::default(),
            plugins: BTreeMap::new(),
            last_plugin: 0,
            triggers: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            answers: BTreeMap::new(),
            timers: BTreeMap::new(),
            settings: BTreeMap::new(),
            grants: BTreeMap::new(),
            app,
        };
        self.apps.insert(tenant.app.id, tenant);
        Ok(())
    }

    fn set_public(&mut self, app: AppId, public: bool) -> Result<App, StoreError> {
        let app = &mut self.tenant(app)?.app;
        app.public = public;
        Ok(app.clone())
    }

    fn set_limits(
        &mut self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
    ) -> Result<App, StoreError> {
        let app = &mut self.tenant(app)?.app;
        if expected.is_some_and(|expected| expected != app.limits) {
            return Err(StoreError::LimitsChanged);
        }
        app.limits = stored(patch.apply(app.limits));
        Ok(app.clone())
    }

    fn delete_app(&mut self, app: AppId) -> bool {
        let Some(tenant) = self.apps.remove(&app) else {
            return false;
        };
        self.names.remove(&tenant.app.name);
        self.tokens.retain(|_, token| token.app != Some(app));
        self.forget_modules();
        true
    }

    /// Deletes the modules to which no version refers any more.
    fn forget_modules(&mut self) {
        let MemoryState { apps, modules, .. } = self;
        let used = |digest: &Digest| {
            let mut plugins = apps.values().flat_map(|tenant| tenant.plugins.values());
            plugins.any(|plugin| plugin.digest == *digest)
        };
        modules.retain(|digest, _| used(digest));
    }

    fn add_plugin(
        &mut self,
        plugin: NewPlugin,
        audit: &Audit,
    ) -> Result<PluginVersion, StoreError> {
        let tenant = self.tenant(plugin.app)?;
        if plugin.activate {
            tenant.check_declared(&plugin.exports)?;
            tenant.check_needs(&plugin.exports.needs)?;
        }
        let size = plugin.wasm.len() as u64;
        let bytes = tenant.plugins.values().map(|plugin| plugin.size).sum();
        room_for_version(tenant.plugins.len() as u64, bytes, size)
            .map_err(|(resource, limit)| StoreError::Quota { resource, limit })?;
        tenant.last_plugin += 1;
        let version = PluginVersion(tenant.last_plugin);
        let row = PluginRecord {
            version,
            digest: plugin.digest,
            size,
            exports: plugin.exports,
            replaced: None,
            created_at: audit.at,
            created_by: audit.actor.clone(),
        };
        tenant.plugins.insert(version, row);
        self.modules.insert(plugin.digest, plugin.wasm);
        if plugin.activate {
            self.activate(plugin.app, version, audit.at)?;
        }
        Ok(version)
    }

    fn activate(
        &mut self,
        app: AppId,
        version: PluginVersion,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let tenant = self.tenant(app)?;
        let before = tenant.app.active.map(|active| active.version);
        let plugin = tenant
            .plugins
            .get(&version)
            .ok_or(StoreError::PluginNotFound(version))?;
        let (digest, exports) = (plugin.digest, plugin.exports.clone());
        tenant.check_declared(&exports)?;
        tenant.check_needs(&exports.needs)?;
        // Reactivating the active version keeps the version that it replaced.
        if let Some(plugin) = tenant.plugins.get_mut(&version)
            && before != Some(version)
        {
            plugin.replaced = before;
        }
        tenant.app.active = Some(ActivePlugin { version, digest });
        tenant.declare(&exports, at);
        Ok(())
    }

    fn roll_back(&mut self, app: AppId, at: Timestamp) -> Result<PluginVersion, StoreError> {
        let tenant = self.tenant(app)?;
        let active = tenant.app.active.map(|active| active.version);
        let before = active
            .and_then(|version| tenant.plugins.get(&version)?.replaced)
            .and_then(|version| tenant.plugins.get(&version))
            .ok_or(StoreError::NothingToRollBackTo)?;
        let (version, digest) = (before.version, before.digest);
        let exports = before.exports.clone();
        tenant.check_declared(&exports)?;
        tenant.check_needs(&exports.needs)?;
        tenant.app.active = Some(ActivePlugin { version, digest });
        tenant.declare(&exports, at);
        Ok(version)
    }

    fn delete_plugin(&mut self, app: AppId, version: PluginVersion) -> Result<bool, StoreError> {
        let tenant = self.tenant(app)?;
        if tenant
            .app
            .active
            .is_some_and(|active| active.version == version)
        {
            return Err(StoreError::PluginActive(version));
        }
        if tenant.plugins.remove(&version).is_none() {
            return Ok(false);
        }
        self.forget_modules();
        Ok(true)
    }

    fn create_token(&mut self, token: Token, at: Timestamp) -> Result<bool, StoreError> {
        if let Some(app) = token.app {
            self.tenant(app)?;
        }
        if self.tokens.contains_key(&token.id) {
            return Ok(false);
        }
        if let Some(app) = token.app {
            self.make_room_for_token(app, at)?;
        }
        self.tokens.insert(token.id, token);
        Ok(true)
    }

    fn make_room_for_token(&mut self, app: AppId, at: Timestamp) -> Result<(), StoreError> {
        let full = |tokens: &BTreeMap<TokenId, Token>| {
            let of_app = tokens.values().filter(|token| token.app == Some(app));
            of_app.count() as u64 >= TOKENS_MAX
        };
        if full(&self.tokens) {
            self.tokens
                .retain(|_, token| token.app != Some(app) || token.is_valid(at));
            if full(&self.tokens) {
                return Err(StoreError::Quota {
                    resource: Resource::Tokens,
                    limit: TOKENS_MAX,
                });
            }
        }
        Ok(())
    }

    fn revoke_token(
        &mut self,
        app: Option<AppId>,
        token: TokenId,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut admins = self.tokens.values().filter(|token| token.administers(at));
        let (first, second) = (admins.next(), admins.next());
        if app.is_none() && second.is_none() && first.is_some_and(|admin| admin.id == token) {
            return Err(StoreError::LastAdmin);
        }
        let token = self.tokens.get_mut(&token);
        let token = token.filter(|token| app.is_none() || token.app == app);
        match token {
            Some(token) if token.revoked_at.is_none() => {
                token.revoked_at = Some(at);
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }
}

/// Converts limits as a signed column would store them: a number beyond its range is as good as its
/// maximum.
fn stored(limits: AppLimits) -> AppLimits {
    let column = |limit: Option<u64>| limit.map(|limit| limit.min(i64::MAX.unsigned_abs()));
    AppLimits {
        quota: Quota {
            entries: column(limits.quota.entries),
            bytes: column(limits.quota.bytes),
        },
        ..limits
    }
}

#[async_trait]
impl Registry for MemoryStore {
    async fn create_app(&self, app: App, audit: Audit) -> Result<(), StoreError> {
        self.audited(audit, |state, _| state.create_app(app))
    }

    async fn set_public(&self, app: AppId, public: bool, audit: Audit) -> Result<App, StoreError> {
        self.audited(audit, |state, _| state.set_public(app, public))
    }

    async fn set_limits(
        &self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
        audit: Audit,
    ) -> Result<App, StoreError> {
        self.audited(audit, |state, _| state.set_limits(app, patch, expected))
    }

    async fn delete_app(&self, app: AppId, audit: Audit) -> Result<bool, StoreError> {
        self.audited(audit, |state, _| Ok(state.delete_app(app)))
    }

    async fn add_plugin(
        &self,
        plugin: NewPlugin,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        self.audited(audit, |state, audit| state.add_plugin(plugin, audit))
    }

    async fn activate_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.audited(audit, |state, audit| state.activate(app, version, audit.at))
    }

    async fn roll_back_plugin(
        &self,
        app: AppId,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        self.audited(audit, |state, audit| state.roll_back(app, audit.at))
    }

    async fn delete_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, |state, _| state.delete_plugin(app, version))
    }

    async fn create_token(&self, token: Token, audit: Audit) -> Result<bool, StoreError> {
        self.audited(audit, |state, audit| state.create_token(token, audit.at))
    }

    async fn revoke_token(
        &self,
        app: Option<AppId>,
        token: TokenId,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, |state, audit| {
            state.revoke_token(app, token, audit.at)
        })
    }

    async fn set_trigger(
        &self,
        app: AppId,
        trigger: NewTrigger,
        audit: Audit,
    ) -> Result<Trigger, StoreError> {
        self.audited(audit, |state, audit| {
            state.set_trigger(app, trigger, audit.at)
        })
    }

    async fn delete_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        must_be_idle: bool,
        audit: Audit,
    ) -> Result<TriggerDeletion, StoreError> {
        self.audited(audit, |state, _| {
            state.delete_trigger(app, &trigger, must_be_idle)
        })
    }

    async fn discard_deliveries(
        &self,
        app: AppId,
        which: DeliveryFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, audit| {
            state.discard_deliveries(app, &which, limit, audit.at)
        })
    }

    async fn pause_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        paused: bool,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, |state, _| state.pause_trigger(app, &trigger, paused))
    }

    async fn run_timer(
        &self,
        app: AppId,
        name: TimerName,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(audit, |state, audit| state.run_timer(app, &name, audit.at))
    }

    async fn replay(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, audit| {
            state.replay(app, &letters, limit, audit.at)
        })
    }

    async fn discard(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(audit, |state, _| state.discard(app, &letters, limit))
    }

    async fn generation(&self) -> Result<Generation, StoreError> {
        Ok(Generation(self.state.read().generation))
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
    ) -> Result<Vec<PluginRecord>, StoreError> {
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
    ) -> Result<Option<PluginRecord>, StoreError> {
        let state = self.state.read();
        let tenant = state.apps.get(&app);
        Ok(tenant
            .and_then(|tenant| tenant.plugins.get(&version))
            .cloned())
    }

    async fn module(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.state.read().modules.get(&digest).cloned())
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
