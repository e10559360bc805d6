//! Dead letters.

/// The dead letters of `$1` that a `Letters` filter selects: identities, trigger, reason, from,
/// until.
macro_rules! these_letters {
    () => {
        "l.app_id = $1 \
         AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL) \
         AND (cardinality($2::uuid[]) = 0 OR l.id = ANY($2)) \
         AND ($3::text IS NULL OR l.trigger_name = $3) AND ($4::text IS NULL OR l.reason = $4) \
         AND ($5::bigint IS NULL OR l.dead_at >= $5) AND ($6::bigint IS NULL OR l.dead_at < $6)"
    };
}

/// Removes the oldest of them, at most `$7`.
macro_rules! remove_these {
    () => {
        concat!(
            "WITH meant AS (SELECT l.id FROM dead_letters AS l WHERE ",
            these_letters!(),
            " ORDER BY l.id LIMIT $7 FOR UPDATE), \
             gone AS (DELETE FROM dead_letters AS l USING meant AS m \
             WHERE l.app_id = $1 AND l.id = m.id RETURNING l.*)"
        )
    };
}

/// Turns the dead letters in `gone` back into deliveries, now.
macro_rules! send_again {
    ($now:literal) => {
        concat!(
            "made AS (INSERT INTO deliveries AS d (app_id, trigger_name, seq, function, due_at, queued_at, \
             replays, at, chain, event_id, depth, kind, collection, key, version, size, json, bytes, \
             followers, trace_context) \
             SELECT $1, g.trigger_name, nextval('delivery_seq'), g.function, ", $now, ", ", $now,
            ", g.replays + 1, \
             g.at, g.chain, g.event_id, g.depth, g.kind, g.collection, g.key, g.version, g.size, \
             g.json, g.bytes, g.followers, g.trace_context FROM gone AS g ORDER BY g.id RETURNING d.seq)"
        )
    };
}

statements! {
    /// See `these_letters!`; below an identity, limit.
    DEAD_LETTERS = concat!(
        "SELECT l.id, l.trigger_name, l.function, l.reason, l.error, l.trace, l.plugin_version, \
         l.plugin_digest, l.attempts, l.replays, l.dead_at, ", event_columns!("l"),
        " FROM dead_letters AS l WHERE ", these_letters!(),
        " AND l.id < $7 ORDER BY l.id DESC LIMIT $8"
    );
    /// See `these_letters!`; the maximum to count.
    COUNT = concat!(
        "SELECT count(*) FROM (SELECT 1 FROM dead_letters AS l WHERE ", these_letters!(),
        " LIMIT $7) AS counted"
    );
    /// See `remove_these!`; now, slot. Turns them back into deliveries. After `LOCK_APP_ALONE`:
    /// writers draw sequence numbers while they lock the app, so those that are drawn here come
    /// after all that others have drawn.
    REPLAY = concat!(
        remove_these!(), ", ", send_again!("$8"), ", ",
        count_letters_replayed!("$9"), "SELECT m.seq FROM made AS m"
    );
    /// App, dead letters, now. As `REPLAY`, and returns for each the identity, the size of its
    /// delivery and the bytes that it counted.
    REPLAY_UNCOUNTED = concat!(
        "WITH meant AS (SELECT l.id FROM dead_letters AS l WHERE l.app_id = $1 \
         AND l.id = ANY($2) AND ", app_exists!(), " ORDER BY l.id FOR UPDATE), \
         gone AS (DELETE FROM dead_letters AS l USING meant AS m \
         WHERE l.app_id = $1 AND l.id = m.id RETURNING l.*), ", send_again!("$3"),
        " SELECT g.id, g.size, (", letter_bytes!("g"), ")::bigint FROM gone AS g"
    );
    /// See `remove_these!`; slot. Returns the number removed.
    DISCARD = concat!(
        remove_these!(), ", ", count_letters_gone!("$8"), "SELECT count(*) FROM gone"
    );
    /// App, a time, how many to keep, limit: those among the `$4` oldest dead letters that were
    /// given up before that time or are not among the newest to keep. Scans no others: both kinds
    /// are among the oldest. They are not counted if the app uses too few bytes to have that many.
    SPARE = concat!(
        "SELECT h.id FROM (SELECT l.id, l.dead_at FROM dead_letters AS l WHERE l.app_id = $1 \
         ORDER BY l.id LIMIT $4) AS h WHERE ", app_exists!(), " AND (h.dead_at < $2 \
         OR h.id <= CASE WHEN (SELECT coalesce(sum(u.bytes), 0) FROM app_usage AS u \
         WHERE u.app_id = $1) / ", delivery_bytes!(), " > $3 THEN (SELECT l.id \
         FROM dead_letters AS l WHERE l.app_id = $1 ORDER BY l.id DESC OFFSET $3 LIMIT 1) END) \
         ORDER BY h.id"
    );
    /// App, dead letters, slot. Skips those that another host is removing. Returns the number
    /// removed.
    PRUNE = concat!(
        "WITH old AS (SELECT l.id FROM dead_letters AS l WHERE l.app_id = $1 \
         AND l.id = ANY($2) AND ", app_exists!(), " FOR UPDATE SKIP LOCKED), \
         gone AS (DELETE FROM dead_letters AS l USING old AS o \
         WHERE l.app_id = $1 AND l.id = o.id RETURNING l.size, l.error, l.trace), ",
        count_letters_gone!("$3"), "SELECT count(*) FROM gone"
    );
    /// A deleted app, limit: removes its dead letters.
    REAP_LETTERS = "WITH few AS (SELECT l.id FROM dead_letters AS l WHERE l.app_id = $1 \
        LIMIT $2 FOR UPDATE SKIP LOCKED) \
        DELETE FROM dead_letters AS l USING few AS s WHERE l.app_id = $1 AND l.id = s.id RETURNING 1";
}
