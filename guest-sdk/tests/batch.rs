//! Batches, increments and reads of several keys follow the rules of a real host.

use kvasm_guest::kv::{self, Batch, Collection, CommitError, Outcome, SetOptions};
use kvasm_guest::{Error, testing};
use serde_json::Value;
use std::time::Duration;

#[allow(clippy::unwrap_used)] // Clippy does not treat a helper as a test.
fn version(collection: &Collection, key: &str) -> u64 {
    let entry = collection.get_entry_bytes(key).unwrap();
    entry.unwrap().version
}

fn conflict(result: Result<Vec<Outcome>, CommitError>) -> Vec<String> {
    match result {
        Err(CommitError::Conflict(failed)) => failed.into_iter().map(|check| check.key).collect(),
        other => panic!("no conflict: {other:?}"),
    }
}

#[test]
fn batch_applies_all_operations_and_returns_results() {
    let (a, b) = (kv::collection("a"), kv::collection("b"));
    a.set("old", &1).unwrap();
    let outcomes = Batch::new()
        .set(&a, "k", "v")
        .set_bytes(&b, "k", [0, 1])
        .increment(&b, "n", 2)
        .increment(&b, "n", 3)
        .delete(&a, "old")
        .delete(&a, "old")
        .commit()
        .unwrap();
    let (set, bytes, second) = (version(&a, "k"), version(&b, "k"), version(&b, "n"));
    assert_eq!(outcomes[0], Outcome::Set { version: set });
    assert_eq!(outcomes[1], Outcome::Set { version: bytes });
    assert!(matches!(outcomes[2], Outcome::Incremented { value: 2, .. }));
    let incremented = Outcome::Incremented {
        version: second,
        value: 5,
    };
    assert_eq!(outcomes[3], incremented);
    assert_eq!(outcomes[4], Outcome::Deleted { existed: true });
    assert_eq!(outcomes[5], Outcome::Deleted { existed: false });
    assert_eq!(b.get_bytes("k"), Ok(Some(vec![0, 1])));
    assert_eq!(Batch::new().commit(), Ok(Vec::new()));
}

#[test]
fn failed_check_aborts_the_batch_and_is_reported() {
    let c = kv::collection("c");
    let first = c.set("a", &1).unwrap();
    c.set("b", &1).unwrap();
    let failed = Batch::new()
        .check_version(&c, "a", first)
        .check_version(&c, "b", first)
        .check_absent(&c, "a")
        .check_absent(&c, "absent")
        .check_version(&c, "gone", first)
        .set(&c, "a", &2)
        .commit();
    let error = Error::from(failed.clone().unwrap_err());
    assert_eq!(conflict(failed), ["b", "a", "gone"]);
    assert!(
        matches!(&error, Error::Conflict(m) if m.contains("\"gone\" of \"c\"")),
        "{error}"
    );
    assert_eq!(c.get("a"), Ok(Some(1)));
}

#[test]
fn checks_see_the_state_before_the_batch() {
    let c = kv::collection("c");
    Batch::new()
        .set(&c, "k", &1)
        .check_absent(&c, "k")
        .commit()
        .unwrap();
    let old = version(&c, "k");
    // A version that options expect is a check like any other.
    let expect = SetOptions::new().if_version(old);
    Batch::new()
        .set_with(&c, "k", &2, expect)
        .set_bytes_with(&c, "k", b"3", expect)
        .commit()
        .unwrap();
    assert_eq!(c.get_bytes("k"), Ok(Some(b"3".to_vec())));
    let failed = Batch::new().set_with(&c, "k", &4, expect).commit();
    assert_eq!(conflict(failed), ["k"]);
    let absent = SetOptions::new().if_absent();
    let failed = Batch::new().set_with(&c, "k", &4, absent).commit();
    assert_eq!(conflict(failed), ["k"]);
}

#[test]
fn failed_operation_rolls_back_the_batch() {
    let c = kv::collection("c");
    c.set("text", "x").unwrap();
    c.set("max", &i64::MAX).unwrap();
    let kinds: [fn(&Error) -> bool; 4] = [
        |e| matches!(e, Error::Type(_)),
        |e| matches!(e, Error::Invalid(_)),
        |e| matches!(e, Error::Invalid(_)),
        |e| matches!(e, Error::TooLarge(_)),
    ];
    let begun = || Batch::new().set(&c, "new", &1).delete(&c, "text");
    let batches = [
        Batch::new().set(&c, "new", &1).increment(&c, "text", 1),
        begun().increment(&c, "max", 1),
        begun().set(&kv::collection(""), "k", &1),
        begun().set(&c, &"k".repeat(1025), &1),
    ];
    for (batch, is_kind) in batches.into_iter().zip(kinds) {
        let error = Error::from(batch.commit().unwrap_err());
        assert!(is_kind(&error), "{error:?}");
        assert_eq!((c.has("new"), c.has("text")), (Ok(false), Ok(true)));
    }
}

#[test]
fn builder_errors_are_returned_by_commit() {
    let c = kv::collection("c");
    let by_tuple = std::collections::BTreeMap::from([((1, 2), 3)]);
    let no_time = SetOptions::new().ttl(Duration::ZERO);
    let encode = Batch::new().set(&c, "a", &1).set(&c, "k", &by_tuple);
    assert!(matches!(
        encode.set_with(&c, "b", &1, no_time).commit(),
        Err(CommitError::Error(Error::Encode(_)))
    ));
    let ttl = Batch::new().set(&c, "a", &1).set_with(&c, "b", &1, no_time);
    assert!(matches!(
        ttl.commit(),
        Err(CommitError::Error(Error::Invalid(_)))
    ));
    assert_eq!(c.has("a"), Ok(false));
}

#[test]
fn batch_set_accepts_a_ttl() {
    let c = kv::collection("c");
    let minute = SetOptions::new().ttl(Duration::from_secs(60));
    Batch::new()
        .set_with(&c, "a", &1, minute)
        .set(&c, "b", &1)
        .commit()
        .unwrap();
    testing::advance(Duration::from_secs(60));
    assert_eq!((c.has("a"), c.has("b")), (Ok(false), Ok(true)));
}

#[test]
fn batch_limits_are_enforced() {
    let c = kv::collection("c");
    let of = |count: usize| {
        (1..count).fold(Batch::new().check_absent(&c, "none"), |batch, n| {
            batch.set(&c, &n.to_string(), &n)
        })
    };
    assert_eq!(of(1000).commit().unwrap().len(), 999);
    assert_eq!(
        of(1001).commit(),
        Err(CommitError::Error(Error::TooLarge(
            "the batch has 1001 parts; the limit is 1000".into()
        )))
    );
    let big = vec![0; 1024 * 1024];
    let five = (0..5).fold(Batch::new(), |batch, n| {
        batch.set_bytes(&c, &n.to_string(), &big)
    });
    assert!(matches!(
        five.commit(),
        Err(CommitError::Error(Error::TooLarge(_)))
    ));
}

#[test]
fn increment_keeps_the_ttl_and_rejects_non_integers() {
    let c = kv::collection("c");
    let minute = SetOptions::new().ttl(Duration::from_secs(60));
    c.set_with("n", &1, minute).unwrap();
    let before = version(&c, "n");
    assert_eq!(c.increment("n", 4), Ok(5));
    assert!(version(&c, "n") > before);
    testing::advance(Duration::from_secs(60));
    // The entry has expired: the count restarts, without an expiry.
    assert_eq!(c.increment("n", 4), Ok(4));
    testing::advance(Duration::from_secs(3600));
    assert_eq!(c.increment("n", -5), Ok(-1));

    c.set_bytes("bytes", b"1").unwrap();
    c.set("text", "1").unwrap();
    c.set("half", &0.5).unwrap();
    for key in ["bytes", "text", "half"] {
        assert!(matches!(c.increment(key, 1), Err(Error::Type(_))), "{key}");
    }
    c.set("min", &i64::MIN).unwrap();
    assert!(matches!(c.increment("min", -1), Err(Error::Invalid(_))));
    assert_eq!(c.get("min"), Ok(Some(i64::MIN)));
    assert!(matches!(c.increment("", 1), Err(Error::Invalid(_))));
    assert_eq!(c.get::<Value>("n"), Ok(Some(Value::from(-1))));
}

#[test]
fn get_many_returns_values_in_request_order() {
    let (a, b) = (kv::collection("a"), kv::collection("b"));
    let first = a.set("k", "A").unwrap();
    b.set_bytes("k", b"B").unwrap();
    let found = kv::get_many_bytes(&[(&b, "k"), (&a, "none"), (&a, "k"), (&b, "k")]).unwrap();
    let values: Vec<_> = found
        .iter()
        .map(|e| e.as_ref().map(|e| e.value.as_slice()))
        .collect();
    assert_eq!(values, [Some(&b"B"[..]), None, Some(b"\"A\""), Some(b"B")]);
    assert_eq!(found[2].as_ref().unwrap().version, first);
    assert!(matches!(
        kv::get_many::<String>(&[(&a, "k"), (&b, "k")]),
        Err(Error::Type(_))
    ));
    assert_eq!(a.get_many::<String>(&["k"]), Ok(vec![Some("A".into())]));
    assert!(matches!(a.get_many::<u32>(&["k"]), Err(Error::Decode(_))));
    assert_eq!(a.get_many::<u32>(&[""; 0]), Ok(Vec::new()));
    assert!(matches!(a.get_many::<u32>(&[""]), Err(Error::Invalid(_))));
    let many = vec!["none"; 1001];
    assert!(a.get_many::<u32>(&many[..1000]).is_ok());
    assert!(matches!(a.get_many::<u32>(&many), Err(Error::TooLarge(_))));
    a.set_bytes("big", vec![0; 1024 * 1024]).unwrap();
    let big = [(&a, "big"); 5];
    assert!(kv::get_many_bytes(&big[..4]).is_ok());
    assert!(matches!(kv::get_many_bytes(&big), Err(Error::TooLarge(_))));
}
