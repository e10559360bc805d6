/* Helpers for plugins in C, over kvasm.h. Copy both files.
 *
 * They need no libc. Memory from kvasm_alloc is never freed: each call runs in a fresh instance,
 * which is discarded after the call. A function that returns an int64_t returns zero or more on
 * success, and else a status; kvasm_fail then fails the call with the host's reason. */
#ifndef KVASM_PLUGIN_H
#define KVASM_PLUGIN_H

#include "kvasm.h"

#define KVASM_INLINE static inline __attribute__((unused))

/* Bytes of this length, without a NUL at the end. */
typedef struct kvasm_range kvasm_bytes;

/* A string literal as kvasm_bytes, and as the two arguments that the imports take. */
#define KVASM_TEXT(literal) ((kvasm_bytes){(literal), sizeof(literal) - 1})
#define KVASM_LITERAL(literal) (literal), (sizeof(literal) - 1)

#ifdef __wasm__
extern unsigned char __heap_base;

/* Returns memory that is aligned to 16 bytes and zero, or ends the instance with a trap. */
KVASM_INLINE void *kvasm_alloc(size_t len) {
    static size_t next;
    if (next == 0) next = ((size_t)&__heap_base + 15) & ~(size_t)15;
    size_t have = __builtin_wasm_memory_size(0) * 65536;
    size_t at = next;
    if (len > (size_t)-65536 - at) __builtin_trap();
    next = (at + len + 15) & ~(size_t)15;
    if (next > have && __builtin_wasm_memory_grow(0, (next - have + 65535) / 65536) == (size_t)-1)
        __builtin_trap();
    return (void *)at;
}
#else
#include <stdlib.h>
KVASM_INLINE void *kvasm_alloc(size_t len) {
    void *memory = calloc(1, len ? len : 1);
    if (!memory) abort();
    return memory;
}
#endif

KVASM_INLINE void kvasm_copy(void *to, const void *from, size_t len) {
    unsigned char *out = to;
    const unsigned char *in = from;
    while (len-- > 0) *out++ = *in++;
}

KVASM_INLINE int kvasm_equal(kvasm_bytes a, kvasm_bytes b) {
    if (a.len != b.len) return 0;
    for (size_t i = 0; i < a.len; i++)
        if (a.ptr[i] != b.ptr[i]) return 0;
    return 1;
}

/* A text that ends with a NUL. */
KVASM_INLINE kvasm_bytes kvasm_cstring(const char *text) {
    size_t len = 0;
    while (text[len]) len++;
    return (kvasm_bytes){text, len};
}

/* Splits at the first `mark`. Returns 0, with all of `text` in `before`, if there is none. */
KVASM_INLINE int kvasm_split(kvasm_bytes text, char mark, kvasm_bytes *before, kvasm_bytes *after) {
    size_t at = 0;
    while (at < text.len && text.ptr[at] != mark) at++;
    int found = at < text.len;
    size_t skip = at + (found ? 1 : 0);
    *after = (kvasm_bytes){text.ptr + skip, text.len - skip};
    *before = (kvasm_bytes){text.ptr, at};
    return found;
}

/* --- Input and output --- */

KVASM_INLINE kvasm_bytes kvasm_input(void) {
    size_t len = (size_t)kvasm_input_len();
    char *bytes = kvasm_alloc(len);
    kvasm_input_read(0, bytes, len);
    return (kvasm_bytes){bytes, len};
}

KVASM_INLINE void kvasm_write(kvasm_bytes bytes) { kvasm_output_write(bytes.ptr, bytes.len); }
#define KVASM_SAY(literal) kvasm_write(KVASM_TEXT(literal))

KVASM_INLINE kvasm_bytes kvasm_decimal(int64_t number) {
    char *digits = kvasm_alloc(20);
    size_t at = 20;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (number < 0) digits[--at] = '-';
    return (kvasm_bytes){digits + at, 20 - at};
}

/* Returns 0 if the text is not a decimal integer that fits. */
KVASM_INLINE int kvasm_parse_decimal(kvasm_bytes text, int64_t *number) {
    size_t at = text.len > 0 && text.ptr[0] == '-' ? 1 : 0;
    if (at == text.len) return 0;
    int64_t sum = 0;
    for (size_t i = at; i < text.len; i++) {
        int digit = text.ptr[i] - '0';
        if (digit < 0 || digit > 9) return 0;
        /* Below zero, where the smallest number fits too. */
        if (sum < (INT64_MIN + digit) / 10) return 0;
        sum = sum * 10 - digit;
    }
    if (at == 0 && sum == INT64_MIN) return 0;
    *number = at == 0 ? -sum : sum;
    return 1;
}

/* Writes the reason of the last status to the output. Returns the exit code of a failure. */
KVASM_INLINE int32_t kvasm_fail(void) {
    char message[4096];
    int64_t len = kvasm_error_message(message, sizeof message);
    if (len > 0 && len <= (int64_t)sizeof message) kvasm_write((kvasm_bytes){message, (size_t)len});
    return KVASM_FAILED;
}

/* Rejects the call's input for a reason that the caller sees. */
KVASM_INLINE int32_t kvasm_refuse(kvasm_bytes reason) {
    kvasm_write(reason);
    return KVASM_REFUSED;
}

KVASM_INLINE void kvasm_info(kvasm_bytes text) { kvasm_log(KVASM_INFO, text.ptr, text.len); }

/* --- Entries --- */

/* Copies a result that did not fit its buffer. `len` is what the import returned. */
KVASM_INLINE kvasm_bytes kvasm_result(int64_t len) {
    char *bytes = kvasm_alloc((size_t)len);
    kvasm_result_read(0, bytes, (size_t)len);
    return (kvasm_bytes){bytes, (size_t)len};
}

/* Reads an entry of either format. Returns its length; KVASM_NOT_FOUND if it does not exist. */
KVASM_INLINE int64_t kvasm_get(kvasm_bytes collection, kvasm_bytes key, kvasm_bytes *value) {
    int64_t len = kvasm_kv_get(collection.ptr, collection.len, key.ptr, key.len, KVASM_BYTES, 0, 0, 0);
    if (len >= 0) *value = kvasm_result(len);
    return len;
}

/* Like kvasm_get, with the version for a conditional write: 0 if the entry does not exist. */
KVASM_INLINE int64_t kvasm_get_version(kvasm_bytes collection, kvasm_bytes key, kvasm_bytes *value,
                                       uint64_t *version) {
    struct kvasm_entry_header header = {0, 0, 0, 0};
    *version = 0;
    int64_t len = kvasm_kv_get(collection.ptr, collection.len, key.ptr, key.len, KVASM_BYTES,
                               KVASM_GET_WITH_HEADER, 0, 0);
    if (len < (int64_t)sizeof header) return len;
    kvasm_bytes all = kvasm_result(len);
    kvasm_copy(&header, all.ptr, sizeof header);
    *value = (kvasm_bytes){all.ptr + sizeof header, all.len - sizeof header};
    *version = header.version;
    return (int64_t)value->len;
}

KVASM_INLINE int64_t kvasm_set(kvasm_bytes collection, kvasm_bytes key, kvasm_bytes value) {
    return kvasm_kv_set(collection.ptr, collection.len, key.ptr, key.len, value.ptr, value.len,
                        KVASM_BYTES, 0);
}

/* JSON text: other plugins and the operator's tools show it as such. */
KVASM_INLINE int64_t kvasm_set_json(kvasm_bytes collection, kvasm_bytes key, kvasm_bytes json) {
    return kvasm_kv_set(collection.ptr, collection.len, key.ptr, key.len, json.ptr, json.len,
                        KVASM_JSON, 0);
}

/* KVASM_CONFLICT if the entry has another version; 0 stands for "does not exist". */
KVASM_INLINE int64_t kvasm_set_if(kvasm_bytes collection, kvasm_bytes key, kvasm_bytes value,
                                  uint64_t version) {
    struct kvasm_set_options options = {sizeof options, 2, 0, version};
    return kvasm_kv_set(collection.ptr, collection.len, key.ptr, key.len, value.ptr, value.len,
                        KVASM_BYTES, &options);
}

KVASM_INLINE int64_t kvasm_has(kvasm_bytes collection, kvasm_bytes key) {
    return kvasm_kv_has(collection.ptr, collection.len, key.ptr, key.len);
}

KVASM_INLINE int64_t kvasm_delete(kvasm_bytes collection, kvasm_bytes key) {
    return kvasm_kv_delete(collection.ptr, collection.len, key.ptr, key.len, 0);
}

/* Adds to an integer; an absent entry counts as 0. */
KVASM_INLINE int64_t kvasm_increment(kvasm_bytes collection, kvasm_bytes key, int64_t delta,
                                     int64_t *sum) {
    return kvasm_kv_increment(collection.ptr, collection.len, key.ptr, key.len, delta, sum);
}

/* Adds to an integer. In a transaction it reads nothing, so that those who add do not conflict. */
KVASM_INLINE int64_t kvasm_add(kvasm_bytes collection, kvasm_bytes key, int64_t delta) {
    return kvasm_kv_add(collection.ptr, collection.len, key.ptr, key.len, delta);
}

/* --- Transactions, timers and settings --- */

/* Makes a part of a call a transaction: what `run` writes takes effect together, or not at all if it
 * returns a status. It is run again if what it has read has changed. Returns what `run` returned, or
 * the status of the commit. */
KVASM_INLINE int64_t kvasm_transaction(int64_t (*run)(void *), void *argument) {
    for (;;) {
        int64_t ended = kvasm_transaction_begin();
        if (ended < 0) return ended;
        int64_t result = run(argument);
        ended = result < 0 ? kvasm_transaction_drop() : kvasm_transaction_commit();
        if (ended == KVASM_CONFLICT) continue;
        return result < 0 || ended >= 0 ? result : ended;
    }
}

/* Calls on_timer once, after so many milliseconds. A timer of the same name is replaced. */
KVASM_INLINE int64_t kvasm_timer_after(kvasm_bytes name, int64_t ms, kvasm_bytes payload) {
    return kvasm_timer_set(name.ptr, name.len, KVASM_TIMER_AFTER, ms, payload.ptr, payload.len);
}

/* The same, at a Unix time in milliseconds. */
KVASM_INLINE int64_t kvasm_timer_at(kvasm_bytes name, int64_t ms, kvasm_bytes payload) {
    return kvasm_timer_set(name.ptr, name.len, KVASM_TIMER_AT, ms, payload.ptr, payload.len);
}

/* Runs a delivery again after so many milliseconds, from 1,000 to 30 days, which is no failure. Returns
 * the exit code for the handler to return. */
KVASM_INLINE int32_t kvasm_retry_after(int64_t ms) {
    kvasm_write(kvasm_decimal(ms));
    return KVASM_LATER;
}

/* A configuration value of the app. KVASM_NOT_FOUND: it is not set. */
KVASM_INLINE int64_t kvasm_config(kvasm_bytes name, kvasm_bytes *value) {
    int64_t len = kvasm_config_get(name.ptr, name.len, 0, 0);
    if (len >= 0) *value = kvasm_result(len);
    return len;
}

/* A secret of the app, which the plugin must declare and the app grant. */
KVASM_INLINE int64_t kvasm_secret(kvasm_bytes name, kvasm_bytes *value) {
    int64_t len = kvasm_secret_get(name.ptr, name.len, 0, 0);
    if (len >= 0) *value = kvasm_result(len);
    return len;
}

/* --- Packed records: docs/abi.md has the layouts --- */

/* Reads from the front of `rest`. Past the end the results are zero, and `malformed` is 1. */
struct kvasm_reader {
    kvasm_bytes rest;
    int malformed;
};

KVASM_INLINE kvasm_bytes kvasm_read_bytes(struct kvasm_reader *reader, size_t len) {
    if (len > reader->rest.len) {
        reader->malformed = 1;
        reader->rest.len = 0;
        return (kvasm_bytes){reader->rest.ptr, 0};
    }
    kvasm_bytes taken = {reader->rest.ptr, len};
    reader->rest = (kvasm_bytes){reader->rest.ptr + len, reader->rest.len - len};
    return taken;
}

KVASM_INLINE uint64_t kvasm_read_integer(struct kvasm_reader *reader, size_t width) {
    kvasm_bytes taken = kvasm_read_bytes(reader, width);
    uint64_t number = 0;
    for (size_t i = taken.len; i > 0; i--) number = number << 8 | (unsigned char)taken.ptr[i - 1];
    return number;
}

KVASM_INLINE uint32_t kvasm_read_u32(struct kvasm_reader *reader) {
    return (uint32_t)kvasm_read_integer(reader, 4);
}

KVASM_INLINE uint64_t kvasm_read_u64(struct kvasm_reader *reader) {
    return kvasm_read_integer(reader, 8);
}

/* A length of 4 bytes, and as many bytes. */
KVASM_INLINE kvasm_bytes kvasm_read_sized(struct kvasm_reader *reader) {
    return kvasm_read_bytes(reader, kvasm_read_u32(reader));
}

/* One entry of a page, or the slot of kvasm_kv_get_many: without `exists`, the rest is zero. */
struct kvasm_entry {
    kvasm_bytes key, value;
    struct kvasm_entry_header header;
    int exists;
};

KVASM_INLINE void kvasm_read_value(struct kvasm_reader *reader, struct kvasm_entry *entry) {
    entry->header.version = kvasm_read_u64(reader);
    entry->header.expires_at_ms = (int64_t)kvasm_read_u64(reader);
    entry->header.format = kvasm_read_u32(reader);
    entry->header.reserved = kvasm_read_u32(reader);
    entry->value = kvasm_read_sized(reader);
}

KVASM_INLINE struct kvasm_entry kvasm_read_entry(struct kvasm_reader *page, int values) {
    struct kvasm_entry entry = {0};
    entry.key = kvasm_read_sized(page);
    entry.exists = 1;
    if (values) kvasm_read_value(page, &entry);
    return entry;
}

KVASM_INLINE struct kvasm_entry kvasm_read_slot(struct kvasm_reader *slots) {
    struct kvasm_entry entry = {0};
    entry.exists = kvasm_read_u32(slots) == 1;
    if (entry.exists) kvasm_read_value(slots, &entry);
    return entry;
}

/* Appends to memory that grows. */
struct kvasm_writer {
    char *ptr;
    size_t len, cap;
};

KVASM_INLINE void kvasm_put_bytes(struct kvasm_writer *writer, kvasm_bytes bytes) {
    if (bytes.len > writer->cap - writer->len) {
        writer->cap = (writer->len + bytes.len) * 2;
        char *grown = kvasm_alloc(writer->cap);
        kvasm_copy(grown, writer->ptr, writer->len);
        writer->ptr = grown;
    }
    kvasm_copy(writer->ptr + writer->len, bytes.ptr, bytes.len);
    writer->len += bytes.len;
}

KVASM_INLINE void kvasm_put_integer(struct kvasm_writer *writer, uint64_t number, size_t width) {
    char bytes[8];
    for (size_t i = 0; i < width; i++) bytes[i] = (char)(number >> (8 * i));
    kvasm_put_bytes(writer, (kvasm_bytes){bytes, width});
}

KVASM_INLINE void kvasm_put_sized(struct kvasm_writer *writer, kvasm_bytes bytes) {
    kvasm_put_integer(writer, bytes.len, 4);
    kvasm_put_bytes(writer, bytes);
}

KVASM_INLINE kvasm_bytes kvasm_written(const struct kvasm_writer *writer) {
    return (kvasm_bytes){writer->ptr, writer->len};
}

/* The keys of kvasm_kv_get_many, which begin with their number. */
struct kvasm_keys {
    struct kvasm_writer writer;
    uint32_t count;
};

KVASM_INLINE void kvasm_keys_add(struct kvasm_keys *keys, kvasm_bytes collection, kvasm_bytes key) {
    kvasm_put_sized(&keys->writer, collection);
    kvasm_put_sized(&keys->writer, key);
    keys->count++;
}

KVASM_INLINE kvasm_bytes kvasm_keys_packed(const struct kvasm_keys *keys) {
    struct kvasm_writer packed = {0};
    kvasm_put_integer(&packed, keys->count, 4);
    kvasm_put_bytes(&packed, kvasm_written(&keys->writer));
    return kvasm_written(&packed);
}

/* Reads all keys at once. `slots` then has one slot for each, in order: kvasm_read_slot. */
KVASM_INLINE int64_t kvasm_get_many(const struct kvasm_keys *keys, struct kvasm_reader *slots) {
    kvasm_bytes packed = kvasm_keys_packed(keys);
    int64_t len = kvasm_kv_get_many(packed.ptr, packed.len, 0, 0);
    if (len < 0) return len;
    *slots = (struct kvasm_reader){kvasm_result(len), 0};
    return kvasm_read_u32(slots);
}

/* --- Lists --- */

/* Lists the entries whose keys begin with a prefix, in the order of the keys' bytes, page by page:
 *
 *     struct kvasm_list list = {.collection = KVASM_TEXT("notes")};
 *     struct kvasm_entry entry;
 *     int64_t more;
 *     while ((more = kvasm_next(&list, &entry)) > 0) kvasm_write(entry.key);
 *     if (more < 0) return kvasm_fail();
 *
 * Set the first four members; zero means: all keys, no values, ascending, pages of the host's size. */
struct kvasm_list {
    kvasm_bytes collection, prefix;
    int values, reverse;
    uint32_t page_size;
    /* Private. */
    kvasm_bytes cursor;
    struct kvasm_reader page;
    uint32_t left;
    int begun;
};

/* Begins to read a page. Its entries follow: kvasm_read_entry, `left` times. */
KVASM_INLINE void kvasm_read_page(struct kvasm_list *list, kvasm_bytes bytes) {
    list->page = (struct kvasm_reader){bytes, 0};
    list->left = kvasm_read_u32(&list->page);
    list->cursor = kvasm_read_sized(&list->page);
    list->begun = 1;
}

/* Returns 1 and the next entry, 0 at the end, or a status. */
KVASM_INLINE int64_t kvasm_next(struct kvasm_list *list, struct kvasm_entry *entry) {
    while (list->left == 0) {
        if (list->begun && list->cursor.len == 0) return 0;
        struct kvasm_list_options options = {.size = sizeof options};
        options.prefix = list->prefix;
        options.cursor = list->cursor;
        options.limit = list->page_size;
        options.reverse = list->reverse ? 1 : 0;
        options.values = list->values ? 1 : 0;
        options.mask = (list->prefix.len ? 1u : 0) | (list->begun ? 8u : 0) |
                       (list->page_size ? 16u : 0) | 32u | 64u;
        int64_t len = kvasm_kv_list(list->collection.ptr, list->collection.len, &options, 0, 0);
        if (len < 0) return len;
        kvasm_read_page(list, kvasm_result(len));
    }
    list->left--;
    *entry = kvasm_read_entry(&list->page, list->values);
    return 1;
}

/* --- Batches: checks and writes that take effect together, or not at all --- */

struct kvasm_batch {
    struct kvasm_writer checks, ops;
    uint32_t checks_count, ops_count;
};

/* The entry must have this version; 0: it must not exist. */
KVASM_INLINE void kvasm_batch_check(struct kvasm_batch *batch, kvasm_bytes collection,
                                    kvasm_bytes key, uint64_t version) {
    kvasm_put_sized(&batch->checks, collection);
    kvasm_put_sized(&batch->checks, key);
    kvasm_put_integer(&batch->checks, version, 8);
    batch->checks_count++;
}

KVASM_INLINE void kvasm_batch_op(struct kvasm_batch *batch, uint32_t kind, kvasm_bytes collection,
                                 kvasm_bytes key) {
    kvasm_put_integer(&batch->ops, kind, 4);
    kvasm_put_sized(&batch->ops, collection);
    kvasm_put_sized(&batch->ops, key);
    batch->ops_count++;
}

/* `ttl_ms` 0: the entry does not expire. */
KVASM_INLINE void kvasm_batch_set(struct kvasm_batch *batch, kvasm_bytes collection, kvasm_bytes key,
                                  uint32_t format, uint64_t ttl_ms, kvasm_bytes value) {
    kvasm_batch_op(batch, KVASM_OP_SET, collection, key);
    kvasm_put_integer(&batch->ops, format, 4);
    kvasm_put_integer(&batch->ops, ttl_ms, 8);
    kvasm_put_sized(&batch->ops, value);
}

KVASM_INLINE void kvasm_batch_delete(struct kvasm_batch *batch, kvasm_bytes collection,
                                     kvasm_bytes key) {
    kvasm_batch_op(batch, KVASM_OP_DELETE, collection, key);
}

KVASM_INLINE void kvasm_batch_increment(struct kvasm_batch *batch, kvasm_bytes collection,
                                        kvasm_bytes key, int64_t delta) {
    kvasm_batch_op(batch, KVASM_OP_INCREMENT, collection, key);
    kvasm_put_integer(&batch->ops, (uint64_t)delta, 8);
}

/* `flags` is KVASM_TIMER_AT or KVASM_TIMER_AFTER. */
KVASM_INLINE void kvasm_batch_timer_set(struct kvasm_batch *batch, kvasm_bytes name, uint32_t flags,
                                        int64_t ms, kvasm_bytes payload) {
    kvasm_batch_op(batch, KVASM_OP_TIMER_SET, KVASM_TEXT(""), name);
    kvasm_put_integer(&batch->ops, flags, 4);
    kvasm_put_integer(&batch->ops, (uint64_t)ms, 8);
    kvasm_put_sized(&batch->ops, payload);
}

KVASM_INLINE void kvasm_batch_timer_cancel(struct kvasm_batch *batch, kvasm_bytes name) {
    kvasm_batch_op(batch, KVASM_OP_TIMER_CANCEL, KVASM_TEXT(""), name);
}

KVASM_INLINE kvasm_bytes kvasm_batch_packed(const struct kvasm_batch *batch) {
    struct kvasm_writer packed = {0};
    kvasm_put_integer(&packed, batch->checks_count, 4);
    kvasm_put_bytes(&packed, kvasm_written(&batch->checks));
    kvasm_put_integer(&packed, batch->ops_count, 4);
    kvasm_put_bytes(&packed, kvasm_written(&batch->ops));
    return kvasm_written(&packed);
}

/* Applies all of the batch. Returns the number of operations; KVASM_CONFLICT if a check failed.
 * `results` may be 0; else it then has two u64 for each operation, as docs/abi.md says. */
KVASM_INLINE int64_t kvasm_batch_commit(const struct kvasm_batch *batch, struct kvasm_reader *results) {
    kvasm_bytes packed = kvasm_batch_packed(batch);
    int64_t len = kvasm_kv_commit(packed.ptr, packed.len, 0, 0);
    if (len < 0) return len;
    struct kvasm_reader reader = {kvasm_result(len), 0};
    int64_t count = kvasm_read_u32(&reader);
    if (results) *results = reader;
    return count;
}

#endif
