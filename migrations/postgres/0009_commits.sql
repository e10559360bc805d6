-- A batch of checks, sets and deletions in one round trip.

-- What the transaction of a batch does (`batch.rs` of the store), statement by statement,
-- with the same locks in the same order: the app, the delivery, the keys in their order,
-- the trigger, the next delivery, the slot of usage. Each statement of a function sees
-- what was committed before it began, so a look after a lock sees what the lock has
-- waited for. `$1` is the app, as in every statement.
--
-- The arrays have one element for each key, which occurs once: what is done with it
-- ('set', 'delete', or 'check' for nothing), the version that is expected before it (0 for
-- no entry, NULL for any), and of a set the JSON or the bytes, the size and the expiry.
-- The delivery that is done with it is named by trigger, chain and number, with its lease;
-- NULL for none.
--
-- Returns one row for each key that is set or deleted, with the version that was written,
-- or the one that was deleted if it was live. It changes nothing if that row is
-- another one: 'no app'; 'watched' if a trigger watches a collection that changes; one
-- 'failed' for each expectation that does not hold; 'lost' if the lease does not hold. A
-- write that does not fit in its slot fails as everywhere.
CREATE FUNCTION commit_entries(
    app uuid, collections text[], keys text[], acts text[], expected bigint[],
    texts text[], blobs bytea[], sizes integer[], expiries bigint[],
    of_trigger text, of_chain bigint, of_seq bigint, of_lease uuid,
    now_ms bigint, counted_in smallint
) RETURNS TABLE (outcome text, of_collection text, of_key text, of_version bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    changes boolean := 'set' = ANY (acts) OR 'delete' = ANY (acts);
    delivered integer;
    fails boolean;
BEGIN
    IF EXISTS (
        SELECT 1 FROM triggers AS t WHERE t.app_id = $1 AND t.collection IN (
            SELECT k.collection FROM unnest(collections, acts) AS k (collection, act)
            WHERE k.act <> 'check'))
    THEN
        outcome := 'watched';
        RETURN NEXT;
        RETURN;
    END IF;
    PERFORM 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        outcome := 'no app';
        RETURN NEXT;
        RETURN;
    END IF;
    IF of_lease IS NOT NULL THEN
        SELECT d.size INTO delivered FROM deliveries AS d
        WHERE d.app_id = $1 AND d.trigger_name = of_trigger AND d.chain = of_chain
        AND d.seq = of_seq AND d.lease = of_lease FOR UPDATE;
    END IF;

    IF changes THEN
        -- Holds keys, whether they have an entry or not. What is put in an empty place has
        -- the version 0, has expired before all times, and has no size.
        INSERT INTO kv_entries AS e (app_id, collection, key, json, bytes, size, version,
            created_at, updated_at, expires_at)
        SELECT $1, k.collection, k.key, NULL, ''::bytea, 0, 0,
            (-9223372036854775808)::bigint, (-9223372036854775808)::bigint,
            (-9223372036854775808)::bigint
        FROM unnest(collections, keys) AS k (collection, key)
        ORDER BY k.collection COLLATE "C", k.key COLLATE "C"
        ON CONFLICT (app_id, collection, key) DO UPDATE SET size = e.size WHERE false;
    END IF;

    RETURN QUERY
    SELECT 'failed'::text, k.collection, k.key, f.version
    FROM unnest(collections, keys, expected) AS k (collection, key, version)
    LEFT JOIN LATERAL (
        SELECT e.version FROM kv_entries AS e
        WHERE e.app_id = $1 AND e.collection = k.collection AND e.key = k.key
        AND (e.expires_at IS NULL OR e.expires_at > now_ms) LIMIT 1) AS f ON true
    WHERE coalesce(f.version, 0) <> k.version;
    fails := FOUND;
    IF NOT fails AND of_lease IS NOT NULL AND delivered IS NULL THEN
        outcome := 'lost';
        RETURN NEXT;
        fails := true;
    END IF;
    IF fails THEN
        DELETE FROM kv_entries AS e USING unnest(collections, keys) AS k (collection, key)
        WHERE e.app_id = $1 AND e.collection = k.collection AND e.key = k.key
        AND e.version = 0;
        -- For this transaction, which leaves nothing: no wait for the disk.
        PERFORM set_config('synchronous_commit', 'off', true);
        RETURN;
    END IF;

    IF of_lease IS NOT NULL THEN
        WITH gone AS (
            DELETE FROM deliveries AS d
            WHERE d.app_id = $1 AND d.trigger_name = of_trigger AND d.chain = of_chain
            AND d.seq = of_seq
        ), succeeded AS (
            UPDATE triggers AS t SET failures = 0, series = t.series + 1,
                probe_at = NULL, probe = NULL, probes_failed = 0,
                paused = CASE WHEN t.paused = 'operator' THEN t.paused END
            WHERE t.app_id = $1 AND t.name = of_trigger
            AND (t.failures <> 0 OR t.paused = 'failures')
        ), next AS MATERIALIZED (
            SELECT d.seq, d.due_at FROM deliveries AS d
            WHERE d.app_id = $1 AND d.trigger_name = of_trigger AND d.chain = of_chain
            AND d.seq <> of_seq ORDER BY d.seq LIMIT 1 FOR UPDATE
        )
        UPDATE deliveries AS d SET due_at = now_ms
        WHERE d.app_id = $1 AND d.trigger_name = of_trigger AND d.chain = of_chain
        AND d.seq = (SELECT n.seq FROM next AS n WHERE n.due_at IS NULL);
    END IF;

    -- Last, because others wait for a slot.
    RETURN QUERY
    WITH written AS (
        INSERT INTO kv_entries AS e (app_id, collection, key, json, bytes, size, version,
            created_at, updated_at, expires_at)
        SELECT $1, n.collection, n.key, n.json::jsonb, n.bytes, n.size,
            nextval('kv_version'), now_ms, now_ms, n.expires_at
        FROM unnest(collections, keys, acts, texts, blobs, sizes, expiries)
            AS n (collection, key, act, json, bytes, size, expires_at)
        WHERE n.act = 'set'
        ORDER BY n.collection COLLATE "C", n.key COLLATE "C"
        ON CONFLICT (app_id, collection, key) DO UPDATE SET
            json = excluded.json, bytes = excluded.bytes, size = excluded.size,
            replaced = e.size, version = greatest(excluded.version, e.version + 1),
            created_at = CASE WHEN e.expires_at <= excluded.updated_at
                THEN excluded.created_at ELSE e.created_at END,
            updated_at = excluded.updated_at, expires_at = excluded.expires_at
        RETURNING e.collection, e.key, e.version, e.size, e.replaced
    ), gone AS (
        -- With the deletions go the rows that only held the place of what was checked.
        DELETE FROM kv_entries AS e
        USING unnest(collections, keys, acts) AS k (collection, key, act)
        WHERE e.app_id = $1 AND e.collection = k.collection AND e.key = k.key
        AND (k.act = 'delete' OR (k.act = 'check' AND e.version = 0))
        RETURNING k.act, e.collection, e.key, e.size,
            CASE WHEN e.expires_at IS NULL OR e.expires_at > now_ms THEN e.version END
            AS version
    ), counted AS (
        UPDATE app_usage AS u
        SET entries = u.entries + d.entries, bytes = u.bytes + d.bytes,
            queued = u.queued + d.queued, refused =
            (d.entries > 0 AND coalesce(u.entries + d.entries > u.entries_granted, false))
            OR (d.bytes > 0 AND coalesce(u.bytes + d.bytes > u.bytes_granted, false))
            OR (d.queued > 0 AND u.queued + d.queued > u.queued_granted)
        FROM (
            SELECT w.entries - g.entries AS entries,
                w.bytes - g.bytes - coalesce(delivered, 0) AS bytes,
                -(coalesce(delivered, 0) <> 0)::integer AS queued
            FROM (
                SELECT coalesce(sum((w.replaced = 0)::integer), 0) AS entries,
                    coalesce(sum(w.size - w.replaced + 192 * (w.replaced = 0)::integer), 0)
                    AS bytes
                FROM written AS w) AS w,
            (
                SELECT coalesce(sum((g.size <> 0)::integer), 0) AS entries,
                    coalesce(sum(g.size + 192 * (g.size <> 0)::integer), 0) AS bytes
                FROM gone AS g) AS g
        ) AS d
        WHERE u.app_id = $1 AND u.slot = counted_in
        AND (d.entries <> 0 OR d.bytes <> 0 OR d.queued <> 0)
    )
    SELECT 'set'::text, w.collection, w.key, w.version FROM written AS w
    UNION ALL
    SELECT 'deleted'::text, g.collection, g.key, g.version FROM gone AS g
    WHERE g.act = 'delete';
END $$;
