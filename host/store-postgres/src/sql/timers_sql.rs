//! Timers.

/// Whether a delivery `d` is a timer that its name finds, as in the index of names.
macro_rules! is_set {
    () => {
        "d.kind = 'timer' AND d.replays = 0"
    };
}

statements! {
    /// App, names in order: the timers that are set, locked until the transaction ends: name, size.
    HOLD_TIMERS = concat!(
        "SELECT f.key, f.size \
         FROM unnest($2::text[]) WITH ORDINALITY AS n (name, place), \
         LATERAL (SELECT d.key, d.size FROM deliveries AS d \
         WHERE d.app_id = $1 AND ", is_set!(), " AND d.key = n.name LIMIT 1 FOR UPDATE) AS f \
         ORDER BY n.place"
    );
    /// App, names of locked timers: removes them.
    REMOVE_TIMERS = concat!(
        "DELETE FROM deliveries AS d USING unnest($2::text[]) AS n (name) \
         WHERE d.app_id = $1 AND ", is_set!(), " AND d.key = n.name"
    );
    /// App; names, times, due times, waits, payloads, sizes, identities of events and ordering keys,
    /// in order; the trace context; the name of the trigger and function; the names of the timers
    /// that exist and are locked. Sets timers. Returns the names of those that were set: one that is
    /// missing was set by another transaction meanwhile.
    SET_TIMERS = concat!(
        insert_delivery!("wait_ms"),
        "SELECT $1, $11, nextval('delivery_seq'), $11, n.due, n.due, n.at, n.chain, n.event_id, 1, \
         'timer', NULL, n.name, NULL, n.size, NULL, n.payload, ", followers_max!(), ", \
         $10::bytea, n.wait \
         FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], \
         $7::integer[], $8::uuid[], $9::bigint[]) WITH ORDINALITY \
         AS n (name, at, due, wait, payload, size, event_id, chain, place) ORDER BY n.place \
         ON CONFLICT (app_id, key) WHERE kind = 'timer' AND replays = 0 DO UPDATE SET \
         trigger_name = excluded.trigger_name, seq = excluded.seq, function = excluded.function, \
         due_at = excluded.due_at, queued_at = excluded.queued_at, at = excluded.at, \
         chain = excluded.chain, event_id = excluded.event_id, depth = 1, size = excluded.size, \
         bytes = excluded.bytes, followers = excluded.followers, \
         trace_context = excluded.trace_context, wait_ms = excluded.wait_ms, lease = NULL, \
         leased_until = NULL, attempts = 0, error = NULL, series = NULL \
         WHERE excluded.key = ANY($12::text[]) RETURNING d.key"
    );
    /// App, name, now: makes a timer due, unless it is leased.
    RUN_TIMER = concat!(
        "UPDATE deliveries AS d SET due_at = $3, queued_at = $3, wait_ms = NULL \
         WHERE d.app_id = $1 AND ", is_set!(), " AND d.key = $2 AND d.lease IS NULL \
         RETURNING d.seq"
    );
    /// App, name to start after, limit.
    TIMERS = concat!(
        "SELECT ", delivery_columns!("d"),
        ", p.attempts_max, p.age_max_ms FROM (SELECT t.name, t.attempts_max, t.age_max_ms \
         FROM triggers AS t WHERE t.app_id = $1) AS p \
         RIGHT JOIN deliveries AS d ON p.name = d.trigger_name WHERE d.app_id = $1 AND ",
        app_exists!(), " AND ", is_set!(), " AND d.key > $2 ORDER BY d.key LIMIT $3"
    );
    /// App, name.
    TIMER = concat!(
        "SELECT ", delivery_columns!("d"),
        ", p.attempts_max, p.age_max_ms FROM (SELECT t.name, t.attempts_max, t.age_max_ms \
         FROM triggers AS t WHERE t.app_id = $1) AS p \
         RIGHT JOIN deliveries AS d ON p.name = d.trigger_name WHERE d.app_id = $1 AND ",
        app_exists!(), " AND ", is_set!(), " AND d.key = $2"
    );
    /// Now: the next time at which a timer of any app is due. It finds work, so it does not name an
    /// app.
    NEXT_TIMER = "SELECT min(d.due_at) FROM deliveries AS d WHERE d.kind = 'timer' AND d.due_at > $1";
}
