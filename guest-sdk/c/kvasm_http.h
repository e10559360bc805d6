/* HTTP handlers and handlers of changes for plugins in C, over kvasm_plugin.h. */
#ifndef KVASM_HTTP_H
#define KVASM_HTTP_H

#include "kvasm_plugin.h"

/* --- JSON, as much as the heads need --- */

KVASM_INLINE size_t kvasm_json_space(kvasm_bytes json, size_t at) {
    while (at < json.len && (json.ptr[at] == ' ' || json.ptr[at] == '\n' || json.ptr[at] == '\r' ||
                             json.ptr[at] == '\t'))
        at++;
    return at;
}

/* Returns the position after the value at `at`. Valid JSON is assumed; any other is read safely. */
KVASM_INLINE size_t kvasm_json_skip(kvasm_bytes json, size_t at) {
    size_t depth = 0;
    int quoted = 0;
    for (; at < json.len; at++) {
        char c = json.ptr[at];
        if (quoted) {
            if (c == '\\') at++;
            if (c == '"') quoted = 0;
            if (c == '"' && depth == 0) return at + 1;
        } else if (c == '"') {
            quoted = 1;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) return at;
            if (--depth == 0) return at + 1;
        } else if (depth == 0 && (c == ',' || c == ':')) {
            return at;
        }
    }
    return json.len;
}

/* Takes the next value from the inside of an array or object. Returns 0 at the end. Between values
 * it skips commas and colons, so an object gives names and values in turn. */
KVASM_INLINE int kvasm_json_next(kvasm_bytes *inside, kvasm_bytes *value) {
    size_t at = kvasm_json_space(*inside, 0);
    while (at < inside->len && (inside->ptr[at] == ',' || inside->ptr[at] == ':'))
        at = kvasm_json_space(*inside, at + 1);
    size_t end = kvasm_json_skip(*inside, at);
    if (end <= at || end > inside->len) return 0;
    *value = (kvasm_bytes){inside->ptr + at, end - at};
    *inside = (kvasm_bytes){inside->ptr + end, inside->len - end};
    return 1;
}

/* The inside of an array or an object; empty for any other value. */
KVASM_INLINE kvasm_bytes kvasm_json_inside(kvasm_bytes json) {
    size_t at = kvasm_json_space(json, 0);
    if (at + 1 >= json.len || (json.ptr[at] != '{' && json.ptr[at] != '[')) return KVASM_TEXT("");
    return (kvasm_bytes){json.ptr + at + 1, json.len - at - 1};
}

KVASM_INLINE uint32_t kvasm_json_hex(kvasm_bytes text, size_t at) {
    uint32_t unit = 0;
    for (size_t i = at; i < at + 4 && i < text.len; i++) {
        char c = text.ptr[i];
        uint32_t digit = c <= '9' ? (uint32_t)(c - '0') : (uint32_t)((c | 32) - 'a' + 10);
        unit = unit << 4 | (digit & 15);
    }
    return unit;
}

KVASM_INLINE void kvasm_put_utf8(struct kvasm_writer *out, uint32_t c) {
    if (c < 0x80) return kvasm_put_integer(out, c, 1);
    if (c < 0x800) {
        kvasm_put_integer(out, 0xC0 | c >> 6, 1);
    } else {
        if (c < 0x10000) {
            kvasm_put_integer(out, 0xE0 | c >> 12, 1);
        } else {
            kvasm_put_integer(out, 0xF0 | c >> 18, 1);
            kvasm_put_integer(out, 0x80 | (c >> 12 & 63), 1);
        }
        kvasm_put_integer(out, 0x80 | (c >> 6 & 63), 1);
    }
    kvasm_put_integer(out, 0x80 | (c & 63), 1);
}

/* The text of a JSON string; any other value as it is. */
KVASM_INLINE kvasm_bytes kvasm_json_text(kvasm_bytes json) {
    static const char escapes[] = "b\bf\fn\nr\rt\t";
    if (json.len < 2 || json.ptr[0] != '"') return json;
    struct kvasm_writer out = {0};
    for (size_t i = 1; i < json.len - 1; i++) {
        char c = json.ptr[i];
        if (c == '\\' && i + 1 < json.len - 1) {
            c = json.ptr[++i];
            if (c == 'u') {
                uint32_t unit = kvasm_json_hex(json, i + 1);
                i += 4;
                if (unit >> 10 == 0xD800 >> 10 && i + 6 < json.len - 1) {
                    unit = 0x10000 + ((unit & 0x3FF) << 10) + (kvasm_json_hex(json, i + 3) & 0x3FF);
                    i += 6;
                }
                kvasm_put_utf8(&out, unit);
                continue;
            }
            for (size_t e = 0; e + 1 < sizeof escapes; e += 2)
                if (escapes[e] == c) {
                    c = escapes[e + 1];
                    break;
                }
        }
        kvasm_put_bytes(&out, (kvasm_bytes){&c, 1});
    }
    return kvasm_written(&out);
}

/* Finds a member of an object. Returns 0 if there is none, and then leaves `value` as it was. */
KVASM_INLINE int kvasm_json_member(kvasm_bytes object, kvasm_bytes name, kvasm_bytes *value) {
    kvasm_bytes inside = kvasm_json_inside(object), key, found;
    while (kvasm_json_next(&inside, &key) && kvasm_json_next(&inside, &found))
        if (kvasm_equal(kvasm_json_text(key), name)) {
            *value = found;
            return 1;
        }
    return 0;
}

/* The text of a member that is a string; empty if there is none. */
KVASM_INLINE kvasm_bytes kvasm_json_member_text(kvasm_bytes object, kvasm_bytes name) {
    kvasm_bytes value = KVASM_TEXT("");
    return kvasm_json_member(object, name, &value) ? kvasm_json_text(value) : value;
}

/* Appends a JSON string, with its quotation marks. */
KVASM_INLINE void kvasm_put_json_text(struct kvasm_writer *out, kvasm_bytes text) {
    static const char hex[] = "0123456789abcdef";
    kvasm_put_bytes(out, KVASM_TEXT("\""));
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (c < 0x20) {
            char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            kvasm_put_bytes(out, (kvasm_bytes){escape, 6});
        } else {
            if (c == '"' || c == '\\') kvasm_put_bytes(out, KVASM_TEXT("\\"));
            kvasm_put_bytes(out, (kvasm_bytes){text.ptr + i, 1});
        }
    }
    kvasm_put_bytes(out, KVASM_TEXT("\""));
}

/* --- Frames: a head of JSON and a body --- */

struct kvasm_frame {
    kvasm_bytes head, body;
};

/* Returns 0 if the bytes are not a frame. */
KVASM_INLINE int kvasm_frame_split(kvasm_bytes bytes, struct kvasm_frame *frame) {
    struct kvasm_reader reader = {bytes, 0};
    frame->head = kvasm_read_sized(&reader);
    frame->body = reader.rest;
    return !reader.malformed;
}

struct kvasm_request {
    /* `path` begins with "/"; it and `query` are percent-encoded, as the client sent them. */
    kvasm_bytes method, path, query, body;
    /* JSON: pairs of name and value. kvasm_header finds one. */
    kvasm_bytes headers;
};

/* Reads the input of an HTTP handler. */
KVASM_INLINE int kvasm_request_read(kvasm_bytes input, struct kvasm_request *request) {
    struct kvasm_frame frame;
    if (!kvasm_frame_split(input, &frame)) return 0;
    request->method = kvasm_json_member_text(frame.head, KVASM_TEXT("method"));
    request->path = kvasm_json_member_text(frame.head, KVASM_TEXT("path"));
    request->query = kvasm_json_member_text(frame.head, KVASM_TEXT("query"));
    request->headers = KVASM_TEXT("");
    kvasm_json_member(frame.head, KVASM_TEXT("headers"), &request->headers);
    request->body = frame.body;
    return 1;
}

/* Finds the first header of this name, which is in lower case, in the JSON of all. Returns 0 if there
 * is none. */
KVASM_INLINE int kvasm_headers_find(kvasm_bytes headers, kvasm_bytes name, kvasm_bytes *value) {
    kvasm_bytes pairs = kvasm_json_inside(headers), pair, found;
    while (kvasm_json_next(&pairs, &pair)) {
        kvasm_bytes inside = kvasm_json_inside(pair);
        if (kvasm_json_next(&inside, &found) && kvasm_equal(kvasm_json_text(found), name) &&
            kvasm_json_next(&inside, &found)) {
            *value = kvasm_json_text(found);
            return 1;
        }
    }
    return 0;
}

KVASM_INLINE int kvasm_header(const struct kvasm_request *request, kvasm_bytes name,
                              kvasm_bytes *value) {
    return kvasm_headers_find(request->headers, name, value);
}

/* Appends a pair of name and value to the headers of a head. */
KVASM_INLINE void kvasm_put_header(struct kvasm_writer *head, int *has_header, kvasm_bytes name,
                                   kvasm_bytes value) {
    if (*has_header) kvasm_put_bytes(head, KVASM_TEXT(","));
    *has_header = 1;
    kvasm_put_bytes(head, KVASM_TEXT("["));
    kvasm_put_json_text(head, name);
    kvasm_put_bytes(head, KVASM_TEXT(","));
    kvasm_put_json_text(head, value);
    kvasm_put_bytes(head, KVASM_TEXT("]"));
}

/* A response: begin it, add headers, then send it as the output of the handler. */
struct kvasm_response {
    struct kvasm_writer head;
    int has_header;
};

KVASM_INLINE struct kvasm_response kvasm_response(int32_t status) {
    struct kvasm_response response = {0};
    kvasm_put_bytes(&response.head, KVASM_TEXT("{\"status\":"));
    kvasm_put_bytes(&response.head, kvasm_decimal(status));
    kvasm_put_bytes(&response.head, KVASM_TEXT(",\"headers\":["));
    return response;
}

KVASM_INLINE void kvasm_response_header(struct kvasm_response *response, kvasm_bytes name,
                                        kvasm_bytes value) {
    kvasm_put_header(&response->head, &response->has_header, name, value);
}

/* The frame of a response that is complete. */
KVASM_INLINE kvasm_bytes kvasm_response_packed(struct kvasm_response *response, kvasm_bytes body) {
    struct kvasm_writer out = {0};
    kvasm_put_bytes(&response->head, KVASM_TEXT("]}"));
    kvasm_put_sized(&out, kvasm_written(&response->head));
    kvasm_put_bytes(&out, body);
    return kvasm_written(&out);
}

/* Returns the exit code for the handler to return. */
KVASM_INLINE int32_t kvasm_response_send(struct kvasm_response *response, kvasm_bytes body) {
    kvasm_write(kvasm_response_packed(response, body));
    return KVASM_OK;
}

/* Answers with text. */
KVASM_INLINE int32_t kvasm_respond(int32_t status, kvasm_bytes text) {
    struct kvasm_response response = kvasm_response(status);
    kvasm_response_header(&response, KVASM_TEXT("content-type"), KVASM_TEXT("text/plain; charset=utf-8"));
    return kvasm_response_send(&response, text);
}

/* --- Requests to other servers, whose origins the plugin must declare and the app grant --- */

/* Begin it, add headers, then send it. */
struct kvasm_outbound {
    struct kvasm_writer head;
    int has_header;
};

KVASM_INLINE struct kvasm_outbound kvasm_outbound(kvasm_bytes method, kvasm_bytes url) {
    struct kvasm_outbound request = {0};
    kvasm_put_bytes(&request.head, KVASM_TEXT("{\"method\":"));
    kvasm_put_json_text(&request.head, method);
    kvasm_put_bytes(&request.head, KVASM_TEXT(",\"url\":"));
    kvasm_put_json_text(&request.head, url);
    kvasm_put_bytes(&request.head, KVASM_TEXT(",\"headers\":["));
    return request;
}

KVASM_INLINE void kvasm_outbound_header(struct kvasm_outbound *request, kvasm_bytes name,
                                        kvasm_bytes value) {
    kvasm_put_header(&request->head, &request->has_header, name, value);
}

/* The answer of another server. kvasm_headers_find finds a header. */
struct kvasm_answer {
    int64_t status;
    kvasm_bytes headers, body;
};

/* Sends it. Returns the status of the answer, which may be any; or a negative one: KVASM_REMOTE if there
 * was no answer. */
KVASM_INLINE int64_t kvasm_fetch(struct kvasm_outbound *request, kvasm_bytes body,
                                 struct kvasm_answer *answer) {
    struct kvasm_writer out = {0};
    struct kvasm_frame frame;
    kvasm_bytes status = KVASM_TEXT("");
    kvasm_put_bytes(&request->head, KVASM_TEXT("]}"));
    kvasm_put_sized(&out, kvasm_written(&request->head));
    kvasm_put_bytes(&out, body);
    int64_t len = kvasm_http_fetch(out.ptr, out.len, 0, 0);
    if (len < 0) return len;
    if (!kvasm_frame_split(kvasm_result(len), &frame)) return KVASM_INTERNAL;
    answer->headers = KVASM_TEXT("");
    kvasm_json_member(frame.head, KVASM_TEXT("headers"), &answer->headers);
    kvasm_json_member(frame.head, KVASM_TEXT("status"), &status);
    if (!kvasm_parse_decimal(status, &answer->status)) return KVASM_INTERNAL;
    answer->body = frame.body;
    return answer->status;
}

/* --- Deliveries --- */

/* The input of a handler of changes, a schedule or a timer. `kind` is "set", "delete", "schedule" or
 * "timer"; what does not apply is empty. */
struct kvasm_delivery {
    kvasm_bytes kind, event_id, trigger, collection, key, timer;
    /* The value that was set, or the payload of a timer. */
    kvasm_bytes body;
    /* All of the head, as JSON: attempt, version, at_ms and others, for kvasm_json_member. */
    kvasm_bytes head;
};

KVASM_INLINE int kvasm_delivery_read(kvasm_bytes input, struct kvasm_delivery *delivery) {
    struct kvasm_frame frame;
    if (!kvasm_frame_split(input, &frame)) return 0;
    delivery->kind = kvasm_json_member_text(frame.head, KVASM_TEXT("kind"));
    delivery->event_id = kvasm_json_member_text(frame.head, KVASM_TEXT("event_id"));
    delivery->trigger = kvasm_json_member_text(frame.head, KVASM_TEXT("trigger"));
    delivery->collection = kvasm_json_member_text(frame.head, KVASM_TEXT("collection"));
    delivery->key = kvasm_json_member_text(frame.head, KVASM_TEXT("key"));
    delivery->timer = kvasm_json_member_text(frame.head, KVASM_TEXT("timer"));
    delivery->head = frame.head;
    delivery->body = frame.body;
    return 1;
}

#endif
