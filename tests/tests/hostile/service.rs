//! Scope checks and dispatcher notifications of the key-value service, called as host functions
//! call it.

use kvasm::metrics::Metrics;
use kvasm::model::{
    AppId, Batch, Capability, Changes, Check, Collection, Expect, Key, Limits, NewTrigger, Op,
    Policy, Principal, Scope, Target, TriggerName, Value, Watch,
};
use kvasm::service::{Caller, CommitListener, Kv, KvService, List, ServiceError, Transaction};
use kvasm_tests::guests::TestHost;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

fn collection() -> Collection {
    Collection::parse("c").unwrap()
}

fn key(name: &str) -> Key {
    Key::parse(name).unwrap()
}

fn number() -> Value {
    Value::json("1", 10).unwrap()
}

fn write(name: &str) -> Op {
    Op::Set {
        collection: collection(),
        key: key(name),
        value: number(),
        expires_at: None,
    }
}

fn set(name: &str) -> Op {
    Op::Set {
        collection: collection(),
        key: key(name),
        value: number(),
        expires_at: None,
    }
}

fn batch(ops: Vec<Op>) -> Batch {
    Batch::of(ops)
}

/// Calls each method. Returns its name, the scope that it needs, and its result.
async fn call_all(
    kv: &dyn Kv,
    caller: &Caller,
) -> Vec<(&'static str, Scope, Result<(), ServiceError>)> {
    let (c, k) = (collection(), key("k"));
    let (read, write_) = (Scope::ScriptRead, Scope::ScriptWrite);
    let looks = Batch {
        checks: vec![Check {
            collection: c.clone(),
            key: key("absent"),
            expect: Expect::Absent,
        }],
        ..Batch::default()
    };
    let keys = [(c.clone(), k.clone())];
    let many = vec![write("k"), write("l")];
    vec![
        ("get", read, kv.get(caller, &c, &k).await.map(drop)),
        ("has", read, kv.has(caller, &c, &k).await.map(drop)),
        ("get_many", read, kv.get_many(caller, &keys).await.map(drop)),
        (
            "list",
            read,
            kv.list(caller, List::all(c.clone())).await.map(drop),
        ),
        (
            "collections",
            read,
            kv.collections(caller, None, 10).await.map(drop),
        ),
        (
            "commit of checks",
            read,
            kv.commit(caller, looks).await.map(drop),
        ),
        (
            "set",
            write_,
            kv.apply(caller, write("k"), None).await.map(drop),
        ),
        (
            "set many",
            write_,
            kv.commit(caller, batch(many)).await.map(drop),
        ),
        (
            "delete",
            write_,
            kv.delete(caller, (c.clone(), k.clone()), None)
                .await
                .map(drop),
        ),
        (
            "increment",
            write_,
            kv.increment(caller, (c, k), 1).await.map(drop),
        ),
        (
            "commit",
            write_,
            kv.commit(caller, batch(vec![set("k")])).await.map(drop),
        ),
    ]
}

/// The service itself, and a transaction over it.
#[tokio::test]
async fn kv_methods_require_their_scope_for_a_principal() {
    let bench = TestHost::new().await;
    let app = &bench.app;
    let kv = bench.host.kv();
    let run = Transaction::new(Arc::clone(kv), &Limits::default());
    let services: [(&str, &dyn Kv); 2] = [("service", kv.as_ref()), ("transaction", &run)];
    for (of, kv) in services {
        for (method, _, answer) in call_all(kv, &Caller::new(app, None)).await {
            answer.unwrap_or_else(|error| panic!("{of} {method}: {error}"));
        }
        for scope in Scope::ALL {
            let own = Principal::for_app(app.id, [scope]);
            for (method, needed, answer) in call_all(kv, &Caller::new(app, Some(own))).await {
                match answer {
                    Ok(()) => assert_eq!(scope, needed, "{of} {method} was let in"),
                    Err(ServiceError::Denied(capability)) => {
                        assert_ne!(scope, needed, "{of} {method}");
                        assert_eq!(capability.scope(), needed, "{of} {method}");
                        assert_eq!(capability.app(), Some(app.id), "{of} {method}");
                    }
                    Err(error) => panic!("{of} {method} {scope}: {error}"),
                }
            }
        }
        let foreign = Principal::for_app(AppId::generate(), Scope::ALL);
        for (method, _, answer) in call_all(kv, &Caller::new(app, Some(foreign))).await {
            let denied = matches!(
                answer,
                Err(ServiceError::Denied(
                    Capability::AppKvRead(_) | Capability::AppKvWrite(_)
                ))
            );
            assert!(denied, "{of} {method}: {answer:?}");
        }
    }
}

/// Counts notifications.
#[derive(Default)]
struct NotificationCount(AtomicU32);

impl CommitListener for NotificationCount {
    fn committed(&self, _: AppId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn only_writes_that_fire_triggers_notify_the_dispatcher() {
    let bench = TestHost::new().await;
    let (store, app) = (Arc::clone(bench.host.store()), &bench.app);
    let trigger = NewTrigger {
        name: TriggerName::parse("t").unwrap(),
        watch: Watch::Changes(Changes {
            collection: collection(),
            prefix: "k".to_owned(),
            set: true,
            delete: true,
        }),
        target: Target::function("run"),
        policy: Policy::default(),
    };
    let actor = bench.host.operator("a test");
    let set_trigger = bench.host.admin().set_trigger(&actor, app, trigger);
    set_trigger.await.unwrap();
    let heard = Arc::new(NotificationCount::default());
    let kv = KvService::new(
        Arc::clone(&store),
        Arc::clone(&heard) as Arc<dyn CommitListener>,
        Metrics::default(),
        &Limits::default(),
    );
    let caller = Caller::new(app, None);
    let outstanding = async || store.deliveries(app.id, None, 100).await.unwrap().len();
    let (c, k) = (collection(), key("k"));
    kv.apply(&caller, write("other"), None).await.unwrap();
    assert_eq!(
        (outstanding().await, heard.0.load(Ordering::SeqCst)),
        (0, 0)
    );
    for (hints, write) in (1..).zip(0..5) {
        match write {
            0 => drop(kv.apply(&caller, self::write("k"), None).await.unwrap()),
            1 => drop(
                kv.commit(&caller, batch(vec![self::write("k")]))
                    .await
                    .unwrap(),
            ),
            2 => drop(
                kv.increment(&caller, (c.clone(), k.clone()), 1)
                    .await
                    .unwrap(),
            ),
            3 => drop(kv.commit(&caller, batch(vec![set("k")])).await.unwrap()),
            _ => drop(
                kv.delete(&caller, (c.clone(), k.clone()), None)
                    .await
                    .unwrap(),
            ),
        }
        let heard = heard.0.load(Ordering::SeqCst);
        assert_eq!(
            (outstanding().await, heard),
            (hints, hints as u32),
            "{write}"
        );
    }
}
