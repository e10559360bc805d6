-- Triggers, deliveries and dead letters. All keyed by app.

-- What has expired, for the sweeper. Entries without an expiry are not in it.
CREATE INDEX kv_entries_by_expiry ON kv_entries (app_id, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE triggers (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    origin text NOT NULL CHECK (origin IN ('plugin', 'operator')),
    function text NOT NULL,
    -- Of changes: where, and which.
    collection text COLLATE "C",
    prefix text COLLATE "C" NOT NULL DEFAULT '',
    on_set boolean NOT NULL DEFAULT false,
    on_delete boolean NOT NULL DEFAULT false,
    -- Of a schedule: its expression, and when it is due next; NULL is not planned yet.
    schedule text,
    next_at bigint,
    attempts_max bigint NOT NULL,
    age_max_ms bigint NOT NULL,
    paused text CHECK (paused IN ('operator', 'failures')),
    -- Deterministic failures since the last success.
    failures bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    PRIMARY KEY (app_id, name),
    CHECK (num_nonnulls(collection, schedule) = 1)
);

-- Schedules of all apps by the time at which they are due: those that are not
-- planned yet, first.
CREATE INDEX triggers_by_time ON triggers (coalesce(next_at, 0), app_id, name)
    WHERE schedule IS NOT NULL AND paused IS NULL;
-- What a write looks into.
CREATE INDEX triggers_by_collection ON triggers (app_id, collection) WHERE collection IS NOT NULL;

-- Orders the deliveries of one key. It is drawn after the entry's row is locked,
-- so for one key the order of numbers is the order of commits.
CREATE SEQUENCE delivery_seq AS bigint CACHE 1 NO CYCLE;

-- An event on its way to one trigger's function: written with the change, gone
-- with the commit of the handler. It holds all of the event, so that a change
-- costs one row for each trigger.
--
-- The key is the order of delivery: those of one trigger and one chain (a hash of
-- the entry's key) are delivered one after another. `due_at` is when it may be
-- claimed: the end of the lease while it is leased, so that a lease that has run
-- out is found as everything else that is due; NULL once a claim has found it
-- behind another one of its chain, until that one is gone.
CREATE TABLE deliveries (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    trigger_name text COLLATE "C" NOT NULL,
    chain bigint NOT NULL,
    seq bigint NOT NULL,
    due_at bigint,
    lease uuid,
    attempts bigint NOT NULL DEFAULT 0,
    replays bigint NOT NULL DEFAULT 0,
    queued_at bigint NOT NULL,
    function text NOT NULL,
    error text,
    event_id uuid NOT NULL,
    depth bigint NOT NULL,
    at bigint NOT NULL,
    -- set, delete or schedule; of the first two, the entry.
    kind text NOT NULL CHECK (kind IN ('set', 'delete', 'schedule')),
    collection text COLLATE "C",
    key text COLLATE "C",
    version bigint,
    -- What counts against the quota: the bytes of collection, key and value.
    size integer NOT NULL,
    -- The value as it was written: JSON as text, for nothing here looks into it.
    json text,
    bytes bytea,
    PRIMARY KEY (app_id, trigger_name, chain, seq)
)
-- Claimed and given back in place.
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX deliveries_due ON deliveries (app_id, trigger_name, due_at, seq) WHERE due_at IS NOT NULL;

-- Deliveries that were given up. `id` sorts by when that was.
CREATE TABLE dead_letters (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    trigger_name text COLLATE "C" NOT NULL,
    -- For the delivery that a replay makes of it.
    chain bigint NOT NULL,
    function text NOT NULL,
    reason text NOT NULL,
    error text NOT NULL,
    trace text,
    -- The plugin that was run last, if any.
    plugin_version bigint,
    plugin_digest bytea,
    attempts bigint NOT NULL,
    replays bigint NOT NULL,
    dead_at bigint NOT NULL,
    event_id uuid NOT NULL,
    depth bigint NOT NULL,
    at bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('set', 'delete', 'schedule')),
    collection text COLLATE "C",
    key text COLLATE "C",
    version bigint,
    size integer NOT NULL,
    json text,
    bytes bytea,
    PRIMARY KEY (app_id, id)
);
