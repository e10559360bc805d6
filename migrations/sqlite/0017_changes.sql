-- The log of changes, for watchers.

-- The apps whose changes are kept, and until when. `start` is the position after which the log is
-- complete.
CREATE TABLE change_logs (
    app_id BLOB    PRIMARY KEY NOT NULL,
    until  INTEGER NOT NULL,
    start  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Positions are versions: of a write the one that it assigned, of a deletion one of its own. There
-- is one writer, so they are in the order of the commits.
CREATE TABLE changes (
    app_id     BLOB    NOT NULL,
    position   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    collection TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    -- The new value: TEXT for JSON, BLOB for bytes, NULL for a deletion.
    value      ANY     CHECK (typeof(value) IN ('text', 'blob', 'null')),
    PRIMARY KEY (app_id, position)
) STRICT, WITHOUT ROWID;

-- For the apps that have new changes.
CREATE INDEX changes_by_position ON changes (position);
