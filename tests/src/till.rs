//! A plugin whose calls have an effect that can be counted.

use super::guests::manifest;
use kvasm_abi::EXIT_REFUSED;

/// The functions of [`till`]: a transaction, and one that is not.
pub const FUNCTIONS: [&str; 2] = ["run", "plain"];

/// A plugin that adds 1 to the entry `n` of the collection `c`, and outputs the sum as 8 bytes and
/// up to 16 bytes of the input. Then it traps if the input begins with `t`, fails with `f`, refuses
/// with `r`, and outputs 320 KiB more with `L`.
///
/// Its handler answers with this status, the header `x-till: 1`, and the sum as the body.
pub fn till(status: u16) -> Vec<u8> {
    build(status, "", "")
}

/// Like [`till`], for a host with [`meanwhile`](super::guests::meanwhile), which all of them call
/// before the effect.
pub fn gated_till() -> Vec<u8> {
    let import = r#"(import "test_v1" "meanwhile" (func $meanwhile))"#;
    build(200, import, "(call $meanwhile)")
}

fn build(status: u16, import: &str, middle: &str) -> Vec<u8> {
    let head = format!(r#"{{"status":{status},"headers":[["x-till","1"]]}}"#);
    let len = u32::try_from(head.len()).expect("a short head");
    let frame = [len.to_le_bytes().as_slice(), head.as_bytes()].concat();
    let mut bytes = b"cn".to_vec();
    bytes.resize(256, 0);
    bytes.extend_from_slice(&frame);
    let data: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let count = format!(
        "{middle}
         (drop (call $kv_increment (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
            (i64.const 1) (i32.const 64)))
         (drop (call $output_write (i32.const 64) (i32.const 8)))"
    );
    let if_input = |letter: char, then: &str| {
        let letter = letter as u32;
        format!("(if (i32.eq (i32.load8_u (i32.const 128)) (i32.const {letter})) (then {then}))")
    };
    let more = "(drop (call $output_write (i32.const 0) (i32.const 65536)))".repeat(5);
    let body = format!(
        "{count}
         (drop (call $output_write (i32.const 128) (i32.wrap_i64
            (call $input_read (i32.const 0) (i32.const 128) (i32.const 16)))))
         {} {} {} {}
         (i32.const 0)",
        if_input('t', "unreachable"),
        if_input('L', &more),
        if_input('f', "(return (i32.const 1))"),
        if_input('r', &format!("(return (i32.const {EXIT_REFUSED}))")),
    );
    let names = manifest(&[
        r#"{"kind":"function","name":"run","transaction":true}"#,
        r#"{"kind":"function","name":"plain"}"#,
        r#"{"kind":"http","name":"handle"}"#,
    ]);
    let len = frame.len();
    let text = format!(
        "(module
            (import \"kvasm_v1\" \"kv_increment\"
                (func $kv_increment (param i32 i32 i32 i32 i64 i32) (result i64)))
            (import \"kvasm_v1\" \"input_read\"
                (func $input_read (param i32 i32 i32) (result i64)))
            (import \"kvasm_v1\" \"output_write\"
                (func $output_write (param i32 i32) (result i64)))
            {import}
            (memory (export \"memory\") 1) (data (i32.const 0) \"{data}\") {names}
            (func (export \"run\") (result i32) {body})
            (func (export \"plain\") (result i32) {body})
            (func (export \"handle\") (result i32)
                (drop (call $output_write (i32.const 256) (i32.const {len}))) {count}
                (i32.const 0)))"
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The sum at the start of an output.
pub fn sum(output: &[u8]) -> u64 {
    let sum = output.first_chunk().expect("8 bytes");
    u64::from_le_bytes(*sum)
}
