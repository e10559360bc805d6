-- Timers: deliveries that wait for a time of their own.

-- A trigger without a collection and without a schedule is that of the timers.
ALTER TABLE triggers DROP CONSTRAINT triggers_check;
ALTER TABLE triggers ADD CONSTRAINT triggers_check CHECK (num_nonnulls(collection, schedule) <= 1);

-- A timer has its name in `key`, and its payload in `bytes`.
ALTER TABLE deliveries DROP CONSTRAINT deliveries_kind_check;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_kind_check
    CHECK (kind IN ('set', 'delete', 'schedule', 'timer'));
ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_kind_check;
ALTER TABLE dead_letters ADD CONSTRAINT dead_letters_kind_check
    CHECK (kind IN ('set', 'delete', 'schedule', 'timer'));

-- How long it was asked to wait, in milliseconds: it is not too late before. For the repair of
-- what a wrong clock has postponed.
ALTER TABLE deliveries ADD COLUMN wait_ms bigint;

-- A name is that of one timer. One that was replayed from the dead letters has no name any more.
CREATE UNIQUE INDEX deliveries_timers ON deliveries (app_id, key)
    WHERE kind = 'timer' AND replays = 0;
-- When to look for the next one, of any app. A claim changes no column of it.
CREATE INDEX deliveries_timers_due ON deliveries (due_at) WHERE kind = 'timer';
