/* Reads the golden vectors with the helpers for C: the input is guest-sdk/vectors.txt. Writes the cases
 * that differ, and how many there were. */
#include "kvasm_http.h"

static struct kvasm_writer out;

static void put(kvasm_bytes text) { kvasm_put_bytes(&out, text); }
static void put_number(int64_t number) { put(kvasm_decimal(number)); }

static void put_hex(kvasm_bytes bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        for (int shift = 4; shift >= 0; shift -= 4) {
            char digit = "0123456789abcdef"[(unsigned char)bytes.ptr[i] >> shift & 15];
            put((kvasm_bytes){&digit, 1});
        }
}

static kvasm_bytes unhex(kvasm_bytes text) {
    struct kvasm_writer bytes = {0};
    for (size_t i = 0; i + 1 < text.len; i += 2) {
        kvasm_bytes pair = {text.ptr + i, 2};
        kvasm_put_integer(&bytes, kvasm_json_hex(pair, 0), 1);
    }
    return kvasm_written(&bytes);
}

static void put_value(const struct kvasm_entry *entry) {
    put_number((int64_t)entry->header.version);
    put(KVASM_TEXT("/"));
    put_number(entry->header.expires_at_ms);
    put(KVASM_TEXT("/"));
    put_number(entry->header.format);
    put(KVASM_TEXT("/"));
    put_hex(entry->value);
}

static void page(kvasm_bytes bytes, int values) {
    struct kvasm_list list = {0};
    kvasm_read_page(&list, bytes);
    put(KVASM_TEXT("cursor="));
    put_hex(list.cursor);
    put(KVASM_TEXT(" entries="));
    for (uint32_t i = 0; i < list.left && !list.page.malformed; i++) {
        struct kvasm_entry entry = kvasm_read_entry(&list.page, values);
        if (i > 0) put(KVASM_TEXT(","));
        put_hex(entry.key);
        if (values) put(KVASM_TEXT("/")), put_value(&entry);
    }
    if (list.page.malformed) out.len = 0, put(KVASM_TEXT("malformed"));
}

static void slots(kvasm_bytes bytes) {
    struct kvasm_reader reader = {bytes, 0};
    uint32_t count = kvasm_read_u32(&reader);
    for (uint32_t i = 0; i < count && !reader.malformed; i++) {
        struct kvasm_entry entry = kvasm_read_slot(&reader);
        if (i > 0) put(KVASM_TEXT(","));
        if (entry.exists) put_value(&entry);
        else put(KVASM_TEXT("-"));
    }
    if (reader.malformed) out.len = 0, put(KVASM_TEXT("malformed"));
}

static void applied(kvasm_bytes bytes) {
    struct kvasm_reader reader = {bytes, 0};
    uint32_t count = kvasm_read_u32(&reader);
    for (uint32_t i = 0; i < count && !reader.malformed; i++) {
        if (i > 0) put(KVASM_TEXT(","));
        put_number((int64_t)kvasm_read_u64(&reader));
        put(KVASM_TEXT("/"));
        put_number((int64_t)kvasm_read_u64(&reader));
    }
    if (reader.malformed) out.len = 0, put(KVASM_TEXT("malformed"));
}

static void request(kvasm_bytes bytes) {
    struct kvasm_request request;
    if (!kvasm_request_read(bytes, &request)) return put(KVASM_TEXT("malformed"));
    kvasm_bytes parts[] = {request.method, request.path, request.query, request.body};
    for (int i = 0; i < 4; i++) put_hex(parts[i]), put(KVASM_TEXT(" "));
    kvasm_bytes names[] = {KVASM_TEXT("accept"), KVASM_TEXT("x")}, value;
    for (int i = 0; i < 2; i++) {
        if (i > 0) put(KVASM_TEXT(","));
        put_hex(names[i]);
        put(KVASM_TEXT(":"));
        if (kvasm_header(&request, names[i], &value)) put_hex(value);
    }
}

static void delivery(kvasm_bytes bytes) {
    struct kvasm_delivery delivery;
    if (!kvasm_delivery_read(bytes, &delivery)) return put(KVASM_TEXT("malformed"));
    kvasm_bytes version = KVASM_TEXT("");
    kvasm_json_member(delivery.head, KVASM_TEXT("version"), &version);
    put_hex(delivery.kind), put(KVASM_TEXT(" "));
    put_hex(delivery.collection), put(KVASM_TEXT(" "));
    put_hex(delivery.key), put(KVASM_TEXT(" "));
    put(version), put(KVASM_TEXT(" "));
    put_hex(delivery.body);
}

/* What plugins write. */
static kvasm_bytes built(kvasm_bytes kind) {
    kvasm_bytes notes = KVASM_TEXT("notes");
    if (kvasm_equal(kind, KVASM_TEXT("keys"))) {
        struct kvasm_keys keys = {0};
        kvasm_keys_add(&keys, notes, KVASM_TEXT("a"));
        kvasm_keys_add(&keys, notes, KVASM_TEXT("\xc3\xa9"));
        return kvasm_keys_packed(&keys);
    }
    if (kvasm_equal(kind, KVASM_TEXT("batch"))) {
        struct kvasm_batch batch = {0};
        kvasm_batch_check(&batch, notes, KVASM_TEXT("\xc3\xa9"), (uint64_t)1 << 40);
        kvasm_batch_set(&batch, notes, KVASM_TEXT("a"), KVASM_BYTES, 60000, KVASM_TEXT("\0\xff"));
        kvasm_batch_delete(&batch, notes, KVASM_TEXT("b"));
        kvasm_batch_increment(&batch, KVASM_TEXT("stats"), KVASM_TEXT("c"), -2);
        kvasm_batch_timer_set(&batch, KVASM_TEXT("t"), KVASM_TIMER_AFTER, 5000, KVASM_TEXT("p"));
        kvasm_batch_timer_cancel(&batch, KVASM_TEXT("u"));
        return kvasm_batch_packed(&batch);
    }
    if (kvasm_equal(kind, KVASM_TEXT("response"))) {
        struct kvasm_response response = kvasm_response(201);
        kvasm_response_header(&response, KVASM_TEXT("x-a"), KVASM_TEXT("q\"\\\001\xc3\xa9"));
        return kvasm_response_packed(&response, KVASM_TEXT("\0"));
    }
    if (kvasm_equal(kind, KVASM_TEXT("set-options"))) {
        static const struct kvasm_set_options options = {sizeof options, 3, 60000, 7};
        return (kvasm_bytes){(const char *)&options, sizeof options};
    }
    static const struct kvasm_delete_options options = {sizeof options, 1, 7};
    return (kvasm_bytes){(const char *)&options, sizeof options};
}

KVASM_FUNCTION(check) {
    kvasm_bytes rest = kvasm_input(), line;
    int64_t cases = 0;
    while (rest.len > 0) {
        kvasm_split(rest, '\n', &line, &rest);
        if (line.len == 0 || line.ptr[0] == '#') continue;
        kvasm_bytes kind, hex, meaning;
        kvasm_split(line, ' ', &kind, &meaning);
        kvasm_split(meaning, ' ', &hex, &meaning);
        kvasm_bytes bytes = kvasm_equal(hex, KVASM_TEXT("-")) ? KVASM_TEXT("") : unhex(hex);
        kvasm_bytes expected = meaning;
        out = (struct kvasm_writer){0};
        if (kvasm_equal(kind, KVASM_TEXT("page"))) page(bytes, 0);
        else if (kvasm_equal(kind, KVASM_TEXT("page-values"))) page(bytes, 1);
        else if (kvasm_equal(kind, KVASM_TEXT("slots"))) slots(bytes);
        else if (kvasm_equal(kind, KVASM_TEXT("applied"))) applied(bytes);
        else if (kvasm_equal(kind, KVASM_TEXT("request"))) request(bytes);
        else if (kvasm_equal(kind, KVASM_TEXT("delivery"))) delivery(bytes);
        else put_hex(built(kind)), expected = hex;
        if (!kvasm_equal(kvasm_written(&out), expected)) {
            kvasm_write(line);
            KVASM_SAY("\n  found ");
            kvasm_write(kvasm_written(&out));
            KVASM_SAY("\n");
        }
        cases++;
    }
    kvasm_write(kvasm_decimal(cases));
    return KVASM_OK;
}
