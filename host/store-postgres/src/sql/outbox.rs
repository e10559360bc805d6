//! Deliveries.
//!
//! Those of one trigger and one chain are delivered one after another. Each comes
//! into the queue with a `due_at`: to look for one before it would take a lock that
//! writers of one key do not need. A claim finds out, and parks what is behind
//! another one by taking `due_at` away. The statement that removes a delivery wakes the next.
//!
//! Why a claim cannot take the second of a key before the first: the number of a
//! delivery is drawn while the entry's row is locked, so a reader that sees the second
//! sees the first, or that it is gone. (A replay draws without that lock, and holds
//! the app against all writers instead.)
//!
//! Why nothing stays parked: a claim parks a delivery only while it holds a lock on
//! an earlier one of the chain. Who removes that one (`HOLD_DELIVERY`) waits for
//! the claim, and wakes in a later statement, which sees what is parked. If the
//! remover was first, the claim cannot have the lock and leaves the delivery as it
//! is, due, for another claim. A wake locks the first one of the chain that is
//! still there, parked or not. So if two removers are at work in one chain, which
//! takes two keys of the same hash, then one waits for the other, or loses the race
//! and runs again: the last of them sees that it is the last.

/// Whether a trigger `t` lets anything through at a time, as `Standing::open`.
macro_rules! open_at {
    ($now:literal) => {
        concat!(
            "(t.paused IS NULL OR (t.paused = 'failures' AND coalesce(t.probe_at, 0) <= ",
            $now,
            "))"
        )
    };
}

/// Columns of `deliveries`, app and number first, that a new one has. What is left
/// out is the same for all of them.
macro_rules! insert_delivery {
    () => {
        "INSERT INTO deliveries AS d (app_id, trigger_name, seq, function, due_at, queued_at, at, \
         chain, event_id, depth, kind, collection, key, version, size, json, bytes, \
         followers) "
    };
}

/// [`FOLLOWERS_MAX`](kvasm_core::FOLLOWERS_MAX): a test compares them.
macro_rules! followers_max {
    () => {
        "10000"
    };
}

/// Makes the deliveries of a change of the entry `$1, $2, $3` in the statement that
/// changes it, from its row of what it changed. The number is drawn for a row that
/// comes from there, which is locked by then.
macro_rules! fired {
    ($now:literal, $event:literal, $what:expr, $from:literal, $on:literal) => {
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
            // As `share` says: no app has so many triggers that nothing is left.
            ", ",
            followers_max!(),
            " / count(*) OVER () - 1 FROM ",
            $from,
            ", triggers AS t WHERE t.app_id = $1 AND t.collection = $2 \
             AND starts_with($3, t.prefix) AND ",
            $on,
            " RETURNING d.size)"
        )
    };
}

/// Changes deliveries of the queue `$1, $2` that are locked, so that they are there.
///
/// An UPDATE that joins them reads the whole queue if its plan was made while the
/// queue was empty, which queues often are. This goes through the key, whatever the
/// plan. What it would insert never is.
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

/// Ends a statement that removes the delivery `$1, $2, $3, $4`, which is locked:
/// lets the next of its chain go on, at `$5`. It does not see the removal itself.
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

/// What `rows::delivery` decodes, before the trigger's policy.
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

/// What `rows::event` decodes.
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
            ".followers"
        )
    };
}

/// The deliveries of `$1` that `Outstanding` means: events, trigger, from, until.
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
    /// App, now, depth; collections, keys, kinds, versions, sizes, JSON, bytes,
    /// chains and identities of events, in their order; how many deliveries may
    /// follow from each event, or from all if they are a handler's; the most
    /// deliveries. Makes the deliveries of what a transaction has changed: how many
    /// there are, and the bytes that they take. If there are more than the most, it
    /// makes none.
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
         greatest($13 / CASE $3 WHEN 1 THEN m.of_event ELSE m.together END - 1, 0) \
         FROM meant AS m, events AS n WHERE n.place = m.place AND m.together <= $14 \
         ORDER BY n.place, m.name RETURNING d.size) \
         SELECT (SELECT count(*) FROM meant), (SELECT coalesce(sum(f.size), 0) FROM fired AS f)"
    );
    /// An app, a trigger's name, now, how many; queues that are slow to read, and from
    /// when on there may be something in them: the queues after those that have
    /// something that is due and are not paused; those of deleted apps are not among
    /// them. See the function in the migrations. Finds apps, so it does not name one.
    DUE = "SELECT q.app, q.name FROM due_queues($1, $2, $3, $4, $5, $6, $7) AS q";
    /// App, the most letters to count: no row if the app is not there; else dead letters,
    /// paused triggers, and when the delivery was due that has been so for longest, paused
    /// triggers left out. What is leased is due when its lease ends; of each queue the
    /// first 64 are looked at for that. Steps from one queue to the next through the index.
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
    /// App, trigger, now, end of the lease, lease, how many at most, how many to
    /// look at, for the probe of a trigger that failures have paused (after `PROBE`) their
    /// series, and from when on something may be due. Those that do not count in the
    /// series come first. A statement of its own, for it waits for nobody. The last column
    /// is when the first that it looked at was due. It changes no indexed column of what it
    /// claims.
    ///
    /// `first` asks for `blocked` so that the earlier ones are locked before
    /// `claimed` changes them: a row that this very statement has changed cannot be
    /// locked.
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
    /// App, trigger, beyond, now, any identity, how many at most: makes those due that
    /// are so after `beyond`.
    RESCUE_DUE = concat!(
        "WITH late AS MATERIALIZED (SELECT d.chain, d.seq FROM deliveries AS d \
         WHERE d.app_id = $1 AND d.trigger_name = $2 AND d.due_at > $3 \
         ORDER BY d.due_at, d.seq LIMIT $6 FOR UPDATE SKIP LOCKED) ",
        change_deliveries!("late"), "due_at = $4 RETURNING d.seq"
    );
    /// App, trigger, beyond, now, any identity, how many to look at: ends leases that end
    /// after `beyond`.
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
    /// The delivery, its lease: its size, and the series of failures in which it
    /// counts. Holds it, if the lease still holds.
    HOLD_DELIVERY = concat!(
        "SELECT d.size, d.series FROM deliveries AS d WHERE ", this_delivery!(),
        " AND d.lease = $5 FOR UPDATE"
    );
    /// The delivery, its lease, the end of the lease: if it is a probe, no other one is let
    /// through before that.
    RENEW = concat!(
        "WITH renewed AS (UPDATE deliveries AS d SET leased_until = $6 WHERE ", this_delivery!(),
        " AND d.lease = $5 RETURNING d.seq), \
         probe AS (UPDATE triggers AS t SET probe_at = $6 \
         WHERE t.app_id = $1 AND t.name = $2 AND t.probe = $5) \
         SELECT r.seq FROM renewed AS r"
    );
    /// The delivery, now: removes it and lets the next one go on. The failures of
    /// its trigger are no longer in a row. After `HOLD_DELIVERY`.
    FINISH = concat!(
        "WITH gone AS (DELETE FROM deliveries AS d WHERE ", this_delivery!(), "), \
         succeeded AS (UPDATE triggers AS t SET failures = 0, series = t.series + 1, \
         probe_at = NULL, probe = NULL, probes_failed = 0, \
         paused = CASE WHEN t.paused = 'operator' THEN t.paused END \
         WHERE t.app_id = $1 AND t.name = $2 AND (t.failures <> 0 OR t.paused = 'failures')), ",
        wake_next!()
    );
    /// The delivery, when it is due again, how it failed, the series of failures in
    /// which it counts. After `HOLD_DELIVERY`.
    RETRY = concat!(
        "UPDATE deliveries AS d SET lease = NULL, leased_until = NULL, due_at = $5, error = $6, \
         series = $7 WHERE ", this_delivery!()
    );
    /// The delivery, its lease, now: gives it back as if it had not been tried.
    RELEASE = concat!(
        "UPDATE deliveries AS d SET lease = NULL, leased_until = NULL, due_at = $6, \
         attempts = greatest(d.attempts - 1, 0) WHERE ", this_delivery!(),
        " AND d.lease = $5 RETURNING d.seq"
    );
    /// The delivery, now, the letter's identity, reason, error, trace, version and
    /// module of the plugin: makes it a dead letter and lets the next one go on.
    /// After `HOLD_DELIVERY`.
    GIVE_UP = concat!(
        "WITH gone AS (DELETE FROM deliveries AS d WHERE ", this_delivery!(), " RETURNING d.*), \
         letter AS (INSERT INTO dead_letters AS l (app_id, id, reason, error, trace, \
         plugin_version, plugin_digest, dead_at, trigger_name, chain, function, attempts, replays, \
         event_id, depth, at, kind, collection, key, version, size, json, bytes, followers) \
         SELECT $1, $6, $7, $8, $9, $10, $11, $5, g.trigger_name, g.chain, g.function, \
         g.attempts, g.replays, g.event_id, g.depth, g.at, g.kind, g.collection, g.key, \
         g.version, g.size, g.json, g.bytes, g.followers FROM gone AS g), ", wake_next!()
    );
    /// See `these_deliveries!`; after a trigger, a chain and a number, how many.
    OUTSTANDING = concat!(
        "SELECT ", delivery_columns!("d"),
        ", p.attempts_max, p.age_max_ms FROM (SELECT t.name, t.attempts_max, t.age_max_ms \
         FROM triggers AS t WHERE t.app_id = $1) AS p \
         RIGHT JOIN deliveries AS d ON p.name = d.trigger_name WHERE ", these_deliveries!(),
        " AND (d.trigger_name, d.chain, d.seq) > ($6, $7, $8) \
         ORDER BY d.trigger_name, d.chain, d.seq LIMIT $9"
    );
    /// See `these_deliveries!`; the most to count.
    COUNT_DELIVERIES = concat!(
        "SELECT count(*) FROM (SELECT 1 FROM deliveries AS d WHERE ", these_deliveries!(),
        " LIMIT $6) AS counted"
    );
    /// See `these_deliveries!`; how many: removes them; of each its trigger, chain and
    /// size. `WAKE_ALL` follows.
    DISCARD_DELIVERIES = concat!(
        "WITH meant AS MATERIALIZED (SELECT d.trigger_name, d.chain, d.seq FROM deliveries AS d \
         WHERE ", these_deliveries!(), " ORDER BY d.trigger_name, d.chain, d.seq LIMIT $6 FOR UPDATE) \
         DELETE FROM deliveries AS d USING meant AS m WHERE d.app_id = $1 \
         AND d.trigger_name = m.trigger_name AND d.chain = m.chain AND d.seq = m.seq \
         RETURNING d.trigger_name, d.chain, d.size"
    );
    /// App, triggers, chains, now: lets the first of each chain go on. A statement of
    /// its own, as it must not see those that were removed before it.
    WAKE_ALL = "WITH first AS MATERIALIZED (SELECT f.trigger_name, f.chain, f.seq, f.due_at \
        FROM unnest($2::text[], $3::bigint[]) AS n (name, chain), \
        LATERAL (SELECT d.trigger_name, d.chain, d.seq, d.due_at FROM deliveries AS d \
        WHERE d.app_id = $1 AND d.trigger_name = n.name AND d.chain = n.chain \
        ORDER BY d.seq LIMIT 1 FOR UPDATE) AS f) \
        UPDATE deliveries AS d SET due_at = $4 FROM first AS f WHERE d.app_id = $1 \
        AND d.trigger_name = f.trigger_name AND d.chain = f.chain AND d.seq = f.seq \
        AND f.due_at IS NULL";
    /// A deleted app, how many: removes deliveries of it.
    REAP_DELIVERIES = "WITH few AS (SELECT d.trigger_name, d.chain, d.seq FROM deliveries AS d \
        WHERE d.app_id = $1 LIMIT $2 FOR UPDATE SKIP LOCKED) \
        DELETE FROM deliveries AS d USING few AS s WHERE d.app_id = $1 \
        AND d.trigger_name = s.trigger_name AND d.chain = s.chain AND d.seq = s.seq RETURNING 1";
}
