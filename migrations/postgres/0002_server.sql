-- What a server needs: settings and plugins of apps, what they use, tokens, and
-- who changed what. `apps`, `modules`, `tokens` and `audit` are small or shared
-- (reference tables of a distributed engine); the rest is keyed by app.

ALTER TABLE apps
    -- Whether calls without a token are taken.
    ADD COLUMN public boolean NOT NULL DEFAULT false,
    -- Limits; NULL is none.
    ADD COLUMN entries_max bigint,
    ADD COLUMN bytes_max bigint,
    ADD COLUMN calls_per_second bigint,
    ADD COLUMN calls_at_once bigint,
    -- The last number given to a plugin version: a number is never given twice.
    ADD COLUMN last_plugin bigint NOT NULL DEFAULT 0,
    -- The plugin version that is called, and its module, so that finding an app
    -- finds what to run.
    ADD COLUMN active_plugin bigint,
    ADD COLUMN active_module bytea;

-- The size that the last write of this entry replaced, 0 for a new entry. So a
-- write that overwrites knows by how much it changes what the app uses, in the
-- statement that writes: RETURNING has no other way to the row before.
ALTER TABLE kv_entries ADD COLUMN replaced integer NOT NULL DEFAULT 0;

-- What an app's entries take: their number, and the sum of kv_entries.size.
-- Written in the transaction that changes them.
--
-- An app has several rows, its slots, so that its writers do not wait for each
-- other: each transaction counts in one slot. The quota is dealt out to the
-- slots, and a transaction that needs more than its slot has moves what is left
-- of all slots (escrow; O'Neil, "The Escrow Transactional Method", 1986).
-- The sums over the slots are what the app uses and, at most, its quota.
CREATE TABLE app_usage (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    slot smallint NOT NULL,
    entries bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    -- This slot's share of the quota; NULL is no limit.
    entries_granted bigint,
    bytes_granted bigint,
    -- Set by a write that does not fit. The constraint then undoes the write.
    refused boolean NOT NULL DEFAULT false,
    PRIMARY KEY (app_id, slot),
    CONSTRAINT app_usage_within_quota CHECK (NOT refused)
)
-- Counted often, and no index names what changes: room for updates in place.
WITH (fillfactor = 50);

INSERT INTO app_usage (app_id, slot, entries, bytes)
SELECT a.id, s.slot,
       CASE WHEN s.slot = 0 THEN (SELECT count(*) FROM kv_entries AS e WHERE e.app_id = a.id) ELSE 0 END,
       CASE WHEN s.slot = 0 THEN coalesce((SELECT sum(e.size) FROM kv_entries AS e WHERE e.app_id = a.id), 0) ELSE 0 END
FROM apps AS a, generate_series(0, 7) AS s (slot);

-- Modules by the SHA-256 of their bytes. Apps that use the same module share it;
-- the last version that refers to it takes it along.
CREATE TABLE modules (
    digest bytea PRIMARY KEY,
    wasm bytea NOT NULL,
    created_at bigint NOT NULL
);
-- Wasm does not get smaller in the row.
ALTER TABLE modules ALTER COLUMN wasm SET STORAGE EXTERNAL;

CREATE TABLE plugins (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version bigint NOT NULL,
    digest bytea NOT NULL REFERENCES modules (digest),
    size bigint NOT NULL,
    -- What can be called.
    exports text NOT NULL,
    -- The version that was active before this one became so, for a roll back.
    replaced bigint,
    created_at bigint NOT NULL,
    created_by text NOT NULL,
    PRIMARY KEY (app_id, version)
);

CREATE INDEX plugins_by_digest ON plugins (digest);

CREATE TABLE tokens (
    id uuid PRIMARY KEY,
    -- The SHA-256 of the secret. The secret itself is not kept.
    secret_hash bytea NOT NULL,
    name text NOT NULL,
    -- Scopes with a space between them.
    scopes text NOT NULL,
    -- The one app that it is good for; NULL is every app.
    app_id uuid REFERENCES apps (id) ON DELETE CASCADE,
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint
);

CREATE INDEX tokens_by_app ON tokens (app_id, id);

-- Rows outlive the app and the token that they name.
CREATE TABLE audit (
    id uuid PRIMARY KEY,
    at bigint NOT NULL,
    -- Who: the token, if it was one, and its name.
    token_id uuid,
    actor text NOT NULL,
    action text NOT NULL,
    app_id uuid,
    app_name text,
    -- JSON: what exactly.
    detail text NOT NULL,
    request_id uuid NOT NULL
);

CREATE INDEX audit_by_app ON audit (app_id, id);
