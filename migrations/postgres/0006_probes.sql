-- Pauses that end automatically.

-- The number of the series of failures that `failures` counts, and in which series a
-- delivery has counted: each counts once in one. Of a trigger that failures have
-- paused: when a probe may be claimed, the lease of the last probe, and how many have
-- failed.
ALTER TABLE triggers
    ADD COLUMN series bigint NOT NULL DEFAULT 0,
    ADD COLUMN probe_at bigint,
    ADD COLUMN probe uuid,
    ADD COLUMN probes_failed bigint NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN series bigint;

-- What is paused already is probed at once.
UPDATE triggers SET probe_at = 0 WHERE paused = 'failures';

-- The runs of a schedule that failures have paused are made for its probes.
DROP INDEX triggers_by_time;
CREATE INDEX triggers_by_time ON triggers (coalesce(next_at, 0), app_id, name)
    WHERE schedule IS NOT NULL AND paused IS DISTINCT FROM 'operator';
