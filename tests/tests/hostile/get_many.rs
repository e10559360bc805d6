//! Reads of several keys, increments, and an app's dead letters.

use super::packed::{PackedGuest, at, records, set, set_as};
use kvasm::Call;
use kvasm::model::{App, DeadLetterFilter, DeadReason, Verdict};
use kvasm_abi::{Records, Slot, Status};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::json;
use kvasm_tests::guests::{TestHost, manifest, module, module_with, report};
use serde_json::Value;
use std::sync::Arc;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn truncated_key_list_is_rejected() {
    let packed = PackedGuest::new().await;
    packed.commit(&[], &[set("c", "a", "1")]).await.applied();
    let whole = records(&[at("c", "a"), at("d", "é"), at("c", "a")]);
    for len in 0..whole.len() {
        let answer = packed.get_many_bytes(&whole[..len]).await;
        answer.expect_status(Status::Invalid, &["list of keys is malformed"]);
    }
    for bytes in [[&whole[..], b"\0"].concat(), vec![0xff; 4]] {
        let answer = packed.get_many_bytes(bytes).await;
        answer.expect_status(Status::Invalid, &["list of keys is malformed"]);
    }
    let answer = packed.get_many_bytes(whole).await;
    let slots = Records::<Slot<'_>>::decode(&answer.slot).unwrap();
    let values: Vec<_> = slots.map(|slot| slot.0.map(|(_, value)| value)).collect();
    assert_eq!(values, [Some(&b"1"[..]), None, Some(b"1")]);
    let none = packed.get_many(&[]).await;
    assert_eq!((none.result, none.slot), (4, vec![0; 4]));
}

#[tokio::test]
async fn invalid_or_too_many_keys_are_rejected() {
    let packed = PackedGuest::new().await;
    let long = vec![b'a'; 1025];
    for (collection, key, status, word) in [
        (&b""[..], &b"k"[..], Status::Invalid, "collection is empty"),
        (b"c", b"", Status::Invalid, "key is empty"),
        (b"c", b"a\0", Status::Invalid, "NUL"),
        (b"\xff", b"k", Status::Invalid, "UTF-8"),
        (
            &long[..129],
            b"k",
            Status::TooLarge,
            "collection is 129 bytes",
        ),
        (b"c", &long, Status::TooLarge, "key is 1025 bytes"),
    ] {
        let answer = packed.get_many(&[at("c", "k"), at(collection, key)]).await;
        answer.expect_status(status, &[word]);
    }
    let answer = packed.get_many(&vec![at("c", "k"); 1_001]).await;
    answer.expect_status(
        Status::TooLarge,
        &["list of keys has 1001 parts", "limit is 1000"],
    );
    assert_eq!(
        packed.get_many(&vec![at("c", "k"); 1_000]).await.result,
        4 + 4 * 1_000
    );
    // The longest possible list, and one byte more.
    let most = records(&vec![at(&long[..128], &long[..1024]); 1_000]);
    assert!(packed.get_many_bytes(most.clone()).await.result > 0);
    let answer = packed.get_many_bytes([&most[..], b"\0"].concat()).await;
    answer.expect_status(Status::TooLarge, &["list of keys is", "limit is"]);
}

#[tokio::test]
async fn get_many_result_is_limited_to_4_mib() {
    let packed = PackedGuest::new().await;
    let value = vec![b'x'; MIB];
    packed
        .commit(&[], &[set_as(at("c", "big"), 1, &value)])
        .await
        .applied();
    packed
        .commit(&[], &[set_as(at("c", "one"), 1, b"x")])
        .await
        .applied();
    let big = at("c", "big");
    let answer = packed.get_many(&[big, big, big, big]).await;
    assert_eq!(answer.result as usize, 4 + 4 * (4 + 24 + 4 + MIB));
    let answer = packed.get_many(&[big, big, big, big, at("c", "one")]).await;
    answer.expect_status(
        Status::TooLarge,
        &["answer exceeds the limit of 4194304 bytes"],
    );
    packed
        .get_many(&vec![big; 1_000])
        .await
        .expect_status(Status::TooLarge, &["answer"]);
}

/// The transaction's own writes, which no store limits, count too.
#[tokio::test]
async fn get_many_limit_applies_in_a_transaction() {
    let run = "{\"kind\":\"function\",\"name\":\"run\",\"transaction\":true}";
    let section = manifest(&[run]);
    // Writes 1 MiB under "k", and reads it as often as the input says.
    let body = report(
        "(block (result i64)
            (drop (memory.grow (i32.const 40)))
            (drop (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
                (i32.const 65536) (i32.const 0x100000) (i32.const 1) (i32.const 0)))
            (call $kv_get_many (i32.const 0x120000)
                (i32.wrap_i64 (call $input_read (i32.const 0) (i32.const 0x120000)
                    (i32.wrap_i64 (call $input_len))))
                (i32.const 0) (i32.const 0)))",
    );
    let wasm = module_with("ck", &section, &body);
    for (count, fits) in [(4, true), (5, false), (1_000, false)] {
        // A store that does not have the entry yet.
        let bench = TestHost::new().await;
        let call = Call::function("run").input(records(&vec![at("c", "k"); count]));
        let (result, message) = bench.result_of(wasm.clone(), call).await;
        match fits {
            true => assert_eq!(result as usize, 4 + count * (4 + 24 + 4 + MIB), "{message}"),
            false => assert_eq!(
                Status::from_code(result),
                Some(Status::TooLarge),
                "{count}: {result} {message}"
            ),
        }
    }
}

fn increment(c_len: u32, k: (u32, u32), delta: i64, result: i32) -> String {
    format!(
        "(call $kv_increment (i32.const 0) (i32.const {c_len}) (i32.const {}) (i32.const {})
            (i64.const {delta}) (i32.const {result}))",
        k.0, k.1
    )
}

#[tokio::test]
async fn increment_writes_its_result_only_on_success() {
    let bench = TestHost::new().await;
    // The last eight bytes, and an unaligned address.
    for (place, sum) in [(65_528, 5), (65_521, 10), (1_001, 15)] {
        let body = format!(
            "(if (i64.le_s {} (i64.const 0)) (then unreachable))
             (if (i64.ne (i64.load (i32.const {place})) (i64.const {sum})) (then unreachable))
             (i32.const 0)",
            increment(1, (1, 1), 5, place)
        );
        bench.run(module("ck", &body)).await.unwrap();
    }
    // Rejected; the memory at the result address is unchanged.
    for (c_len, k, delta, status) in [
        (1, (1, 1), i64::MAX, Status::Invalid),
        (0, (1, 1), 1, Status::Invalid),
        (1, (1, 0), 1, Status::Invalid),
        (1, (1, 2), 1, Status::Invalid),
        (129, (1, 1), 1, Status::TooLarge),
        (1, (1, 1_025), 1, Status::TooLarge),
    ] {
        let body = format!(
            "(i64.store (i32.const 3000) (i64.const 77))
             (if (i64.ne {} (i64.const {})) (then unreachable))
             (if (i64.ne (i64.load (i32.const 3000)) (i64.const 77)) (then unreachable))
             (i32.const 0)",
            increment(c_len, k, delta, 3_000),
            status.code()
        );
        bench.run(module("ck\\00", &body)).await.unwrap();
    }
}

#[tokio::test]
async fn increment_distinguishes_non_integer_from_overflow() {
    let packed = PackedGuest::new().await;
    let ops = [
        set("c", "1", "9223372036854775807"),
        set("c", "2", "[]"),
        set_as(at("c", "3"), 1, b"1"),
        set("c", "4", "-9223372036854775808"),
    ];
    packed.commit(&[], &ops).await.applied();
    for (place, delta, status, said) in [
        (1, 1, Status::Invalid, "64 bits"),
        (2, 1, Status::Type, "not a JSON integer"),
        (3, 1, Status::Type, "not a JSON integer"),
        (4, -1, Status::Invalid, "64 bits"),
    ] {
        let body = increment(1, (place, 1), delta, 100);
        let (result, message) = packed.bench.result("c1234", &body).await;
        assert_eq!(Status::from_code(result), Some(status), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

/// Creates this many dead letters. Returns their ids, newest first.
async fn create_dead_letters(
    store: &Arc<dyn kvasm::store::Store>,
    app: &App,
    count: usize,
) -> Vec<String> {
    let kit = Kit::new(Arc::clone(store), 0);
    let mut tenant = kit.app().await;
    (tenant.id, tenant.name) = (app.id, app.name.clone());
    tenant.watch("t", "c").await;
    for n in 0..count {
        let key = format!("{}-{n}", app.name);
        tenant.set("c", &key, json("1")).await;
        let [(_, receipt)] = tenant.claim("t", 1).await.try_into().unwrap();
        let dead = Verdict::DeadLetter(DeadReason::Attempts);
        assert!(tenant.fail(&receipt, dead, false).await);
    }
    let letters = tenant.dead_letters().await;
    letters.iter().map(|letter| letter.id.to_string()).collect()
}

#[tokio::test]
async fn app_sees_only_its_own_dead_letters() {
    let packed = PackedGuest::new().await;
    let (host, app) = (&packed.bench.host, &packed.bench.app);
    let name = kvasm::model::AppName::parse("other").unwrap();
    let other = host.create_app(name).await.unwrap();
    let first = create_dead_letters(host.store(), app, 3).await;
    let theirs = create_dead_letters(host.store(), &other, 5).await;
    let list = async |before: &[u8], limit| -> (Vec<String>, Value) {
        let answer = packed
            .call(PackedGuest::dead_letters_call(before, limit))
            .await;
        assert!(answer.result >= 0, "{}", answer.message);
        assert!(!String::from_utf8_lossy(&answer.slot).contains("other"));
        let page: Value = serde_json::from_slice(&answer.slot).unwrap();
        let letters = page["letters"].as_array().unwrap();
        let ids = letters.iter().map(|l| l["id"].as_str().unwrap().to_owned());
        (ids.collect(), page["next"].clone())
    };
    assert_eq!(list(b"", 0).await, (first.clone(), Value::Null));
    let (page, next) = list(b"", 2).await;
    assert_eq!(page, first[..2]);
    let next = next.as_str().unwrap();
    assert_eq!(list(next.as_bytes(), 2).await.0, first[2..]);
    // A cursor from another app's dead letter finds nothing of that app.
    for id in &theirs {
        for id in [id.clone(), id.to_uppercase()] {
            assert_eq!(list(id.as_bytes(), 1_000).await.0, first);
        }
    }
    let last = "00000000-0000-0000-0000-000000000000";
    assert_eq!(list(last.as_bytes(), 1).await, (vec![], Value::Null));
}

#[tokio::test]
async fn app_replays_only_its_own_dead_letters() {
    let packed = PackedGuest::new().await;
    let (host, app) = (&packed.bench.host, &packed.bench.app);
    let name = kvasm::model::AppName::parse("other").unwrap();
    let other = host.create_app(name).await.unwrap();
    let own = create_dead_letters(host.store(), app, 2).await;
    let theirs = create_dead_letters(host.store(), &other, 2).await;
    let nil = "00000000-0000-0000-0000-000000000000".to_owned();
    for id in theirs.iter().chain([&nil]) {
        let answer = packed.replay(id.as_bytes()).await;
        assert_eq!((answer.result, answer.message.as_str()), (0, ""), "{id}");
    }
    let left = async |app: &App| {
        let store = host.store();
        let all = DeadLetterFilter::default();
        let letters = store.dead_letters(app.id, &all, None, 10).await.unwrap();
        let deliveries = store.deliveries(app.id, None, 10).await.unwrap();
        (letters.len(), deliveries.len())
    };
    assert_eq!((left(app).await, left(&other).await), ((2, 0), (2, 0)));
    let upper = own[0].to_uppercase();
    for (id, result) in [(&upper, 1), (&own[0], 0), (&own[1], 1), (&own[1], 0)] {
        assert_eq!(packed.replay(id.as_bytes()).await.result, result, "{id}");
    }
    assert_eq!((left(app).await, left(&other).await), ((0, 2), (2, 0)));
}

/// The host reads them in small pages; the guest gets the page size that it requested.
#[tokio::test]
async fn dead_letters_are_paginated_with_any_page_size() {
    let packed = PackedGuest::new().await;
    let all = create_dead_letters(packed.bench.host.store(), &packed.bench.app, 40).await;
    for limit in [1, 7, 16, 17, 32, 39, 40, 41, 1_000] {
        let (mut found, mut before) = (Vec::new(), String::new());
        loop {
            let letters = PackedGuest::dead_letters_call(before.as_bytes(), limit as i32);
            let answer = packed.call(letters).await;
            let page: Value = serde_json::from_slice(&answer.slot).unwrap();
            let letters = page["letters"].as_array().unwrap();
            assert!(letters.len() <= limit, "{} of {limit}", letters.len());
            let ids = letters.iter().map(|l| l["id"].as_str().unwrap().to_owned());
            found.extend(ids);
            match page["next"].as_str() {
                Some(next) => before = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found, all, "by {limit}");
    }
}

#[tokio::test]
async fn invalid_dead_letter_id_or_limit_is_rejected() {
    let packed = PackedGuest::new().await;
    for id in [
        &b"x"[..],
        b"0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c0",
        b"0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c0g",
        b"\xff\xff\xff\xff",
        b"0198c1d3\0",
        b" 0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c02",
        b"'; DROP TABLE kv; --",
    ] {
        let answer = packed.call(PackedGuest::dead_letters_call(id, 1)).await;
        answer.expect_status(Status::Invalid, &["dead letter ID is malformed"]);
        let answer = packed.replay(id).await;
        answer.expect_status(Status::Invalid, &["dead letter ID is malformed"]);
    }
    packed
        .replay(b"")
        .await
        .expect_status(Status::Invalid, &["malformed"]);
    packed
        .replay(&[b'0'; 1_000])
        .await
        .expect_status(Status::TooLarge, &["dead letter ID"]);
    let answer = packed
        .call(PackedGuest::dead_letters_call(&[b'0'; 1_000], 1))
        .await;
    answer.expect_status(Status::TooLarge, &["dead letter ID is 1000 bytes"]);
    for limit in [-1, 1_001, i32::MIN, i32::MAX] {
        let answer = packed
            .call(PackedGuest::dead_letters_call(b"", limit))
            .await;
        answer.expect_status(Status::Invalid, &["page limit is", "from 1 to 1000"]);
    }
    for limit in [0, 1, 1_000] {
        let answer = packed
            .call(PackedGuest::dead_letters_call(b"", limit))
            .await;
        assert_eq!(answer.slot, b"{\"letters\":[],\"next\":null}");
    }
}
