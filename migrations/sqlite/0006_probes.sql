-- Pauses that end automatically.

-- The number of the series of failures that `failures` counts, and in which series a
-- delivery has counted: each counts once in one.
ALTER TABLE triggers ADD COLUMN series INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN series INTEGER;

-- Of a trigger that failures have paused: when a probe may be claimed, the lease of
-- the last probe, and how many have failed.
ALTER TABLE triggers ADD COLUMN probe_at INTEGER;
ALTER TABLE triggers ADD COLUMN probe BLOB;
ALTER TABLE triggers ADD COLUMN probes_failed INTEGER NOT NULL DEFAULT 0;

-- What is paused already is probed at once.
UPDATE triggers SET probe_at = 0 WHERE paused = 'failures';
