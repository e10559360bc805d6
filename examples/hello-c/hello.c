/* Notes in C, and a greeting that counts its visits.
 *
 * Each call runs in a fresh instance: globals and memory last for one call, entries stay. */
#include "kvasm_http.h"

#define NOTES KVASM_TEXT("notes")
#define VISITS KVASM_TEXT("visits")
#define STATS KVASM_TEXT("stats")

/* Greets the name in the input, and counts its visits. The entry is overwritten only if no other call
 * has written it since it was read, so concurrent calls lose no visit. */
KVASM_FUNCTION(hello) {
    kvasm_bytes name = kvasm_input();
    if (name.len < 1 || name.len > 64)
        return kvasm_refuse(KVASM_TEXT("the input must be a name of 1 to 64 bytes"));
    int64_t status, visits;
    do {
        kvasm_bytes before;
        uint64_t version;
        visits = 0;
        status = kvasm_get_version(VISITS, name, &before, &version);
        if (status < 0 && status != KVASM_NOT_FOUND) return kvasm_fail();
        if (status >= 0 && !kvasm_parse_decimal(before, &visits))
            return kvasm_refuse(KVASM_TEXT("the visits are not a number"));
        visits++;
        status = kvasm_set_if(VISITS, name, kvasm_decimal(visits), version);
    } while (status == KVASM_CONFLICT);
    if (status < 0) return kvasm_fail();
    KVASM_SAY("Hello, ");
    kvasm_write(name);
    KVASM_SAY("! Visit ");
    kvasm_write(kvasm_decimal(visits));
    KVASM_SAY(".\n");
    return KVASM_OK;
}

/* Keeps a note: the input is "name=text". */
KVASM_FUNCTION(set) {
    kvasm_bytes name, text;
    if (!kvasm_split(kvasm_input(), '=', &name, &text))
        return kvasm_refuse(KVASM_TEXT("the input must be name=text"));
    return kvasm_set(NOTES, name, text) < 0 ? kvasm_fail() : KVASM_OK;
}

/* Returns the note of this name. */
KVASM_FUNCTION(get) {
    kvasm_bytes text;
    int64_t status = kvasm_get(NOTES, kvasm_input(), &text);
    if (status == KVASM_NOT_FOUND) return kvasm_refuse(KVASM_TEXT("there is no such note"));
    if (status < 0) return kvasm_fail();
    kvasm_write(text);
    return KVASM_OK;
}

/* Writes all names with this prefix, one per line. */
static int64_t write_names(struct kvasm_writer *out, kvasm_bytes prefix) {
    struct kvasm_list list = {.collection = NOTES, .prefix = prefix, .page_size = 100};
    struct kvasm_entry note;
    int64_t more;
    while ((more = kvasm_next(&list, &note)) > 0) {
        kvasm_put_bytes(out, note.key);
        kvasm_put_bytes(out, KVASM_TEXT("\n"));
    }
    return more;
}

KVASM_FUNCTION(list) {
    struct kvasm_writer names = {0};
    if (write_names(&names, kvasm_input()) < 0) return kvasm_fail();
    kvasm_write(kvasm_written(&names));
    return KVASM_OK;
}

/* Gives a note another name: the input is "old=new". A transaction: all of it takes effect, or
 * nothing, and it is run again if another call has changed what it has read. */
KVASM_TRANSACTION(rename_note) {
    kvasm_bytes from, to, text;
    if (!kvasm_split(kvasm_input(), '=', &from, &to))
        return kvasm_refuse(KVASM_TEXT("the input must be old=new"));
    int64_t status = kvasm_get(NOTES, from, &text);
    if (status == KVASM_NOT_FOUND) return kvasm_refuse(KVASM_TEXT("there is no such note"));
    if (status < 0 || kvasm_delete(NOTES, from) < 0) return kvasm_fail();
    if ((status = kvasm_has(NOTES, to)) < 0) return kvasm_fail();
    /* The delete above takes no effect either. */
    if (status == 1) return kvasm_refuse(KVASM_TEXT("there is a note of the new name"));
    return kvasm_set(NOTES, to, text) < 0 ? kvasm_fail() : KVASM_OK;
}

/* Deletes all notes at once, and returns how many there were. */
KVASM_FUNCTION(clear) {
    struct kvasm_list list = {.collection = NOTES, .page_size = KVASM_BATCH_OPS_MAX};
    struct kvasm_batch batch = {0};
    struct kvasm_entry note;
    int64_t more = 0;
    while (batch.ops_count < KVASM_BATCH_OPS_MAX && (more = kvasm_next(&list, &note)) > 0)
        kvasm_batch_delete(&batch, NOTES, note.key);
    if (more < 0 || kvasm_batch_commit(&batch, 0) < 0) return kvasm_fail();
    kvasm_write(kvasm_decimal(batch.ops_count));
    return KVASM_OK;
}

/* Requests to the app: GET / lists the names, GET /name returns a note, PUT /name keeps one. */
KVASM_HTTP(handle) {
    struct kvasm_request request;
    if (!kvasm_request_read(kvasm_input(), &request)) return KVASM_FAILED;
    kvasm_bytes name = {request.path.ptr + 1, request.path.len - 1}, text;
    if (kvasm_equal(request.method, KVASM_TEXT("GET")) && name.len == 0) {
        struct kvasm_writer names = {0};
        if (write_names(&names, KVASM_TEXT("")) < 0) return kvasm_fail();
        return kvasm_respond(200, kvasm_written(&names));
    }
    if (kvasm_equal(request.method, KVASM_TEXT("GET"))) {
        int64_t status = kvasm_get(NOTES, name, &text);
        if (status == KVASM_NOT_FOUND) return kvasm_respond(404, KVASM_TEXT("there is no such note"));
        return status < 0 ? kvasm_fail() : kvasm_respond(200, text);
    }
    if (kvasm_equal(request.method, KVASM_TEXT("PUT")) && name.len > 0) {
        if (kvasm_set(NOTES, name, request.body) < 0) return kvasm_fail();
        struct kvasm_response kept = kvasm_response(204);
        return kvasm_response_send(&kept, KVASM_TEXT(""));
    }
    struct kvasm_response response = kvasm_response(405);
    kvasm_response_header(&response, KVASM_TEXT("allow"), KVASM_TEXT("GET, PUT"));
    return kvasm_response_send(&response, KVASM_TEXT(""));
}

/* Called after each change of a note, with an exactly-once effect on entries: counts the writes and
 * the deletes. */
KVASM_ON_CHANGE(count, "notes") {
    struct kvasm_delivery change;
    if (!kvasm_delivery_read(kvasm_input(), &change)) return KVASM_FAILED_FOR_GOOD;
    int64_t sum;
    kvasm_info(change.key);
    return kvasm_increment(STATS, change.kind, 1, &sum) < 0 ? kvasm_fail() : KVASM_OK;
}
