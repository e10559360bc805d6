//! The in-process store follows the rules of a real host.

use kvasm_guest::kv::{self, SetOptions};
use kvasm_guest::{Error, Json, testing};
use serde_json::{Value, json};
use std::time::Duration;

#[allow(clippy::unwrap_used)] // Clippy does not treat a helper as a test.
fn keys(list: kv::List) -> Vec<String> {
    list.keys().collect::<Result<_, _>>().unwrap()
}

#[test]
fn absent_empty_and_null_values_are_distinct() {
    let c = kv::collection("c");
    assert_eq!(c.get::<Value>("k"), Ok(None));
    assert_eq!(c.get_bytes("k"), Ok(None));
    assert_eq!(c.get_entry::<Value>("k"), Ok(None));
    assert_eq!(c.has("k"), Ok(false));
    c.set_bytes("k", []).unwrap();
    assert_eq!(c.get_bytes("k"), Ok(Some(Vec::new())));
    assert_eq!(c.has("k"), Ok(true));
    c.set("k", &Value::Null).unwrap();
    assert_eq!(c.get::<Value>("k"), Ok(Some(Value::Null)));
    c.set("k", "").unwrap();
    assert_eq!(c.get::<String>("k"), Ok(Some(String::new())));
}

#[test]
fn collections_have_separate_key_spaces() {
    kv::collection("a").set("k", &1).unwrap();
    kv::collection("b").set("k", &2).unwrap();
    assert_eq!(kv::collection("a").delete("k"), Ok(true));
    assert_eq!(kv::collection("a").delete("k"), Ok(false));
    assert_eq!(kv::collection("b").get::<i32>("k"), Ok(Some(2)));
}

#[test]
fn invalid_names_are_rejected_by_every_call() {
    let long_collection = "c".repeat(129);
    let long_key = "k".repeat(1025);
    for (collection, key) in [
        ("", "k"),
        ("c\0", "k"),
        (long_collection.as_str(), "k"),
        ("c", ""),
        ("c", "\0"),
        ("c", long_key.as_str()),
    ] {
        let c = kv::collection(collection);
        let errors = [
            c.get::<Value>(key).unwrap_err(),
            c.get_bytes(key).unwrap_err(),
            c.set(key, &1).unwrap_err(),
            c.set_bytes(key, b"x").unwrap_err(),
            c.has(key).unwrap_err(),
            c.delete(key).unwrap_err(),
        ];
        for error in errors {
            let is_long = collection.len().max(key.len()) > 100;
            let expected = if is_long {
                matches!(error, Error::TooLarge(_))
            } else {
                matches!(error, Error::Invalid(_))
            };
            assert!(expected, "{collection:?} {key:?}: {error:?}");
        }
    }
    assert!(matches!(
        kv::collection("").list().page_keys(),
        Err(Error::Invalid(_))
    ));
    let at_limits = kv::collection("c".repeat(128));
    at_limits.set(&"k".repeat(1024), &1).unwrap();
}

#[test]
fn oversized_values_are_rejected() {
    let c = kv::collection("c");
    let mib = 1024 * 1024;
    c.set_bytes("k", vec![0; mib]).unwrap();
    assert_eq!(
        c.set_bytes("k", vec![0; mib + 1]),
        Err(Error::TooLarge(
            "the value is 1048577 bytes; the limit is 1048576 bytes".into()
        ))
    );
    // The quotes are part of the text.
    c.set("k", &"x".repeat(mib - 2)).unwrap();
    assert!(matches!(
        c.set("k", &"x".repeat(mib - 1)),
        Err(Error::TooLarge(_))
    ));
    assert!(matches!(c.set("k", "a\0b"), Err(Error::Invalid(_))));
}

#[test]
fn json_and_byte_values_are_distinct() {
    let c = kv::collection("c");
    c.set_bytes("bytes", b"{}").unwrap();
    assert!(matches!(c.get::<Value>("bytes"), Err(Error::Type(_))));
    assert!(matches!(c.get_entry::<Value>("bytes"), Err(Error::Type(_))));
    c.set("json", &json!({"a": 1})).unwrap();
    assert_eq!(c.get_bytes("json"), Ok(Some(b"{\"a\":1}".to_vec())));
    let Err(Error::Decode(message)) = c.get::<u32>("json") else {
        panic!("an object is no number");
    };
    assert!(message.contains("\"json\""), "{message}");
    let by_tuple = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(c.set("json", &by_tuple), Err(Error::Encode(_))));

    // In a list, the entry that does not fit is an error in its place.
    let entries: Vec<_> = c.list().entries::<Value>().collect();
    assert!(matches!(entries[0], Err(Error::Type(_))));
    assert_eq!(entries[1].as_ref().unwrap().value, json!({"a": 1}));
    assert!(matches!(c.list().page::<Value>(), Err(Error::Type(_))));
    assert_eq!(c.list().page_bytes().unwrap().items[0].value, b"{}");
}

#[test]
fn versions_increase_and_are_never_reused() {
    let c = kv::collection("c");
    let first = c.set("k", &1).unwrap();
    let second = c.set("k", &1).unwrap();
    assert!(second > first);
    c.delete("k").unwrap();
    let third = c.set("k", &1).unwrap();
    assert!(third > second);
    assert_eq!(c.get_entry::<i32>("k").unwrap().unwrap().version, third);
    assert_eq!(c.get_entry_bytes("k").unwrap().unwrap().value, b"1");
}

#[test]
fn preconditions_guard_writes_and_deletes() {
    let c = kv::collection("c");
    let absent = SetOptions::new().if_absent();
    let first = c.set_with("k", &1, absent).unwrap();
    assert!(matches!(
        c.set_with("k", &2, absent),
        Err(Error::Conflict(_))
    ));
    let second = c
        .set_with("k", &2, SetOptions::new().if_version(first))
        .unwrap();
    let stale = SetOptions::new().if_version(first);
    assert!(matches!(
        c.set_with("k", &3, stale),
        Err(Error::Conflict(_))
    ));
    assert!(matches!(
        c.set_bytes_with("k", b"3", stale),
        Err(Error::Conflict(_))
    ));
    assert!(matches!(
        c.set_with("other", &3, stale),
        Err(Error::Conflict(_))
    ));
    assert!(matches!(
        c.delete_if_version("k", first),
        Err(Error::Conflict(_))
    ));
    assert_eq!(c.get::<i32>("k"), Ok(Some(2)));
    assert_eq!(c.delete_if_version("k", second), Ok(()));
    assert!(matches!(
        c.delete_if_version("k", second),
        Err(Error::Conflict(_))
    ));
}

#[test]
fn expired_entry_is_absent_immediately() {
    let c = kv::collection("c");
    let minute = SetOptions::new().ttl(Duration::from_secs(60));
    c.set_with("k", &1, minute).unwrap();
    let entry = c.get_entry::<i32>("k").unwrap().unwrap();
    let expires_at_ms = entry.expires_at_ms.unwrap();
    assert!((expires_at_ms - kvasm_guest::now_ms() - 60_000).abs() < 5_000);
    testing::advance(Duration::from_secs(60));
    assert_eq!(c.get::<i32>("k"), Ok(None));
    assert_eq!(c.has("k"), Ok(false));
    assert!(keys(c.list()).is_empty());
    assert_eq!(c.delete("k"), Ok(false));
    c.set_with("k", &2, minute).unwrap();
    testing::advance(Duration::from_secs(61));
    c.set_with("k", &3, SetOptions::new().if_absent()).unwrap();
    assert_eq!(
        c.get_entry::<i32>("k").unwrap().unwrap().expires_at_ms,
        None
    );
    let none = SetOptions::new().ttl(Duration::ZERO);
    assert!(matches!(c.set_with("k", &4, none), Err(Error::Invalid(_))));
    c.set_with("k", &5, SetOptions::new().ttl(Duration::MAX))
        .unwrap();
    assert_eq!(c.get::<i32>("k"), Ok(Some(5)));
}

#[test]
fn lists_are_filtered_and_ordered_bytewise() {
    let c = kv::collection("c");
    for key in ["b", "a", "ab", "é", "B", "abc", "b0"] {
        c.set(key, &key).unwrap();
    }
    assert_eq!(keys(c.list()), ["B", "a", "ab", "abc", "b", "b0", "é"]);
    assert_eq!(keys(c.list().prefix("ab")), ["ab", "abc"]);
    assert_eq!(keys(c.list().prefix("ab").reverse()), ["abc", "ab"]);
    assert_eq!(keys(c.list().start("ab").end("b")), ["ab", "abc"]);
    assert_eq!(keys(c.list().start("ab").end("b").reverse()), ["abc", "ab"]);
    assert_eq!(keys(c.list().prefix("")), keys(c.list()));
    assert!(keys(c.list().end("")).is_empty());
    assert_eq!(keys(c.list().reverse().limit(2)), ["é", "b0"]);
    assert!(keys(c.list().limit(0)).is_empty());
    let entries: Result<Vec<_>, _> = c.list().prefix("b").entries::<String>().collect();
    assert!(
        entries
            .unwrap()
            .iter()
            .all(|entry| entry.key == entry.value)
    );
}

#[test]
fn pagination_has_no_gaps_under_concurrent_writes() {
    let c = kv::collection("c");
    for n in 0..10 {
        c.set(&format!("k{n}"), &n).unwrap();
    }
    let page = c.list().limit(4).page_keys().unwrap();
    assert_eq!(page.items, ["k0", "k1", "k2", "k3"]);
    c.delete("k3").unwrap();
    c.delete("k4").unwrap();
    c.set("k00", &0).unwrap();
    let page = c
        .list()
        .limit(4)
        .cursor(page.cursor.unwrap())
        .page_keys()
        .unwrap();
    assert_eq!(page.items, ["k5", "k6", "k7", "k8"]);
    let page = c
        .list()
        .limit(4)
        .cursor(page.cursor.unwrap())
        .page_keys()
        .unwrap();
    assert_eq!((page.items, page.cursor), (vec!["k9".to_owned()], None));
}

#[test]
fn cursor_of_another_list_is_rejected() {
    let c = kv::collection("c");
    for key in ["a1", "a2", "a3"] {
        c.set(key, &0).unwrap();
        kv::collection("d").set(key, &0).unwrap();
    }
    let cursor = c.list().limit(1).page_keys().unwrap().cursor.unwrap();
    assert_eq!(
        c.list().cursor(cursor.clone()).page_keys().unwrap().items,
        ["a2", "a3"]
    );
    for list in [
        kv::collection("d").list(),
        c.list().prefix("a"),
        c.list().start("a"),
        c.list().end("b"),
        c.list().reverse(),
    ] {
        let error = list.cursor(cursor.clone()).page_keys().unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
    for at in 0..cursor.as_bytes().len() {
        let mut edited = cursor.as_bytes().to_vec();
        edited[at] ^= 1;
        let list = c.list().cursor(kv::Cursor::from_bytes(edited));
        assert!(matches!(list.page_keys(), Err(Error::Invalid(_))));
    }
}

#[test]
fn page_limits_hold_and_iterators_fetch_further_pages() {
    let c = kv::collection("c");
    for n in 0..2500 {
        c.set(&format!("{n:04}"), &n).unwrap();
    }
    let page = c.list().page_keys().unwrap();
    assert_eq!(page.items.len(), 1000);
    assert!(page.cursor.is_some());
    for limit in [0, 1001, usize::MAX] {
        assert!(matches!(
            c.list().limit(limit).page_keys(),
            Err(Error::Invalid(_))
        ));
    }
    let numbers: Result<Vec<u32>, _> = c.list().entries().map(|e| e.map(|e| e.value)).collect();
    assert_eq!(numbers.unwrap(), (0..2500).collect::<Vec<u32>>());
    assert_eq!(keys(c.list().limit(1700)).len(), 1700);

    let big = kv::collection("big");
    for n in 0..5 {
        big.set_bytes(&n.to_string(), vec![n; 400_000]).unwrap();
    }
    let page = big.list().page_bytes().unwrap();
    // The entry that reaches 1 MiB is the last one.
    assert_eq!(page.items.len(), 3);
    assert!(page.cursor.is_some());
    assert_eq!(big.list().entries_bytes().count(), 5);
    assert_eq!(big.list().page_keys().unwrap().items.len(), 5);
}

#[test]
fn each_test_thread_has_its_own_store() {
    kv::collection("c").set("k", &1).unwrap();
    let seen = std::thread::spawn(|| kv::collection("c").has("k"))
        .join()
        .unwrap();
    assert_eq!(seen, Ok(false));
    testing::reset();
    assert_eq!(kv::collection("c").has("k"), Ok(false));
}

#[test]
fn update_keeps_the_expiry_and_creates_an_absent_entry() {
    let c = kv::collection("c");
    let grow = |key: &str| {
        c.update(key, |n: &mut Option<u32>| {
            let n = n.get_or_insert(0);
            *n += 1;
            *n
        })
    };
    assert_eq!(grow("plain"), Ok(1));
    assert_eq!(grow("plain"), Ok(2));
    assert_eq!(
        c.get_entry::<u32>("plain").unwrap().unwrap().expires_at_ms,
        None
    );
    let options = SetOptions::new().ttl(Duration::from_secs(60));
    c.set_with("expiring", &5, options).unwrap();
    let expiry = || {
        c.get_entry::<u32>("expiring")
            .unwrap()
            .unwrap()
            .expires_at_ms
            .unwrap()
    };
    let before = expiry();
    testing::advance(Duration::from_secs(30));
    assert_eq!(grow("expiring"), Ok(6));
    // Two readings of the clock may differ.
    assert!((expiry() - before).abs() < 1_000, "{before} {}", expiry());
    testing::advance(Duration::from_secs(31));
    assert_eq!(c.has("expiring"), Ok(false));
    c.set_bytes("bytes", b"x").unwrap();
    assert!(matches!(grow("bytes"), Err(Error::Type(_))));
    assert!(matches!(grow(""), Err(Error::Invalid(_))));
    // `None` deletes the entry.
    assert_eq!(c.update("plain", Option::<u32>::take), Ok(Some(2)));
    assert_eq!(c.update("plain", Option::<u32>::take), Ok(None));
    assert_eq!(c.has("plain"), Ok(false));
}

#[test]
fn first_last_and_count_follow_the_list() {
    let c = kv::collection("c");
    assert_eq!(c.list().first::<u32>(), Ok(None));
    for n in 0..1_500_u32 {
        c.set(&format!("{n:04}"), &n).unwrap();
    }
    let value = |entry: Option<kv::Entry<u32>>| entry.unwrap().value;
    assert_eq!(value(c.list().first().unwrap()), 0);
    assert_eq!(value(c.list().reverse().first().unwrap()), 1_499);
    assert_eq!(value(c.list().prefix("07").first().unwrap()), 700);
    assert_eq!(c.list().count(), Ok(1_500));
    assert_eq!(c.list().prefix("07").count(), Ok(100));
    assert_eq!(c.list().limit(7).count(), Ok(7));
    let page = c.list().limit(2).cursor(None).page::<u32>().unwrap();
    let next = c.list().limit(2).cursor(page.cursor).page::<u32>().unwrap();
    assert_eq!(next.items[0].value, 2);
}

/// `serde_json` writes `null` for a number that JSON lacks, which would be read as another type.
#[test]
fn numbers_that_json_lacks_are_refused_in_sets_batches_timers_and_outputs() {
    let place = [("mean", [1.0, f64::NAN])];
    let place: std::collections::BTreeMap<_, _> = place.into();
    let shops = kv::collection("shops");
    let error = shops.set("a", &place).unwrap_err();
    let why = "cannot be written as JSON: at mean[1]: NaN is not a number in JSON";
    assert_eq!(error, Error::Encode(format!("the value for \"a\" {why}")));
    let error = kv::Batch::new()
        .set(&shops, "b", &place)
        .commit()
        .unwrap_err();
    assert!(error.to_string().ends_with(why), "{error}");
    let error = kvasm_guest::timer::set_at("t", 0, &place).unwrap_err();
    assert_eq!(
        error,
        Error::Encode(format!("the payload of the timer \"t\" {why}"))
    );
    let output = testing::try_call(mean, "").unwrap_err();
    assert!(
        output
            .message()
            .ends_with("-infinity is not a number in JSON"),
        "{output:?}"
    );
    assert_eq!(shops.list().count().unwrap(), 0);
}

#[kvasm_guest::function]
fn mean(_: kvasm_guest::Bytes) -> Json<f64> {
    Json(f64::NEG_INFINITY)
}

#[test]
fn value_of_another_type_is_an_error_with_key_type_and_place() {
    let shops = kv::collection("shops");
    shops
        .set("a", &serde_json::json!({ "open": [9, "noon"] }))
        .unwrap();
    let open = shops.get::<std::collections::BTreeMap<String, [u8; 2]>>("a");
    let error = open.unwrap_err().to_string();
    let start = "the value of \"a\" is no alloc::collections::btree::map::BTreeMap<";
    assert!(error.starts_with(start), "{error}");
    assert!(
        error.contains(": at open[1]: invalid type: string \"noon\""),
        "{error}"
    );
}
