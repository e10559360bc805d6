//! Pointer ranges at, over and wrapping past the end of memory. Each bad one is
//! a trap that names the function and the argument; the host goes on.

use kvasm::{Blame, CallError};
use kvasm_tests::guests::{Bench, module};

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
    ("result_read", "(call $result_read (i32.const 0) {})"),
    ("error_message", "(call $error_message {})"),
    ("input_read", "(call $input_read (i32.const 0) {})"),
    ("output_write", "(call $output_write {})"),
    ("context", "(call $context {})"),
    ("log", "(call $log (i32.const 3) {})"),
    ("random_fill", "(call $random_fill {})"),
];

/// Ranges of which no byte, or not all bytes, lie in a memory of 65,536 bytes.
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
async fn a_range_outside_memory_traps_and_is_named() {
    let bench = Bench::new().await;
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
async fn the_last_bytes_of_memory_are_inside() {
    let bench = Bench::new().await;
    for (_, call) in CALLS {
        for range in [(65_535, 1), (65_536, 0), (0, 0)] {
            bench.run(module("a", &body(call, range))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn options_outside_memory_trap() {
    let bench = Bench::new().await;
    let set = "(call $kv_set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const {}))";
    for at in ["65533", "65535", "65536", "-1"] {
        let body = format!("(drop {}) (i32.const 0)", set.replace("{}", at));
        let failure = bench.run(module("a", &body)).await.unwrap_err();
        assert!(failure.to_string().contains("options"), "{failure}");
    }
    // The size alone lies inside; the struct that it promises does not.
    let body = format!(
        "(i32.store (i32.const 65532) (i32.const 24)) (drop {}) (i32.const 0)",
        set.replace("{}", "65532")
    );
    let failure = bench.run(module("a", &body)).await.unwrap_err();
    assert!(failure.to_string().contains("options"), "{failure}");
}
