//! A plugin whose functions are slow or have large outputs.

/// The functions:
/// - `hello` returns `hello`;
/// - `echo` returns its input, of at most 32 KiB;
/// - `nap` sleeps a second and returns `hello`;
/// - `sleep` sleeps an hour;
/// - `big` returns 8 MiB of zeros;
/// - `say` logs `hello`;
/// - `fail` fails with the message `hello`;
/// - `rant` fails with a message of 4,000 bytes;
/// - `nothing` fails with 8 MiB of NUL bytes as its message;
/// - `trap` traps.
pub fn wasm() -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
          (import "kvasm_v1" "input_read" (func $input_read (param i32 i32 i32) (result i64)))
          (import "kvasm_v1" "output_write" (func $output_write (param i32 i32) (result i64)))
          (import "kvasm_v1" "log" (func $log (param i32 i32 i32) (result i64)))
          (memory (export "memory") 2)
          (data (i32.const 0) "hello")
          {CODE})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The subscription to the monotonic clock is at address 1024, its event at 2048.
const CODE: &str = r#"
  (func $wait (param $ns i64)
    (i32.store (i32.const 1040) (i32.const 1))
    (i64.store (i32.const 1048) (local.get $ns))
    (drop (call $poll_oneoff
      (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 4096))))
  (func $say_hello (drop (call $output_write (i32.const 0) (i32.const 5))))
  (func (export "hello") (result i32) (call $say_hello) (i32.const 0))
  (func (export "echo") (result i32)
    (drop (call $output_write (i32.const 8192) (i32.wrap_i64
      (call $input_read (i32.const 0) (i32.const 8192) (i32.const 32768)))))
    (i32.const 0))
  (func (export "nap") (result i32)
    (call $wait (i64.const 1000000000)) (call $say_hello) (i32.const 0))
  (func (export "sleep") (result i32) (call $wait (i64.const 3600000000000)) (i32.const 0))
  (func (export "big") (result i32) (local $left i32)
    (local.set $left (i32.const 128))
    (loop $again
      (drop (call $output_write (i32.const 65536) (i32.const 65536)))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0))
  (func (export "say") (result i32)
    (drop (call $log (i32.const 3) (i32.const 0) (i32.const 5))) (i32.const 0))
  (func (export "fail") (result i32) (call $say_hello) (i32.const 1))
  (func (export "rant") (result i32)
    (memory.fill (i32.const 8192) (i32.const 120) (i32.const 4000))
    (drop (call $output_write (i32.const 8192) (i32.const 4000)))
    (i32.const 1))
  (func (export "nothing") (result i32) (local $left i32)
    (local.set $left (i32.const 128))
    (loop $again
      (drop (call $output_write (i32.const 65536) (i32.const 65536)))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 1))
  (func (export "trap") (result i32) unreachable)
"#;
