//! A rollback leaves no traces in the database or in memory.

use super::*;
use crate::outbox;
use kvasm_core::store::{Outbox, Registry};
use kvasm_core::{
    AppId, AppName, Batch, Changes, Collection, Commit, Key, NewTrigger, Op, Policy, Target,
    TriggerName, Usage, Value, Watch,
};

impl Fixture {
    pub(super) async fn app(&self, name: &str) -> AppId {
        let host =
            kvasm_host::Host::builder().shared_store(Arc::clone(&self.store) as Arc<dyn Store>);
        let name = AppName::parse(name).unwrap();
        host.build().unwrap().create_app(name).await.unwrap().id
    }

    async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut WriteTransaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.writer.run(WriteCost::NONE, run).await
    }

    async fn used(&self, app: AppId) -> Usage {
        Registry::usage(&*self.store, app).await.unwrap()
    }

    /// Changes both collections: the trigger of the first one is gone, and the trigger of the
    /// second one gets a delivery.
    async fn has_kept_alone(&self, app: AppId) {
        for collection in ["gone", "kept"] {
            self.store.commit(set(app, collection)).await.unwrap();
        }
        assert_eq!(self.heard(app).await, ["kept"]);
    }

    /// The collections of the entries whose changes created deliveries.
    async fn heard(&self, app: AppId) -> Vec<String> {
        let deliveries = self.store.deliveries(app, None, 10).await.unwrap();
        let of = deliveries.iter().map(|d| d.place.trigger.to_string());
        of.collect()
    }
}

fn count(
    transaction: &mut WriteTransaction<'_>,
    app: AppId,
    entries: i64,
) -> Result<(), StoreError> {
    transaction.tally.open(transaction.connection, app)?;
    let delta = UsageDelta {
        entries,
        bytes: 10 * entries,
        deliveries: 0,
    };
    transaction.tally.add(app, delta);
    Ok(())
}

/// A trigger that watches the collection of the same name.
fn trigger(name: &str) -> NewTrigger {
    NewTrigger {
        name: TriggerName::parse(name).unwrap(),
        watch: Watch::Changes(Changes {
            collection: Collection::parse(name).unwrap(),
            prefix: String::new(),
            set: true,
            delete: true,
        }),
        target: Target::function("f"),
        policy: Policy::default(),
    }
}

fn set(app: AppId, collection: &str) -> Commit {
    let set = Op::Set {
        collection: Collection::parse(collection).unwrap(),
        key: Key::parse("k").unwrap(),
        value: Value::json("1", 10).unwrap(),
        expires_at: None,
    };
    Commit::new(app, Timestamp(1), Batch::of(vec![set]))
}

/// Creates a trigger, and reads the watchers including it.
fn watch(transaction: &mut WriteTransaction<'_>, app: AppId, name: &str) -> Result<(), StoreError> {
    outbox::set(transaction.connection, app, trigger(name), Timestamp(1))?;
    transaction.tally.open(transaction.connection, app)?;
    assert!(transaction.watches(&set(app, name))?);
    Ok(())
}

#[tokio::test]
async fn failed_usage_updates_are_written_later() {
    let stage = stage().await;
    let (one, two) = (stage.app("one").await, stage.app("two").await);
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON app_usage
         WHEN OLD.app_id = x'{}' AND (SELECT at FROM health) = 1
         BEGIN SELECT RAISE(ABORT, 'refused'); END",
        two.uuid().simple()
    );
    stage.other_process().execute_batch(&refuse).unwrap();
    let run = move |transaction: &mut WriteTransaction<'_>| {
        count(transaction, one, 1)?;
        count(transaction, two, 2)?;
        write(1)(transaction)?;
        let written = transaction.tally.write(transaction.connection);
        assert!(written.is_err(), "the write is refused");
        write(-1)(transaction)
    };
    stage.run(run).await.unwrap();
    assert_eq!(stage.used(one).await.entries, 1);
    assert_eq!(stage.used(two).await.entries, 2);
}

/// The row that was read was never committed.
#[tokio::test]
async fn savepoint_rollback_discards_cached_usage() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let run = move |transaction: &mut WriteTransaction<'_>| {
        let failed: Result<(), _> = transaction.atomically(|transaction| {
            let update = "UPDATE app_usage SET entries = 100";
            transaction.connection.execute(update, []).unwrap();
            transaction.tally.open(transaction.connection, app)?;
            Err(error::host("a later statement failed"))
        });
        assert!(failed.is_err());
        count(transaction, app, 1)
    };
    stage.run(run).await.unwrap();
    assert_eq!(stage.used(app).await.entries, 1);
}

/// Without the savepoint, the state of the transaction is unknown.
#[tokio::test]
async fn failed_savepoint_release_aborts_the_transaction() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let run = move |transaction: &mut WriteTransaction<'_>| {
        let ended: Result<(), _> = transaction.atomically(|transaction| {
            count(transaction, app, 1)?;
            write(7)(transaction)?;
            transaction
                .connection
                .execute_batch("RELEASE whole")
                .unwrap();
            Err(error::host("a later statement failed"))
        });
        assert!(ended.is_err());
        Ok(())
    };
    let lost = stage.run(run).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    assert_eq!(stage.at(), 0);
    assert_eq!(stage.used(app).await.entries, 0);
    stage.run(write(5)).await.unwrap();
    assert_eq!(stage.at(), 5);
}

/// Their generation is reused for other triggers.
#[tokio::test]
async fn savepoint_rollback_discards_cached_watchers() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let run = move |transaction: &mut WriteTransaction<'_>| {
        let failed: Result<(), _> = transaction.atomically(|transaction| {
            watch(transaction, app, "gone")?;
            Err(error::host("the audit row failed"))
        });
        assert!(failed.is_err());
        outbox::set(transaction.connection, app, trigger("kept"), Timestamp(1)).map(drop)
    };
    stage.run(run).await.unwrap();
    stage.has_kept_alone(app).await;
}

#[tokio::test]
async fn failed_commit_discards_cached_watchers() {
    let stage = stage().await;
    let app = stage.app("app").await;
    let run = move |transaction: &mut WriteTransaction<'_>| {
        watch(transaction, app, "gone")?;
        transaction.poisoned = true;
        Ok(())
    };
    let lost = stage.run(run).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    let run = move |transaction: &mut WriteTransaction<'_>| {
        outbox::set(transaction.connection, app, trigger("kept"), Timestamp(1)).map(drop)
    };
    stage.run(run).await.unwrap();
    stage.has_kept_alone(app).await;
}

/// The reasons are in decision 1.
#[tokio::test]
async fn commit_is_synced_before_it_is_acknowledged() {
    let stage = stage().await;
    let run = |transaction: &mut WriteTransaction<'_>| {
        let number = |pragma| {
            let value = transaction
                .connection
                .pragma_query_value(None, pragma, |row| row.get(0));
            value.unwrap_or(-1_i64)
        };
        let mode = transaction
            .connection
            .pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        Ok((number("synchronous"), number("foreign_keys"), mode.unwrap()))
    };
    const FULL: i64 = 2;
    let found = stage.run(run).await.unwrap();
    assert_eq!(found, (FULL, 1, "wal".to_owned()));
}
