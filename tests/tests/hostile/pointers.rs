//! Pointer ranges at, over and wrapping past the end of memory. Each invalid one traps with the
//! function and the argument in the message; the host continues.

use kvasm::{Blame, CallError};
use kvasm_tests::guests::{TestHost, module};

/// Every pointer argument of every import, with `{}` for the address and length.
const CALLS: &[(&str, &str)] = &[
    (
        "kv_get",
        "(call $kv_get {} (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9))",
    ),
    (
        "kv_get",
        "(call $kv_get (i32.const 0) (i32.const 1) {} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 9))",
    ),
    (
        "kv_get",
        "(call $kv_get (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) {})",
    ),
    (
        "kv_set",
        "(call $kv_set {} (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
    ),
    (
        "kv_set",
        "(call $kv_set (i32.const 0) (i32.const 1) {} (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
    ),
    (
        "kv_set",
        "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) {} (i32.const 0) (i32.const 0))",
    ),
    (
        "config_get",
        "(call $config_get {} (i32.const 0) (i32.const 9))",
    ),
    (
        "config_get",
        "(call $config_get (i32.const 0) (i32.const 1) {})",
    ),
    (
        "secret_get",
        "(call $secret_get {} (i32.const 0) (i32.const 9))",
    ),
    (
        "secret_get",
        "(call $secret_get (i32.const 0) (i32.const 1) {})",
    ),
    (
        "http_fetch",
        "(call $http_fetch {} (i32.const 0) (i32.const 9))",
    ),
    (
        "http_fetch",
        "(call $http_fetch (i32.const 0) (i32.const 4) {})",
    ),
    ("kv_has", "(call $kv_has {} (i32.const 0) (i32.const 1))"),
    ("kv_has", "(call $kv_has (i32.const 0) (i32.const 1) {})"),
    (
        "kv_delete",
        "(call $kv_delete {} (i32.const 0) (i32.const 1) (i32.const 0))",
    ),
    (
        "kv_delete",
        "(call $kv_delete (i32.const 0) (i32.const 1) {} (i32.const 0))",
    ),
    (
        "kv_list",
        "(call $kv_list {} (i32.const 0) (i32.const 0) (i32.const 9))",
    ),
    (
        "kv_list",
        "(call $kv_list (i32.const 0) (i32.const 1) (i32.const 0) {})",
    ),
    (
        "kv_increment",
        "(call $kv_increment {} (i32.const 0) (i32.const 1) (i64.const 1) (i32.const 9))",
    ),
    (
        "kv_increment",
        "(call $kv_increment (i32.const 0) (i32.const 1) {} (i64.const 1) (i32.const 9))",
    ),
    (
        "kv_add",
        "(call $kv_add {} (i32.const 0) (i32.const 1) (i64.const 1))",
    ),
    (
        "kv_add",
        "(call $kv_add (i32.const 0) (i32.const 1) {} (i64.const 1))",
    ),
    (
        "kv_get_many",
        "(call $kv_get_many {} (i32.const 0) (i32.const 9))",
    ),
    (
        "kv_get_many",
        "(call $kv_get_many (i32.const 8) (i32.const 4) {})",
    ),
    (
        "kv_commit",
        "(call $kv_commit {} (i32.const 0) (i32.const 9))",
    ),
    (
        "kv_commit",
        "(call $kv_commit (i32.const 8) (i32.const 8) {})",
    ),
    (
        "timer_set",
        "(call $timer_set {} (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0))",
    ),
    (
        "timer_set",
        "(call $timer_set (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0) {})",
    ),
    ("timer_cancel", "(call $timer_cancel {})"),
    (
        "dead_letters",
        "(call $dead_letters {} (i32.const 1) (i32.const 0) (i32.const 9))",
    ),
    (
        "dead_letters",
        "(call $dead_letters (i32.const 0) (i32.const 0) (i32.const 1) {})",
    ),
    ("dead_letter_replay", "(call $dead_letter_replay {})"),
    ("result_read", "(call $result_read (i32.const 0) {})"),
    ("error_message", "(call $error_message {})"),
    ("input_read", "(call $input_read (i32.const 0) {})"),
    ("output_write", "(call $output_write {})"),
    ("context", "(call $context {})"),
    ("log", "(call $log (i32.const 3) {})"),
    ("random_fill", "(call $random_fill {})"),
];

/// Ranges that lie partly or wholly outside a memory of 65,536 bytes.
const OUTSIDE: &[(i64, i64)] = &[
    (65_536, 1),
    (65_535, 2),
    (65_537, 0),
    (0, 65_537),
    (0xffff_ffff, 1),
    (0xffff_ffff, 0xffff_ffff),
    (1, 0xffff_ffff),
    (0x8000_0000, 0x8000_0000),
];

fn body(call: &str, (ptr, len): (i64, i64)) -> String {
    let range = format!("(i32.const {ptr}) (i32.const {len})");
    format!("(drop {}) (i32.const 0)", call.replace("{}", &range))
}

#[tokio::test]
async fn out_of_bounds_range_traps_and_is_reported() {
    let bench = TestHost::new().await;
    for (function, call) in CALLS {
        for range in OUTSIDE {
            let failure = bench
                .run(module("a", &body(call, *range)))
                .await
                .unwrap_err();
            assert_eq!(failure.error.blame(), Blame::Guest);
            let CallError::Trap { reason, .. } = &failure.error else {
                panic!("{call} at {range:?}: {failure}");
            };
            assert!(
                reason.contains(function) && reason.contains("65536"),
                "{reason}"
            );
        }
    }
}

#[tokio::test]
async fn range_ending_at_the_end_of_memory_is_valid() {
    let bench = TestHost::new().await;
    for (_, call) in CALLS {
        for range in [(65_535, 1), (65_536, 0), (0, 0)] {
            bench.run(module("a", &body(call, range))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn out_of_bounds_options_trap() {
    let bench = TestHost::new().await;
    let set = "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {}))";
    for at in ["65533", "65535", "65536", "-1"] {
        let body = format!("(drop {}) (i32.const 0)", set.replace("{}", at));
        let failure = bench.run(module("a", &body)).await.unwrap_err();
        assert!(failure.to_string().contains("options"), "{failure}");
    }
    // Only the size field is inside; the struct that it announces is not.
    let body = format!(
        "(i32.store (i32.const 65532) (i32.const 24)) (drop {}) (i32.const 0)",
        set.replace("{}", "65532")
    );
    let failure = bench.run(module("a", &body)).await.unwrap_err();
    assert!(failure.to_string().contains("options"), "{failure}");
}

/// The address of an increment's result has no length, and is checked before any write.
#[tokio::test]
async fn out_of_bounds_increment_result_traps_without_writing() {
    let bench = TestHost::new().await;
    let add = "(call $kv_increment (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
        (i64.const 1) (i32.const {}))";
    for at in ["65529", "65535", "65536", "-1", "-8", "0x80000000"] {
        let body = format!("(drop {}) (i32.const 0)", add.replace("{}", at));
        let failure = bench.run(module("a", &body)).await.unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("kv_increment was given result at"), "{text}");
    }
    let body = format!(
        "(drop {}) (i32.eq (i32.load (i32.const 65528)) (i32.const 2))",
        add.replace("{}", "65528")
    );
    bench.run(module("a", &body)).await.unwrap();
}

/// A batch whose result buffer is out of bounds is not committed.
#[tokio::test]
async fn out_of_bounds_commit_buffer_traps_without_committing() {
    let bench = TestHost::new().await;
    // No checks; one increment of "a" in "a" by 1.
    let data = "\\00\\00\\00\\00\\01\\00\\00\\00\\02\\00\\00\\00\\01\\00\\00\\00a\\01\\00\\00\\00a\\01\\00\\00\\00\\00\\00\\00\\00";
    let commit = "(call $kv_commit (i32.const 0) (i32.const 30) (i32.const 65536) (i32.const {}))";
    let body = format!("(drop {}) (i32.const 0)", commit.replace("{}", "1"));
    let failure = bench.run(module(data, &body)).await.unwrap_err();
    assert!(failure.to_string().contains("out at address"), "{failure}");
    // This is the first increment that counts.
    let body = format!(
        "(drop {}) (drop (call $result_read (i32.const 12) (i32.const 100) (i32.const 8)))
         (i32.ne (i32.load (i32.const 100)) (i32.const 1))",
        commit.replace("{}", "0")
    );
    bench.run(module(data, &body)).await.unwrap();
}
