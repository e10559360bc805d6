-- Times are milliseconds since the Unix epoch, given by the host.

CREATE TABLE apps (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT    NOT NULL UNIQUE,
    cursor_key BLOB    NOT NULL CHECK (length(cursor_key) = 32),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `value` is TEXT for JSON and BLOB for bytes.
-- `size` is the bytes of collection, key and value as they were written.
CREATE TABLE kv_entries (
    app_id     BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    collection TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    value      ANY     NOT NULL CHECK (typeof(value) IN ('text', 'blob')),
    size       INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (app_id, collection, key)
) STRICT;

-- The last version given to any entry. It is written in the transaction that
-- uses it, so versions grow across processes and are never given twice.
CREATE TABLE kv_version (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO kv_version (id, last) VALUES (1, 0);
