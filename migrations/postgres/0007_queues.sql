-- Claims that change no index, and a look for queues that a distributed engine can do.

-- When the lease of a delivery runs out; NULL without a lease. `due_at` stays as it is
-- while a delivery is leased, so that a claim changes no indexed column: while a
-- snapshot is held, each new entry of an index stays in the way of those who look.
ALTER TABLE deliveries ADD COLUMN leased_until bigint;
UPDATE deliveries SET leased_until = due_at WHERE lease IS NOT NULL;
-- Room in each page for one more version of each of its rows: the claim.
ALTER TABLE deliveries SET (fillfactor = 50);

-- Up to `most` queues after (`after_app`, `after_name`) that have something that is due,
-- let something through (as `open_at` of the statements), and are not of deleted apps. Steps from one queue to the next through
-- deliveries_due, one query for each: a recursive query would do the same, but a
-- distributed engine takes those for one app only.
--
-- The arrays name queues, in their order, whose beginnings hold many rows that are
-- gone, and the times from which there may be something in them.
CREATE FUNCTION due_queues(
    after_app uuid, after_name text, now_ms bigint, most bigint,
    known_apps uuid[], known_names text[], known_from bigint[]
) RETURNS TABLE (app uuid, name text) LANGUAGE plpgsql STABLE AS $$
DECLARE
    at_app uuid := after_app;
    at_name text COLLATE "C" := after_name;
    known integer := 1;
    known_app uuid;
    known_name text COLLATE "C";
    from_ms bigint;
    first record;
    found_many bigint := 0;
BEGIN
    LOOP
        LOOP
            known_app := known_apps[known];
            known_name := known_names[known];
            EXIT WHEN known_app IS NULL OR (known_app, known_name) > (at_app, at_name);
            known := known + 1;
        END LOOP;
        from_ms := 0;
        IF known_app IS NULL THEN
            SELECT d.app_id, d.trigger_name, d.due_at, d.leased_until INTO first
            FROM deliveries AS d
            WHERE d.due_at IS NOT NULL AND (d.app_id, d.trigger_name) > (at_app, at_name)
            ORDER BY d.app_id, d.trigger_name, d.due_at LIMIT 1;
            EXIT WHEN NOT FOUND;
            at_app := first.app_id;
            at_name := first.trigger_name;
        ELSE
            SELECT d.app_id, d.trigger_name, d.due_at, d.leased_until INTO first
            FROM deliveries AS d
            WHERE d.due_at IS NOT NULL AND (d.app_id, d.trigger_name) > (at_app, at_name)
            AND (d.app_id, d.trigger_name) < (known_app, known_name)
            ORDER BY d.app_id, d.trigger_name, d.due_at LIMIT 1;
            IF FOUND THEN
                at_app := first.app_id;
                at_name := first.trigger_name;
            ELSE
                at_app := known_app;
                at_name := known_name;
                from_ms := known_from[known];
                SELECT d.due_at, d.leased_until INTO first FROM deliveries AS d
                WHERE d.app_id = at_app AND d.trigger_name = at_name AND d.due_at >= from_ms
                ORDER BY d.due_at LIMIT 1;
                CONTINUE WHEN NOT FOUND;
            END IF;
        END IF;
        CONTINUE WHEN first.due_at > now_ms;
        CONTINUE WHEN first.leased_until > now_ms AND NOT EXISTS (
            SELECT 1 FROM deliveries AS d
            WHERE d.app_id = at_app AND d.trigger_name = at_name
            AND d.due_at >= from_ms AND d.due_at <= now_ms
            AND (d.leased_until IS NULL OR d.leased_until <= now_ms));
        IF NOT EXISTS (
            SELECT 1 FROM triggers AS t
            WHERE t.app_id = at_app AND t.name = at_name AND NOT (t.paused IS NULL
                OR (t.paused = 'failures' AND coalesce(t.probe_at, 0) <= now_ms)))
        AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = at_app AND a.deleted_at IS NULL) THEN
            app := at_app;
            name := at_name;
            RETURN NEXT;
            found_many := found_many + 1;
            EXIT WHEN found_many >= most;
        END IF;
    END LOOP;
END $$;
