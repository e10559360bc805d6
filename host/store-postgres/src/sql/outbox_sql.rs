//! Deliveries.
//!
//! Deliveries of one trigger and ordering key are handled one after another. Each is queued with a
//! `due_at`: checking for an earlier one at that point would take a lock that writers of one key do
//! not need. A claim checks instead, and parks deliveries behind others by clearing `due_at`. The
//! statement that removes a delivery unparks the next.
//!
//! Why a claim cannot take the second delivery of a key before the first: the sequence number is
//! drawn while the entry's row is locked, so a reader that sees the second sees the first, or that
//! it was deleted. (A replay draws without that lock, and locks the app against all writers
//! instead.)
//!
//! Why no delivery stays parked: a claim parks a delivery only while it holds a lock on an earlier
//! one of the ordering key. A transaction that removes the earlier one (`HOLD_DELIVERY`) waits for
//! the claim, and unparks in a later statement, which sees what is parked. If that transaction was
//! first, the claim cannot get the lock and leaves the delivery due, for another claim. Unparking
//! locks the first remaining delivery of the ordering key, parked or not. So if two removals run at
//! the same ordering key, which requires two keys with the same hash, one waits for the other, or
//! loses the race and is retried: the last of them sees that it is the last.

/// Whether a trigger `t` is claimable at a time, as in `Standing::open`.
macro_rules! open_at {
    ($now:literal) => {
        concat!(
            "(t.paused IS NULL OR (t.paused = 'failures' AND coalesce(t.probe_at, 0) <= ",
            $now,
            "))"
        )
    };
}

/// Columns of `deliveries` that a new one has, app and number first. The others are the same for
/// all of them.
macro_rules! insert_delivery {
    () => {
        concat!("INSERT INTO deliveries AS d (", new_delivery!(), ") ")
    };
    ($more:literal) => {
        concat!(
            "INSERT INTO deliveries AS d (",
            new_delivery!(),
            ", ",
            $more,
            ") "
        )
    };
}

macro_rules! new_delivery {
    () => {
        "app_id, trigger_name, seq, function, due_at, queued_at, at, chain, event_id, depth, kind, \
         collection, key, version, size, json, bytes, followers, trace_context"
    };
}

/// [`TRIGGERED_DELIVERIES_MAX`](kvasm_core::TRIGGERED_DELIVERIES_MAX); a test compares them.
macro_rules! followers_max {
    () => {
        "10000"
    };
}

/// Creates the deliveries of a change of the entry `$1, $2, $3` in the statement that changes it,
/// from the row of the change, with the trace context `$trace`. The number is drawn for that row,
/// which is locked at that point.
macro_rules! fired {
    ($now:literal, $event:literal, $trace:literal, $what:expr, $from:literal, $on:literal) => {
        concat!(
            "fired AS (",
            insert_delivery!(),
            "SELECT $1, t.name, nextval('delivery_seq'), t.function, ",
            $now,
            ", ",
            $now,
            ", ",
            $now,
            ", ",
            $event,
            ", ",
            $what,
            // As in `share`: no app has so many triggers that nothing is left.
            ", ",
            followers_max!(),
            " / count(*) OVER () - 1, ",
            $trace,
            "::bytea FROM ",
            $from,
            ", triggers AS t WHERE t.app_id = $1 AND t.collection = $2 \
             AND starts_with($3, t.prefix) AND ",
            $on,
            " RETURNING d.size)"
        )
    };
}

/// What a delivery with this trace context counts, besides its names and its value.
macro_rules! traced_bytes {
    ($trace:literal) => {
        concat!(
            delivery_bytes!(),
            " + coalesce(octet_length(",
            $trace,
            "::bytea), 0)"
        )
    };
}

/// Updates locked deliveries of the queue `$1, $2`, which therefore exist.
///
/// An UPDATE that joins them would scan the whole queue if its plan was made while the queue was
/// empty, as queues often are. This goes through the key regardless of the plan. It never inserts.
macro_rules! change_deliveries {
    ($these:literal) => {
        concat!(
            "INSERT INTO deliveries AS d (app_id, trigger_name, chain, seq, queued_at, function, \
             event_id, depth, at, kind, size) \
             SELECT $1, $2, k.chain, k.seq, 0, '', $5, 0, 0, 'schedule', 0 FROM ",
            $these,
            " AS k ON CONFLICT (app_id, trigger_name, chain, seq) DO UPDATE SET "
        )
    };
}

/// The delivery `$1, $2, $3, $4`.
macro_rules! this_delivery {
    () => {
        "d.app_id = $1 AND d.trigger_name = $2 AND d.chain = $3 AND d.seq = $4"
    };
}

/// Ends a statement that removes the locked delivery `$1, $2, $3, $4`: makes the next of its
/// ordering key due at `$5`. It does not see the removal itself.
macro_rules! wake_next {
    () => {
        "next AS MATERIALIZED (SELECT d.seq, d.due_at FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.chain = $3 AND d.seq <> $4 \
         ORDER BY d.seq LIMIT 1 FOR UPDATE) \
         UPDATE deliveries AS d SET due_at = $5 \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.chain = $3 \
         AND d.seq = (SELECT n.seq FROM next AS n WHERE n.due_at IS NULL)"
    };
}

/// The columns that `rows::delivery` decodes, before the trigger's policy.
macro_rules! delivery_columns {
    ($table:literal) => {
        concat!(
            $table,
            ".trigger_name, ",
            $table,
            ".chain, ",
            $table,
            ".seq, ",
            "CASE WHEN ",
            $table,
            ".lease IS NULL THEN ",
            $table,
            ".due_at ELSE ",
            $table,
            ".leased_until END, ",
            $table,
            ".lease IS NOT NULL, ",
            $table,
            ".attempts, ",
            $table,
            ".replays, ",
            $table,
            ".queued_at, ",
            $table,
            ".function, ",
            $table,
            ".error, ",
            event_columns!($table)
        )
    };
}

/// The columns that `rows::event` decodes.
macro_rules! event_columns {
    ($table:literal) => {
        concat!(
            $table,
            ".event_id, ",
            $table,
            ".depth, ",
            $table,
            ".at, ",
            $table,
            ".kind, ",
            $table,
            ".collection, ",
            $table,
            ".key, ",
            $table,
            ".version, ",
            $table,
            ".json, ",
            $table,
            ".bytes, ",
            $table,
            ".followers, ",
            $table,
            ".trace_context"
        )
    };
}

/// The deliveries of `$1` that an `Outstanding` filter selects: events, trigger, from, until.
macro_rules! these_deliveries {
    () => {
        concat!(
            "d.app_id = $1 AND ",
            app_exists!(),
            " AND (cardinality($2::uuid[]) = 0 OR d.event_id = ANY($2)) \
             AND ($3::text IS NULL OR d.trigger_name = $3) \
             AND ($4::bigint IS NULL OR d.queued_at >= $4) \
             AND ($5::bigint IS NULL OR d.queued_at < $5)"
        )
    };
}

statements! {
    /// App, now, depth; collections, keys, kinds, versions, sizes, JSON, bytes, ordering keys and
    /// identities of events, in order; how many deliveries may follow from each event, or from all
    /// if they are a handler's; the maximum number of deliveries; the trace context. Creates the deliveries of the
    /// changes of a transaction. Returns their number and bytes. Creates none if there are more
    /// than the maximum.
    FIRE = concat!(
        "WITH events AS (SELECT * FROM unnest($4::text[], $5::text[], $6::text[], $7::bigint[], \
         $8::integer[], $9::text[], $10::bytea[], $11::bigint[], $12::uuid[]) WITH ORDINALITY \
         AS n (collection, key, kind, version, size, json, bytes, chain, event_id, place)), \
         meant AS MATERIALIZED (SELECT n.place, t.name, t.function, count(*) OVER () AS together, \
         count(*) OVER (PARTITION BY n.place) AS of_event FROM events AS n, \
         triggers AS t WHERE t.app_id = $1 AND t.collection = n.collection \
         AND starts_with(n.key, t.prefix) \
         AND CASE n.kind WHEN 'set' THEN t.on_set ELSE t.on_delete END), \
         fired AS (", insert_delivery!(),
        "SELECT $1, m.name, nextval('delivery_seq'), m.function, $2, $2, $2, n.chain, n.event_id, \
         $3, n.kind, n.collection, n.key, n.version, n.size, n.json, n.bytes, \
         greatest($13 / CASE $3 WHEN 1 THEN m.of_event ELSE m.together END - 1, 0), $15::bytea \
         FROM meant AS m, events AS n WHERE n.place = m.place AND m.together <= $14 \
         ORDER BY n.place, m.name RETURNING d.size) \
         SELECT (SELECT count(*) FROM meant), (SELECT coalesce(sum(f.size), 0) FROM fired AS f)"
    );
    /// An app, a trigger's name, now, limit; queues that are slow to scan, and the times from which
    /// they may have deliveries: the queues after that one with due deliveries, without paused ones
    /// and those of deleted apps. See the function in the migrations. It finds apps, so it does not
    /// name one.
    DUE = "SELECT q.app, q.name FROM due_queues($1, $2, $3, $4, $5, $6, $7) AS q";
    /// App, the maximum number of dead letters to count: no row if the app does not exist;
    /// otherwise dead letters, paused triggers, and the earliest due time, without paused triggers.
    /// A leased delivery is due when its lease ends; for that the first 64 of each queue are
    /// scanned. Steps from one queue to the next through the index.
    SURVEY = concat!("WITH RECURSIVE queues (name) AS ( \
        (SELECT d.trigger_name FROM deliveries AS d WHERE d.app_id = $1 AND d.due_at IS NOT NULL \
         ORDER BY d.trigger_name LIMIT 1) \
        UNION ALL \
        SELECT (SELECT d.trigger_name FROM deliveries AS d \
                WHERE d.app_id = $1 AND d.due_at IS NOT NULL AND d.trigger_name > q.name \
                ORDER BY d.trigger_name LIMIT 1) \
        FROM queues AS q WHERE q.name IS NOT NULL) \
        SELECT (SELECT count(*) FROM (SELECT 1 FROM dead_letters AS l WHERE l.app_id = $1 \
        LIMIT $2) AS counted), \
        (SELECT count(*) FROM triggers AS t WHERE t.app_id = $1 AND t.paused IS NOT NULL), \
        (SELECT min(least( \
         (SELECT d.due_at FROM deliveries AS d WHERE d.app_id = $1 AND d.trigger_name = q.name \
          AND d.due_at IS NOT NULL AND d.lease IS NULL ORDER BY d.due_at LIMIT 1), \
         (SELECT min(f.leased_until) FROM (SELECT d.leased_until FROM deliveries AS d \
          WHERE d.app_id = $1 AND d.trigger_name = q.name AND d.due_at IS NOT NULL \
          ORDER BY d.due_at LIMIT 64) AS f))) \
         FROM queues AS q WHERE q.name IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM triggers AS t WHERE t.app_id = $1 AND t.name = q.name \
         AND t.paused IS NOT NULL)) WHERE ", app_exists!());
    /// App, trigger, now, end of the lease, lease, limit, how many to scan, the series of failures
    /// if it is the probe of a trigger that is paused by failures (after `PROBE`), and the time
    /// from which deliveries may be due. Those that do not count in the series come first. A
    /// separate statement, because it waits for nothing. The last column is the due time of the
    /// first delivery that it scanned. It changes no indexed column of the claimed rows.
    ///
    /// `first` refers to `blocked` so that the earlier deliveries are locked before `claimed`
    /// changes them: a row that the same statement has changed cannot be locked.
    CLAIM = concat!(
        "WITH candidates AS (SELECT d.chain, d.seq, d.due_at, \
         coalesce(d.series = $8, false) AS counted FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.due_at <= $3 AND d.due_at >= $9 \
         AND (d.leased_until IS NULL OR d.leased_until <= $3) AND ", app_exists!(), " \
         AND NOT EXISTS (SELECT 1 FROM triggers AS t WHERE t.app_id = $1 AND t.name = $2 \
         AND (t.paused = 'operator' OR (t.paused IS NOT NULL AND $8::bigint IS NULL))) \
         ORDER BY d.due_at, d.seq LIMIT $7 FOR UPDATE SKIP LOCKED), \
         looked AS MATERIALIZED (SELECT c.chain, c.seq, c.due_at, c.counted, \
         EXISTS (SELECT 1 FROM deliveries AS d WHERE d.app_id = $1 AND d.trigger_name = $2 \
         AND d.chain = c.chain AND d.seq < c.seq) AS behind FROM candidates AS c), \
         blocked AS MATERIALIZED (SELECT k.chain, k.seq FROM looked AS k, \
         LATERAL (SELECT d.seq FROM deliveries AS d WHERE d.app_id = $1 AND d.trigger_name = $2 \
         AND d.chain = k.chain AND d.seq < k.seq ORDER BY d.seq DESC LIMIT 1 \
         FOR KEY SHARE SKIP LOCKED) AS before WHERE k.behind), \
         first AS MATERIALIZED (SELECT k.chain, k.seq, k.due_at FROM looked AS k \
         WHERE NOT k.behind AND (SELECT count(*) FROM blocked) >= 0 \
         ORDER BY k.counted, k.due_at, k.seq LIMIT $6), \
         parked AS (", change_deliveries!("blocked"), "due_at = NULL), \
         claimed AS (", change_deliveries!("first"),
        "leased_until = $4, lease = $5, attempts = d.attempts + 1 RETURNING d.*) \
         SELECT ", delivery_columns!("c"), ", p.attempts_max, p.age_max_ms, \
         (SELECT min(k.due_at) FROM candidates AS k) FROM claimed AS c \
         LEFT JOIN (SELECT t.name, t.attempts_max, t.age_max_ms FROM triggers AS t \
         WHERE t.app_id = $1 AND t.name = $2) AS p ON p.name = c.trigger_name \
         ORDER BY (SELECT f.due_at FROM first AS f WHERE f.seq = c.seq), c.seq"
    );
    /// App, trigger, beyond, now, any identity, limit: makes deliveries due that are due after
    /// `beyond`.
    RESCUE_DUE = concat!(
        "WITH late AS MATERIALIZED (SELECT d.chain, d.seq FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.due_at > $3 \
         AND d.due_at - coalesce(d.wait_ms, 0) > $3 \
         ORDER BY d.due_at, d.seq LIMIT $6 FOR UPDATE SKIP LOCKED) ",
        change_deliveries!("late"), "due_at = $4 + coalesce(d.wait_ms, 0) RETURNING d.seq"
    );
    /// App, trigger, beyond, now, any identity, how many to scan: ends leases that end after
    /// `beyond`.
    RESCUE_LEASED = concat!(
        "WITH looked AS MATERIALIZED (SELECT d.chain, d.seq, d.leased_until FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.due_at IS NOT NULL \
         ORDER BY d.due_at, d.seq LIMIT $6), \
         late AS MATERIALIZED (SELECT k.chain, k.seq FROM looked AS k, \
         LATERAL (SELECT d.seq FROM deliveries AS d WHERE d.app_id = $1 AND d.trigger_name = $2 \
         AND d.chain = k.chain AND d.seq = k.seq AND d.leased_until > $3 \
         FOR UPDATE SKIP LOCKED) AS still WHERE k.leased_until > $3) ",
        change_deliveries!("late"), "leased_until = $4 RETURNING d.seq"
    );
    /// The delivery, its lease. Locks it, if the lease still holds. Returns its size, and the
    /// series of failures in which it counts.
    HOLD_DELIVERY = concat!(
        "SELECT d.size, d.series FROM deliveries AS d WHERE ", this_delivery!(),
        " AND d.lease = $5 FOR UPDATE"
    );
    /// The delivery, its lease, the end of the lease. If it is a probe, no other one is let through
    /// before that.
    RENEW = concat!(
        "WITH renewed AS (UPDATE deliveries AS d SET leased_until = $6 WHERE ", this_delivery!(),
        " AND d.lease = $5 RETURNING d.seq), \
         probe AS (UPDATE triggers AS t SET probe_at = $6 \
         WHERE t.app_id = $1 AND t.name = $2 AND t.probe = $5) \
         SELECT r.seq FROM renewed AS r"
    );
    /// The delivery, now: deletes it and makes the next one due. Resets the consecutive failures of
    /// its trigger. After `HOLD_DELIVERY`.
    FINISH = concat!(
        "WITH gone AS (DELETE FROM deliveries AS d WHERE ", this_delivery!(), "), \
         succeeded AS (UPDATE triggers AS t SET failures = 0, series = t.series + 1, \
         probe_at = NULL, probe = NULL, probes_failed = 0, \
         paused = CASE WHEN t.paused = 'operator' THEN t.paused END \
         WHERE t.app_id = $1 AND t.name = $2 AND (t.failures <> 0 OR t.paused = 'failures')), ",
        wake_next!()
    );
    /// The delivery, its lease, when it is due again, the wait in milliseconds until then: nacks it
    /// as if it had not been tried, and as if it were queued then.
    DEFER = concat!(
        "UPDATE deliveries AS d SET lease = NULL, leased_until = NULL, due_at = $6, \
         queued_at = $6, wait_ms = $7, attempts = greatest(d.attempts - 1, 0) WHERE ",
        this_delivery!(), " AND d.lease = $5 RETURNING d.seq"
    );
    /// The delivery, when it is due again, its error, the series of failures in which it counts.
    /// After `HOLD_DELIVERY`.
    RETRY = concat!(
        "UPDATE deliveries AS d SET lease = NULL, leased_until = NULL, due_at = $5, error = $6, \
         series = $7, wait_ms = NULL WHERE ", this_delivery!()
    );
    /// The delivery, its lease, now: nacks it as if it had not been tried.
    RELEASE = concat!(
        "UPDATE deliveries AS d SET lease = NULL, leased_until = NULL, due_at = $6, \
         attempts = greatest(d.attempts - 1, 0) WHERE ", this_delivery!(),
        " AND d.lease = $5 RETURNING d.seq"
    );
    /// The delivery, now, the dead letter's identity, reason, error, trace, version and module of
    /// the plugin: moves it to the dead letters and makes the next one due. After `HOLD_DELIVERY`.
    GIVE_UP = concat!(
        "WITH gone AS (DELETE FROM deliveries AS d WHERE ", this_delivery!(), " RETURNING d.*), \
         letter AS (INSERT INTO dead_letters AS l (app_id, id, reason, error, trace, \
         plugin_version, plugin_digest, dead_at, trigger_name, chain, function, attempts, replays, \
         event_id, depth, at, kind, collection, key, version, size, json, bytes, followers, \
         trace_context) SELECT $1, $6, $7, $8, $9, $10, $11, $5, g.trigger_name, g.chain, g.function, \
         g.attempts, g.replays, g.event_id, g.depth, g.at, g.kind, g.collection, g.key, \
         g.version, g.size, g.json, g.bytes, g.followers, g.trace_context FROM gone AS g), ", wake_next!()
    );
    /// See `these_deliveries!`; after a trigger, an ordering key and a sequence number, limit.
    OUTSTANDING = concat!(
        "SELECT ", delivery_columns!("d"),
        ", p.attempts_max, p.age_max_ms FROM (SELECT t.name, t.attempts_max, t.age_max_ms \
         FROM triggers AS t WHERE t.app_id = $1) AS p \
         RIGHT JOIN deliveries AS d ON p.name = d.trigger_name WHERE ", these_deliveries!(),
        " AND (d.trigger_name, d.chain, d.seq) > ($6, $7, $8) \
         ORDER BY d.trigger_name, d.chain, d.seq LIMIT $9"
    );
    /// See `these_deliveries!`; the maximum to count.
    COUNT_DELIVERIES = concat!(
        "SELECT count(*) FROM (SELECT 1 FROM deliveries AS d WHERE ", these_deliveries!(),
        " LIMIT $6) AS counted"
    );
    /// See `these_deliveries!`; limit: deletes them. Returns the trigger, ordering key and size of
    /// each. `WAKE_ALL` follows.
    DISCARD_DELIVERIES = concat!(
        "WITH meant AS MATERIALIZED (SELECT d.trigger_name, d.chain, d.seq FROM deliveries AS d \
         WHERE ", these_deliveries!(), " ORDER BY d.trigger_name, d.chain, d.seq LIMIT $6 FOR UPDATE) \
         DELETE FROM deliveries AS d USING meant AS m WHERE d.app_id = $1 \
         AND d.trigger_name = m.trigger_name AND d.chain = m.chain AND d.seq = m.seq \
         RETURNING d.trigger_name, d.chain, d.size"
    );
    /// App, triggers, ordering keys, now: makes the first delivery of each ordering key due. A
    /// separate statement, because it must not see those that were deleted before it.
    WAKE_ALL = "WITH first AS MATERIALIZED (SELECT f.trigger_name, f.chain, f.seq, f.due_at \
        FROM unnest($2::text[], $3::bigint[]) AS n (name, chain), \
        LATERAL (SELECT d.trigger_name, d.chain, d.seq, d.due_at FROM deliveries AS d \
        WHERE d.app_id = $1 AND d.trigger_name = n.name AND d.chain = n.chain \
        ORDER BY d.seq LIMIT 1 FOR UPDATE) AS f) \
        UPDATE deliveries AS d SET due_at = $4 FROM first AS f WHERE d.app_id = $1 \
        AND d.trigger_name = f.trigger_name AND d.chain = f.chain AND d.seq = f.seq \
        AND f.due_at IS NULL";
    /// A deleted app, limit: removes its deliveries.
    REAP_DELIVERIES = "WITH few AS (SELECT d.trigger_name, d.chain, d.seq FROM deliveries AS d \
        WHERE d.app_id = $1 LIMIT $2 FOR UPDATE SKIP LOCKED) \
        DELETE FROM deliveries AS d USING few AS s WHERE d.app_id = $1 \
        AND d.trigger_name = s.trigger_name AND d.chain = s.chain AND d.seq = s.seq RETURNING 1";
}
