//! The WebAssembly proposals that plugins can use, and that docs/abi.md lists.

use kvasm_tests::guests::TestHost;

const PAGE: &str = include_str!("../../../docs/abi.md");

/// A proposal, whether it is on, and fields of a module that uses it.
const PROPOSALS: [(&str, bool, &str); 20] = [
    (
        "mutable globals",
        true,
        r#"(global (export "g") (mut i32) (i32.const 0))"#,
    ),
    (
        "sign extension",
        true,
        "(func (drop (i32.extend8_s (i32.const 1))))",
    ),
    (
        "saturating conversions",
        true,
        "(func (drop (i32.trunc_sat_f64_u (f64.const 1))))",
    ),
    (
        "multiple values",
        true,
        "(func (result i32 i32) (i32.const 1) (i32.const 2))",
    ),
    (
        "bulk memory",
        true,
        "(func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
    ),
    (
        "reference types, of functions",
        true,
        "(table 1 funcref) (func (drop (table.get 0 (i32.const 0))))",
    ),
    (
        "reference types, of host objects",
        true,
        "(table 1 externref)",
    ),
    ("SIMD", true, "(func (drop (v128.const i32x4 1 2 3 4)))"),
    (
        "relaxed SIMD",
        true,
        "(func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
    ),
    (
        "extended constants",
        true,
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
    ),
    ("tail calls", true, "(func $f (return_call $f))"),
    ("multiple memories", true, "(memory 1)"),
    ("64-bit memory", true, "(memory i64 1)"),
    (
        "threads and atomics",
        false,
        "(func (drop (i32.atomic.load (i32.const 0))))",
    ),
    (
        "typed function references",
        true,
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
    ),
    (
        "garbage collection",
        true,
        "(type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1))))",
    ),
    ("exceptions", true, "(tag $t) (func (throw $t))"),
    (
        "wide arithmetic",
        false,
        "(func (param i64 i64) (i64.mul_wide_u (local.get 0) (local.get 1)) drop drop)",
    ),
    ("custom page sizes", false, "(memory 1 (pagesize 1))"),
    (
        "stack switching",
        false,
        "(type $f (func)) (type $c (cont $f)) (func $g) (elem declare func $g)
         (func (drop (cont.new $c (ref.func $g))))",
    ),
];

#[tokio::test]
async fn proposals_are_on_and_off_as_documented() {
    let bench = TestHost::new().await;
    let mut wrong = Vec::new();
    for (name, is_on, fields) in PROPOSALS {
        let text = format!("(module (memory (export \"memory\") 1) {fields})");
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let loaded = bench.host.load(&bench.app, wasm).await;
        if loaded.is_ok() != is_on {
            wrong.push(format!("{name}: {:?}", loaded.err().map(|e| e.to_string())));
        }
        let row = format!("| {name} | {} |", if is_on { "on" } else { "off" });
        if !PAGE.contains(&row) {
            wrong.push(format!("docs/abi.md lacks the row {row}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let rows = PAGE
        .lines()
        .filter(|line| line.ends_with("| on |") || line.ends_with("| off |"));
    assert_eq!(rows.count(), PROPOSALS.len());
}
