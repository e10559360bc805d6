//! Transactions and handlers of the in-process host are atomic.

use kvasm_guest::kv::{self, Batch};
use kvasm_guest::{
    Bytes, Caller, Change, ChangeKind, Error, HandlerError, Permanent, ScheduledRun, testing,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

const PROVISIONAL: u64 = 1 << 62;

#[test]
fn committed_transaction_assigns_final_versions() {
    let c = kv::collection("c");
    let before = c.set("a", &1).unwrap();
    let seen = testing::transaction(|| {
        assert!(kvasm_guest::context()?.transaction);
        let first = c.set("b", &1)?;
        let second = c.set("a", &2)?;
        // Its own writes can be read, at the versions that it was given.
        assert_eq!(c.get_entry::<i32>("a")?.map(|e| e.version), Some(second));
        Batch::new()
            .check_version(&c, "b", first)
            .set(&c, "d", &1)
            .commit()?;
        c.delete("d")?;
        Ok::<_, Error>([first, second])
    })
    .unwrap();
    assert!(PROVISIONAL <= seen[0] && seen[0] < seen[1], "{seen:?}");
    let version = |key| c.get_entry::<i32>(key).unwrap().unwrap().version;
    // The commit writes in the order of the keys.
    assert!(before < version("a") && version("a") < version("b") && version("b") < PROVISIONAL);
    assert_eq!(c.has("d"), Ok(false));
    assert!(c.set("e", &1).unwrap() < PROVISIONAL);
    assert!(!kvasm_guest::context().unwrap().transaction);
}

#[test]
fn failed_or_panicked_transaction_is_rolled_back() {
    let c = kv::collection("c");
    let kept = c.set("a", &1).unwrap();
    let write = || {
        c.set("a", &2)?;
        c.increment("n", 1)?;
        Ok::<_, Error>(())
    };
    let failed = testing::transaction(|| {
        write()?;
        c.set("", &1)
    });
    assert!(failed.is_err());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        testing::transaction(|| {
            write()?;
            panic!("a trap");
            #[allow(unreachable_code)]
            Ok::<_, Error>(())
        })
    }));
    assert!(panicked.is_err());
    let entry = c.get_entry::<i32>("a").unwrap().unwrap();
    assert_eq!((entry.value, entry.version), (1, kept));
    assert_eq!(c.has("n"), Ok(false));
    assert!(!kvasm_guest::context().unwrap().transaction);
}

#[test]
fn nested_transaction_joins_the_outer_one() {
    let c = kv::collection("c");
    let outer = testing::transaction(|| {
        c.set("a", &1)?;
        testing::transaction(|| c.set("b", &1))?;
        let _: Result<(), Error> = testing::transaction(|| {
            c.set("c", &1)?;
            Err(Error::Invalid("no".into()))
        });
        assert_eq!((c.has("b"), c.has("c")), (Ok(true), Ok(false)));
        assert!(c.set("a", &2)? > PROVISIONAL);
        Err::<(), _>(Error::Invalid("no".into()))
    });
    assert!(outer.is_err());
    assert_eq!((c.has("a"), c.has("b")), (Ok(false), Ok(false)));
}

#[test]
fn handler_receives_change_and_context() {
    let seen = |change: Change<i32>| {
        let context = kvasm_guest::context().map_err(Permanent)?;
        assert!(context.traceparent.is_some());
        let trigger = context
            .trigger
            .ok_or(Permanent(Error::Internal("no trigger".into())))?;
        assert_eq!(
            (context.caller, context.transaction),
            (Caller::Trigger, true)
        );
        assert_eq!(
            (trigger.name.as_str(), trigger.event_id.as_str()),
            ("t", "e")
        );
        assert_eq!((trigger.attempt, trigger.depth), (3, 2));
        assert_eq!((change.kind, change.value), (ChangeKind::Set, Some(5)));
        Ok::<(), Permanent<Error>>(())
    };
    let mut change = Change::set("c", "k", 5);
    (change.trigger, change.event_id) = ("t".into(), "e".into());
    (change.attempt, change.depth) = (3, 2);
    testing::change(seen, change).unwrap();
    let after = kvasm_guest::context().unwrap();
    assert_eq!((after.caller, after.trigger), (Caller::Public, None));
}

#[test]
fn failed_handler_is_rolled_back_and_reports_retryability() {
    let c = kv::collection("c");
    let fail = |permanent: bool| {
        move |change: Change<Bytes>| -> Result<(), HandlerError> {
            kv::collection("c").set(&change.key, &1)?;
            if permanent {
                return Err(Permanent("for good").into());
            }
            Err("for now".into())
        }
    };
    let change = || Change::set("c", "k", Bytes(vec![0]));
    for (permanent, message) in [(true, "for good"), (false, "for now")] {
        let error = testing::change(fail(permanent), change()).unwrap_err();
        assert_eq!(
            (error.is_permanent(), error.message()),
            (permanent, message)
        );
        assert_eq!(c.has("k"), Ok(false));
    }
    let deleted = testing::change(fail(true), Change::delete("c", "k"));
    assert!(deleted.is_err());
    let tick = |run: ScheduledRun| c.set("at", &run.at_ms).map(|_| ());
    testing::scheduled(tick, ScheduledRun::at(7)).unwrap();
    assert_eq!(c.get("at"), Ok(Some(7)));
}

#[test]
fn part_of_a_call_is_a_transaction() {
    let c = kv::collection("c");
    c.set("before", &1).unwrap();
    let failed: Result<(), Error> = kv::transaction(|| {
        c.set("a", &1)?;
        assert!(kvasm_guest::context()?.transaction);
        Err(Error::Invalid("no".into()))
    });
    assert!(failed.is_err());
    assert_eq!((c.has("before"), c.has("a")), (Ok(true), Ok(false)));
    let versions = kv::transaction(|| {
        let first = c.set("a", &1)?;
        let nested: Result<(), Error> = kv::transaction(|| {
            assert!(c.set("b", &1)? > first);
            Err(Error::Invalid("no".into()))
        });
        assert!(nested.is_err());
        kv::transaction(|| c.set("c", &1).map(drop))?;
        Ok::<_, Error>([first, c.set("d", &1)?])
    });
    // The version that the undone part was given is not assigned again.
    let [first, last] = versions.unwrap();
    assert_eq!(last - first, 3);
    let there = ["a", "b", "c", "d"].map(|key| c.has(key).unwrap());
    assert_eq!(there, [true, false, true, true]);
    assert!(c.get_entry::<i32>("d").unwrap().unwrap().version < PROVISIONAL);
    assert!(!kvasm_guest::context().unwrap().transaction);
}

#[test]
fn panic_in_a_part_rolls_it_back() {
    let c = kv::collection("c");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        kv::transaction(|| {
            c.set("a", &1)?;
            kv::transaction(|| {
                c.set("b", &1)?;
                panic!("a trap");
                #[allow(unreachable_code)]
                Ok::<_, Error>(())
            })
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((c.has("a"), c.has("b")), (Ok(false), Ok(false)));
    // The next call is not within it.
    assert!(!kvasm_guest::context().unwrap().transaction);
    assert!(c.set("a", &1).unwrap() < PROVISIONAL);
}

#[test]
fn transactions_are_nested_to_a_limit() {
    fn nest(levels: usize) -> Result<(), Error> {
        kv::transaction(|| match levels {
            1 => Ok(()),
            _ => nest(levels - 1),
        })
    }
    assert_eq!(nest(4), Ok(()));
    assert!(matches!(nest(5), Err(Error::Invalid(_))));
    assert!(matches!(
        testing::transaction(|| nest(4)),
        Err(Error::Invalid(_))
    ));
    assert_eq!(testing::transaction(|| nest(3)), Ok(()));
}

/// A function with an input that cannot be cloned, and one without an input.
mod functions {
    use kvasm_guest::{Error, Json, kv};

    #[derive(serde::Deserialize)]
    pub struct Payment {
        pub to: String,
        pub fails: bool,
    }

    #[kvasm_guest::function(transaction)]
    pub fn pay(Json(payment): Json<Payment>) -> Result<Json<bool>, Error> {
        let c = kv::collection("c");
        c.increment(&payment.to, 1)?;
        if payment.fails {
            return Err(Error::Invalid("no".into()));
        }
        Ok(Json(kvasm_guest::context()?.transaction))
    }

    #[kvasm_guest::function(transaction)]
    pub fn tidy() -> Result<(), Error> {
        kv::collection("c").delete("a").map(drop)
    }
}

#[test]
fn transactional_function_is_one_wherever_it_is_called() {
    use functions::{Payment, pay, tidy};
    use kvasm_guest::Json;
    let c = kv::collection("c");
    let pay_to = |fails| {
        let to = "a".to_owned();
        pay(Json(Payment { to, fails }))
    };
    assert_eq!(pay_to(false).unwrap(), Json(true));
    assert!(pay_to(true).is_err());
    assert_eq!(c.get("a"), Ok(Some(1)));
    // Within another one it is a part of that.
    let outer = kv::transaction(|| {
        pay_to(false)?;
        assert!(pay_to(true).is_err());
        assert_eq!(c.get("a"), Ok(Some(2)));
        Err::<(), _>(Error::Invalid("no".into()))
    });
    assert!(outer.is_err());
    assert_eq!(c.get("a"), Ok(Some(1)));
    tidy().unwrap();
    assert_eq!(c.has("a"), Ok(false));
    let called = testing::call(pay, r#"{"to":"a","fails":true}"#);
    assert!(called.is_err());
    assert_eq!(c.has("a"), Ok(false));
}
