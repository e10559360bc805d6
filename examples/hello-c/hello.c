/* Greets the name in the input and counts its visits, using only the ABI. */
#include "kvasm.h"

/* A pointer and a length, as the ABI takes text. */
#define COLLECTION "visits", 6
#define NAME_MAX 64

static void say(const char *text, size_t len) { kvasm_output_write(text, len); }
#define SAY(literal) say(literal, sizeof(literal) - 1)

static void say_number(uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    say(digits + at, sizeof digits - at);
}

/* Adds 1 to the 8 bytes under `name`. It overwrites only the version that it has
 * read, so concurrent calls lose no visit. */
static int64_t count_visit(const char *name, size_t len, uint64_t *visits) {
    int64_t status;
    do {
        struct {
            struct kvasm_entry_header header;
            uint64_t visits;
        } entry = {0};
        status = kvasm_kv_get(COLLECTION, name, len, KVASM_BYTES, KVASM_GET_WITH_HEADER, &entry,
                              sizeof entry);
        if (status < 0 && status != KVASM_NOT_FOUND) return status;
        *visits = entry.visits + 1;
        /* Version 0 stands for "no entry", and is still set after NOT_FOUND. */
        struct kvasm_set_options options = {sizeof options, 2, 0, entry.header.version};
        status = kvasm_kv_set(COLLECTION, name, len, visits, sizeof *visits, KVASM_BYTES, &options);
    } while (status == KVASM_CONFLICT);
    return status;
}

/* Fails the call with the host's message. */
static int32_t fail(void) {
    char message[256];
    int64_t len = kvasm_error_message(message, sizeof message);
    if (len > 0 && len <= (int64_t)sizeof message) say(message, (size_t)len);
    return 1;
}

KVASM_EXPORT(hello) int32_t hello(void) {
    char name[NAME_MAX];
    int64_t len = kvasm_input_len();
    if (len < 1 || len > NAME_MAX) {
        SAY("the input must be a name of 1 to 64 bytes");
        return 1;
    }
    kvasm_input_read(0, name, (size_t)len);

    uint64_t visits;
    if (count_visit(name, (size_t)len, &visits) < 0) return fail();
    SAY("Hello, ");
    say(name, (size_t)len);
    SAY("! Visit ");
    say_number(visits);
    SAY(".\n");
    return 0;
}
