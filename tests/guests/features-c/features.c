/* What the package for C offers beside the example: timers, schedules, settings, requests to other
 * servers, transactions, and statuses. The folders features-* do the same in each language. */
#include "kvasm_http.h"

KVASM_DECLARE("{\"kind\":\"config\",\"name\":\"greeting\",\"type\":\"string\"}")
KVASM_DECLARE("{\"kind\":\"secret\",\"name\":\"token\"}")
KVASM_DECLARE("{\"kind\":\"http_origin\",\"origin\":\"http://127.0.0.1:65530\"}")

/* Does nothing: what a call costs. */
KVASM_FUNCTION(noop) { return KVASM_OK; }

/* Returns the configuration value and the secret. */
KVASM_FUNCTION(settings) {
    kvasm_bytes greeting = KVASM_TEXT("unset"), token = KVASM_TEXT("unset");
    int64_t status = kvasm_config(KVASM_TEXT("greeting"), &greeting);
    if (status < 0 && status != KVASM_NOT_FOUND) return kvasm_fail();
    status = kvasm_secret(KVASM_TEXT("token"), &token);
    if (status < 0 && status != KVASM_NOT_FOUND) return kvasm_fail();
    kvasm_write(greeting);
    KVASM_SAY(" ");
    kvasm_write(token);
    return KVASM_OK;
}

/* Sends a request: the input is "METHOD URL\nbody". */
KVASM_FUNCTION(fetch) {
    kvasm_bytes line, method, url, body, header = KVASM_TEXT("none");
    kvasm_split(kvasm_input(), '\n', &line, &body);
    kvasm_split(line, ' ', &method, &url);
    struct kvasm_outbound request = kvasm_outbound(method, url);
    kvasm_outbound_header(&request, KVASM_TEXT("x-quoted"), KVASM_TEXT("a\"b"));
    kvasm_outbound_header(&request, KVASM_TEXT("x-other"), KVASM_TEXT("c"));
    struct kvasm_answer answer;
    if (kvasm_fetch(&request, body, &answer) < 0) {
        KVASM_SAY("no answer: ");
        kvasm_fail();
        return KVASM_OK;
    }
    kvasm_headers_find(answer.headers, KVASM_TEXT("x-a"), &header);
    kvasm_write(kvasm_decimal(answer.status));
    KVASM_SAY("|");
    kvasm_write(header);
    KVASM_SAY("|");
    kvasm_write(answer.body);
    return KVASM_OK;
}

/* Sets a timer: the input is "name=ms". */
KVASM_FUNCTION(remind) {
    kvasm_bytes name, text;
    int64_t ms;
    kvasm_split(kvasm_input(), '=', &name, &text);
    if (!kvasm_parse_decimal(text, &ms)) return kvasm_refuse(KVASM_TEXT("not a number"));
    return kvasm_timer_after(name, ms, name) < 0 ? kvasm_fail() : KVASM_OK;
}

/* Cancels a timer. */
KVASM_FUNCTION(forget) {
    kvasm_bytes name = kvasm_input();
    int64_t was_set = kvasm_timer_cancel(name.ptr, name.len);
    if (was_set < 0) return kvasm_fail();
    kvasm_write(kvasm_decimal(was_set));
    return KVASM_OK;
}

KVASM_ON_TIMER() {
    struct kvasm_delivery timer;
    kvasm_bytes due = KVASM_TEXT("");
    int64_t at_ms;
    if (!kvasm_delivery_read(kvasm_input(), &timer)) return KVASM_FAILED_FOR_GOOD;
    kvasm_json_member(timer.head, KVASM_TEXT("at_ms"), &due);
    if (!kvasm_parse_decimal(due, &at_ms)) return KVASM_FAILED_FOR_GOOD;
    if (kvasm_add(KVASM_TEXT("fired"), timer.timer, 1) < 0) return kvasm_fail();
    /* What the run has written is discarded. */
    if (kvasm_equal(timer.body, KVASM_TEXT("later")) && kvasm_now_ms() < at_ms + 1000)
        return kvasm_retry_after(1000);
    return kvasm_set(KVASM_TEXT("payloads"), timer.timer, timer.body) < 0 ? kvasm_fail() : KVASM_OK;
}

KVASM_CRON(nightly, "0 3 * * *") {
    struct kvasm_delivery run;
    if (!kvasm_delivery_read(kvasm_input(), &run)) return KVASM_FAILED_FOR_GOOD;
    return kvasm_add(KVASM_TEXT("ticks"), run.kind, 1) < 0 ? kvasm_fail() : KVASM_OK;
}

KVASM_ON_CHANGE_PREFIX(watch, "orders", "eu/") {
    struct kvasm_delivery change;
    if (!kvasm_delivery_read(kvasm_input(), &change)) return KVASM_FAILED_FOR_GOOD;
    if (kvasm_add(KVASM_TEXT("seen"), change.key, 1) < 0) return kvasm_fail();
    if (kvasm_equal(change.body, KVASM_TEXT("\"poison\""))) {
        KVASM_SAY("poisoned");
        return KVASM_FAILED_FOR_GOOD;
    }
    return KVASM_OK;
}

struct payment {
    kvasm_bytes from, to;
    int is_short;
};

static int64_t balance(kvasm_bytes account, int64_t *coins) {
    kvasm_bytes text;
    *coins = 0;
    int64_t status = kvasm_get(KVASM_TEXT("accounts"), account, &text);
    if (status == KVASM_NOT_FOUND) return 0;
    return status < 0 || kvasm_parse_decimal(text, coins) ? status : KVASM_TYPE;
}

/* Moves a coin. The first account is written before the check: a failure has to discard it. */
static int64_t move(void *argument) {
    struct payment *payment = argument;
    int64_t from, to, status;
    payment->is_short = 0;
    if ((status = balance(payment->from, &from)) < 0) return status;
    if ((status = balance(payment->to, &to)) < 0) return status;
    status = kvasm_set_json(KVASM_TEXT("accounts"), payment->from, kvasm_decimal(from - 1));
    if (status < 0) return status;
    if (from < 1) {
        payment->is_short = 1;
        return KVASM_INVALID;
    }
    return kvasm_set_json(KVASM_TEXT("accounts"), payment->to, kvasm_decimal(to + 1));
}

/* Moves a coin: the input is "from=to". */
KVASM_TRANSACTION(pay) {
    struct payment payment;
    kvasm_split(kvasm_input(), '=', &payment.from, &payment.to);
    int64_t status = move(&payment);
    if (payment.is_short) return kvasm_refuse(KVASM_TEXT("no coins"));
    return status < 0 ? kvasm_fail() : KVASM_OK;
}

/* The same in a part of the call: the attempt is counted, whatever becomes of it. */
KVASM_FUNCTION(pay_part) {
    struct payment payment;
    kvasm_split(kvasm_input(), '=', &payment.from, &payment.to);
    if (kvasm_add(KVASM_TEXT("attempts"), payment.from, 1) < 0) return kvasm_fail();
    int64_t status = kvasm_transaction(move, &payment);
    if (payment.is_short) KVASM_SAY("no coins");
    else if (status < 0) return kvasm_fail();
    return KVASM_OK;
}

/* Adds blindly in a transaction. */
KVASM_TRANSACTION(bump) {
    if (kvasm_add(KVASM_TEXT("sum"), KVASM_TEXT("n"), 1) < 0) return kvasm_fail();
    return kvasm_add(KVASM_TEXT("sum"), KVASM_TEXT("n"), 1) < 0 ? kvasm_fail() : KVASM_OK;
}

/* Sets a new order and a timer in one batch. */
KVASM_FUNCTION(order) {
    struct kvasm_batch batch = {0};
    kvasm_bytes key = kvasm_input();
    kvasm_batch_check(&batch, KVASM_TEXT("orders"), key, 0);
    kvasm_batch_set(&batch, KVASM_TEXT("orders"), key, KVASM_JSON, 0, KVASM_TEXT("1"));
    kvasm_batch_increment(&batch, KVASM_TEXT("sum"), KVASM_TEXT("orders"), 1);
    kvasm_batch_timer_set(&batch, key, KVASM_TIMER_AFTER, 0, KVASM_TEXT("ordered"));
    kvasm_batch_timer_cancel(&batch, KVASM_TEXT("none"));
    int64_t status = kvasm_batch_commit(&batch, 0);
    if (status == KVASM_CONFLICT) return kvasm_refuse(KVASM_TEXT("a conflict"));
    if (status < 0) return kvasm_fail();
    kvasm_write(kvasm_decimal(status));
    return KVASM_OK;
}

static void put_status(int64_t status) {
    kvasm_write(kvasm_decimal(status));
    KVASM_SAY(" ");
}

/* Returns the statuses of calls that fail. */
KVASM_FUNCTION(statuses) {
    kvasm_bytes c = KVASM_TEXT("c"), k = KVASM_TEXT("k"), found;
    int64_t sum;
    struct kvasm_answer answer;
    struct kvasm_outbound request = kvasm_outbound(KVASM_TEXT("GET"), KVASM_TEXT("http://undeclared.example/"));
    size_t over = 1024 * 1024 + 1;
    put_status(kvasm_get(c, KVASM_TEXT("none"), &found));
    put_status(kvasm_set_if(c, k, k, 7));
    put_status(kvasm_secret(KVASM_TEXT("undeclared"), &found));
    put_status(kvasm_fetch(&request, KVASM_TEXT(""), &answer));
    put_status(kvasm_set(c, KVASM_TEXT(""), k));
    put_status(kvasm_set(c, k, (kvasm_bytes){kvasm_alloc(over), over}));
    if (kvasm_set_json(c, k, KVASM_TEXT("\"text\"")) < 0) return kvasm_fail();
    put_status(kvasm_increment(c, k, 1, &sum));
    put_status(kvasm_timer_after(KVASM_TEXT(""), 0, k));
    return KVASM_OK;
}

/* Keeps the body of a request under its path. A transaction: a failure leaves nothing. */
KVASM_HTTP_TRANSACTION(handle) {
    struct kvasm_request request;
    kvasm_bytes agent = KVASM_TEXT("none");
    if (!kvasm_request_read(kvasm_input(), &request)) return KVASM_FAILED;
    if (kvasm_set(KVASM_TEXT("requests"), request.path, request.body) < 0) return kvasm_fail();
    if (kvasm_equal(request.body, KVASM_TEXT("fail"))) {
        KVASM_SAY("on purpose");
        return KVASM_FAILED;
    }
    kvasm_header(&request, KVASM_TEXT("x-quoted"), &agent);
    struct kvasm_response response = kvasm_response(201);
    kvasm_response_header(&response, KVASM_TEXT("location"), request.path);
    return kvasm_response_send(&response, agent);
}
