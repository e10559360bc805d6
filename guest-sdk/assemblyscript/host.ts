// The imports of kvasm_v1, as docs/abi.md describes them. A test compares them with the host's.

@external("kvasm_v1", "kv_get")
export declare function kv_get(
  collection: usize, collectionLen: usize, key: usize, keyLen: usize, format: i32, flags: i32, out: usize, cap: usize,
): i64;

@external("kvasm_v1", "kv_set")
export declare function kv_set(
  collection: usize, collectionLen: usize, key: usize, keyLen: usize, value: usize, valueLen: usize, format: i32, options: usize,
): i64;

@external("kvasm_v1", "kv_has")
export declare function kv_has(collection: usize, collectionLen: usize, key: usize, keyLen: usize): i64;

@external("kvasm_v1", "kv_delete")
export declare function kv_delete(
  collection: usize, collectionLen: usize, key: usize, keyLen: usize, options: usize,
): i64;

@external("kvasm_v1", "kv_list")
export declare function kv_list(
  collection: usize, collectionLen: usize, options: usize, out: usize, cap: usize,
): i64;

@external("kvasm_v1", "kv_increment")
export declare function kv_increment(
  collection: usize, collectionLen: usize, key: usize, keyLen: usize, delta: i64, result: usize,
): i64;

@external("kvasm_v1", "kv_add")
export declare function kv_add(
  collection: usize, collectionLen: usize, key: usize, keyLen: usize, delta: i64,
): i64;

@external("kvasm_v1", "kv_get_many")
export declare function kv_get_many(keys: usize, keysLen: usize, out: usize, cap: usize): i64;

@external("kvasm_v1", "kv_commit")
export declare function kv_commit(batch: usize, batchLen: usize, out: usize, cap: usize): i64;

@external("kvasm_v1", "transaction_begin")
export declare function transaction_begin(): i64;

@external("kvasm_v1", "transaction_commit")
export declare function transaction_commit(): i64;

@external("kvasm_v1", "transaction_drop")
export declare function transaction_drop(): i64;

@external("kvasm_v1", "timer_set")
export declare function timer_set(
  name: usize, nameLen: usize, flags: i32, ms: i64, payload: usize, payloadLen: usize,
): i64;

@external("kvasm_v1", "timer_cancel")
export declare function timer_cancel(name: usize, nameLen: usize): i64;

@external("kvasm_v1", "dead_letters")
export declare function dead_letters(
  before: usize, beforeLen: usize, limit: i32, out: usize, cap: usize,
): i64;

@external("kvasm_v1", "dead_letter_replay")
export declare function dead_letter_replay(id: usize, idLen: usize): i64;

@external("kvasm_v1", "config_get")
export declare function config_get(name: usize, nameLen: usize, out: usize, cap: usize): i64;

@external("kvasm_v1", "secret_get")
export declare function secret_get(name: usize, nameLen: usize, out: usize, cap: usize): i64;

@external("kvasm_v1", "http_fetch")
export declare function http_fetch(request: usize, requestLen: usize, out: usize, cap: usize): i64;

@external("kvasm_v1", "result_read")
export declare function result_read(offset: usize, out: usize, length: usize): i64;

@external("kvasm_v1", "error_message")
export declare function error_message(out: usize, cap: usize): i64;

@external("kvasm_v1", "input_len")
export declare function input_len(): i64;

@external("kvasm_v1", "input_read")
export declare function input_read(offset: usize, out: usize, length: usize): i64;

@external("kvasm_v1", "output_write")
export declare function output_write(bytes: usize, length: usize): i64;

@external("kvasm_v1", "context")
export declare function context(out: usize, cap: usize): i64;

@external("kvasm_v1", "log")
export declare function log(level: i32, text: usize, length: usize): i64;

@external("kvasm_v1", "now_ms")
export declare function now_ms(): i64;

@external("kvasm_v1", "random_fill")
export declare function random_fill(out: usize, length: usize): i64;
