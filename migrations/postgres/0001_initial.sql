-- Apps and their entries.
--
-- Times are milliseconds since the epoch, given by the host: hosts and tests can
-- then say what "now" is, and no statement depends on the database's clock.
-- Names and keys are COLLATE "C": they compare bytewise, as on SQLite and in
-- memory, so that a cursor means the same on every store.

CREATE TABLE apps (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    -- Signs the list cursors of the app. In the row, so that every host on this
    -- database takes the cursors that another host gave.
    cursor_key bytea NOT NULL,
    created_at bigint NOT NULL
);

-- Versions are drawn before the row is locked, so a draw can be older than the
-- version it overwrites; the write then takes that version + 1. The increment
-- leaves room for 4,095 such writes between two draws: more than a server has
-- connections. CACHE stays 1, because a cached draw could be older still.
CREATE SEQUENCE kv_version AS bigint INCREMENT BY 4096 MINVALUE 4096 START WITH 4096 CACHE 1 NO CYCLE;

CREATE TABLE kv_entries (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- The value: one of the two. JSON null is a value, SQL NULL is "not this kind".
    json jsonb,
    bytes bytea,
    -- The bytes of collection, key and value as they were written. JSONB takes
    -- another number of bytes, and the limits of pages and quotas should not
    -- depend on the engine.
    size integer NOT NULL,
    version bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    expires_at bigint,
    PRIMARY KEY (app_id, collection, key),
    CHECK (num_nonnulls(json, bytes) = 1)
)
-- Room in each page for the next version of its rows. An overwrite changes no
-- indexed column, so with room it needs no new index entry, and an entry of this
-- index can be over 1 KiB.
WITH (fillfactor = 90);
