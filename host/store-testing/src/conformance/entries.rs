//! One entry: set, read, replaced, deleted.

use super::Kit;
use super::kit::{NOW, VALUE_BYTES_MAX, bytes, json};
use kvasm_core::{COLLECTION_BYTES_MAX, KEY_BYTES_MAX, Value};

pub async fn get_returns_the_value_that_was_set(kit: Kit) {
    let app = kit.app().await;
    assert!(!app.has("notes", "a").await);
    assert_eq!(app.get("notes", "a").await, None);
    let version = app.set("notes", "a", bytes("hello")).await;
    assert!(version.0 >= 1);
    assert!(app.has("notes", "a").await);
    let entry = app.get("notes", "a").await.unwrap();
    assert_eq!(entry.value, bytes("hello"));
    assert_eq!(entry.version, version);
    assert_eq!(entry.created_at, NOW);
    assert_eq!(entry.updated_at, NOW);
    assert_eq!(entry.expires_at, None);
}

pub async fn absent_empty_and_null_are_distinct(kit: Kit) {
    let app = kit.app().await;
    let values = [
        bytes(""),
        json("null"),
        json("\"\""),
        json("{}"),
        bytes("null"),
    ];
    for (at, value) in values.iter().enumerate() {
        let key = format!("k{at}");
        assert_eq!(app.get("c", &key).await, None);
        app.set("c", &key, value.clone()).await;
        assert!(app.has("c", &key).await);
        assert_eq!(app.value("c", &key).await.as_ref(), Some(value));
    }
}

pub async fn overwrite_replaces_value_and_format(kit: Kit) {
    let app = kit.app().await;
    for value in [
        bytes("1"),
        json("1"),
        json("[2]"),
        bytes([0, 255]),
        bytes(""),
    ] {
        app.set("c", "k", value.clone()).await;
        assert_eq!(app.value("c", "k").await, Some(value));
    }
    assert_eq!(app.keys("c").await, ["k"]);
}

pub async fn created_and_updated_times_are_kept(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "k", bytes("1")).await;
    let later = app.later(10);
    later.set("c", "k", bytes("2")).await;
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!((entry.created_at, entry.updated_at), (app.now, later.now));
    let again = app.later(20);
    assert!(again.delete("c", "k").await);
    again.set("c", "k", bytes("3")).await;
    let entry = app.get("c", "k").await.unwrap();
    assert_eq!((entry.created_at, entry.updated_at), (again.now, again.now));
}

pub async fn same_key_in_two_collections_is_two_entries(kit: Kit) {
    let app = kit.app().await;
    // Pairs that are the same text when simply concatenated.
    let pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc", "d"),
        ("a", "d"),
        ("a/", "b"),
        ("a", "/b"),
    ];
    for (at, (c, k)) in pairs.iter().enumerate() {
        app.set(c, k, bytes([at as u8])).await;
    }
    for (at, (c, k)) in pairs.iter().enumerate() {
        assert_eq!(app.value(c, k).await, Some(bytes([at as u8])));
    }
    assert_eq!(app.keys("a").await, ["/b", "bc", "d"]);
    assert!(app.delete("a", "bc").await);
    assert!(app.has("ab", "c").await);
}

pub async fn delete_reports_whether_the_entry_existed(kit: Kit) {
    let app = kit.app().await;
    assert!(!app.delete("c", "k").await);
    app.set("c", "k", json("0")).await;
    assert!(app.delete("c", "k").await);
    assert_eq!(app.get("c", "k").await, None);
    assert!(!app.has("c", "k").await);
    assert!(!app.delete("c", "k").await);
}

/// Keys that a comparison could confuse with each other.
pub const ODD_KEYS: &[&str] = &[
    " ",
    "  ",
    "a",
    "A",
    "a ",
    "a\u{1}",
    "a\u{7f}",
    "a\u{80}",
    "a\u{301}",
    "á",
    "Z",
    "z",
    "ä",
    "ß",
    "ss",
    "ı",
    "i",
    "%",
    "_",
    "\\",
    "'",
    "\"",
    "';--",
    "$1",
    "\u{1}",
    "\n",
    "\u{200b}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{ffff}",
    "\u{10000}",
    "\u{10ffff}",
    "👩‍👩‍👧",
    "null",
    "0",
    "00",
];

pub async fn similar_keys_are_distinct(kit: Kit) {
    let app = kit.app().await;
    for odd in ODD_KEYS {
        app.set("c", odd, bytes(odd)).await;
        app.set(odd, "k", bytes(odd)).await;
    }
    for odd in ODD_KEYS {
        assert_eq!(app.value("c", odd).await, Some(bytes(odd)), "key {odd:?}");
        assert_eq!(
            app.value(odd, "k").await,
            Some(bytes(odd)),
            "collection {odd:?}"
        );
    }
    for (at, odd) in ODD_KEYS.iter().enumerate() {
        assert!(app.delete("c", odd).await, "key {odd:?}");
        assert_eq!(app.keys("c").await.len(), ODD_KEYS.len() - at - 1);
    }
}

pub async fn entry_of_maximum_size_round_trips(kit: Kit) {
    let app = kit.app().await;
    let mut rng = kit.rng();
    // One value compresses to nothing and one does not: the index holds both.
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    let mut random = |len: usize| (0..len).map(|_| *rng.pick(&letters)).collect::<String>();
    let names = [
        ("c".repeat(COLLECTION_BYTES_MAX), "k".repeat(KEY_BYTES_MAX)),
        (random(COLLECTION_BYTES_MAX), random(KEY_BYTES_MAX)),
        (
            "\u{10ffff}".repeat(COLLECTION_BYTES_MAX / 4),
            "\u{10ffff}".repeat(KEY_BYTES_MAX / 4),
        ),
        (
            "é".repeat(COLLECTION_BYTES_MAX / 2),
            "€".repeat(KEY_BYTES_MAX / 3),
        ),
    ];
    let value = bytes(rng.bytes(VALUE_BYTES_MAX));
    for (c, k) in &names {
        app.set(c, k, value.clone()).await;
        assert!(
            app.value(c, k).await.as_ref() == Some(&value),
            "a different value was read"
        );
        assert_eq!(app.keys(c).await, [k.as_str()]);
        assert!(app.delete(c, k).await);
    }
}

pub async fn large_json_and_binary_values_round_trip(kit: Kit) {
    let app = kit.app().await;
    let text = "x".repeat(VALUE_BYTES_MAX - 2);
    let values = [
        bytes(vec![0; VALUE_BYTES_MAX]),
        json(&format!("\"{text}\"")),
        json(&format!("[{}1]", "1,".repeat(VALUE_BYTES_MAX / 2 - 2))),
        bytes(vec![0; VALUE_BYTES_MAX - 1]),
    ];
    for value in values {
        app.set("c", "k", value.clone()).await;
        // Without Debug, as a failure would print megabytes.
        assert!(
            app.value("c", "k").await == Some(value),
            "a different value was read"
        );
    }
}

pub async fn all_byte_values_round_trip(kit: Kit) {
    let app = kit.app().await;
    let every: Vec<u8> = (0..=255).collect();
    for value in [
        every.as_slice(),
        b"\\x00",
        b"\\",
        b"\0",
        b"{\"a\": 1}",
        &[0xff, 0xfe],
    ] {
        app.set("c", "k", bytes(value)).await;
        let found = app.value("c", "k").await.unwrap();
        assert_eq!(found, Value::Bytes(value.to_vec()));
    }
}

pub async fn ping_succeeds(kit: Kit) {
    kit.store.ping().await.unwrap();
}
