//! Apps, plugins, tokens and the audit log. `change` has the statements of operations, `read` the
//! others.

mod change;
mod read;

use super::writer::{WriteCost, WriteTransaction};
use super::{SqliteStore, error, outbox, tombstone};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm_core::store::backend::Effect;
use kvasm_core::store::{Registry, StoreError};
use kvasm_core::{
    App, AppId, AppLimits, Audit, DeadLetterFilter, DeliveryFilter, Digest, Generation,
    LimitsPatch, NewPlugin, NewTrigger, PluginRecord, PluginVersion, TimerName, Token, TokenId,
    Trigger, TriggerDeletion, TriggerName, Usage,
};
use std::sync::Arc;
use uuid::Uuid;

pub(super) use change::{forget_module, write_audit};
use read::plugin;
pub(super) use read::usage;

/// The work of an operation that adds at most its audit row.
const fn frees(app: AppId) -> WriteCost {
    WriteCost::of(app).freeing_space()
}

impl SqliteStore {
    /// Runs an operation. If it changes something, writes its audit row and makes that the
    /// generation, atomically.
    pub(super) async fn audited<T: Effect + Send + 'static>(
        &self,
        work: WriteCost,
        audit: Audit,
        operation: impl FnOnce(&mut WriteTransaction<'_>, &Audit) -> Result<T, StoreError>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let run = move |transaction: &mut WriteTransaction<'_>| {
            // The operation may change rows that the usage counters have cached.
            let connection = transaction.connection;
            transaction.tally.write(connection).map_err(error::store)?;
            transaction.atomically(|transaction| {
                let done = operation(transaction, &audit)?;
                if done.changed() {
                    write_audit(connection, &audit).map_err(error::store)?;
                    change::raise(connection, &audit).map_err(error::store)?;
                }
                Ok(done)
            })
        };
        self.writer.run(work, run).await
    }
}

#[async_trait]
impl Registry for SqliteStore {
    async fn create_app(&self, app: App, audit: Audit) -> Result<(), StoreError> {
        self.audited(WriteCost::of(app.id), audit, move |transaction, _| {
            change::create_app(transaction.connection, &app)
        })
        .await
    }

    async fn set_public(&self, app: AppId, public: bool, audit: Audit) -> Result<App, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, _| {
            change::set_public(transaction.connection, app, public)
        })
        .await
    }

    async fn set_limits(
        &self,
        app: AppId,
        patch: LimitsPatch,
        expected: Option<AppLimits>,
        audit: Audit,
    ) -> Result<App, StoreError> {
        self.audited(frees(app), audit, move |transaction, _| {
            change::set_limits(transaction.connection, app, patch, expected)
        })
        .await
    }

    async fn delete_app(&self, app: AppId, audit: Audit) -> Result<bool, StoreError> {
        self.audited(frees(app), audit, move |transaction, audit| {
            tombstone::mark_deleted(transaction.connection, app, audit.at)
        })
        .await
    }

    async fn add_plugin(
        &self,
        plugin: NewPlugin,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        // Like a write of an entry: an upload takes a turn of its app.
        let work = WriteCost::of(plugin.app).with_bytes(plugin.wasm.len());
        self.audited(work, audit, move |transaction, audit| {
            change::add_plugin(transaction.connection, &plugin, audit)
        })
        .await
    }

    async fn activate_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<(), StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            change::activate(transaction.connection, app, version, audit.at)
        })
        .await
    }

    async fn roll_back_plugin(
        &self,
        app: AppId,
        audit: Audit,
    ) -> Result<PluginVersion, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            change::roll_back(transaction.connection, app, audit.at)
        })
        .await
    }

    async fn delete_plugin(
        &self,
        app: AppId,
        version: PluginVersion,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(frees(app), audit, move |transaction, _| {
            change::delete_plugin(transaction.connection, app, version)
        })
        .await
    }

    async fn create_token(&self, token: Token, audit: Audit) -> Result<bool, StoreError> {
        self.audited(
            WriteCost {
                app: token.app,
                ..WriteCost::NONE
            },
            audit,
            move |transaction, audit| {
                change::create_token(transaction.connection, &token, audit.at)
            },
        )
        .await
    }

    async fn revoke_token(
        &self,
        app: Option<AppId>,
        token: TokenId,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(
            WriteCost {
                app,
                ..WriteCost::NONE
            }
            .freeing_space(),
            audit,
            move |transaction, audit| {
                change::revoke_token(transaction.connection, app, token, audit.at)
            },
        )
        .await
    }

    async fn set_trigger(
        &self,
        app: AppId,
        trigger: NewTrigger,
        audit: Audit,
    ) -> Result<Trigger, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            outbox::set(transaction.connection, app, trigger, audit.at)
        })
        .await
    }

    async fn delete_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        must_be_idle: bool,
        audit: Audit,
    ) -> Result<TriggerDeletion, StoreError> {
        self.audited(frees(app), audit, move |transaction, _| {
            outbox::delete(transaction.connection, app, &trigger, must_be_idle)
        })
        .await
    }

    async fn discard_deliveries(
        &self,
        app: AppId,
        which: DeliveryFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(frees(app), audit, move |transaction, audit| {
            outbox::discard_deliveries(transaction, app, &which, limit, audit.at)
        })
        .await
    }

    async fn pause_trigger(
        &self,
        app: AppId,
        trigger: TriggerName,
        paused: bool,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(frees(app), audit, move |transaction, _| {
            outbox::pause(transaction.connection, app, &trigger, paused)
        })
        .await
    }

    async fn run_timer(
        &self,
        app: AppId,
        name: TimerName,
        audit: Audit,
    ) -> Result<bool, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            outbox::run_timer(transaction, app, &name, audit.at)
        })
        .await
    }

    async fn replay(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(WriteCost::of(app), audit, move |transaction, audit| {
            outbox::replay(transaction, app, &letters, limit, audit.at)
        })
        .await
    }

    async fn discard(
        &self,
        app: AppId,
        letters: DeadLetterFilter,
        limit: u32,
        audit: Audit,
    ) -> Result<u64, StoreError> {
        self.audited(frees(app), audit, move |transaction, _| {
            outbox::discard(transaction, app, &letters, limit)
        })
        .await
    }

    async fn generation(&self) -> Result<Generation, StoreError> {
        let read = self.read_short(None, read::generation, || read::generation);
        self.generation.get(read).await
    }

    async fn usage(&self, app: AppId) -> Result<Usage, StoreError> {
        let read = move |conn: &_| read::usage(conn, app);
        self.read_short(Some(app), read, || read).await
    }

    async fn plugins(
        &self,
        app: AppId,
        before: Option<PluginVersion>,
        limit: u32,
    ) -> Result<Vec<PluginRecord>, StoreError> {
        let read = move |conn: &_| read::plugins(conn, app, before, limit);
        self.read_short_of(app, Vec::new, read, || read).await
    }

    async fn plugin(
        &self,
        app: AppId,
        version: PluginVersion,
    ) -> Result<Option<PluginRecord>, StoreError> {
        let read = move |conn: &_| read::plugin(conn, app, version);
        self.read_short_of(app, || None, read, || read).await
    }

    async fn module(&self, digest: Digest) -> Result<Option<Bytes>, StoreError> {
        let readers = Arc::clone(&self.readers);
        let read = move || readers.with(|conn| read::module(conn, digest));
        self.places.run(None, read).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<Token>, StoreError> {
        let read = move |conn: &_| read::token(conn, id);
        self.read_short(None, read, || read).await
    }

    async fn tokens(
        &self,
        app: Option<AppId>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, StoreError> {
        let read = move |conn: &_| read::tokens(conn, app, after, limit);
        self.read_short(None, read, || read).await
    }

    async fn audit(
        &self,
        app: Option<AppId>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Audit>, StoreError> {
        let read = move |conn: &_| read::audit(conn, app, before, limit);
        self.read_short(app, read, || read).await
    }
}
