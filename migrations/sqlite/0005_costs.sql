-- What rows cost, and what one change may cause.

-- How many deliveries may still follow from one. What is queued already begins with
-- all of it.
ALTER TABLE deliveries ADD COLUMN followers INTEGER NOT NULL DEFAULT 10000;
ALTER TABLE dead_letters ADD COLUMN followers INTEGER NOT NULL DEFAULT 10000;

-- Outstanding deliveries, without runs of schedules.
ALTER TABLE app_usage ADD COLUMN queued INTEGER NOT NULL DEFAULT 0;

-- Each row counts a fixed part besides its names and values: 192 bytes of an entry,
-- 768 of a delivery or a dead letter. `deliveries.size` holds it; runs of schedules
-- have the size 0, and are not counted.
UPDATE deliveries SET size = size + 768 WHERE kind <> 'schedule';
UPDATE dead_letters SET size = size + 768 WHERE kind <> 'schedule';

UPDATE app_usage SET
    bytes = (SELECT coalesce(sum(size + 192), 0) FROM kv_entries AS e
             WHERE e.app_id = app_usage.app_id)
        + (SELECT coalesce(sum(size), 0) FROM deliveries AS d
           WHERE d.app_id = app_usage.app_id)
        + (SELECT coalesce(sum(max(size, 768) + octet_length(error)
                               + coalesce(octet_length(trace), 0)), 0)
           FROM dead_letters AS l WHERE l.app_id = app_usage.app_id),
    queued = (SELECT count(*) FROM deliveries AS d
                  WHERE d.app_id = app_usage.app_id AND d.kind <> 'schedule');

-- When an app was deleted. It is absent from then on, its name is free, and its
-- rows are removed in small steps.
ALTER TABLE apps ADD COLUMN deleted_at INTEGER;
CREATE INDEX apps_deleted ON apps (id) WHERE deleted_at IS NOT NULL;
