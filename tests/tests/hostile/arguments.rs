//! Invalid arguments: the expected status, a message with the limit and the size, and no write.

use kvasm::Call;
use kvasm::model::{Collection, Key, Timestamp, Value};
use kvasm_abi::Status;
use kvasm_tests::guests::{TestHost, module, report};

/// The address of the test texts in the guest's memory.
const DATA: &str = "notes\\00\\00\\00k\\00x\\ff\\ff{\\22a\\22:1}{bad";

fn set(
    collection: (u32, u32),
    key: (u32, u32),
    value: (u32, u32),
    format: i32,
    options: u32,
) -> String {
    format!(
        "(call $kv_set (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {}) (i32.const {format}) (i32.const {options}))",
        collection.0, collection.1, key.0, key.1, value.0, value.1
    )
}

const NOTES: (u32, u32) = (0, 5);
const K: (u32, u32) = (8, 1);
const NUL: (u32, u32) = (8, 3);
const BAD_UTF8: (u32, u32) = (11, 2);
const JSON: (u32, u32) = (13, 7);
const BAD_JSON: (u32, u32) = (20, 4);
/// A zeroed area, large enough for every length.
const ZEROES: u32 = 4096;

async fn refused(body: String, status: Status, words: &[&str]) {
    let bench = TestHost::new().await;
    let (result, message) = bench.result(DATA, &body).await;
    assert_eq!(
        Status::from_code(result),
        Some(status),
        "{body} gave {result}: {message}"
    );
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
    let all = kvasm::service::List::all(Collection::parse("notes").unwrap());
    let caller = kvasm::service::Caller::new(&bench.app, None);
    let listed = bench.host.kv().list(&caller, all).await.unwrap();
    assert!(listed.entries.is_empty(), "{body} wrote {listed:?}");
}

#[tokio::test]
async fn empty_names_are_rejected() {
    let empty = (0, 0);
    refused(
        set(empty, K, JSON, 0, 0),
        Status::Invalid,
        &["collection is empty"],
    )
    .await;
    refused(
        set(NOTES, empty, JSON, 0, 0),
        Status::Invalid,
        &["key is empty"],
    )
    .await;
}

#[tokio::test]
async fn nul_and_invalid_utf8_in_names_are_rejected() {
    refused(
        set(NUL, K, JSON, 0, 0),
        Status::Invalid,
        &["collection", "NUL"],
    )
    .await;
    refused(
        set(NOTES, NUL, JSON, 0, 0),
        Status::Invalid,
        &["key", "NUL"],
    )
    .await;
    refused(
        set(BAD_UTF8, K, JSON, 0, 0),
        Status::Invalid,
        &["UTF-8", "byte 0"],
    )
    .await;
    refused(
        set(NOTES, BAD_UTF8, JSON, 0, 0),
        Status::Invalid,
        &["UTF-8"],
    )
    .await;
}

#[tokio::test]
async fn exceeding_a_limit_reports_size_and_limit() {
    refused(
        set((ZEROES, 129), K, JSON, 0, 0),
        Status::TooLarge,
        &["collection is 129 bytes", "limit is 128 bytes"],
    )
    .await;
    refused(
        set(NOTES, (ZEROES, 1025), JSON, 0, 0),
        Status::TooLarge,
        &["key is 1025 bytes", "limit is 1024 bytes"],
    )
    .await;
    let cursor = list(
        "(i32.store (i32.const 1004) (i32.const 8)) (i32.store (i32.const 1032) (i32.const 4096)) (i32.store (i32.const 1036) (i32.const 1042))",
    );
    refused(
        cursor,
        Status::TooLarge,
        &["cursor is 1042 bytes", "limit is 1041 bytes"],
    )
    .await;
    for (bit, at, name) in [
        (1, 1008, "prefix"),
        (2, 1016, "range bound"),
        (4, 1024, "range bound"),
    ] {
        let stores = format!(
            "(i32.store (i32.const 1004) (i32.const {bit})) (i32.store (i32.const {at}) (i32.const 4096)) (i32.store (i32.const {}) (i32.const 1025))",
            at + 4
        );
        refused(
            list(&stores),
            Status::TooLarge,
            &[name, "1025 bytes", "limit is 1024 bytes"],
        )
        .await;
    }
    let fill = "(call $random_fill (i32.const 0) (i32.const 65537))";
    let bench = TestHost::new().await;
    let two_pages = kvasm_tests::guests::module_with(
        DATA,
        "",
        &format!("(drop (memory.grow (i32.const 1))) {}", report(fill)),
    );
    let (status, message) = bench.result_of(two_pages, Call::function("run")).await;
    assert_eq!(
        Status::from_code(status),
        Some(Status::TooLarge),
        "{message}"
    );
    assert!(
        message.contains("65537") && message.contains("limit is 65536"),
        "{message}"
    );
}

#[tokio::test]
async fn value_size_is_checked_before_copying() {
    for (format, text) in [(0, "value is 17 bytes"), (1, "value is 17 bytes")] {
        let bench = TestHost::with_limits(|limits| limits.value_bytes = 16).await;
        let body = set(NOTES, K, (ZEROES, 17), format, 0);
        let (result, message) = bench.result(DATA, &body).await;
        assert_eq!(
            Status::from_code(result),
            Some(Status::TooLarge),
            "{message}"
        );
        assert!(
            message.contains(text) && message.contains("limit is 16 bytes"),
            "{message}"
        );
        let body = set(NOTES, K, (ZEROES, 16), 1, 0);
        assert!(bench.result(DATA, &body).await.0 > 0);
    }
}

#[tokio::test]
async fn malformed_json_and_unknown_formats_are_rejected() {
    refused(
        set(NOTES, K, BAD_JSON, 0, 0),
        Status::Invalid,
        &["not valid JSON"],
    )
    .await;
    refused(
        set(NOTES, K, (0, 0), 0, 0),
        Status::Invalid,
        &["not valid JSON"],
    )
    .await;
    refused(
        set(NOTES, K, JSON, -1, 0),
        Status::Invalid,
        &["format is -1"],
    )
    .await;
    refused(set(NOTES, K, JSON, 2, 0), Status::Invalid, &["format is 2"]).await;
}

#[tokio::test]
async fn unknown_flags_and_option_bits_are_rejected() {
    let get = "(call $kv_get (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 100) (i32.const 10))";
    refused(get.to_owned(), Status::Unsupported, &["0x2"]).await;
    let with_mask = |mask: &str| {
        format!(
            "(block (result i64) (i32.store (i32.const 1000) (i32.const 24)) (i32.store (i32.const 1004) (i32.const {mask})) {})",
            set(NOTES, K, JSON, 0, 1000)
        )
    };
    refused(with_mask("4"), Status::Unsupported, &["0x4"]).await;
    // A TTL of 0.
    refused(with_mask("1"), Status::Invalid, &["time to live", "from 1"]).await;
    let short = format!(
        "(block (result i64) (i32.store (i32.const 1000) (i32.const 7)) {})",
        set(NOTES, K, JSON, 0, 1000)
    );
    refused(short, Status::Invalid, &["size is 7 bytes"]).await;
}

fn list(stores: &str) -> String {
    format!(
        "(block (result i64) (i32.store (i32.const 1000) (i32.const 52)) {stores}
           (call $kv_list (i32.const 0) (i32.const 5) (i32.const 1000) (i32.const 2000) (i32.const 2000)))"
    )
}

#[tokio::test]
async fn invalid_list_options_are_rejected() {
    let limit = |n: &str| {
        list(&format!(
            "(i32.store (i32.const 1004) (i32.const 16)) (i32.store (i32.const 1040) (i32.const {n}))"
        ))
    };
    refused(
        limit("0"),
        Status::Invalid,
        &["page limit is 0", "from 1 to 1000"],
    )
    .await;
    refused(limit("1001"), Status::Invalid, &["page limit is 1001"]).await;
    let reverse =
        "(i32.store (i32.const 1004) (i32.const 32)) (i32.store (i32.const 1044) (i32.const 2))";
    refused(list(reverse), Status::Invalid, &["not 2"]).await;
    let cursor = "(i32.store (i32.const 1004) (i32.const 8)) (i32.store (i32.const 1032) (i32.const 0)) (i32.store (i32.const 1036) (i32.const 30))";
    refused(list(cursor), Status::Invalid, &["cursor was not returned"]).await;
    let unknown = "(i32.store (i32.const 1004) (i32.const 128))";
    refused(list(unknown), Status::Unsupported, &["0x80"]).await;
}

#[tokio::test]
async fn absent_empty_and_error_results_are_distinct() {
    let bench = TestHost::new().await;
    let get = |format: i32| {
        format!(
            "(call $kv_get (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 1) (i32.const {format}) (i32.const 0) (i32.const 100) (i32.const 10))"
        )
    };
    let (absent, message) = bench.result(DATA, &get(1)).await;
    assert_eq!(
        Status::from_code(absent),
        Some(Status::NotFound),
        "{message}"
    );
    assert!(bench.result(DATA, &set(NOTES, K, (0, 0), 1, 0)).await.0 > 0);
    assert_eq!(bench.result(DATA, &get(1)).await.0, 0);
    let (status, message) = bench.result(DATA, &get(0)).await;
    assert_eq!(Status::from_code(status), Some(Status::Type), "{message}");
}

#[tokio::test]
async fn conditional_writes_conflict_on_version_mismatch() {
    let bench = TestHost::new().await;
    let if_absent = format!(
        "(block (result i64) (i32.store (i32.const 1000) (i32.const 24)) (i32.store (i32.const 1004) (i32.const 2)) {})",
        set(NOTES, K, JSON, 0, 1000)
    );
    assert!(bench.result(DATA, &if_absent).await.0 > 0);
    let (status, message) = bench.result(DATA, &if_absent).await;
    assert_eq!(Status::from_code(status), Some(Status::Conflict));
    assert!(message.contains("nothing was written"), "{message}");
    let entry = bench
        .host
        .store()
        .get(
            bench.app.id,
            &Collection::parse("notes").unwrap(),
            &Key::parse("k").unwrap(),
            Timestamp::now(),
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entry.value, Value::json("{\"a\":1}", 100).unwrap());
}

/// A result that does not fit the buffer is read from the result slot once the guest knows its
/// length. Nothing is written to a buffer that is too small.
#[tokio::test]
async fn result_larger_than_the_buffer_is_kept_in_the_result_slot() {
    let bench = TestHost::new().await;
    assert!(bench.result(DATA, &set(NOTES, K, JSON, 0, 0)).await.0 > 0);
    let body = "(if (i64.ne (call $kv_get (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 6)) (i64.const 7)) (then unreachable))
        (if (i32.load8_u (i32.const 100)) (then unreachable))
        (if (i64.ne (call $result_read (i32.const 2) (i32.const 100) (i32.const 99)) (i64.const 5)) (then unreachable))
        (if (i64.ne (call $result_read (i32.const 7) (i32.const 200) (i32.const 99)) (i64.const 0)) (then unreachable))
        (if (i64.ne (call $result_read (i32.const -1) (i32.const 200) (i32.const 99)) (i64.const 0)) (then unreachable))
        (drop (call $output_write (i32.const 100) (i32.const 5)))
        (i32.const 0)";
    let response = bench.run(module(DATA, body)).await.unwrap();
    assert_eq!(response.output, b"a\":1}");
    // `error_message` follows the same rule.
    let long = report("(call $kv_has (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 1))")
        .replace(
            "(i32.const 32776) (i32.const 32760)",
            "(i32.const 32776) (i32.const 3)",
        );
    let plugin = bench.load(module(DATA, &long)).await;
    let output = bench
        .host
        .call(&plugin, Call::function("run"))
        .await
        .unwrap()
        .output;
    assert!(output.len() > 20 && output[8..].iter().all(|byte| *byte == 0));
}
