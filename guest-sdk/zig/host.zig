//! The imports of kvasm_v1, as docs/abi.md describes them. A test compares them with the host's.

pub extern "kvasm_v1" fn kv_get(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
    format: i32,
    flags: i32,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn kv_set(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
    value: ?*const anyopaque,
    value_len: usize,
    format: i32,
    options: ?*const anyopaque,
) i64;
pub extern "kvasm_v1" fn kv_has(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
) i64;
pub extern "kvasm_v1" fn kv_delete(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
    options: ?*const anyopaque,
) i64;
pub extern "kvasm_v1" fn kv_list(
    collection: ?*const anyopaque,
    collection_len: usize,
    options: ?*const anyopaque,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn kv_increment(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
    delta: i64,
    result: ?*anyopaque,
) i64;
pub extern "kvasm_v1" fn kv_add(
    collection: ?*const anyopaque,
    collection_len: usize,
    key: ?*const anyopaque,
    key_len: usize,
    delta: i64,
) i64;
pub extern "kvasm_v1" fn kv_get_many(
    keys: ?*const anyopaque,
    keys_len: usize,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn kv_commit(
    batch: ?*const anyopaque,
    batch_len: usize,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn transaction_begin() i64;
pub extern "kvasm_v1" fn transaction_commit() i64;
pub extern "kvasm_v1" fn transaction_drop() i64;
pub extern "kvasm_v1" fn timer_set(
    name: ?*const anyopaque,
    name_len: usize,
    flags: i32,
    ms: i64,
    payload: ?*const anyopaque,
    payload_len: usize,
) i64;
pub extern "kvasm_v1" fn timer_cancel(name: ?*const anyopaque, name_len: usize) i64;
pub extern "kvasm_v1" fn dead_letters(
    before: ?*const anyopaque,
    before_len: usize,
    limit: i32,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn dead_letter_replay(id: ?*const anyopaque, id_len: usize) i64;
pub extern "kvasm_v1" fn config_get(
    name: ?*const anyopaque,
    name_len: usize,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn secret_get(
    name: ?*const anyopaque,
    name_len: usize,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn http_fetch(
    request: ?*const anyopaque,
    request_len: usize,
    out: ?*anyopaque,
    cap: usize,
) i64;
pub extern "kvasm_v1" fn result_read(offset: usize, out: ?*anyopaque, length: usize) i64;
pub extern "kvasm_v1" fn error_message(out: ?*anyopaque, cap: usize) i64;
pub extern "kvasm_v1" fn input_len() i64;
pub extern "kvasm_v1" fn input_read(offset: usize, out: ?*anyopaque, length: usize) i64;
pub extern "kvasm_v1" fn output_write(bytes: ?*const anyopaque, length: usize) i64;
pub extern "kvasm_v1" fn context(out: ?*anyopaque, cap: usize) i64;
pub extern "kvasm_v1" fn log(level: i32, text: ?*const anyopaque, length: usize) i64;
pub extern "kvasm_v1" fn now_ms() i64;
pub extern "kvasm_v1" fn random_fill(out: ?*anyopaque, length: usize) i64;
