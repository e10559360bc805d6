//! Kept answers of idempotent calls, and the sweep of what has expired.

statements! {
    /// App, identity, now.
    GET = concat!(
        "SELECT k.request, k.output, k.expires_at FROM kept_answers AS k \
         WHERE k.app_id = $1 AND k.id = $2 AND k.expires_at > $3 AND ", app_exists!()
    );
    /// App, identity, request, output, size, expiry; now; the first and the last identity of the
    /// range, and how many it may have. Waits for a commit of the same identity. Returns whether
    /// the range has room, and what was replaced: null if the answer exists.
    KEEP = "WITH room AS (SELECT count(*) < $10 AS free FROM (SELECT 1 FROM kept_answers AS k \
         WHERE k.app_id = $1 AND k.id >= $8 AND k.id <= $9 LIMIT $10) AS few), \
         written AS (INSERT INTO kept_answers AS k (app_id, id, request, output, size, expires_at) \
         SELECT $1, $2, $3, $4, $5, $6 FROM room AS r WHERE r.free \
         ON CONFLICT (app_id, id) DO UPDATE SET request = excluded.request, \
         output = excluded.output, size = excluded.size, replaced = k.size, \
         expires_at = excluded.expires_at WHERE k.expires_at <= $7 RETURNING k.replaced) \
         SELECT r.free, w.replaced FROM room AS r LEFT JOIN written AS w ON true";
    /// App, now, limit, slot: removes expired entries, the earliest expired first, then answers, and
    /// counts them. Skips those that another transaction has locked.
    SWEEP = concat!(
        "WITH expired AS (SELECT e.collection, e.key FROM kv_entries AS e \
         WHERE e.app_id = $1 AND e.expires_at <= $2 AND ", app_exists!(), " \
         ORDER BY e.expires_at LIMIT $3 \
         FOR UPDATE SKIP LOCKED), \
         gone AS (DELETE FROM kv_entries AS e USING expired AS k \
         WHERE e.app_id = $1 AND e.collection = k.collection AND e.key = k.key \
         RETURNING e.size), \
         old AS (SELECT k.id FROM kept_answers AS k \
         WHERE k.app_id = $1 AND k.expires_at <= $2 AND ", app_exists!(), " \
         ORDER BY k.expires_at LIMIT $3 - (SELECT count(*) FROM expired) \
         FOR UPDATE SKIP LOCKED), \
         dropped AS (DELETE FROM kept_answers AS k USING old AS o \
         WHERE k.app_id = $1 AND k.id = o.id RETURNING k.size), ",
        count_gone!(
            "$4",
            " - (SELECT coalesce(sum(d.size), 0) FROM dropped AS d) AS bytes, 0 AS queued"
        ),
        "SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM dropped)"
    );
    /// A deleted app, limit.
    REAP_ANSWERS = "WITH few AS (SELECT k.id FROM kept_answers AS k WHERE k.app_id = $1 \
         LIMIT $2 FOR UPDATE SKIP LOCKED) \
         DELETE FROM kept_answers AS k USING few AS x WHERE k.app_id = $1 AND k.id = x.id \
         RETURNING 1";
}
