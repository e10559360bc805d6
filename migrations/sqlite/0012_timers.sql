-- Timers: deliveries that wait for a time of their own.

-- SQLite cannot change a CHECK, so the tables are copied.

-- A trigger without a collection and without a schedule is that of the timers.
CREATE TABLE new_triggers (
    app_id        BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    origin        TEXT    NOT NULL CHECK (origin IN ('plugin', 'operator')),
    function      TEXT    NOT NULL,
    -- Of changes: where, and which.
    collection    TEXT,
    prefix        TEXT    NOT NULL DEFAULT '',
    on_set        INTEGER NOT NULL DEFAULT 0 CHECK (on_set IN (0, 1)),
    on_delete     INTEGER NOT NULL DEFAULT 0 CHECK (on_delete IN (0, 1)),
    -- Of a schedule: its expression, and when it is due next; NULL is not planned yet.
    schedule      TEXT,
    next_at       INTEGER,
    attempts_max  INTEGER NOT NULL,
    age_max_ms    INTEGER NOT NULL,
    paused        TEXT    CHECK (paused IN ('operator', 'failures')),
    failures      INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    series        INTEGER NOT NULL DEFAULT 0,
    probe_at      INTEGER,
    probe         BLOB,
    probes_failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, name),
    CHECK (collection IS NULL OR schedule IS NULL)
) STRICT, WITHOUT ROWID;
INSERT INTO new_triggers (app_id, name, origin, function, collection, prefix, on_set, on_delete, schedule, next_at,
    attempts_max, age_max_ms, paused, failures, created_at, series, probe_at, probe, probes_failed)
SELECT app_id, name, origin, function, collection, prefix, on_set, on_delete, schedule, next_at,
    attempts_max, age_max_ms, paused, failures, created_at, series, probe_at, probe, probes_failed
FROM triggers;
DROP TABLE triggers;
ALTER TABLE new_triggers RENAME TO triggers;
CREATE INDEX triggers_by_time ON triggers (next_at) WHERE schedule IS NOT NULL;

CREATE TABLE new_deliveries (
    app_id        BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    trigger_name  TEXT    NOT NULL,
    chain         INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    due_at        INTEGER,
    lease         BLOB,
    attempts      INTEGER NOT NULL DEFAULT 0,
    replays       INTEGER NOT NULL DEFAULT 0,
    queued_at     INTEGER NOT NULL,
    function      TEXT    NOT NULL,
    error         TEXT,
    event_id      BLOB    NOT NULL,
    depth         INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    -- Of a set and a delete, the entry; of a timer, its name as the key, and its payload as the
    -- value.
    kind          TEXT    NOT NULL CHECK (kind IN ('set', 'delete', 'schedule', 'timer')),
    collection    TEXT,
    key           TEXT,
    version       INTEGER,
    size          INTEGER NOT NULL,
    value         ANY     CHECK (typeof(value) IN ('text', 'blob', 'null')),
    followers     INTEGER NOT NULL DEFAULT 10000,
    series        INTEGER,
    trace_context BLOB,
    -- How long it was asked to wait, in milliseconds: it is not too late before. For the repair of
    -- what a wrong clock has postponed.
    wait_ms       INTEGER,
    PRIMARY KEY (app_id, trigger_name, chain, seq)
) STRICT;
INSERT INTO new_deliveries (app_id, trigger_name, chain, seq, due_at, lease, attempts, replays, queued_at, function, error,
    event_id, depth, at, kind, collection, key, version, size, value, followers, series,
    trace_context)
SELECT app_id, trigger_name, chain, seq, due_at, lease, attempts, replays, queued_at, function, error,
    event_id, depth, at, kind, collection, key, version, size, value, followers, series,
    trace_context
FROM deliveries ORDER BY rowid;
DROP TABLE deliveries;
ALTER TABLE new_deliveries RENAME TO deliveries;
CREATE INDEX deliveries_due ON deliveries (app_id, trigger_name, due_at, seq) WHERE due_at IS NOT NULL;
-- A name is that of one timer. One that was replayed from the dead letters has no name any more.
CREATE UNIQUE INDEX deliveries_timers ON deliveries (app_id, key) WHERE kind = 'timer' AND replays = 0;
-- When to look for the next one, of any app.
CREATE INDEX deliveries_timers_due ON deliveries (due_at) WHERE kind = 'timer';

CREATE TABLE new_dead_letters (
    app_id         BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    id             BLOB    NOT NULL CHECK (length(id) = 16),
    trigger_name   TEXT    NOT NULL,
    function       TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    error          TEXT    NOT NULL,
    trace          TEXT,
    plugin_version INTEGER,
    plugin_digest  BLOB,
    attempts       INTEGER NOT NULL,
    replays        INTEGER NOT NULL,
    dead_at        INTEGER NOT NULL,
    event_id       BLOB    NOT NULL,
    depth          INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    kind           TEXT    NOT NULL CHECK (kind IN ('set', 'delete', 'schedule', 'timer')),
    collection     TEXT,
    key            TEXT,
    version        INTEGER,
    size           INTEGER NOT NULL,
    value          ANY     CHECK (typeof(value) IN ('text', 'blob', 'null')),
    followers      INTEGER NOT NULL DEFAULT 10000,
    trace_context  BLOB,
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;
INSERT INTO new_dead_letters (app_id, id, trigger_name, function, reason, error, trace, plugin_version, plugin_digest, attempts,
    replays, dead_at, event_id, depth, at, kind, collection, key, version, size, value, followers,
    trace_context)
SELECT app_id, id, trigger_name, function, reason, error, trace, plugin_version, plugin_digest, attempts,
    replays, dead_at, event_id, depth, at, kind, collection, key, version, size, value, followers,
    trace_context
FROM dead_letters;
DROP TABLE dead_letters;
ALTER TABLE new_dead_letters RENAME TO dead_letters;
