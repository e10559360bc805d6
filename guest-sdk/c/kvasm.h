/* The kvasm_v1 ABI for C. Copy this file, and kvasm_plugin.h for its helpers. docs/abi.md describes
 * each call.
 *
 * Negative results are statuses. A call with `out` and `cap` returns the full
 * length; if that is more than `cap`, nothing is written and kvasm_result_read
 * returns the bytes. */
#ifndef KVASM_H
#define KVASM_H

#include <stddef.h>
#include <stdint.h>

enum kvasm_status {
    KVASM_NOT_FOUND = -1,
    KVASM_CONFLICT = -2,
    KVASM_DENIED = -3,
    KVASM_INVALID = -4,
    KVASM_TOO_LARGE = -5,
    KVASM_QUOTA = -6,
    KVASM_RATE_LIMITED = -7,
    KVASM_TYPE = -8,
    KVASM_UNAVAILABLE = -9,
    KVASM_INTERNAL = -10,
    KVASM_UNSUPPORTED = -11,
    KVASM_REMOTE = -12,
};

enum { KVASM_JSON = 0, KVASM_BYTES = 1 };
/* Exit codes of an export. KVASM_FAILED_FOR_GOOD: the same input would fail again.
 * KVASM_REFUSED: the caller's fault; the output is the reason. KVASM_LATER: run the delivery
 * again; the output is the wait in milliseconds, as decimal digits. */
enum { KVASM_OK = 0, KVASM_FAILED = 1, KVASM_FAILED_FOR_GOOD = 2, KVASM_REFUSED = 3, KVASM_LATER = 4 };
/* The kinds of operations in a packed batch. */
enum { KVASM_OP_SET = 0, KVASM_OP_DELETE = 1, KVASM_OP_INCREMENT = 2 };
enum { KVASM_OP_TIMER_SET = 3, KVASM_OP_TIMER_CANCEL = 4 };
/* The flags of kvasm_timer_set: a Unix time, or a duration; both in milliseconds. */
enum { KVASM_TIMER_AT = 0, KVASM_TIMER_AFTER = 1 };
enum {
    KVASM_BATCH_OPS_MAX = 1000, /* checks and operations together */
    KVASM_BATCH_BYTES_MAX = 4 * 1024 * 1024,
    KVASM_KEYS_MAX = 1000,
    KVASM_LETTERS_MAX = 1000,
};
enum { KVASM_GET_WITH_HEADER = 1 };
enum { KVASM_ERROR = 1, KVASM_WARN, KVASM_INFO, KVASM_DEBUG, KVASM_TRACE };

#ifdef __wasm__
#define KVASM_IMPORT(name) __attribute__((import_module("kvasm_v1"), import_name(#name)))
#define KVASM_EXPORT_AS(name) __attribute__((export_name(name)))
#else
/* A native build, for tests that define the imports. */
#define KVASM_IMPORT(name)
#define KVASM_EXPORT_AS(name)
#endif
/* Precedes a function `int32_t f(void)` that is exported under a name. In a plugin with
 * declarations, only declared functions can be called: use one of the macros below. */
#define KVASM_EXPORT(name) KVASM_EXPORT_AS(#name)

/* Each of these begins a function that takes nothing and returns an exit code, exports it, and
 * declares what it is:
 *
 *     KVASM_FUNCTION(hello) { return KVASM_OK; }
 *
 * KVASM_TRANSACTION: a function whose writes take effect together, or not at all; it is run again
 * if what it has read has changed. KVASM_HTTP: the handler of HTTP requests; KVASM_HTTP_TRANSACTION:
 * the same, each request a transaction. KVASM_ON_CHANGE: called
 * after an entry of the collection was set or deleted; of all keys, or of those with a prefix.
 * KVASM_CRON: called by a schedule of five fields, in UTC. KVASM_ON_TIMER: called when a timer is
 * due. Names and other texts are string literals without quotation marks and backslashes. */
#define KVASM_FUNCTION(name) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"function\",\"name\":\"" #name "\"}", name)
#define KVASM_TRANSACTION(name) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"function\",\"name\":\"" #name "\",\"transaction\":true}", name)
#define KVASM_HTTP(name) KVASM_DECLARE_EXPORT("{\"kind\":\"http\",\"name\":\"" #name "\"}", name)
#define KVASM_HTTP_TRANSACTION(name) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"http\",\"name\":\"" #name "\",\"transaction\":true}", name)
#define KVASM_ON_CHANGE(name, collection) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"on_change\",\"name\":\"" #name "\",\"collection\":\"" collection "\"}", name)
#define KVASM_ON_CHANGE_PREFIX(name, collection, prefix) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"on_change\",\"name\":\"" #name "\",\"collection\":\"" collection \
                         "\",\"prefix\":\"" prefix "\"}", name)
#define KVASM_CRON(name, schedule) \
    KVASM_DECLARE_EXPORT("{\"kind\":\"cron\",\"name\":\"" #name "\",\"schedule\":\"" schedule "\"}", name)
#define KVASM_ON_TIMER() KVASM_DECLARE_EXPORT("{\"kind\":\"on_timer\",\"name\":\"on_timer\"}", on_timer)

/* Adds a line of JSON to the custom section that declares the plugin; docs/abi.md lists the kinds.
 * For a need: KVASM_DECLARE("{\"kind\":\"secret\",\"name\":\"api-key\"}") */
#define KVASM_DECLARE(line) KVASM_SECTION_LINE(line)
#define KVASM_DECLARE_EXPORT(line, name) KVASM_DECLARE(line) KVASM_EXPORT(name) int32_t name(void)
#ifdef __wasm__
/* In assembly: a variable with __attribute__((section)) would become a part of the memory. */
#define KVASM_SECTION_LINE(line) \
    __asm__(".section .custom_section.kvasm.plugin.v1,\"\",@\n\t.ascii " #line "\n\t.ascii \"\\n\"\n\t.text\n");
#else
#define KVASM_SECTION_LINE(line)
#endif

/* Precedes the value that kvasm_kv_get returns with KVASM_GET_WITH_HEADER. */
struct kvasm_entry_header {
    uint64_t version;
    int64_t expires_at_ms; /* 0: never */
    uint32_t format, reserved;
};

/* The options of a write: set `size` to the struct's size, and a bit of `mask`
 * for each field that is set: 1 for ttl_ms, 2 for if_version (0: if absent). */
struct kvasm_set_options {
    uint32_t size, mask;
    uint64_t ttl_ms, if_version;
};

struct kvasm_delete_options {
    uint32_t size, mask; /* mask 1: if_version */
    uint64_t if_version;
};

struct kvasm_range {
    const char *ptr;
    size_t len;
};

struct kvasm_list_options {
    uint32_t size, mask; /* a bit for each field below: 1, 2, 4, 8, ... */
    struct kvasm_range prefix, start, end, cursor;
    uint32_t limit, reverse, values;
};

KVASM_IMPORT(kv_get)
int64_t kvasm_kv_get(const char *collection, size_t collection_len, const char *key, size_t key_len,
                     int32_t format, int32_t flags, void *out, size_t cap);
KVASM_IMPORT(kv_set)
int64_t kvasm_kv_set(const char *collection, size_t collection_len, const char *key, size_t key_len,
                     const void *value, size_t value_len, int32_t format,
                     const struct kvasm_set_options *options);
KVASM_IMPORT(kv_has)
int64_t kvasm_kv_has(const char *collection, size_t collection_len, const char *key, size_t key_len);
KVASM_IMPORT(kv_delete)
int64_t kvasm_kv_delete(const char *collection, size_t collection_len, const char *key,
                        size_t key_len, const struct kvasm_delete_options *options);
KVASM_IMPORT(kv_list)
int64_t kvasm_kv_list(const char *collection, size_t collection_len,
                      const struct kvasm_list_options *options, void *out, size_t cap);
/* Adds to an integer, and writes the new value to `result`. */
KVASM_IMPORT(kv_increment)
int64_t kvasm_kv_increment(const char *collection, size_t collection_len, const char *key,
                           size_t key_len, int64_t delta, int64_t *result);
/* Adds to an integer. In a transaction it reads nothing, so that those who add do not conflict. */
KVASM_IMPORT(kv_add)
int64_t kvasm_kv_add(const char *collection, size_t collection_len, const char *key,
                     size_t key_len, int64_t delta);
/* Keys, batches and their results are packed: docs/abi.md has the layouts. */
KVASM_IMPORT(kv_get_many)
int64_t kvasm_kv_get_many(const void *keys, size_t keys_len, void *out, size_t cap);
/* On KVASM_CONFLICT kvasm_result_read returns the positions of the failed checks. */
KVASM_IMPORT(kv_commit)
int64_t kvasm_kv_commit(const void *batch, size_t batch_len, void *out, size_t cap);
/* Make a part of a call a transaction. KVASM_CONFLICT from commit or drop: repeat it. */
KVASM_IMPORT(transaction_begin) int64_t kvasm_transaction_begin(void);
KVASM_IMPORT(transaction_commit) int64_t kvasm_transaction_commit(void);
KVASM_IMPORT(transaction_drop) int64_t kvasm_transaction_drop(void);
/* A timer calls the export "on_timer", which the manifest must declare. */
KVASM_IMPORT(timer_set)
int64_t kvasm_timer_set(const char *name, size_t name_len, int32_t flags, int64_t ms,
                        const void *payload, size_t payload_len);
KVASM_IMPORT(timer_cancel) int64_t kvasm_timer_cancel(const char *name, size_t name_len);
/* `before`: the id of a dead letter; length 0 starts with the newest. */
KVASM_IMPORT(dead_letters)
int64_t kvasm_dead_letters(const char *before, size_t before_len, int32_t limit, char *out,
                           size_t cap);
KVASM_IMPORT(dead_letter_replay) int64_t kvasm_dead_letter_replay(const char *id, size_t id_len);
/* A configuration value of the app, and a secret; KVASM_NOT_FOUND if it is not set. */
KVASM_IMPORT(config_get)
int64_t kvasm_config_get(const char *name, size_t name_len, char *out, size_t cap);
KVASM_IMPORT(secret_get)
int64_t kvasm_secret_get(const char *name, size_t name_len, void *out, size_t cap);
/* Sends an HTTP request. Request and response: the length of the head (4 bytes, little-endian), the
 * head as JSON, the body. KVASM_REMOTE: the server cannot be reached, or did not answer. */
KVASM_IMPORT(http_fetch)
int64_t kvasm_http_fetch(const void *request, size_t request_len, void *out, size_t cap);
KVASM_IMPORT(result_read) int64_t kvasm_result_read(size_t offset, void *out, size_t len);
KVASM_IMPORT(error_message) int64_t kvasm_error_message(char *out, size_t cap);

KVASM_IMPORT(input_len) int64_t kvasm_input_len(void);
KVASM_IMPORT(input_read) int64_t kvasm_input_read(size_t offset, void *out, size_t len);
KVASM_IMPORT(output_write) int64_t kvasm_output_write(const void *bytes, size_t len);

KVASM_IMPORT(context) int64_t kvasm_context(char *out, size_t cap);
KVASM_IMPORT(log) int64_t kvasm_log(int32_t level, const char *text, size_t len);
KVASM_IMPORT(now_ms) int64_t kvasm_now_ms(void);
KVASM_IMPORT(random_fill) int64_t kvasm_random_fill(void *out, size_t len);

#endif
