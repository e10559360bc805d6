-- What a server needs: settings and plugins of apps, what they use, tokens, and
-- who changed what.

-- Whether calls without a token are taken.
ALTER TABLE apps ADD COLUMN public INTEGER NOT NULL DEFAULT 0 CHECK (public IN (0, 1));
-- Limits; NULL is none.
ALTER TABLE apps ADD COLUMN entries_max INTEGER;
ALTER TABLE apps ADD COLUMN bytes_max INTEGER;
ALTER TABLE apps ADD COLUMN calls_per_second INTEGER;
ALTER TABLE apps ADD COLUMN calls_at_once INTEGER;
-- The last number given to a plugin version: a number is never given twice.
ALTER TABLE apps ADD COLUMN last_plugin INTEGER NOT NULL DEFAULT 0;
-- The plugin version that is called, and its module, so that finding an app
-- finds what to run.
ALTER TABLE apps ADD COLUMN active_plugin INTEGER;
ALTER TABLE apps ADD COLUMN active_module BLOB;

-- What an app's entries take: their number, and the sum of kv_entries.size.
-- Written in the transaction that changes them.
CREATE TABLE app_usage (
    app_id  BLOB    NOT NULL PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    entries INTEGER NOT NULL DEFAULT 0,
    bytes   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO app_usage (app_id, entries, bytes)
SELECT a.id, count(e.app_id), coalesce(sum(e.size), 0)
FROM apps AS a LEFT JOIN kv_entries AS e ON e.app_id = a.id
GROUP BY a.id;

-- Modules by the SHA-256 of their bytes. Apps that use the same module share it;
-- the last version that refers to it takes it along.
CREATE TABLE modules (
    digest     BLOB    NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    wasm       BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE plugins (
    app_id     BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version    INTEGER NOT NULL,
    digest     BLOB    NOT NULL REFERENCES modules (digest),
    size       INTEGER NOT NULL,
    -- JSON: what can be called.
    exports    TEXT    NOT NULL,
    -- The version that was active before this one became so, for a roll back.
    replaced   INTEGER,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    PRIMARY KEY (app_id, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX plugins_by_digest ON plugins (digest);

CREATE TABLE tokens (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- The SHA-256 of the secret. The secret itself is not kept.
    secret_hash BLOB    NOT NULL CHECK (length(secret_hash) = 32),
    name        TEXT    NOT NULL,
    -- Scopes with a space between them.
    scopes      TEXT    NOT NULL,
    -- The one app that it is good for; NULL is every app.
    app_id      BLOB REFERENCES apps (id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    revoked_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_app ON tokens (app_id, id);

-- Rows outlive the app and the token that they name.
CREATE TABLE audit (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    at         INTEGER NOT NULL,
    -- Who: the token, if it was one, and its name.
    token_id   BLOB,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    app_id     BLOB,
    app_name   TEXT,
    -- JSON: what exactly.
    detail     TEXT    NOT NULL,
    request_id BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_app ON audit (app_id, id);
