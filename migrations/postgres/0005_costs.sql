-- What rows cost, and what one change may cause.

-- How many deliveries may still follow from one. What is queued already begins with
-- all of it.
ALTER TABLE deliveries ADD COLUMN followers bigint NOT NULL DEFAULT 10000;
ALTER TABLE dead_letters ADD COLUMN followers bigint NOT NULL DEFAULT 10000;

-- Outstanding deliveries, without runs of schedules, and each slot's share of those
-- that an app may have: 100,000 over 8 slots.
ALTER TABLE app_usage
    ADD COLUMN queued bigint NOT NULL DEFAULT 0,
    ADD COLUMN queued_granted bigint NOT NULL DEFAULT 12500;

-- Each row counts a fixed part besides its names and values: 192 bytes of an entry,
-- 768 of a delivery or a dead letter. `deliveries.size` holds it; runs of schedules
-- have the size 0, and are not counted.
UPDATE deliveries SET size = size + 768 WHERE kind <> 'schedule';
UPDATE dead_letters SET size = size + 768 WHERE kind <> 'schedule';

-- All that an app uses is counted in slot 0, and what is left is dealt out.
WITH used AS (
    SELECT a.id, a.entries_max, a.bytes_max,
        (SELECT count(*) FROM kv_entries AS e WHERE e.app_id = a.id) AS entries,
        (SELECT coalesce(sum(e.size + 192), 0) FROM kv_entries AS e WHERE e.app_id = a.id)
        + (SELECT coalesce(sum(d.size), 0) FROM deliveries AS d WHERE d.app_id = a.id)
        + (SELECT coalesce(sum(greatest(l.size, 768) + octet_length(l.error)
                               + coalesce(octet_length(l.trace), 0)), 0)
           FROM dead_letters AS l WHERE l.app_id = a.id) AS bytes,
        (SELECT count(*) FROM deliveries AS d
         WHERE d.app_id = a.id AND d.kind <> 'schedule') AS deliveries
    FROM apps AS a
), free AS (
    SELECT u.*, u.entries_max - u.entries AS entries_free, u.bytes_max - u.bytes AS bytes_free,
        100000 - u.deliveries AS deliveries_free
    FROM used AS u
)
UPDATE app_usage AS s SET
    entries = CASE WHEN s.slot = 0 THEN f.entries ELSE 0 END,
    bytes = CASE WHEN s.slot = 0 THEN f.bytes ELSE 0 END,
    queued = CASE WHEN s.slot = 0 THEN f.deliveries ELSE 0 END,
    entries_granted = CASE WHEN s.slot = 0 THEN f.entries ELSE 0 END
        + CASE WHEN f.entries_free < 0 THEN f.entries_free ELSE f.entries_free / 8 END,
    bytes_granted = CASE WHEN s.slot = 0 THEN f.bytes ELSE 0 END
        + CASE WHEN f.bytes_free < 0 THEN f.bytes_free ELSE f.bytes_free / 8 END,
    queued_granted = CASE WHEN s.slot = 0 THEN f.deliveries ELSE 0 END
        + CASE WHEN f.deliveries_free < 0 THEN f.deliveries_free ELSE f.deliveries_free / 8 END
FROM free AS f WHERE s.app_id = f.id;

-- When an app was deleted. It is absent from then on, its name is free, and its
-- rows are removed in small steps.
ALTER TABLE apps ADD COLUMN deleted_at bigint;
CREATE INDEX apps_deleted ON apps (id) WHERE deleted_at IS NOT NULL;
