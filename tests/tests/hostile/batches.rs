//! Malformed packed batches: the expected status, and no write.

use super::packed::{PackedGuest, add, at, batch, check, delete, set, set_as};
use kvasm_abi::{BATCH_BYTES_MAX, BATCH_OPS_MAX, BatchCheck, BatchOp, Records, Status};

/// One byte over the limit of a value.
const VALUE_OVER: usize = 1024 * 1024 + 1;

/// Checks and operations of every kind.
fn of_every_kind() -> Vec<u8> {
    let ops = [
        set("c", "a", "{\"a\":1}"),
        set_as(at("d", "b"), 1, b"\0bytes"),
        delete("c", "b"),
        add("c", "n", -7),
    ];
    batch(&[check("c", "a", 0), check("d", "é", 0)], &ops)
}

#[tokio::test]
async fn packed_batch_results_are_in_operation_order() {
    let packed = PackedGuest::new().await;
    let ops = [
        set("c", "a", "5"),
        add("c", "a", 2),
        delete("c", "a"),
        delete("c", "a"),
        add("c", "a", -1),
    ];
    let applied = packed.commit(&[check("c", "a", 0)], &ops).await.applied();
    let (versions, values): (Vec<_>, Vec<_>) = applied.into_iter().unzip();
    assert_eq!(values, [0, 7, 0, 0, -1]);
    assert_eq!(versions[2..4], [1, 0], "whether there was one");
    assert!(versions[0] < versions[1] && versions[1] < versions[4]);
    assert_eq!(packed.value("c", "a").await.as_deref(), Some("-1"));
    assert_eq!(packed.commit(&[], &[]).await.applied(), []);
}

#[tokio::test]
async fn truncated_batch_is_rejected() {
    let packed = PackedGuest::new().await;
    let whole = of_every_kind();
    for len in 0..whole.len() {
        let answer = packed.commit_bytes(&whole[..len]).await;
        answer.expect_status(Status::Invalid, &["batch is malformed"]);
    }
    for more in [&b"\0"[..], b"\0\0\0\0", &whole] {
        let answer = packed.commit_bytes([&whole, more].concat()).await;
        answer.expect_status(Status::Invalid, &["batch is malformed"]);
    }
    packed.assert_empty().await;
    assert_eq!(packed.commit_bytes(whole).await.applied().len(), 4);
}

#[tokio::test]
async fn wrong_batch_counts_and_lengths_are_rejected() {
    let packed = PackedGuest::new().await;
    let whole = of_every_kind();
    // Every 4-byte window, which includes each 32-bit number.
    for place in 0..whole.len() - 4 {
        for lie in [u32::MAX, u32::MAX / 2, 1 << 31, 1 << 20] {
            let mut bytes = whole.clone();
            bytes[place..place + 4].copy_from_slice(&lie.to_le_bytes());
            let answer = packed.commit_bytes(bytes).await;
            // Some positions are a value's bytes, a version, a delta or a TTL, which may stay
            // valid.
            match answer.status() {
                None => answer.applied(),
                Some(Status::Invalid | Status::Conflict | Status::TooLarge) => continue,
                Some(status) => panic!("{lie:#x} at {place}: {status:?} {}", answer.message),
            };
            packed.clear().await;
        }
    }
    packed.assert_empty().await;
    for counts in [
        [u32::MAX, 0],
        [0, u32::MAX],
        [u32::MAX, u32::MAX],
        [1, 0],
        [0, 1],
    ] {
        let bytes = counts.map(u32::to_le_bytes).concat();
        let answer = packed.commit_bytes(bytes).await;
        answer.expect_status(Status::Invalid, &["batch is malformed"]);
    }
}

#[tokio::test]
async fn unknown_batch_kinds_and_formats_are_rejected() {
    let packed = PackedGuest::new().await;
    let mut bytes = batch(&[], &[delete("c", "k")]);
    // The kinds 3 and 4 are of timers, which have no collection.
    for kind in [3, 4, 5, 0xff, u32::MAX] {
        bytes[8..12].copy_from_slice(&kind.to_le_bytes());
        let answer = packed.commit_bytes(bytes.clone()).await;
        answer.expect_status(Status::Invalid, &["batch is malformed"]);
    }
    for (format, said) in [
        (2, "format is 2"),
        (u32::MAX, "format is"),
        (256, "format is 256"),
    ] {
        let ops = [set("c", "a", "1"), set_as(at("c", "b"), format, b"1")];
        packed
            .commit(&[], &ops)
            .await
            .expect_status(Status::Invalid, &[said]);
    }
    packed.assert_empty().await;
}

/// A batch for each position at which a name can occur.
fn with_name<'a>(collection: &'a [u8], key: &'a [u8]) -> Vec<Vec<u8>> {
    let address = at(collection, key);
    let good = set("c", "good", "1");
    vec![
        batch(
            &[BatchCheck {
                address,
                version: 0,
            }],
            &[good],
        ),
        batch(
            &[
                check("c", "x", 0),
                BatchCheck {
                    address,
                    version: 7,
                },
            ],
            &[good],
        ),
        batch(&[], &[good, set_as(address, 0, b"1")]),
        batch(&[], &[good, BatchOp::Delete { address }]),
        batch(&[], &[BatchOp::Increment { address, delta: 1 }, good]),
    ]
}

#[tokio::test]
async fn invalid_names_anywhere_in_a_batch_are_rejected() {
    let packed = PackedGuest::new().await;
    let long = vec![b'a'; 1025];
    // Whether it applies to checks, whether to operations, and the status with parts of its
    // message.
    type Case<'c> = (&'c [u8], &'c [u8], Status, &'c [&'c str]);
    let cases: &[Case<'_>] = &[
        (b"", b"k", Status::Invalid, &["collection is empty"]),
        (b"c", b"", Status::Invalid, &["key is empty"]),
        (b"c\0", b"k", Status::Invalid, &["collection", "NUL"]),
        (b"c", b"\0", Status::Invalid, &["key", "NUL"]),
        (
            b"\xff",
            b"k",
            Status::Invalid,
            &["collection", "UTF-8", "byte 0"],
        ),
        (b"c", b"k\xc3", Status::Invalid, &["key", "UTF-8", "byte 1"]),
        (
            &long[..129],
            b"k",
            Status::TooLarge,
            &["collection is 129 bytes", "limit is 128 bytes"],
        ),
        (
            b"c",
            &long,
            Status::TooLarge,
            &["key is 1025 bytes", "limit is 1024 bytes"],
        ),
    ];
    for (collection, key, status, words) in cases {
        for bytes in with_name(collection, key) {
            packed
                .commit_bytes(bytes)
                .await
                .expect_status(*status, words);
        }
    }
    packed.assert_empty().await;
    // Names of the maximum length are accepted.
    let address = at(&long[..128], &long[..1024]);
    let answer = packed.commit(&[], &[set_as(address, 0, b"1")]).await;
    assert_eq!(answer.applied().len(), 1);
}

#[tokio::test]
async fn invalid_values_in_a_batch_are_rejected() {
    let packed = PackedGuest::new().await;
    let over = vec![b'1'; VALUE_OVER];
    let cases: &[(u32, &[u8], Status, &[&str])] = &[
        (0, b"", Status::Invalid, &["not valid JSON"]),
        (0, b"{bad", Status::Invalid, &["not valid JSON"]),
        (0, b"1 2", Status::Invalid, &["not valid JSON"]),
        (0, b"\"\xff\"", Status::Invalid, &[]),
        (0, b"\"\\u0000\"", Status::Invalid, &[]),
        (
            0,
            &over,
            Status::TooLarge,
            &["value is 1048577 bytes", "limit is 1048576 bytes"],
        ),
        (
            1,
            &over,
            Status::TooLarge,
            &["value is 1048577 bytes", "limit is 1048576 bytes"],
        ),
    ];
    for (format, value, status, words) in cases {
        let ops = [set("c", "good", "1"), set_as(at("c", "k"), *format, value)];
        packed.commit(&[], &ops).await.expect_status(*status, words);
    }
    packed.assert_empty().await;
    let ops = [
        set_as(at("c", "k"), 1, &over[1..]),
        set_as(at("c", "l"), 1, b""),
    ];
    assert_eq!(packed.commit(&[], &ops).await.applied().len(), 2);
}

#[tokio::test]
async fn batch_is_limited_to_1000_parts() {
    let packed = PackedGuest::new().await;
    let names: Vec<_> = (0..BATCH_OPS_MAX + 1).map(|n| n.to_string()).collect();
    for checks in [0, 1, 500, 1_000, 1_001] {
        let (checked, changed) = names.split_at(checks);
        let checked: Vec<_> = checked.iter().map(|k| check("c", k, 0)).collect();
        let changed: Vec<_> = changed.iter().map(|k| add("c", k, 1)).collect();
        let answer = packed.commit(&checked, &changed).await;
        answer.expect_status(Status::TooLarge, &["1001 parts", "limit is 1000"]);
    }
    packed.assert_empty().await;
    let ops: Vec<_> = names[1..].iter().map(|k| add("c", k, 1)).collect();
    assert_eq!(packed.commit(&[], &ops).await.applied().len(), 1_000);
}

#[tokio::test]
async fn batch_is_limited_to_4_mib() {
    let packed = PackedGuest::new().await;
    let value = vec![b'x'; 1024 * 1024];
    let ops = |last: usize| {
        let mut ops: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|k| set_as(at("c", *k), 1, &value))
            .collect();
        ops[3] = set_as(at("c", "d"), 1, &value[..last]);
        batch(&[], &ops)
    };
    let around = ops(0).len();
    let most = BATCH_BYTES_MAX - around;
    assert_eq!(ops(most).len(), BATCH_BYTES_MAX);
    let answer = packed.commit_bytes(ops(most + 1)).await;
    answer.expect_status(
        Status::TooLarge,
        &["batch is 4194305 bytes", "limit is 4194304 bytes"],
    );
    packed.assert_empty().await;
    assert_eq!(packed.commit_bytes(ops(most)).await.applied().len(), 4);
}

#[tokio::test]
async fn batch_conflict_reports_positions_and_keys() {
    let packed = PackedGuest::new().await;
    let applied = packed
        .commit(&[], &[set("c", "a", "1"), set("c", "b", "2")])
        .await
        .applied();
    let (a, b) = (applied[0].0, applied[1].0);
    let before = packed.entries().await;
    let checks = [
        check("c", "a", a),
        check("c", "a", 0),
        check("c", "b", b + 1_000),
        check("d", "absent", 0),
        check("d", "gone", 7),
        check("c", "b", u64::MAX),
    ];
    let answer = packed
        .commit(&checks, &[set("c", "a", "9"), delete("c", "b")])
        .await;
    let words = [
        "\"c\" \"a\"",
        "\"c\" \"b\"",
        "\"d\" \"gone\"",
        "nothing was written",
    ];
    answer.expect_status(Status::Conflict, &words);
    assert!(!answer.message.contains("absent"), "{}", answer.message);
    let positions: Vec<_> = Records::<u32>::decode(&answer.slot).unwrap().collect();
    assert_eq!(positions, [1, 2, 4, 5]);
    assert_eq!(packed.entries().await, before);
    // With many conflicts, the message names some; the positions are complete.
    let names: Vec<_> = (0..1_000).map(|n| format!("{n}\u{1}")).collect();
    let checks: Vec<_> = names.iter().map(|k| check("c", k, 1)).collect();
    let answer = packed.commit(&checks, &[]).await;
    answer.expect_status(Status::Conflict, &["and 990 more"]);
    let positions = Records::<u32>::decode(&answer.slot).unwrap();
    assert!(positions.eq(0..1_000));
}

#[tokio::test]
async fn failed_increment_aborts_its_batch() {
    let packed = PackedGuest::new().await;
    let given = [
        set("c", "max", "9223372036854775807"),
        set("c", "text", "\"7\""),
        set("c", "half", "1.5"),
        set("c", "huge", "1e30"),
        set_as(at("c", "bytes"), 1, b"7"),
    ];
    packed.commit(&[], &given).await.applied();
    let before = packed.entries().await;
    for (k, delta, status, said) in [
        ("max", 1, Status::Invalid, "64 bits"),
        ("huge", -1, Status::Invalid, "64 bits"),
        ("text", 1, Status::Type, "not a JSON integer"),
        ("half", 1, Status::Type, "not a JSON integer"),
        ("bytes", 0, Status::Type, "not a JSON integer"),
    ] {
        let ops = [set("c", "new", "1"), add("c", k, delta), delete("c", "max")];
        packed
            .commit(&[], &ops)
            .await
            .expect_status(status, &[said]);
        assert_eq!(packed.entries().await, before, "{k}");
    }
    // Within a batch, each operation sees the effects of those before it.
    let ops = [
        add("c", "n", i64::MAX),
        add("c", "n", 1),
        add("c", "n", i64::MIN),
    ];
    packed
        .commit(&[], &ops)
        .await
        .expect_status(Status::Invalid, &["64 bits"]);
    assert_eq!(packed.entries().await, before);
    let ops = [
        add("c", "n", i64::MAX),
        add("c", "n", i64::MIN),
        add("c", "n", 1),
    ];
    let sums: Vec<_> = packed
        .commit(&[], &ops)
        .await
        .applied()
        .iter()
        .map(|a| a.1)
        .collect();
    assert_eq!(sums, [i64::MAX, -1, 0]);
}

/// A TTL beyond the largest timestamp is clamped to it.
#[tokio::test]
async fn maximum_ttl_is_accepted() {
    let packed = PackedGuest::new().await;
    let op = BatchOp::Set {
        address: at("c", "k"),
        format: 0,
        ttl_ms: u64::MAX,
        value: b"1",
    };
    assert_eq!(packed.commit(&[], &[op]).await.applied().len(), 1);
    assert_eq!(packed.value("c", "k").await.as_deref(), Some("1"));
}
