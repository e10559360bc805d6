-- Triggers, deliveries and dead letters.

-- Grows with each change of the app's triggers; 0 while it never had one. It is
-- read with the app's usage, so that a write knows without a look at `triggers`
-- whether there is anything to know.
ALTER TABLE apps ADD COLUMN triggers INTEGER NOT NULL DEFAULT 0;

-- What has expired, for the sweeper. Entries without an expiry are not in it.
CREATE INDEX kv_entries_by_expiry ON kv_entries (app_id, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE triggers (
    app_id       BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    origin       TEXT    NOT NULL CHECK (origin IN ('plugin', 'operator')),
    function     TEXT    NOT NULL,
    -- Of changes: where, and which.
    collection   TEXT,
    prefix       TEXT    NOT NULL DEFAULT '',
    on_set       INTEGER NOT NULL DEFAULT 0 CHECK (on_set IN (0, 1)),
    on_delete    INTEGER NOT NULL DEFAULT 0 CHECK (on_delete IN (0, 1)),
    -- Of a schedule: its expression, and when it is due next; NULL is not planned yet.
    schedule     TEXT,
    next_at      INTEGER,
    attempts_max INTEGER NOT NULL,
    age_max_ms   INTEGER NOT NULL,
    paused       TEXT    CHECK (paused IN ('operator', 'failures')),
    -- Deterministic failures since the last success.
    failures     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (app_id, name),
    CHECK ((collection IS NULL) <> (schedule IS NULL))
) STRICT, WITHOUT ROWID;

-- Schedules of all apps by the time at which they are due.
CREATE INDEX triggers_by_time ON triggers (next_at) WHERE schedule IS NOT NULL;

-- An event on its way to one trigger's function: written with the change, gone
-- with the commit of the handler. It holds all of the event, so that a change
-- costs one row for each trigger.
--
-- The key is the order of delivery: those of one trigger and one chain (a hash of
-- the entry's key) are delivered one after another. `due_at` is when it may be
-- claimed: NULL behind another one of its chain, the end of the lease while it is
-- leased. So a lease that has run out is found as everything else that is due.
-- Chains are in no order: with the rows in it, each delivery of a commit would
-- change a page of its own. In an index alone, many share one.
CREATE TABLE deliveries (
    app_id       BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    trigger_name TEXT    NOT NULL,
    chain        INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    due_at       INTEGER,
    lease        BLOB,
    attempts     INTEGER NOT NULL DEFAULT 0,
    replays      INTEGER NOT NULL DEFAULT 0,
    queued_at    INTEGER NOT NULL,
    function     TEXT    NOT NULL,
    error        TEXT,
    event_id     BLOB    NOT NULL,
    depth        INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    -- set, delete or schedule; of the first two, the entry.
    kind         TEXT    NOT NULL CHECK (kind IN ('set', 'delete', 'schedule')),
    collection   TEXT,
    key          TEXT,
    version      INTEGER,
    -- What counts against the quota: the bytes of collection, key and value.
    size         INTEGER NOT NULL,
    -- TEXT for JSON, BLOB for bytes, NULL for what has no value.
    value        ANY     CHECK (typeof(value) IN ('text', 'blob', 'null')),
    PRIMARY KEY (app_id, trigger_name, chain, seq)
) STRICT;

CREATE INDEX deliveries_due ON deliveries (app_id, trigger_name, due_at, seq) WHERE due_at IS NOT NULL;

-- Deliveries that were given up. `id` sorts by when that was.
CREATE TABLE dead_letters (
    app_id         BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    id             BLOB    NOT NULL CHECK (length(id) = 16),
    trigger_name   TEXT    NOT NULL,
    function       TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    error          TEXT    NOT NULL,
    trace          TEXT,
    -- The plugin that was run last, if any.
    plugin_version INTEGER,
    plugin_digest  BLOB,
    attempts       INTEGER NOT NULL,
    replays        INTEGER NOT NULL,
    dead_at        INTEGER NOT NULL,
    event_id       BLOB    NOT NULL,
    depth          INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    kind           TEXT    NOT NULL CHECK (kind IN ('set', 'delete', 'schedule')),
    collection     TEXT,
    key            TEXT,
    version        INTEGER,
    size           INTEGER NOT NULL,
    value          ANY     CHECK (typeof(value) IN ('text', 'blob', 'null')),
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;
